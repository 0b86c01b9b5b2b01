"""Runs that are killed and go on, that are moved, that have two ranks: as processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from calf.plan import RunPlan
from calf.runfolder import RunFolder
from tests.conftest import ROOT
from tests.test_run import learning, scores
from tests.tiny import SMALL_FPN, tiny

# at this learning rate the first epoch is the best, which a run that goes on has to remember
CALF = ("loss=calf", *SMALL_FPN, "optim.lr=1e-4", "trainer.max_epochs=4")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resumed")


@pytest.fixture
def train(place: Path, trained: Callable[..., RunPlan]) -> Callable[..., RunPlan]:
    """Run the tiny configuration with these overrides in this process."""
    return lambda *overrides: trained(*tiny(place, *overrides))


def job(script: str, place: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    # as many threads as this process, with whose numbers its own are compared
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / script), *tiny(place, *overrides)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def finished(place: Path, name: str) -> RunFolder:
    """The run folder of this name: there is one, or a run was begun anew instead of continued."""
    (status,) = (place / "runs" / name).rglob("status.json")
    assert json.loads(status.read_text())["state"] == "finished"
    return RunFolder(status.parent)


@pytest.fixture(scope="module")
def killed(place: Path) -> Path:
    """The runs folder of a run that was killed in its third epoch, where it is not looked for: to be copied."""
    assert job("tests/killed.py", place, "name=killed", *CALF).returncode == -signal.SIGKILL
    return (place / "runs" / "killed").rename(place / "as killed")


@pytest.fixture(scope="module")
def undisturbed(place: Path, trained: Callable[..., RunPlan]) -> RunFolder:
    return trained(*tiny(place, "name=undisturbed", *CALF)).folder


def test_a_killed_run_continues_and_ends_with_the_numbers_of_an_undisturbed_one(place, killed, undisturbed):
    shutil.copytree(killed, place / "runs" / "killed")
    (status,) = (place / "runs" / "killed").rglob("status.json")
    assert json.loads(status.read_text())["state"] == "running"
    process = job("train.py", place, "name=killed", *CALF)
    assert process.returncode == 0, process.stdout + process.stderr
    continued = finished(place, "killed")
    assert scores(continued) == scores(undisturbed)
    pd.testing.assert_frame_equal(learning(continued), learning(undisturbed), check_exact=True)
    branches = [pd.read_csv(folder.path / "branches.csv") for folder in (continued, undisturbed)]
    pd.testing.assert_frame_equal(*branches, check_exact=True)


def test_a_run_folder_that_was_moved_still_knows_its_best_checkpoint(train, place, killed, undisturbed):
    shutil.rmtree(place / "runs" / "killed", ignore_errors=True)  # where its checkpoints were when they were saved
    shutil.copytree(killed, place / "runs" / "moved")
    train("name=moved", *CALF)
    moved = finished(place, "moved")
    assert moved.result["best_epoch"] == undisturbed.result["best_epoch"] < 2
    assert scores(moved) == scores(undisturbed)


def test_a_resumed_run_that_does_not_validate_every_epoch_keeps_its_history(train, place):
    overrides = ("loss=calf", "trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2")
    assert job("tests/killed.py", place, "name=seldom", *overrides).returncode == -signal.SIGKILL
    train("name=seldom", *overrides)
    history = learning(finished(place, "seldom"))
    assert history["epoch"].tolist() == [0, 1, 2, 3]
    assert history["val/dice"].isna().tolist() == [True, False, True, False]


def test_a_killed_run_goes_on_with_what_its_loss_has_learned(train, place):
    overrides = ("loss=softadapt", "loss.beta=10", "trainer.max_epochs=4")
    assert job("tests/killed.py", place, "name=adapting", *overrides).returncode == -signal.SIGKILL
    for name in ("adapting", "adapted"):
        train(f"name={name}", *overrides)
    folders = [finished(place, name) for name in ("adapting", "adapted")]
    assert scores(folders[0]) == scores(folders[1])
    pd.testing.assert_frame_equal(*(learning(folder) for folder in folders), check_exact=True)


def test_two_ranks_choose_the_branches_of_the_whole_batch_and_score_each_case_once(train, place):
    ranks = ("trainer.devices=2", "trainer.strategy=ddp", "dataset.batch_size=4")
    process = job("train.py", place, "name=ranks", "loss=calf", *ranks)
    assert process.returncode == 0, process.stdout + process.stderr
    train("name=alone", "loss=calf", "trainer.devices=1")
    folders = [finished(place, name) for name in ("ranks", "alone")]
    branches = [pd.read_csv(folder.path / "branches.csv") for folder in folders]
    pd.testing.assert_frame_equal(*branches)
    keys = [pd.read_csv(folder.cases)[["case", "class", "metric", "reference_volume_mm3"]] for folder in folders]
    pd.testing.assert_frame_equal(*keys)
