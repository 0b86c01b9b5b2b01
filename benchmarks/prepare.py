"""How fast cases become slices, beside inflating their files, and how much memory a worker takes.

    python benchmarks/prepare.py [--cases 8] [--workers 2] [--json PATH]

Cases of four modalities of 240 x 240 x 155 int16 voxels and a mask, generated as smooth noise in a brain-sized ellipsoid and
compressed as BraTS is (15 to 20 MB a case). Workers are started and have imported everything before the clock runs. The peer
inflates the same files in the same workers, with the same library, and does nothing else: preparation cannot be faster.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from isal import igzip
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

from calf.data.build import StorePlan, _part, _prepare_part, plan_store
from calf.data.cases import Case
from calf.data.layouts.brats2020 import BraTS2020
from calf.data.prepare import Preparation
from calf.data.volumes import write_volume

SHAPE = (240, 240, 155)


def make_cases(root: Path, number: int) -> None:
    """BraTS-like files: one case generated, the others its mirror images and shifts."""
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j, -1 : 1 : SHAPE[2] * 1j]
    brain = (x / 0.6) ** 2 + (y / 0.75) ** 2 + (z / 0.85) ** 2 < 1
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = 239
    mask = np.zeros(SHAPE, np.uint8)
    mask[90:120, 100:130, 60:90], mask[100:110, 110:120, 70:80] = 2, 4
    tissue = gaussian_filter(rng.normal(size=SHAPE).astype(np.float32), 1.5) * 4000 + 800
    noisy = np.where(brain, np.clip(tissue + 20 * rng.normal(size=SHAPE), 1, None), 0).astype(np.int16)
    for index in range(number):
        folder = root / f"BraTS20_Training_{index + 1:03d}"
        folder.mkdir(parents=True)
        for step, modality in enumerate(("t1", "t1ce", "t2", "flair")):
            write_volume(folder / f"{folder.name}_{modality}.nii.gz", np.roll(noisy, index + step, axis=1), affine)
        write_volume(folder / f"{folder.name}_seg.nii.gz", mask, affine)


def inflate(case: Case) -> None:
    """The least that reading a case takes."""
    for path in case.files():
        igzip.decompress(path.read_bytes())


def prepare(plan: StorePlan, folder: Path, case: Case) -> None:
    reason = _prepare_part(case, plan, _part(folder, case, plan))
    assert reason is None, reason


def peak_mib(_: int) -> float:
    """Of the worker that answers; the pause lets each of them answer once."""
    time.sleep(0.2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make_cases(root / "data", options.cases)
        plan = plan_store("benchmark", BraTS2020(root / "data"), "whole_tumour", Preparation(), root / "stores")
        size = sum(path.stat().st_size for path in (root / "data").rglob("*.nii.gz")) / options.cases / 1e6
        (root / "parts").mkdir()
        seconds = {}
        with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            before = max(pool.map(peak_mib, range(options.workers)))
            for name, work in (("inflate", inflate), ("prepare", partial(prepare, plan, root / "parts"))):
                start = time.perf_counter()
                list(pool.map(work, plan.cases))
                seconds[name] = (time.perf_counter() - start) / options.cases
            after = max(pool.map(peak_mib, range(options.workers)))
    found = {
        "workers": options.workers,
        "megabytes_a_case": size,
        "cases_per_s": 1 / seconds["prepare"],
        "inflate_cases_per_s": 1 / seconds["inflate"],
        "times_inflating": seconds["prepare"] / seconds["inflate"],
        "worker_mib_before": before,
        "worker_peak_mib": after,
    }
    table = Table("what", "measured", title=f"preparation of 4 x {' x '.join(map(str, SHAPE))} voxels, {options.workers} workers")
    for name, value in found.items():
        table.add_row(name.replace("_", " "), f"{value:,.2f}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
