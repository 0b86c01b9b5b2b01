"""Hard inputs for losses of soft counts - an absent class, an empty and a full channel, a single voxel - and plain references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calf.losses.contract import EMPTY

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
