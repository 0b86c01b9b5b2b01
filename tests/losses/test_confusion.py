from __future__ import annotations

import monai.losses
import numpy as np
import pytest
import segmentation_models_pytorch.losses as smp
import torch

from calf.losses.confusion import (
    GeneralizedDiceLoss,
    MCCLoss,
    PenalizedGeneralizedDiceLoss,
    SensitivitySpecificityLoss,
    error_sums,
    one_minus_mcc,
)
from calf.losses.contract import EMPTY
from tests.losses.zoo import value_and_gradient

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(3, 4, 7, 6, 5, generator=GENERATOR)
INDICES = torch.randint(0, 3, (3, 7, 6, 5), generator=GENERATOR)  # class 3 is absent
INDICES[1].clamp_(max=1)
CHANNELS = (torch.rand(3, 4, 7, 6, 5, generator=GENERATOR) > 0.8).float()
CHANNELS[0, 0] = 0
CHANNELS[1, 1] = 1
CHANNELS[2, 2] = 0
CHANNELS[2, 2, 3, 3, 3] = 1

forms = pytest.mark.parametrize("target", [INDICES, CHANNELS], ids=["exclusive", "sigmoid"])
every_empty = pytest.mark.parametrize("empty", EMPTY)


def probabilities(target, empty):
    """Probabilities and truth as (images, channels, voxels) in float64; with ``empty=batch`` the batch is one image."""
    p = LOGITS.double().softmax(1) if target is INDICES else LOGITS.double().sigmoid()
    y = torch.nn.functional.one_hot(target, 4).movedim(-1, 1) if target is INDICES else target
    p, y = (x.double().flatten(2).numpy() for x in (p, y))
    return [np.concatenate(list(x), axis=-1)[None] if empty == "batch" else x for x in (p, y)]


def mean_of_present(values, y, empty):
    """Mean over images of the means over classes; with ``skip`` over those that an image has."""
    if empty == "skip":
        present = y.sum(-1) > 0
        return np.mean([v[has].mean() if has.any() else 0 for v, has in zip(values, present, strict=True)])
    return values.mean()


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


@pytest.mark.parametrize("power", [1, 2])
@forms
def test_errors_are_summed_by_side_and_have_their_gradient(target, power):
    z = LOGITS.double().requires_grad_()
    exclusive = target is INDICES
    y = torch.nn.functional.one_hot(target, 4).movedim(-1, 1) if exclusive else target
    errors = ((z.softmax(1) if exclusive else z.sigmoid()) - y).abs() ** power
    expected = (errors * (1 - y)).sum((2, 3, 4)), (errors * y).sum((2, 3, 4)), y.double().sum((2, 3, 4))
    found = error_sums(z, target, power)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(2, 3, 4, generator=GENERATOR, dtype=torch.float64)
    totals = [weights[0] * false + weights[1] * missed for false, missed, _ in (found, expected)]
    torch.testing.assert_close(*(torch.autograd.grad(total.sum(), z)[0] for total in totals))


@forms
def test_a_small_sum_is_not_the_rest_of_a_large_one(target):
    """Next to nothing is predicted: what is missed is nearly all, what is false nearly nothing."""
    logits = torch.full_like(LOGITS, -20.0)
    if target is INDICES:
        logits[:, 0] = 0
    for ours, exact in zip(error_sums(logits, target, 1), error_sums(logits.double(), target, 1), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=0)


def test_samples_in_parts_are_those_in_one(monkeypatch):
    for target in (INDICES, CHANNELS):
        values = []
        for cached in (1, 10**9):
            monkeypatch.setattr("calf.losses.confusion.CACHED", cached)
            values.append(value_and_gradient(MCCLoss(1e-5, "smooth"), LOGITS, target))
        torch.testing.assert_close(*values)


@pytest.mark.parametrize("height", [6.0, 15.0])
@forms
@pytest.mark.parametrize(
    "loss",
    [GeneralizedDiceLoss("square", "skip"), MCCLoss(1e-12, "skip"), SensitivitySpecificityLoss(0.05, "skip")],
    ids=lambda loss: type(loss).__name__,
)
def test_a_nearly_perfect_prediction_keeps_its_digits_in_float32(loss, target, height):
    if target is CHANNELS:
        y = target = target[:, 3:]
    else:
        y = torch.nn.functional.one_hot(target, 4).movedim(-1, 1)
    logits = height * (2 * y.float() - 1)
    value, exact = loss(logits, target).item(), loss(logits.double(), target).item()
    assert 0 < value < 0.01
    assert value == pytest.approx(exact, rel=1e-5)


@every_empty
@forms
def test_mcc_is_what_the_formula_says(target, empty):
    p, y = probabilities(target, empty)
    first = 1 if target is INDICES else 0
    p, y = p[:, first:], y[:, first:]
    tp, fp, fn, tn = ((a * b).sum(-1) + 0.1 for a, b in ((p, y), (p, 1 - y), (1 - p, y), (1 - p, 1 - y)))
    scores = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    expected = mean_of_present(1 - scores, y, empty)
    assert MCCLoss(0.1, empty)(LOGITS, target).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("channel", range(4))
