"""The real thing: train.py -m on Ray, a job killed in the middle, the same command again, the table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch

from calf.report import report
from tests.conftest import ROOT
from tests.tiny import tiny

LOSSES = ("calf", "bce")


def options(place: Path, name: str) -> list[str]:
    return tiny(place, f"name={name}", "trainer.max_epochs=4")


def grid(script: str, place: Path) -> subprocess.CompletedProcess[str]:
    # as many threads as this process, with whose numbers those of the jobs are compared
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, str(ROOT / script), "-m", f"loss={','.join(LOSSES)}", *options(place, "disturbed")]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_grid_with_a_killed_job_is_completed_by_the_same_command_with_the_numbers_of_undisturbed_runs(tmp_path, trained):
    disturbed = grid("tests/killed.py", tmp_path)
    assert disturbed.returncode == 1
    assert "signal 9" in disturbed.stdout
    results = list((tmp_path / "runs" / "disturbed").rglob("result.json"))
    assert ["bce" in str(path) for path in results] == [True]  # the other job went on and finished
    again = grid("train.py", tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 finished before and skipped" in again.stdout
    for loss in LOSSES:
        trained(f"loss={loss}", *options(tmp_path, "undisturbed"))
    command = [str(Path(sys.executable).with_name("calf")), "report", str(tmp_path / "runs" / "disturbed")]
    reported = subprocess.run(command, capture_output=True, text=True)
    assert reported.returncode == 0, reported.stderr
    written = tmp_path / "runs" / "disturbed" / "report"
    assert (written / "cases.csv").read_bytes() == (report(tmp_path / "runs" / "undisturbed") / "cases.csv").read_bytes()
    table = pd.read_csv(written / "report.csv")
    assert set(table["loss"]) == {"bce", "calf"}
    assert len(list((tmp_path / "stores").glob("*/planes.npy"))) == 1  # prepared once, for all jobs of all grids
