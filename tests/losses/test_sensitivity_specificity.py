from __future__ import annotations

import numpy as np
import pytest
import torch

from calf.losses.sensitivity_specificity import SensitivitySpecificityLoss
from tests.losses.counted import CHANNELS, INDICES, LOGITS, every_empty, forms, mean_of_present, probabilities


@pytest.mark.parametrize("height", [6.0, 15.0])
@forms
def test_a_nearly_perfect_prediction_keeps_its_digits_in_float32(target, height):
    loss = SensitivitySpecificityLoss(0.05, "skip")
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
        (lambda: SensitivitySpecificityLoss(1.1, "skip"), "expected r .* got 1.1"),
        (lambda: SensitivitySpecificityLoss(0.1, "never"), "expected empty .* got 'never'"),
    ],
)
def test_an_impossible_argument_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
