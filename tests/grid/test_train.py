"""The real thing: train.py -m on Ray, a job killed in the middle, the same command again, the table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from tests.conftest import ROOT
from tests.tiny import tiny


def grid(script: str, place: Path, name: str) -> subprocess.CompletedProcess[str]:
    options = tiny(place, f"name={name}", "trainer.max_epochs=4")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / script), "-m", "loss=calf,bce", *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_grid_with_a_killed_job_is_completed_by_the_same_command_with_the_numbers_of_an_undisturbed_one(tmp_path):
    disturbed = grid("tests/killed.py", tmp_path, "disturbed")
    assert disturbed.returncode == 1
    assert "signal 9" in disturbed.stdout
    results = list((tmp_path / "runs" / "disturbed").rglob("result.json"))
    assert ["bce" in str(path) for path in results] == [True]  # the other job went on and finished
    again = grid("train.py", tmp_path, "disturbed")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 finished before and skipped" in again.stdout
    undisturbed = grid("train.py", tmp_path, "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr
    cases = {}
    for name in ("disturbed", "undisturbed"):
        report = subprocess.run(
            [str(Path(sys.executable).with_name("calf")), "report", str(tmp_path / "runs" / name)], capture_output=True, text=True
        )
        assert report.returncode == 0, report.stderr
        cases[name] = (tmp_path / "runs" / name / "report" / "cases.csv").read_bytes()
    assert cases["disturbed"] == cases["undisturbed"]
    table = pd.read_csv(tmp_path / "runs" / "disturbed" / "report" / "report.csv")
    assert set(table["loss"]) == {"bce", "calf"}
    assert len(list((tmp_path / "stores").glob("*/planes.npy"))) == 1  # prepared once, for all jobs of all grids
