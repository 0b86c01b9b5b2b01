from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from calf.inspect import remarks as room
from calf.inspect.remarks import FORMULA, percent, verdict
from calf.losses.calf import BRANCHES

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize(
    ("shares", "what", "means"),
    [
        ({"log10": 0.96, "ln": 0.04}, "nearly one formula", "2.3026"),
        ({"bce_dice": 0.97, "ln": 0.03}, "nearly one formula", "BCE + soft Dice"),
        ({"fisher": 0.99, "ln": 0.01}, "nearly one formula", "without bound"),
        ({"log10": 0.6, "ln": 0.36, "arcsine": 0.04}, "nearly bce", "the same / 2.3026"),
        ({"log10": 0.6, "ln": 0.3, "arcsine": 0.1}, "mixes", "In 90 % of batches it is bce"),
        ({"log10": 0.6, "ln": 0.3, "logit": 0.1}, "mixes", "In 10 % it falls without bound"),
    ],
)
def test_the_verdict_on_calf_follows_from_the_shares(shares, what, means):
    said = verdict({branch: shares.get(branch, 0.0) for branch in BRANCHES})
    assert what in said[0]
    assert means in said[2]
    assert all((branch in said[1]) == (branch in shares) for branch in ("fisher", "logit", "arcsine", "bce_dice", "log10"))


def test_every_branch_has_its_words():
    assert set(FORMULA) == set(BRANCHES)


def test_no_share_is_rounded_to_none_or_all():
    assert percent(1e-6) == "0.0001 %"
    assert percent(1 - 1e-6) == "> 99.9 %"
    assert percent(0.995) == "99.5 %"
    assert percent(0) == "0 %"


def test_what_is_said_of_the_losses_is_what_their_files_say():
    def loss(name: str) -> dict:
        return yaml.safe_load((CONF / "loss" / f"{name}.yaml").read_text())

    assert loss("focal")["alpha"] == 0.25
    assert loss("weighted_bce")["weight"] == "balanced"
    assert loss("weighted_bce")["max_weight"] == 1000
    assert loss("weighted_bce")["per_sample"] is True
    assert loss("cldice")["terms"]["cldice"]["iterations"] == room.CLDICE_ITERATIONS
    assert loss("calf")["scope"] == "batch"
    assert loss("calf")["area"] == "pixels"
    assert loss("bce_dice")["weights"] == {"bce": 1, "dice": 1}


def test_every_loss_and_file_that_a_remark_names_exists():
    text = Path(room.__file__).read_text()
    for name in ("boundary", "dice_boundary", "hausdorff_dt", "dice_hausdorff", "distance_penalized_ce", "focal", "weighted_bce"):
        assert re.search(rf"\b{name}\b", text)
        assert (CONF / "loss" / f"{name}.yaml").exists()
    files = re.findall(r"(?:calf|conf)/[a-z_/]+\.(?:py|yaml)", text)
    assert len(files) > 5
    assert [file for file in files if not (CONF.parent / file).exists()] == []
