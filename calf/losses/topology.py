"""Losses that compare the centrelines of tubes, so that a gap in a thin vessel costs more than a rim on a thick one."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from calf.losses.contract import (
    EMPTY,
    SegmentationLoss,
    check_option,
    counted,
    mean_over_classes,
    probs_and_onehot,
    voxel_sums,
)


class SoftCLDiceLoss(SegmentationLoss):
    r"""``1 - 2 T P / (T + P)`` with ``P = (sum S_p y + s) / (sum S_p + s)`` and ``T = (sum S_y p + s) / (sum S_y + s)``.

    ``S`` is the :func:`soft_skeleton`: ``P`` is how much of the predicted centreline lies in the truth, ``T`` how much of the
    true one is found. Shit et al. 2021, https://arxiv.org/abs/2003.07311, who add it to soft Dice. Mean over classes; the authors
    pool theirs. Neighbours count: permuting voxels changes it. A class that is absent from both truth and prediction costs 0; one
    that is only predicted costs ``1 - 2 P / (1 + P)``, ``P = s / (sum S_p + s)``.

    Args:
        iterations: erosions of the skeleton, at least the largest radius of a tube in voxels: wider ones have no centreline.
        smooth: ``s`` above.
        background: with exclusive classes, count class 0 in the mean. Sigmoid channels have no background.
        empty: ``skip``, ``smooth`` or ``batch``: what an absent class is, see :mod:`calf.losses.contract`.

    Raises:
        ValueError: iterations below 0, ``smooth`` not positive, or an unknown option.

    >>> loss = SoftCLDiceLoss(iterations=3, smooth=1.0, background=False, empty="batch")
    >>> line = torch.zeros(1, 1, 5, 9)
    >>> line[..., 2, :] = 1
    >>> half = line.clone()
    >>> half[..., 4:] = 0  # 4 of 9 voxels: P = 1, T = 5 / 10
    >>> loss(200 * half - 100, line)
    tensor(0.3333)
    """

    def __init__(self, iterations: int, smooth: float, background: bool, empty: str) -> None:
        super().__init__()
        check_option("empty", empty, EMPTY)
        if iterations < 0:
            raise ValueError(f"expected iterations to be at least 0, got {iterations}")
        if not smooth > 0:
            raise ValueError(f"expected smooth to be positive, got {smooth}; for next to no smoothing use 1e-7")
        self.iterations, self.smooth, self.background, self.empty = iterations, smooth, background, empty

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        channels = counted(logits, target, self.background)
        p, y = (x[:, channels] for x in probs_and_onehot(logits, target))
        precision = self._share_within(soft_skeleton(p, self.iterations), y)
        sensitivity = self._share_within(soft_skeleton(y, self.iterations), p)
        losses = 1 - 2 * precision * sensitivity / (precision + sensitivity)
        return mean_over_classes(losses, voxel_sums(y, self.empty), self.empty)

    def _share_within(self, skeleton: Tensor, mask: Tensor) -> Tensor:
        within = voxel_sums(skeleton * mask, self.empty)
        return (within + self.smooth) / (voxel_sums(skeleton, self.empty) + self.smooth)


def soft_skeleton(x: Tensor, iterations: int) -> Tensor:
    """The centrelines of ``(B, C, *S)`` with values in 0 to 1; differentiable once.

    ``1 - product over j = 0 ... iterations of (1 - max(x_j - opened(x_j), 0))``, where ``x_j`` is ``x`` eroded ``j`` times: what
    an opening removes is thin. Erosion is the minimum over the voxel and its neighbours along the axes, dilation the maximum over
    the cube of 3 voxels; opening is one after the other. Shit et al. 2021, https://arxiv.org/abs/2003.07311, algorithm 1, whose
    running sum is this product.
    """
    skeleton: Tensor = _SoftSkeleton.apply(x, iterations)
    return skeleton


class _SoftSkeleton(torch.autograd.Function):
    """Pooling is slow and keeps indices of 8 bytes; this keeps two tensors for each erosion, and finds the places again.

    Where several voxels are the extreme the gradient takes the same ones as through pooling: the first.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, iterations: int) -> Tensor:
        rest = torch.ones_like(x)
        kept = [x]
        for _ in range(iterations + 1):
            eroded = _erode(x)
            removed = _dilate(eroded).neg_().add_(x).clamp_min_(0)
            if ctx.needs_input_grad[0]:
                kept += [rest, eroded]
            rest = torch.addcmul(rest, rest, removed, value=-1)
            x = eroded
        ctx.save_for_backward(*kept)
        return rest.neg_().add_(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_skeleton: Tensor) -> tuple[Tensor, None]:
        kept = list(ctx.saved_tensors)
        by_rest = -by_skeleton
        by_eroded = torch.zeros_like(by_skeleton)
        while len(kept) > 1:
            eroded, rest, x = kept.pop(), kept.pop(), kept[-1]
            widened = [eroded]
            for axis in reversed(range(2, x.ndim)):
                widened.append(_extreme_of_three(widened[-1], axis, least=False))
            removed = (x - widened[-1]).clamp_min_(0)
            by_x = (by_rest * rest).mul_(removed.sign()).neg_()
            by_rest = torch.addcmul(by_rest, by_rest, removed, value=-1)
            by_eroded += _through_dilation(-by_x, widened)
            by_eroded = by_x.add_(_through_erosion(by_eroded, x))
        return by_eroded, None


