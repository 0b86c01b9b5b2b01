from __future__ import annotations

import monai.losses
import pytest
import torch
import torch.nn.functional as F

from calf.losses.combo import ComboLoss
from calf.losses.overlap import TverskyLoss
from tests.losses.zoo import FORMS, build, value_and_gradient

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(3, 4, 7, 6, 5, generator=GENERATOR, dtype=torch.float64)
INDICES = torch.randint(0, 3, (3, 7, 6, 5), generator=GENERATOR)  # class 3 is absent
INDICES[1] = 0
CHANNELS = (torch.rand(3, 4, 7, 6, 5, generator=GENERATOR) > 0.8).double()
CHANNELS[0], CHANNELS[1, 1] = 0, 1  # empty, full
INPUTS = {"binary": (LOGITS[:, :1], CHANNELS[:, :1]), "multilabel": (LOGITS, CHANNELS), "exclusive": (LOGITS, INDICES)}


def published(logits, target, alpha, beta, smooth, empty):
    """``alpha CE - (1 - alpha) Dice`` on probabilities, class by class."""
    if target.ndim < logits.ndim:
        p, y = logits.softmax(1)[:, 1:], F.one_hot(target, logits.shape[1]).movedim(-1, 1).double()[:, 1:]
    else:
        p, y = logits.sigmoid(), target
    cross_entropy = -(beta * y * p.log() + (1 - beta) * (1 - y) * (1 - p).log()).mean()
    axes = (2, 3, 4) if empty != "batch" else (0, 2, 3, 4)
    dice = (2 * (p * y).sum(axes) + smooth) / (p.sum(axes) + y.sum(axes) + smooth)
    if empty == "skip":
        present = y.sum(axes) > 0
        # a sample without any class counts as perfect
        means = [d[some].mean() if some.any() else d.new_ones(()) for d, some in zip(dice, present, strict=True)]
        return alpha * cross_entropy - (1 - alpha) * torch.stack(means).mean()
    return alpha * cross_entropy - (1 - alpha) * dice.mean()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("empty", ["skip", "smooth", "batch"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 0.8)])
def test_it_is_what_was_published_but_for_a_constant(form, empty, alpha, beta):
    settings = {"alpha": alpha, "beta": beta, "smooth": 1.0, "empty": empty}
    ours = value_and_gradient(ComboLoss(**settings), *INPUTS[form])
    theirs = value_and_gradient(lambda z, y: published(z, y, **settings), *INPUTS[form])
    torch.testing.assert_close(ours[0], theirs[0] + 1 - alpha)
    torch.testing.assert_close(ours[1], theirs[1])


def test_it_agrees_with_monais_sum_of_dice_and_cross_entropy():
    options = {"smooth_nr": 1, "smooth_dr": 1, "lambda_dice": 0.5, "lambda_ce": 0.25}
    peer = monai.losses.DiceCELoss(sigmoid=True, batch=True, **options)
    torch.testing.assert_close(build("combo")(*INPUTS["binary"]), peer(*INPUTS["binary"]))


def test_its_ends_are_binary_cross_entropy_and_dice():
    logits, target = INPUTS["multilabel"]
    ends = [ComboLoss(alpha, beta=0.75, smooth=1e-3, empty="batch")(logits, target) for alpha in (1, 0)]
    weighted = 0.25 * F.binary_cross_entropy_with_logits(logits, target, pos_weight=torch.tensor(3.0))
    torch.testing.assert_close(ends[0], weighted)
    torch.testing.assert_close(ends[1], TverskyLoss(0.5, 0.5, smooth=5e-4, empty="batch", background=False)(logits, target))


def test_predicting_foreground_everywhere_is_not_rewarded():
    """The authors' code does, for a misplaced bracket."""
    target = torch.zeros(1, 1, 8, 8)
    target[..., :2, :3] = 1
    values = [float(build("combo")(logits, target)) for logits in (20 * (2 * target - 1), torch.full_like(target, 20.0))]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[1] == pytest.approx(0.25 * 20 * 58 / 64 + 0.5 * (1 - 13 / 71), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 2}, "alpha between 0 and 1, got 2"),
        ({"beta": -1}, "beta between 0 and 1, got -1"),
        ({"smooth": 0}, "smooth to be positive, got 0"),
        ({"empty": "ignore"}, "empty to be one of"),
    ],
)
def test_an_impossible_argument_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        ComboLoss(**{"alpha": 0.5, "beta": 0.5, "smooth": 1.0, "empty": "batch"} | change)
