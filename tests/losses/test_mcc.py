from __future__ import annotations

import monai.losses
import numpy as np
import pytest
import segmentation_models_pytorch.losses as smp
import torch

from calf.losses.mcc import MCCLoss, one_minus_mcc
from tests.losses.counted import CHANNELS, INDICES, LOGITS, every_empty, forms, mean_of_present, probabilities


@pytest.mark.parametrize("height", [6.0, 15.0])
@forms
def test_a_nearly_perfect_prediction_keeps_its_digits_in_float32(target, height):
    loss = MCCLoss(1e-12, "skip")
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MCCLoss(0.0, "skip"), "expected eps .* got 0.0"),
        (lambda: MCCLoss(1.0, "never"), "expected empty .* got 'never'"),
    ],
)
def test_an_impossible_argument_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
