"""How fast slices leave the store, and how much memory that takes.

    python benchmarks/store.py [--json PATH]

Slices of 4 modalities and a mask, 240 x 240, in random batches of 32, one thread, against a memory map indexed by the batch and
a PNG for each plane (the habit of one-file-a-slice data sets). Then a sparse store larger than the machine's memory is read
for a while: what counts is how much the resident memory grows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from calf.data.store import SliceStore

PLANES, ROWS, COLUMNS, BATCH = 5, 240, 240, 32


def make_store(folder: Path, num_slices: int, filled: int) -> SliceStore:
    """A store of ``num_slices``, of which the first ``filled`` hold noise; the rest is a hole in the file."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    planes = np.lib.format.open_memmap(
        folder / "planes.npy", mode="w+", dtype=np.uint8, shape=(num_slices, PLANES, ROWS, COLUMNS)
    )
    for index in range(filled):
        planes[index] = rng.integers(0, 64, (PLANES, ROWS, COLUMNS), dtype=np.uint8)
    planes.flush()
    zeros = np.zeros(num_slices, np.int32)
    np.savez(folder / "index.npz", case=zeros, position=zeros, areas=zeros[:, None], labelled=zeros == 0)
    target = {"names": ["tumour"], "labels": [[1]], "exclusive": False}
    manifest = {"key": "benchmark", "modalities": list("abcd"), "has_reference": False, "target": target, "cases": []}
    manifest["preparation"] = {"fit": "pad"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return SliceStore(folder)


def slices_per_second(read: Callable[[np.ndarray], object], num_slices: int, batches: int) -> float:
    """Median over batches of the rate of ``read``."""
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(batches):
        indices = rng.integers(0, num_slices, BATCH)
        start = time.perf_counter()
        read(indices)
        rates.append(BATCH / (time.perf_counter() - start))
    return statistics.median(rates)


def resident_mb() -> float:
    """Resident memory of this process, file pages included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = make_store(folder / "real", 2000, 2000)
        mapped = np.load(folder / "real" / "planes.npy", mmap_mode="r")
        (folder / "png").mkdir()
        for index in range(64):
            for plane in range(PLANES):
                cv2.imwrite(str(folder / "png" / f"{index}-{plane}.png"), mapped[index, plane])

        def read_png(indices: np.ndarray) -> np.ndarray:
            paths = [[str(folder / "png" / f"{i % 64}-{p}.png") for p in range(PLANES)] for i in indices]
            return np.stack([[cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in row] for row in paths])

        rates = {
            "store": slices_per_second(store.read, 2000, 300),
            "memory map": slices_per_second(lambda indices: mapped[indices], 2000, 300),
            "png a plane": slices_per_second(read_png, 64, 5),
        }
        total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        num_slices = int(1.5 * total_gb * 2**30 / (PLANES * ROWS * COLUMNS))
        sparse = make_store(folder / "sparse", num_slices, 0)
        before = resident_mb()
        slices_per_second(sparse.read, num_slices, 1000)
        growth = resident_mb() - before
    table = Table("read", "slices/s", "x store", title=f"random batches of {BATCH}, {PLANES} x {ROWS} x {COLUMNS} uint8")
    for reader, rate in rates.items():
        table.add_row(reader, f"{rate:,.0f}", f"{rate / rates['store']:.3f}")
    Console().print(table)
    size_gb = num_slices * PLANES * ROWS * COLUMNS / 2**30
    print(
        f"32,000 slices read from a store of {size_gb:.0f} GB (memory {total_gb:.0f} GB): resident memory grew by {growth:.1f} MB"
    )
    if arguments.json:
        content = {"slices_per_second": rates, "sparse_store_gb": size_gb, "memory_gb": total_gb, "resident_growth_mb": growth}
        arguments.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
