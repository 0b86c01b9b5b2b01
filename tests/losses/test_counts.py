from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from calf.losses.counts import errors_of_classes, soft_counts
from tests.losses.counted import CHANNELS, GENERATOR, INDICES, LOGITS, forms
from tests.losses.zoo import build, value_and_gradient

NEARLY_PERFECT = ["dice", "tversky", "focal_tversky", "squared_dice", "generalized_dice", "mcc"]
NEARLY_PERFECT += ["unified_focal", "combo", "exponential_logarithmic"]


def two_classes(logits, target):
    """Probabilities and truth with a class axis behind all others, ``(problems..., C)``."""
    if target.ndim < logits.ndim:
        p = logits.movedim(1, -1).softmax(-1)
        return p, F.one_hot(target.long(), logits.shape[1]).to(p)
    p = logits.sigmoid()
    return torch.stack([1 - p, p], -1), torch.stack([1 - target.to(p), target.to(p)], -1)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("empty", ["smooth", "batch"])
@forms
def test_counts_are_those_of_the_formula_and_have_its_gradient(target, empty, squared):
    z = LOGITS.double().requires_grad_()
    exclusive = target is INDICES
    p = z.softmax(1) if exclusive else z.sigmoid()
    y = torch.nn.functional.one_hot(target, 4).movedim(-1, 1).double() if exclusive else target.double()
    power = 2 if squared else 1
    axes = (0, 2, 3, 4) if empty == "batch" else (2, 3, 4)
    expected = [x.sum(axes).view(-1, 4) for x in (p * y, p**power * (1 - y), (1 - p) ** power * y, y)]
    found = soft_counts(z, target, empty, squared)
    assert not found[-1].requires_grad
    torch.testing.assert_close(list(found), expected)
    weights = torch.randn(3, *expected[0].shape, generator=GENERATOR, dtype=torch.float64)
    totals = [sum(w * x for w, x in zip(weights, counts, strict=False)) for counts in (found, expected)]
    torch.testing.assert_close(*(torch.autograd.grad(total.sum(), z)[0] for total in totals))


@forms
def test_a_small_sum_is_not_the_rest_of_a_large_one(target):
    """Next to nothing is predicted: what is missed is nearly all, what is false nearly nothing."""
    logits = torch.full_like(LOGITS, -20.0)
    if target is INDICES:
        logits[:, 0] = 0
    for ours, exact in zip(*(soft_counts(z, target, "smooth")[1:] for z in (logits, logits.double())), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=0)


def test_samples_in_parts_are_those_in_one(monkeypatch):
    for target in (INDICES, CHANNELS):
        values = []
        for cached in (1, 10**9):
            monkeypatch.setattr("calf.losses.voxels.CACHED", cached)
            values.append(value_and_gradient(build("squared_dice"), LOGITS, target))
        torch.testing.assert_close(*values)


def test_counts_of_a_large_volume_are_exact_in_float32():
    """Two million equal summands, which a running sum in float32 gets wrong in the second digit."""
    logits = torch.full((1, 1, 128, 128, 128), math.log(0.1 / 0.9))
    tp, _, fn, truth = soft_counts(logits, torch.ones(logits.shape, dtype=torch.uint8), "smooth")
    assert truth.item() == 128**3
    assert tp.item() == pytest.approx(128**3 / 10, rel=1e-5)  # the rest of the volume
    assert fn.item() == pytest.approx(128**3 * 0.9, rel=1e-6)


@pytest.mark.parametrize("empty", ["smooth", "batch"])
@forms
def test_errors_are_counted_class_by_class(target, empty):
    logits = LOGITS.double()
    p, onehot = two_classes(logits, target)
    axes = tuple(range(p.ndim - 4, p.ndim - 1))
    expected = [(p * (1 - onehot)).sum(axes), ((1 - p) * onehot).sum(axes), onehot.sum(axes)]
    if target is INDICES:
        expected = [count.unsqueeze(1) for count in expected]
    if empty == "batch":
        expected = [count.sum(0, keepdim=True) for count in expected]
    for ours, theirs in zip(errors_of_classes(logits, target, empty), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "name",
    NEARLY_PERFECT,
)
@pytest.mark.parametrize("share", [0.5, 0.01])
def test_a_nearly_perfect_network_is_scored_exactly_in_float32(name, share):
    """A million voxels whose errors add up to less than the rounding of their volume."""
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(4, 1, 512, 512, generator=generator) < share).float()
    logits = 15 * (2 * target - 1) + torch.randn(target.shape, generator=generator)
    loss = build(name)
    value, exact = loss(logits, target).item(), loss(logits.double(), target).item()
    assert value == pytest.approx(exact, rel=1e-5, abs=0)
