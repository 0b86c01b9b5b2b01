"""Every loss of conf/loss trains for an epoch, on generated volumes and, where they are at hand, on real ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra.core.hydra_config import HydraConfig

from calf import run
from tests.losses.zoo import LOSSES
from tests.tiny import tiny

SHORT = ["trainer.max_epochs=1", "trainer.limit_train_batches=4", "save_predictions=false"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("losses")


@pytest.fixture
def train(composed: Callable) -> Callable[..., pd.DataFrame]:
    """The history of one short run with these overrides."""

    def call(*overrides: str) -> pd.DataFrame:
        cfg = composed(*overrides)
        HydraConfig.instance().set_config(cfg)
        run.run(cfg)
        return pd.read_csv(run.plan(cfg).folder.history)

    return call


def extra(name: str) -> list[str]:
    return ["model.deep_supervision=2"] if name == "deep_supervision" else []


@pytest.mark.parametrize("name", LOSSES)
def test_it_trains_for_an_epoch_on_the_phantom(name, train, place):
    history = train(*tiny(place, f"loss={name}", *SHORT, *extra(name)))
    assert history["train/loss"].map(math.isfinite).all()
    assert history["val/dice"].map(math.isfinite).all()


@pytest.fixture(scope="module")
def hippocampus(place: Path, shared: Path) -> Path:
    """Eight of the volumes as a task of the Decathlon of their own."""
    whole, part = shared / "data" / "Task04_Hippocampus", place / "Task04_Hippocampus"
    description = json.loads((whole / "dataset.json").read_text())
    description["training"] = description["training"][:8]
    part.mkdir()
    (part / "dataset.json").write_text(json.dumps(description))
    for folder in ("imagesTr", "labelsTr"):
        (part / folder).symlink_to(whole / folder)
    return part


@pytest.mark.parametrize("name", LOSSES)
def test_it_trains_on_real_volumes_with_exclusive_classes(name, train, hippocampus, place):
    data = ["dataset=msd", f"data_root={hippocampus}", "dataset.target=classes", "dataset.batch_size=8", "dataset.workers=1"]
    # all of tiny but what belongs to the phantom
    small = [option for option in tiny(place) if not option.startswith(("dataset.", "data_root"))]
    history = train(*small, *data, f"loss={name}", *SHORT, *extra(name))
    assert history["train/loss"].map(math.isfinite).all()


@pytest.mark.parametrize("name", ["boundary", "hausdorff_dt", "distance_penalized_ce"])
def test_distance_maps_of_the_store_serve_as_well_as_computed_ones(name, train, place):
    computed, stored = (
        train(*tiny(place, f"loss={name}", *SHORT, f"dataset.distance_maps={given}")) for given in ("false", "true")
    )
    # the store holds them in half precision
    assert stored["train/loss"].item() == pytest.approx(computed["train/loss"].item(), rel=2e-3)
    assert list(place.rglob("distances.npy"))


def test_trial_steps_of_an_exploring_loss_leave_no_trace_in_the_network(train, place):
    # bounds that leave nothing to choose; FPN has dropout and batch statistics, which the trials must not touch
    options = ["loss=generalized_loss_function", "loss.bounds=[1,1]", "model=fpn", "model.encoder_name=resnet18"]
    still, exploring = (train(*tiny(place, *options, f"loss.update={update}", *SHORT)) for update in ("none", "exploratory"))
    pd.testing.assert_frame_equal(still.drop(columns="seconds"), exploring.drop(columns="seconds"), check_exact=True)


def test_dropout_does_not_choose_between_trial_steps(train, place, composed):
    # nothing moves at a learning rate of 0: all candidates tie, and the parameters stay 1
    options = [
        "loss=generalized_loss_function",
        "loss.update=exploratory",
        "model=fpn",
        "model.encoder_name=resnet18",
        "optim.lr=0",
    ]
    train(*(overrides := tiny(place, *options, *SHORT)))
    last = run.plan(composed(*overrides)).folder.path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=False)["state_dict"]["loss.settings"].tolist() == [1, 1, 1]


def test_trial_steps_choose(train, place):
    options = ["loss=generalized_loss_function", "loss.every=2"]
    still, exploring = (train(*tiny(place, *options, f"loss.update={update}", *SHORT)) for update in ("none", "exploratory"))
    assert still["train/loss"].item() != exploring["train/loss"].item()