@pytest.mark.parametrize("eps", [1e-5, 1.0])
def test_mcc_agrees_with_segmentation_models_pytorch(channel, eps):
    z, y = LOGITS[:, channel : channel + 1], CHANNELS[:, channel : channel + 1]
    torch.testing.assert_close(MCCLoss(eps, "batch")(z, y), smp.MCCLoss(eps=eps)(z.sigmoid(), y))


@pytest.mark.parametrize("batch", [True, False])
def test_mcc_agrees_with_monai(batch):
    ours = MCCLoss(1e-12, "batch" if batch else "smooth")
    options = {"batch": batch, "smooth_dr": 0}
    softmax = monai.losses.MCCLoss(softmax=True, to_onehot_y=True, include_background=False, **options)
    target = torch.where(INDICES == 2, 3, INDICES)
    target[:, 0, 0, 0] = 2  # theirs of an absent class is 0 / 0
    target[:, 0, 0, 1] = 3
    torch.testing.assert_close(ours(LOGITS, target), softmax(LOGITS, target[:, None]))
    sigmoid = monai.losses.MCCLoss(sigmoid=True, **options)
    torch.testing.assert_close(ours(LOGITS[:, 3:], CHANNELS[:, 3:]), sigmoid(LOGITS[:, 3:], CHANNELS[:, 3:]))


def test_mcc_of_the_background_is_that_of_the_foreground():
    loss = MCCLoss(1e-5, "smooth")
    torch.testing.assert_close(loss(LOGITS, CHANNELS), loss(-LOGITS, 1 - CHANNELS))


def test_mcc_of_counts_that_float32_cannot_multiply():
    volume, lesion = 1e12, 1e3
    counts = torch.tensor([lesion - 1e-3, 1e-3, 1e-3, volume])
    assert one_minus_mcc(*counts).item() == pytest.approx(1e-6, rel=1e-5)
    counts = torch.tensor([1e-3, lesion, lesion, volume])
    assert one_minus_mcc(*counts).item() == pytest.approx(1 - 1e-6, rel=1e-6)
    assert one_minus_mcc(*torch.tensor([1e-5, volume, lesion, 1e-5])).item() == pytest.approx(2)


def test_mcc_of_chance_has_the_gradient_of_its_neighbourhood():
    """At 0.5 everywhere the coefficient is exactly 0, where the formula changes its form."""
    y = CHANNELS[2:, 3:].double()
    logits = torch.zeros_like(y, requires_grad=True)
    assert MCCLoss(1e-5, "batch")(logits, y).item() == pytest.approx(1)
    assert torch.autograd.gradcheck(lambda z: MCCLoss(1e-5, "batch")(z, y), (logits,))


def test_mcc_of_an_absent_class():
    loss, y = MCCLoss(1e-5, "smooth"), torch.zeros(1, 1, 20, 20)
    values = [loss(torch.full_like(y, height), y).item() for height in (-100, 0, 100)]
    assert values == pytest.approx([0.5, 1, 1.5], abs=1e-3)
    assert MCCLoss(1e-5, "skip")(y, y) == 0


@every_empty
@forms
def test_sensitivity_specificity_is_what_the_formula_says(target, empty):
    p, y = probabilities(target, empty)
    first = 1 if target is INDICES else 0
    p, y = p[:, first:], y[:, first:]
    squares = (y - p) ** 2
    missed, false = ((squares * side).sum(-1) / np.maximum(side.sum(-1), 1) for side in (y, 1 - y))
    expected = mean_of_present(0.1 * missed + 0.9 * false, y, empty)
    assert SensitivitySpecificityLoss(0.1, empty)(LOGITS, target).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("r", "truth", "expected"),
    [
        (0.05, [1, 1, 0, 0], 0.142),  # 0.05 (0.01 + 0.16) / 2 + 0.95 (0.04 + 0.25) / 2
        (0.1, [1, 1, 0, 0], 0.139),
        (1.0, [1, 1, 0, 0], 0.085),
        (0.05, [0, 0, 0, 0], 0.34675),  # 0.95 (0.81 + 0.36 + 0.04 + 0.25) / 4
        (0.05, [1, 1, 1, 1], 0.01325),  # 0.05 (0.01 + 0.16 + 0.64 + 0.25) / 4
    ],
)
def test_sensitivity_specificity_by_hand(r, truth, expected):
    logits = torch.tensor([0.9, 0.6, 0.2, 0.5]).logit().view(1, 1, 2, 2)
    loss = SensitivitySpecificityLoss(r, "smooth")
    assert loss(logits, torch.tensor(truth).view(1, 1, 2, 2)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeneralizedDiceLoss("cubic", "skip"), "expected weighting .* got 'cubic'"),
        (lambda: GeneralizedDiceLoss("square", "never"), "expected empty .* got 'never'"),
        (lambda: PenalizedGeneralizedDiceLoss(-1.0, "paper", "square", "skip"), "expected k .* got -1"),
        (lambda: PenalizedGeneralizedDiceLoss(1.0, "code", "square", "skip"), "expected variant .* got 'code'"),
        (lambda: MCCLoss(0.0, "skip"), "expected eps .* got 0.0"),
        (lambda: MCCLoss(1.0, "never"), "expected empty .* got 'never'"),
        (lambda: SensitivitySpecificityLoss(1.1, "skip"), "expected r .* got 1.1"),
        (lambda: SensitivitySpecificityLoss(0.1, "never"), "expected empty .* got 'never'"),
    ],
)
def test_an_impossible_argument_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
