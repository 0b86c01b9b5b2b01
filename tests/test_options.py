"""Options that could not work are refused in words, before anything is read or made."""

from __future__ import annotations

import logging
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from calf import run
from tests.conftest import ROOT
from tests.tiny import tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("refused")


@pytest.fixture
def logging_of_its_own() -> Iterator[None]:
    """Hydra sends all logging to the standard output of now, which is closed after the test; nothing later may write there."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers
    root.handlers = list(handlers)
    yield
    root.handlers = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["loss=cafl"], ["Could not find 'loss/cafl'", "calf_region", "bce_dice"]),
        (["loss.gama=2"], ["gama"]),
        (["dataset.target=lung"], ["whole_tumour"]),
        (["model=unet", "model.encoder_name=resnet81"], ["resnet18"]),
        (["dataset=msd", "data_root=/nowhere"], ["/nowhere", "medicaldecathlon"]),
        (["fold=0"], ["single holdout"]),
        (["+experiments/demo=run"], ["this is a sweep over", "loss=", "start it with `train.py -m`"]),
        (["loss=focal", "loss.gamma=-1"], ["calf: expected gamma to be at least 0, got -1 (loss)"]),
        (["dataset.preparation.plane=oblique"], ["calf: preparation.plane is one of", "oblique"]),
    ],
)
@pytest.mark.usefixtures("logging_of_its_own")
def test_bad_options_are_named_and_leave_no_run(place, monkeypatch, capfd, overrides, said):
    base = tiny(place, "name=bad", *overrides)
    if "dataset=msd" in overrides:
        base = [item for item in base if not item.startswith("dataset.layout")]
    monkeypatch.setattr(sys, "argv", ["train.py", *base])
    with pytest.raises(SystemExit) as ended:  # whose words Python prints as it ends
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    assert ended.value.code not in (None, 0)
    printed = f"{''.join(capfd.readouterr())}{ended.value}"
    for words in said:
        assert words in printed
    assert not list((place / "runs" / "bad").rglob("result.json"))


def test_one_cell_of_a_sweep_runs_without_it(composed):
    cell = ["+experiments/calf_models/network=fpn", "+experiments/calf_models=run"]
    composed(*cell, "loss=dice")
    run.check_sweep()
    composed(*cell)
    with pytest.raises(ValueError, match=r"a sweep over \+experiments/calf_table1/loss=bce,.*: start it with `train.py -m`"):
        run.check_sweep()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("checkpoint=Best", "expected checkpoint to be best or last, got 'Best'"),
        ("+experiments/calf_tabel1=run", "there is no calf_tabel1 in experiments; did you mean calf_table1?"),
        ("+los=dice", "there is no option los; did you mean loss?"),
        ("optim.lr=abc", "expected optim.lr to be a number of at least 0, got 'abc'"),
        ("optim.lr=-1", "expected optim.lr to be a number of at least 0, got -1"),
        ("seed=abc", "expected seed to be a whole number of at least 0, got 'abc'"),
        ("dataset.batch_size=2.5", "expected dataset.batch_size to be a whole number of at least 1, got 2.5"),
        ("trainer.max_epochs=0", "expected trainer.max_epochs to be a whole number of at least 1, got 0"),
        (
            "trainer.check_val_every_n_epoch=3",
            "trainer.check_val_every_n_epoch of at most trainer.max_epochs = 2, got 3",
        ),
        ("+trainer.limit_test_batches=1", "take trainer.limit_test_batches away"),
    ],
)
def test_what_could_not_work_is_refused_before_anything_is_read(place, composed, override, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        run.plan(composed(*tiny(place, override)))
