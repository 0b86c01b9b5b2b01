"""Random cases, and what losses over regions are written in numpy with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.losses.zoo import FORMS, certain, regions

SPATIAL = {"2d": (9, 5), "3d": (4, 3, 7)}

every_form = pytest.mark.parametrize("form", FORMS)
every_shape = pytest.mark.parametrize("spatial", SPATIAL.values(), ids=SPATIAL)
every_empty = pytest.mark.parametrize("empty", ["skip", "smooth", "batch"])


def random_case(form, spatial, seed=0):
    target = regions(form, spatial, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(certain(form, target).shape, generator=generator, dtype=torch.float64), target


def one_against_the_rest(logits, target):
    """Probability and truth of every foreground channel, numpy (B, K, *S)."""
    if target.shape == logits.shape:
        return logits.sigmoid().numpy(), target.numpy().astype(float)
    classes = range(1, logits.shape[1])
    return logits.softmax(1)[:, 1:].numpy(), np.stack([(target == c).numpy() for c in classes], 1).astype(float)


def over_samples(loss, p, y, empty):
    """Mean over classes and samples of ``loss(p, y)`` of ``(B, *S)``, by the rule for absent classes."""
    if empty == "batch":
        return np.mean([loss(p[:, c], y[:, c]) for c in range(p.shape[1])])
    means = []
    for b in range(len(p)):
        counted = [c for c in range(p.shape[1]) if empty == "smooth" or y[b, c].any()]
        means.append(np.mean([loss(p[b : b + 1, c], y[b : b + 1, c]) for c in counted]) if counted else 0.0)
    return np.mean(means)
