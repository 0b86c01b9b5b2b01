from __future__ import annotations

import monai.losses
import numpy as np
import pytest
import torch

from calf.losses.generalized_dice import GeneralizedDiceLoss, PenalizedGeneralizedDiceLoss
from tests.losses.counted import CHANNELS, INDICES, LOGITS, every_empty, forms, probabilities
from tests.losses.zoo import value_and_gradient


def generalized_dice_score(p, y, power, empty):
    """Of the classes in ``p`` and ``y``, (classes, voxels)."""
    volumes = y.sum(-1)
    present = volumes > 0
    weights = np.zeros(len(volumes))
    weights[present] = volumes[present] ** -power
    if empty != "skip":
        weights[~present] = weights.max()
    return 2 * (weights * (p * y).sum(-1)).sum() / (weights * (p + y).sum(-1)).sum()


def generalized_dice_scores(target, weighting, empty):
    p, y = probabilities(target, empty)
    if target is CHANNELS:  # each is a problem of two classes
        p, y = (np.stack([1 - x, x], 2).reshape(-1, 2, x.shape[-1]) for x in (p, y))
    power = {"square": 2.0, "simple": 1.0, "uniform": 0.0}[weighting]
    return np.array([generalized_dice_score(*image, power, empty) for image in zip(p, y, strict=True)])


@pytest.mark.parametrize("weighting", ["square", "simple", "uniform"])
@every_empty
@forms
class TestGeneralizedDice:
    def test_it_is_what_the_formula_says(self, target, empty, weighting):
        expected = 1 - generalized_dice_scores(target, weighting, empty).mean()
        assert GeneralizedDiceLoss(weighting, empty)(LOGITS, target).item() == pytest.approx(expected, rel=1e-5)

    def test_the_penalty_is_what_the_formula_says(self, target, empty, weighting):
        score = generalized_dice_scores(target, weighting, empty)
        paper, survey = (PenalizedGeneralizedDiceLoss(2.5, variant, weighting, empty) for variant in ("paper", "survey"))
        assert paper(LOGITS, target).item() == pytest.approx((1 - score / (1 + 2.5 * (1 - score))).mean(), rel=1e-5)
        assert survey(LOGITS, target).item() == pytest.approx(((1 - score) / (1 + 2.5 * score)).mean(), rel=1e-5)
        without = PenalizedGeneralizedDiceLoss(0.0, "paper", weighting, empty)
        assert torch.equal(without(LOGITS, target), GeneralizedDiceLoss(weighting, empty)(LOGITS, target))


@pytest.mark.parametrize("weighting", ["square", "simple", "uniform"])
@pytest.mark.parametrize("empty", ["smooth", "batch"])
def test_generalized_dice_agrees_with_monai(empty, weighting):
    # their smoothing is of the size of the sums themselves
    options = {"w_type": weighting, "batch": empty == "batch", "smooth_nr": 0, "smooth_dr": 1e-20}
    ours = GeneralizedDiceLoss(weighting, empty)
    softmax = monai.losses.GeneralizedDiceLoss(softmax=True, to_onehot_y=True, **options)
    torch.testing.assert_close(ours(LOGITS, INDICES), softmax(LOGITS, INDICES[:, None]))
    sides = monai.losses.GeneralizedDiceLoss(**options)
    for channel in range(4):
        z, y = LOGITS[:, channel : channel + 1], CHANNELS[:, channel : channel + 1]
        p = z.sigmoid()
        torch.testing.assert_close(ours(z, y), sides(torch.cat([1 - p, p], 1), torch.cat([1 - y, y], 1)))


def test_an_empty_channel_costs_the_mean_probability_and_teaches():
    z, y = LOGITS[:, :1], torch.zeros_like(CHANNELS[:, :1])
    share = z.sigmoid().mean((1, 2, 3, 4))
    for empty, expected in (("smooth", share), ("batch", share), ("skip", share / (2 - share))):
        value, gradient = value_and_gradient(GeneralizedDiceLoss("square", empty), z, y)
        torch.testing.assert_close(value, expected.mean())
        assert (gradient > 0).all()


@pytest.mark.parametrize("height", [6.0, 15.0])
@forms
def test_a_nearly_perfect_prediction_keeps_its_digits_in_float32(target, height):
    loss = GeneralizedDiceLoss("square", "skip")
    if target is CHANNELS:
        y = target = target[:, 3:]
    else:
        y = torch.nn.functional.one_hot(target, 4).movedim(-1, 1)
    logits = height * (2 * y.float() - 1)
    value, exact = loss(logits, target).item(), loss(logits.double(), target).item()
    assert 0 < value < 0.01
    assert value == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeneralizedDiceLoss("cubic", "skip"), "expected weighting .* got 'cubic'"),
        (lambda: GeneralizedDiceLoss("square", "never"), "expected empty .* got 'never'"),
        (lambda: PenalizedGeneralizedDiceLoss(-1.0, "paper", "square", "skip"), "expected k .* got -1"),
        (lambda: PenalizedGeneralizedDiceLoss(1.0, "code", "square", "skip"), "expected variant .* got 'code'"),
    ],
)
def test_an_impossible_argument_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