def _erode(x: Tensor) -> Tensor:
    """The minimum over each voxel of ``(B, C, *S)`` and its neighbours along the axes."""
    least = x.clone()
    for axis in range(2, x.ndim):
        _take_neighbours_(least, x, axis, least=True)
    return least


def _dilate(x: Tensor) -> Tensor:
    """The maximum over each voxel's cube of 3 voxels."""
    for axis in reversed(range(2, x.ndim)):
        x = _extreme_of_three(x, axis, least=False)
    return x


def _extreme_of_three(x: Tensor, axis: int, least: bool) -> Tensor:
    extreme = x.clone()
    _take_neighbours_(extreme, x, axis, least)
    return extreme


def _take_neighbours_(extreme: Tensor, x: Tensor, axis: int, least: bool) -> None:
    length = x.shape[axis] - 1
    bound = "max" if least else "min"
    extreme.narrow(axis, 1, length).clamp_(**{bound: x.narrow(axis, 0, length)})
    extreme.narrow(axis, 0, length).clamp_(**{bound: x.narrow(axis, 1, length)})


def _through_dilation(slope: Tensor, widened: list[Tensor]) -> Tensor:
    """The slope by ``x``, given that by its dilation; ``widened``: ``x`` itself, dilated along the last axis, ..., along all."""
    for axis, (x, extreme) in enumerate(zip(widened[-2::-1], widened[:0:-1], strict=True), start=2):
        slope = _to_first_extreme(slope, x, extreme, axis)
    return slope


def _through_erosion(slope: Tensor, x: Tensor) -> Tensor:
    """The slope by ``x``, given that by its erosion; axes with the same minimum share it."""
    by_axis = [_extreme_of_three(x, axis, least=True) for axis in range(2, x.ndim)]
    so_far = list(accumulate(by_axis, torch.minimum))
    by_x = torch.zeros_like(x)
    for place in range(len(by_axis) - 1, 0, -1):
        shared = torch.eq(so_far[place - 1], so_far[place], out=torch.empty_like(x))
        part = torch.eq(by_axis[place], so_far[place], out=torch.empty_like(x)).mul_(slope)
        part.addcmul_(part, shared, value=-0.5)
        slope = slope - part
        by_x += _to_first_extreme(part, x, by_axis[place], place + 2)
    return by_x.add_(_to_first_extreme(slope, x, by_axis[0], 2))


def _to_first_extreme(slope: Tensor, x: Tensor, extreme: Tensor, axis: int) -> Tensor:
    """The slope by ``x``, given that by the extreme of each voxel and its two neighbours along the axis."""
    length = x.shape[axis] - 1
    left = slope.clone()
    # from the neighbour before: what it gets is taken from what is left for the others
    hit = (x.narrow(axis, 0, length) == extreme.narrow(axis, 1, length)).to(x.dtype).mul_(left.narrow(axis, 1, length))
    left.narrow(axis, 1, length).sub_(hit)
    own = torch.eq(x, extreme, out=torch.empty_like(x)).mul_(left)
    left.sub_(own)
    own.narrow(axis, 0, length).add_(hit)
    own.narrow(axis, 1, length).add_(left.narrow(axis, 0, length))
    return own
