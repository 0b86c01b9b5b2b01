from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from calf.losses.cross_entropy import Side, mean_cross_entropy
from tests.losses.zoo import FORMS, SPATIAL, certain, regions, value_and_gradient

SIDES = {
    "plain": (Side(1.0), Side(1.0), 1.0),
    "weighted": (Side(0.4), Side(0.6), 1.0),
    "one focused": (Side(0.4, 0.5), Side(0.6), 1.0),
    "both focused": (Side(0.4, 0.5), Side(0.6, 2.0), 1.0),
    "alike": (Side(0.6, 0.5), Side(0.6, 0.5), 1.0),
    "root": (Side(0.4), Side(0.6), 0.3),
    "all": (Side(0.4, 0.5), Side(0.6, 2.0), 0.3),
}


def two_classes(logits, target):
    """Probabilities and truth with a class axis behind all others, ``(problems..., C)``."""
    if target.ndim < logits.ndim:
        p = logits.movedim(1, -1).softmax(-1)
        return p, F.one_hot(target.long(), logits.shape[1]).to(p)
    p = logits.sigmoid()
    return torch.stack([1 - p, p], -1), torch.stack([1 - target.to(p), target.to(p)], -1)


def published(logits, target, background, foreground, power):
    p, onehot = two_classes(logits, target)
    share = torch.tensor([background.share] + [foreground.share] * (p.shape[-1] - 1)).to(p)
    focus = torch.tensor([background.focus] + [foreground.focus] * (p.shape[-1] - 1)).to(p)
    return (onehot * share * (1 - p) ** focus * (-p.log()) ** power).sum(-1).mean()


def mean(logits, target, sides):
    return mean_cross_entropy(logits, target, *sides)


def moderate(form, spatial="2d"):
    target = regions(form, SPATIAL[spatial])
    return 2 * torch.randn(certain(form, target).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64), target


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("background", "foreground", "power"), SIDES.values(), ids=SIDES)
def test_value_and_gradient_are_those_of_the_formula(form, background, foreground, power):
    logits, target = moderate(form, "3d")
    ours = value_and_gradient(lambda z, y: mean_cross_entropy(z, y, background, foreground, power), logits, target)
    theirs = value_and_gradient(lambda z, y: published(z, y, background, foreground, power), logits, target)
    # shares become float32 in the reference
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("background", "foreground", "power"), SIDES.values(), ids=SIDES)
def test_the_gradient_is_the_derivative(background, foreground, power):
    logits, target = moderate("multilabel")
    one_for_each_channel = Side(torch.tensor([1.0, 2, 3], dtype=torch.float64).view(1, 3, 1, 1), foreground.focus)
    assert torch.autograd.gradcheck(
        lambda z: mean_cross_entropy(z, target, background, one_for_each_channel, power),
        (logits.requires_grad_(),),
        fast_mode=True,
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("power", [0.01, 0.3, 1.0])
def test_extreme_logits_have_finite_gradients(form, power):
    target = regions(form, SPATIAL["2d"])
    for height in (-1e4, -88, -1, 1, 88, 104, 1e4):
        logits = certain(form, target, height)
        value, gradient = value_and_gradient(
            lambda z, y: mean_cross_entropy(z, y, Side(1e3, 0.01), Side(1e3), power), logits, target
        )
        assert value.isfinite(), height
        assert gradient.isfinite().all(), height


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("whole", [True, False], ids=["a share for each voxel", "for each channel"])
def test_samples_in_parts_are_those_in_one(monkeypatch, form, whole):
    logits, target = moderate(form)
    channels = 1 if form == "exclusive" else logits.shape[1]
    shape = (len(logits), channels, *logits.shape[2:]) if whole else (1, channels, 1, 1)
    share = torch.rand(shape, generator=torch.Generator().manual_seed(2), dtype=logits.dtype)
    values = []
    for cached in (1, 10**9):
        monkeypatch.setattr("calf.losses.voxels.CACHED", cached)
        for sides in [(Side(share, 0.5), Side(2.0), 0.3), (Side(share), Side(share), 1.0)]:
            values.append(value_and_gradient(partial(mean, sides=sides), logits, target))
    torch.testing.assert_close(values[:2], values[2:])
