"""How long the first sign of life takes, and the first epoch.

    python benchmarks/startup.py [--json PATH]

`python train.py --help`, beside a Python that only imports Hydra; and from process start to the beginning of a job's first
epoch on a prepared store, beside a Python that only imports torch and pytorch_lightning.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def seconds_to_first_step(folder: Path, seed: int) -> float:
    """Until the run's status says that it is in its first epoch."""
    start = time.perf_counter()
    options = [
        f"runs_dir={folder}/runs",
        f"stores_dir={folder}/stores",
        f"data_root={folder}/data",
        "logger=wandb",
        f"seed={seed}",
    ]
    job = subprocess.Popen(
        [sys.executable, "train.py", "logger.mode=offline", "trainer.enable_progress_bar=false", *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        while job.poll() is None:
            for status in folder.glob(f"runs/*/*/*/*/seed-{seed}-*/status.json"):
                if json.loads(status.read_text())["state"] == "running":
                    return time.perf_counter() - start
            time.sleep(0.02)
    finally:
        job.kill()
        _, errors = job.communicate()
    raise RuntimeError(f"the job ended before its first step:\n{errors.decode()}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds_to_first_step(folder, 99)  # makes the phantom and its store, and warms the disk's cache
        rounds = {
            "import hydra": lambda number: seconds("-c", "import hydra"),
            "train.py --help": lambda number: seconds("train.py", "--help"),
            "import torch, pytorch_lightning": lambda number: seconds("-c", "import torch, pytorch_lightning"),
            "train.py to the first epoch": lambda number: seconds_to_first_step(folder, number),
        }
        results = {what: statistics.median(measure(number) for number in range(ROUNDS)) for what, measure in rounds.items()}
    table = Table("what", "seconds (median of 5)")
    for what, value in results.items():
        table.add_row(what, f"{value:.2f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
