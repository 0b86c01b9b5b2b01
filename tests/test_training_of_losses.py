"""Every loss of conf/loss takes a step; those that ask different things of a run train for an epoch, also on real volumes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate

from calf import run
from calf.data.datamodule import SliceData
from tests.losses.zoo import LOSSES
from tests.tiny import SMALL_FPN, tiny

# distances and calibration of whole volumes do not depend on the loss
SHORT = ["trainer.max_epochs=1", "trainer.limit_train_batches=4", "save_predictions=false", "protocol.volumes=null"]

ONE_STEP = {
    "max_epochs": 1,
    "limit_train_batches": 1,
    "limit_val_batches": 0,
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
}

#: One name, exclusive classes, regions that overlap.
TARGETS = ("whole_tumour", "classes", "regions")

#: Losses that between them ask for everything that a run gives to a loss, and why each of them is here.
DIFFERENT = {
    "bce": "a plain mean over voxels",
    "dice_ce": "a sum of two",
    "lovasz": "sorts the voxels of a batch",
    "cldice": "compares neighbours",
    "calf": "leaves a trace of its branches",
    "calf_region": "cells of the image",
    "exponential_logarithmic": "is told of the training set",
    "boundary": "takes distance maps, follows epochs",
    "dice_hausdorff": "remembers the steps of an epoch",
    "softadapt": "balances terms by their history",
    "uncertainty": "has weights of its own to learn",
    "generalized_loss_function": "explores steps before it takes one",
    "deep_supervision": "takes outputs of several scales",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("losses")


@pytest.fixture
def train(trained: Callable) -> Callable[..., pd.DataFrame]:
    """The history of one short run with these overrides."""
    return lambda *overrides: pd.read_csv(trained(*overrides).folder.history)


def extra(name: str) -> list[str]:
    return ["model.deep_supervision=2"] if name == "deep_supervision" else []


@pytest.fixture(scope="module")
def phantoms(place: Path, composed: Callable) -> dict[str, SliceData]:
    """The phantom by form of its target."""
    data = {}
    for target in TARGETS:
        cfg = composed(*tiny(place, f"dataset.target={target}"))
        data[target] = instantiate(cfg.dataset, name=cfg.names.dataset, _convert_="all")
    return data


@pytest.mark.filterwarnings("ignore:.*LeafSpec")  # Lightning's of itself
@pytest.mark.parametrize("name", LOSSES)
def test_a_step_of_a_training_moves_the_network(name, phantoms, place, composed):
    cfg = composed(*tiny(place, f"loss={name}", *extra(name)))
    for target, data in phantoms.items():
        pl.seed_everything(0, verbose=False)
        module = run._build_module(cfg, data)
        before = {key: value.clone() for key, value in module.network.named_parameters()}
        trainer = instantiate(cfg.trainer, **ONE_STEP)
        trainer.fit(module, datamodule=data)
        assert math.isfinite(trainer.callback_metrics["train/loss"]), target
        assert all(weight.isfinite().all() for weight in module.parameters()), target
        assert any(not torch.equal(value, before[key]) for key, value in module.network.named_parameters()), target


@pytest.mark.parametrize("name", DIFFERENT)
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


@pytest.mark.parametrize("name", DIFFERENT)
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
    options = ["loss=generalized_loss_function", "loss.bounds=[1,1]", *SMALL_FPN]
    still, exploring = (train(*tiny(place, *options, f"loss.update={update}", *SHORT)) for update in ("none", "exploratory"))
    pd.testing.assert_frame_equal(still.drop(columns="seconds"), exploring.drop(columns="seconds"), check_exact=True)


def test_dropout_does_not_choose_between_trial_steps(train, place, composed):
    # nothing moves at a learning rate of 0: all candidates tie, and the parameters stay 1
    options = ["loss=generalized_loss_function", "loss.update=exploratory", *SMALL_FPN, "optim.lr=0"]
    train(*(overrides := tiny(place, *options, *SHORT)))
    last = run.plan(composed(*overrides)).folder.path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=False)["state_dict"]["loss.settings"].tolist() == [1, 1, 1]


def test_trial_steps_choose(train, place):
    options = ["loss=generalized_loss_function", "loss.every=2"]
    still, exploring = (train(*tiny(place, *options, f"loss.update={update}", *SHORT)) for update in ("none", "exploratory"))
    assert still["train/loss"].item() != exploring["train/loss"].item()
