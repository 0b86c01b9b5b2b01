"""Distances to the border of a mask, by scipy on the CPU and without waiting for it on other devices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor


def signed_distance(masks: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
    """Distance of each voxel to the nearest one of the other kind: positive outside, negative inside.

    0 everywhere where a mask is empty or full: there is no border to be near to. On the CPU scipy's transform, elsewhere
    minima over all shifts along each axis, for which no device is waited for. Exact, but for float32's rounding.

    Args:
        masks: ``(B, K, *S)``, boolean, each transformed alone.
        spacing: size of a voxel along each axis of ``S``; ``None``: distances in voxels.

    Returns:
        ``(B, K, *S)``, float32, without gradient.

    Raises:
        ValueError: masks of another dtype, or a spacing that is not one positive number for each axis.

    >>> signed_distance(torch.tensor([[[[False, False, True, True]]]]))
    tensor([[[[ 2.,  1., -1., -2.]]]])
    """
    if masks.dtype != torch.bool:
        raise ValueError(f"expected boolean masks, got {masks.dtype}; compare them with a threshold first")
    axes = masks.ndim - 2
    steps = [1.0] * axes if spacing is None else [float(step) for step in spacing]
    if len(steps) != axes or not all_positive(steps):
        raise ValueError(
            f"expected spacing to be {axes} positive numbers, one for each axis of {tuple(masks.shape[2:])}, got {steps}"
        )
    return _signed_distance(masks, steps)


def all_positive(numbers: Iterable[float]) -> bool:
    return all(0 < number < math.inf for number in numbers)


@torch.library.custom_op("calf::signed_distance", mutates_args=(), schema="(Tensor masks, float[] spacing) -> Tensor")
def _signed_distance(masks: Tensor, spacing: Sequence[float]) -> Tensor:
    # an operator of its own, so that torch.compile need not look into scipy
    return _by_scipy(masks, spacing) if masks.device.type == "cpu" else _by_shifts(masks, spacing)


@_signed_distance.register_fake
def _(masks: Tensor, spacing: Sequence[float]) -> Tensor:
    return torch.empty(masks.shape, dtype=torch.float32, device=masks.device)


def _by_scipy(masks: Tensor, spacing: Sequence[float]) -> Tensor:
    signed = np.zeros(masks.shape, np.float32)
    sampling = None if set(spacing) == {1.0} else spacing
    for mask, out in zip(masks.flatten(0, 1).numpy(), signed.reshape(-1, *masks.shape[2:]), strict=True):
        if mask.any() and not mask.all():
            for sign, side in ((1, ~mask), (-1, mask)):
                box = _box(side)
                out[box] += sign * distance_transform_edt(side[box], sampling)
    return torch.from_numpy(signed)


def _box(side: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Where a side of a border is, and one voxel around it: what is nearest to it on the other side is in there as well."""
    axes = range(side.ndim)
    hits = [np.flatnonzero(side.any(tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(max(hit[0] - 1, 0), hit[-1] + 2) for hit in hits)


def _by_shifts(masks: Tensor, spacing: Sequence[float]) -> Tensor:
    squared = torch.zeros(2, *masks.shape, device=masks.device).masked_fill_(torch.stack([~masks, masks]), torch.inf)
    for axis, step in enumerate(spacing, 3):
        squared = _nearest_along(squared, axis, step)
    outside, inside = squared.sqrt_()
    return (outside - inside).nan_to_num_(posinf=0, neginf=0)


def _nearest_along(squared: Tensor, axis: int, step: float) -> Tensor:
    """``min over j of squared[j] + ((i - j) step)^2`` along an axis."""
    nearest, length = squared.clone(), squared.shape[axis]
    for shift in range(1, length):
        cost, rest = (shift * step) ** 2, length - shift
        for here, there in ((0, shift), (shift, 0)):
            out = nearest.narrow(axis, here, rest)
            torch.minimum(out, squared.narrow(axis, there, rest) + cost, out=out)
    return nearest
