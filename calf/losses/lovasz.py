"""The Lovasz extension of the Jaccard loss: the loss whose value on 0 and 1 is the Jaccard index itself.

Sorting is nearly all of the time. Errors that are not positive weigh nothing and are left out of it, which on the CPU makes
most of a trained network's voxels free; the bits of positive floats are in the order of integers, which are sorted digit by
digit; and only the finished weights are kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from calf.losses.contract import EMPTY, SegmentationLoss, check_option, is_exclusive, mean_over_classes, probs_and_onehot
from calf.losses.voxels import on_host

#: Bits of the largest positive float32: subtracting from it turns the order round.
TOP = 0x7FFFFFFF
#: From this length on torch sorts integers digit by digit, so that it pays to fill up to it.
RADIX = 32768


class LovaszLoss(SegmentationLoss):
    """``sum_i e_(i) (J_i - J_(i-1))`` over errors sorted downwards, ``J_i`` the Jaccard loss if the first ``i`` were wrong.

    Berman et al. 2018, https://arxiv.org/abs/1705.08790. Exclusive classes: Lovasz-softmax, errors ``|y - p|`` of every class,
    background included, and the mean over classes. Sigmoid channels, by ``form``: the Lovasz hinge of Yu and Blaschko 2015,
    https://proceedings.mlr.press/v37/yub15.html, errors ``1 - z`` on foreground and ``1 + z`` on background; or ``|y - p|`` as
    for classes. The hinge is convex, not bounded, and 0 once every voxel is right by a margin of 1. An error that is not
    positive weighs nothing.

    A class absent from the truth scores its largest error, and one voxel gets all of the gradient: with ``smooth`` that happens
    in every image without it, with ``skip`` never. With ``batch`` an exclusive class that the whole batch lacks is left out, as
    by the authors, and a sigmoid channel scores its largest error. Equal errors are in the order of the voxels. Exclusive
    classes have no ``form`` to choose.

    Args:
        form: ``hinge`` or ``sigmoid``, for sigmoid channels only.
        empty: ``skip``, ``smooth`` or ``batch``, see :mod:`calf.losses.contract`. The authors' ``per_image=True`` is ``skip`` for
            classes and ``smooth`` for the hinge; their ``per_image=False`` is ``batch``.

    Raises:
        ValueError: an unknown option.

    >>> loss = LovaszLoss(form="hinge", empty="smooth")
    >>> loss(torch.tensor([[[[2.0, 0.5, -3.0]]]]), torch.tensor([[[[1, 1, 0]]]]))
    tensor(0.2500)
    """

    def __init__(self, form: str, empty: str) -> None:
        super().__init__()
        check_option("form", form, ("hinge", "sigmoid"))
        check_option("empty", empty, EMPTY)
        self.form, self.empty = form, empty

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.form == "hinge" and not is_exclusive(logits, target):
            truth = target.to(logits.dtype)
            errors = torch.addcmul(logits.new_ones(()), logits, 2 * truth - 1, value=-1)
        else:
            probs, truth = probs_and_onehot(logits, target)
            errors = (truth - probs).abs()
        errors, truth = (self._images(x) for x in (errors, truth))
        pooled_classes = self.empty == "batch" and is_exclusive(logits, target)
        return mean_over_classes(lovasz_extension(errors, truth), truth.sum(-1), "skip" if pooled_classes else self.empty)

    def _images(self, x: Tensor) -> Tensor:
        """``(B, C, n)``, or ``(1, C, B n)`` with the samples as one image."""
        return x.transpose(0, 1).flatten(1).unsqueeze(0) if self.empty == "batch" else x.flatten(2)


def lovasz_extension(errors: Tensor, truth: Tensor) -> Tensor:
    """The Lovasz extension of the Jaccard loss at ``errors``, negative ones taken as 0, of each row: ``(..., n)`` to ``(...)``.

    Differentiable once with respect to ``errors``; ``truth`` is 0 or 1 and of the same shape and dtype.
    """
    loss: Tensor = _LovaszExtension.apply(errors, truth)
    return loss


class _LovaszExtension(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, errors: Tensor, truth: Tensor) -> Tensor:
        if on_host(errors) and errors.dtype == torch.float32:
            rows = zip(*(x.reshape(-1, errors.shape[-1]) for x in (errors, truth)), strict=True)
            losses, parts = zip(*(_row(*row) for row in rows), strict=True)
            loss, weights = torch.stack(losses).view(errors.shape[:-1]), torch.stack(parts).view(errors.shape)
        else:
            ranked, order = errors.sort(dim=-1, descending=True, stable=True)
            steps = jaccard_steps(truth.gather(-1, order), _volume(truth)).masked_fill_(ranked <= 0, 0)
            weights = torch.empty_like(errors).scatter_(-1, order, steps)
            loss = (ranked * steps).sum(-1)
        ctx.save_for_backward(weights)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return grad.unsqueeze(-1) * weights, None


def _row(errors: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of one row of float32 on the CPU, and the weight of each error."""
    volume = _volume(truth)
    positive = (errors <= 0).logical_not_().numpy()  # also what is not a number: it must reach the loss
    places = None
    if np.count_nonzero(positive) < positive.size:
        places = torch.from_numpy(np.flatnonzero(positive))
        errors = errors.index_select(0, places)
    number = errors.numel()
    keys = torch.full((RADIX if RADIX // 4 < number < RADIX else number,), TOP, dtype=torch.int32)
    keys[:number].sub_(errors.view(torch.int32))
    keys, order = (x[:number] for x in keys.sort(stable=True))
    order = order if places is None else places.index_select(0, order)
    steps = jaccard_steps(truth.index_select(0, order), volume)
    loss = (TOP - keys).view(torch.float32).mul_(steps).sum()
    return loss, torch.zeros(truth.shape).scatter_(0, order, steps)


def jaccard_steps(truth: Tensor, volume: Tensor) -> Tensor:
    """By how much the Jaccard loss grows when voxels become wrong one by one: the weights of sorted errors.

    After ``f`` voxels of the foreground and ``b`` of the background the union is ``volume + b``; the next one adds ``1 / union``
    if it is foreground, else ``(volume - f) / (union (union + 1))``. Differences of the loss itself would be lost in rounding.

    Args:
        truth: ``(..., n)``, 0 or 1, in the order of the errors; it may end where the errors do.
        volume: ``(..., 1)``, of the foreground in all.
    """
    # of the foreground, before this voxel; CUDA has a deterministic cumsum of integers only
    left = truth.cumsum(-1, dtype=torch.int32).to(volume.dtype).sub_(truth).neg_().add_(volume)
    union = left + torch.arange(truth.shape[-1], dtype=volume.dtype, device=truth.device)
    after = union + 1
    steps = torch.where(truth > 0, after, left).div_(after.mul_(union.clamp_(min=1)))
    steps[..., :1].add_(volume == 0)  # without foreground the first voxel is all there is to lose
    return steps.to(truth.dtype)


def _volume(truth: Tensor) -> Tensor:
    """Sum of the last axis, kept, in a dtype that counts it exactly."""
    return truth.sum(-1, keepdim=True, dtype=torch.float64 if truth.shape[-1] > 2**24 else truth.dtype)
