"""Trainings on augmented batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch import Tensor

from calf import run
from calf.callbacks import History
from calf.module import Segmenter
from tests.tiny import tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("augmented")


@pytest.fixture
def train(place: Path, trained: Callable[..., run.RunPlan]) -> Callable[..., pd.DataFrame]:
    """The history of the tiny run with these overrides."""

    def call(name: str, *overrides: str) -> pd.DataFrame:
        options = (f"name={name}", "save_predictions=false", "protocol.volumes=null", *overrides)
        return pd.read_csv(trained(*tiny(place, *options)).folder.history).drop(columns="seconds")

    return call


def test_runs_repeat_and_an_interrupted_one_ends_with_the_same_numbers(train, monkeypatch):
    overrides = ("augment=standard", "loss=bce", "dataset.target=regions", "trainer.precision=bf16-mixed")
    whole = train("whole", *overrides)
    end = History.on_train_batch_end

    def fail(self: History, trainer: Any, *arguments: Any) -> None:
        end(self, trainer, *arguments)
        if trainer.current_epoch == 1:
            raise RuntimeError("the power is gone")

    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_batch_end", fail)
        with pytest.raises(RuntimeError, match="power"):
            train("interrupted", *overrides)
    pd.testing.assert_frame_equal(whole, train("interrupted", *overrides), check_exact=True)


SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=2")


def test_training_learns_from_augmented_batches_and_validation_scores_plain_ones(train):
    resting = "optim.lr=1e-30"  # the network stays as it is made
    plain, varied = (
        train("plain", "loss=dice", resting, *SHORT),
        train("varied", "loss=dice", resting, *SHORT, "augment=standard"),
    )
    assert plain["train/loss"][0] != varied["train/loss"][0]
    assert plain["val/dice"][0] == varied["val/dice"][0]


def test_a_run_with_other_augmentation_has_a_folder_of_its_own(place, composed):
    def folder(*overrides: str) -> str:
        return run.plan(composed(*tiny(place, *overrides))).folder.path.name

    different = [(), ("augment=standard",), ("augment=standard", "augment.gamma.high=2")]
    assert len({folder(*overrides) for overrides in different}) == 3


def test_trial_steps_of_an_exploring_loss_see_the_augmented_batch(train, monkeypatch):
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(self: Segmenter, batch: dict[str, Tensor], index: int) -> tuple[Tensor, Tensor]:
        seen.append((batch["image"], batch["mask"]))
        return trial(self, batch, index)

    trial, learnt_from, learnt = Segmenter._trial, Segmenter._learnt_from, []
    monkeypatch.setattr(Segmenter, "_trial", spy)
    monkeypatch.setattr(Segmenter, "_learnt_from", lambda *args: learnt.append(learnt_from(*args)) or learnt[-1])
    train("trials", "loss=generalized_loss_function", "loss.update=exploratory", "loss.every=1", "augment=standard", *SHORT)
    assert seen
    assert all(any(image is one["image"] and mask is one["mask"] for one in learnt) for image, mask in seen)


def test_distance_maps_of_masks_that_are_moved_are_refused(train, composed, place):
    maps, still = ("dataset.distance_maps=true",), ("flip_columns", "rotation_degrees.probability", "scale.probability")
    with pytest.raises((ValueError, SystemExit), match=r"dataset\.distance_maps=false"):
        train("maps", "loss=boundary", *maps, "augment=standard", *SHORT)
    only_intensities = composed(*tiny(place, *maps, "augment=standard", *(f"augment.{name}=0" for name in still)))
    augment = run._augmentation(only_intensities)
    assert augment is not None
    assert not augment.moves
