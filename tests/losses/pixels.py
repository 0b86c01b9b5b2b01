"""Logits and targets on which losses of single voxels are tried."""

from __future__ import annotations

import pytest
import torch

from tests.losses.zoo import FORMS, SPATIAL, certain, regions

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(3, 4, 7, 6, generator=GENERATOR)
INDICES = torch.randint(0, 3, (3, 7, 6), generator=GENERATOR)  # class 3 is absent
INDICES[1] = 0
CHANNELS = (torch.rand(3, 4, 7, 6, generator=GENERATOR) > 0.8).float()
CHANNELS[0] = 0
CHANNELS[1, 2] = 1

every_form = pytest.mark.parametrize("form", FORMS)
every_shape = pytest.mark.parametrize("spatial", SPATIAL.values(), ids=SPATIAL)


def case(form, spatial=SPATIAL["2d"]):
    """float64 logits and a target whose first sample is empty."""
    target = regions(form, spatial)
    shape = certain(form, target).shape
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64), target


def true_probability(logits, target):
    """Of the true class: ``(B, K, *S)``, ``K = 1`` for exclusive classes."""
    if target.ndim < logits.ndim:
        return logits.softmax(1).gather(1, target.long().unsqueeze(1))
    return torch.where(target > 0, logits.sigmoid(), 1 - logits.sigmoid())


def foreground(logits, target):
    """Probability and truth of each foreground channel."""
    if target.ndim < logits.ndim:
        classes = range(1, logits.shape[1])
        return logits.softmax(1)[:, 1:], torch.stack([target == c for c in classes], 1).to(logits.dtype)
    return logits.sigmoid(), target.to(logits.dtype)
