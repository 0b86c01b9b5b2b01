"""Masks on which distances to a border are hard, and the losses that use them."""

from __future__ import annotations

import itertools

import pytest
import torch

from calf.losses.distance import BoundaryLoss, DistanceLoss, DistancePenalizedCELoss, HausdorffDTLoss
from tests.losses.zoo import FORMS, SPATIAL

GENERATOR = torch.Generator().manual_seed(0)
SHAPES = {"2d": (9, 5), "3d": (6, 3, 5)}
SPACINGS = {"2d": [0.5, 2.0], "3d": [3.0, 0.7, 1.3]}


def hard_masks(shape: tuple[int, ...]) -> torch.Tensor:
    """``(8, 1, *S)``: empty, full, one voxel, one hole, a corner, a slab from side to side, and two of noise."""
    masks = torch.zeros(8, *shape, dtype=torch.bool)
    masks[1] = True
    masks[2][tuple(n // 2 for n in shape)] = True
    masks[3] = ~masks[2]
    masks[4][tuple(slice(0, 2) for _ in shape)] = True
    masks[5][1:3] = True
    masks[6] = torch.rand(shape, generator=GENERATOR) > 0.5
    masks[7] = torch.rand(shape, generator=GENERATOR) > 0.95
    return masks.unsqueeze(1)


def exclusive(masks: torch.Tensor) -> torch.Tensor:
    """Class indices from masks: class 1, and class 2 where a mask meets the next one; class 3 is absent."""
    return masks[:, 0].long() + (masks & masks.roll(1, 0))[:, 0].long()


def noise(shape: torch.Size) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def losses(background: bool = False) -> dict[str, DistanceLoss]:
    return {
        "boundary": BoundaryLoss(None, background),
        "hausdorff": HausdorffDTLoss(2.0, False, "none", None, background),
        "one-sided": HausdorffDTLoss(2.0, True, "none", None, background),
        "penalized": DistancePenalizedCELoss(None),
    }


every_loss = pytest.mark.parametrize("name", losses())
every_form = pytest.mark.parametrize(("form", "spatial"), list(itertools.product(FORMS, SPATIAL.values())))
