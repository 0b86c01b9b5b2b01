"""Losses of the whole confusion matrix: what is rightly left alone counts as well.

With ``g`` voxels of foreground and ``m`` of background, every ratio here is made of sums that are each taken on their own:
``FP`` as the difference of two large sums would be noise as soon as a network is good, and ``1 - MCC`` with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from calf.losses.contract import (
    EMPTY,
    SegmentationLoss,
    check_option,
    is_exclusive,
    mean_over_classes,
    voxel_sums,
)

#: Powers of a class's volume that its weight is divided by.
WEIGHTING = {"square": 2, "simple": 1, "uniform": 0}
#: On the CPU as many numbers are gone through at once as stay in its cache.
CACHED = 2**18


class GeneralizedDiceLoss(SegmentationLoss):
    """``1 - 2 sum_c w_c TP_c / sum_c w_c (P_c + G_c)``, ``w_c = 1 / G_c^2``, over all classes, background among them.

    ``P_c`` and ``G_c`` are the predicted and the true volume. Sudre et al. 2017, https://arxiv.org/abs/1707.03237, section 2.1,
    without smoothing in either sum: added to terms of the size of ``1 / G``, 1e-5 would be a tenth of them and more. Exclusive
    classes share one ratio; each sigmoid channel has one of its own, of background and foreground, and the mean over channels
    counts. A class of a few voxels outweighs all others: with classes of very different sizes in each image the loss is known
    to lose the large ones.

    A class absent from the truth would weigh infinitely much. With ``smooth`` and ``batch`` it has the largest weight of the
    other classes of its ratio, as in NiftyNet; an empty sigmoid channel then costs the mean probability, and teaches. With
    ``skip`` it weighs nothing; the background of an empty sigmoid channel remains, so that none counts 0.

    Args:
        weighting: ``square``; ``simple``, ``w_c = 1 / G_c``; ``uniform``, ``w_c = 1``.
        empty: ``skip``, ``smooth`` or ``batch``, see :mod:`calf.losses.contract`.

    Raises:
        ValueError: an unknown option.

    >>> loss = GeneralizedDiceLoss(weighting="square", empty="smooth")
    >>> loss(torch.tensor([[[[20.0, -20.0, -20.0, -20.0]]]]), torch.tensor([[[[1, 1, 0, 0]]]]))
    tensor(0.2500)
    """

    #: What an error costs, in parts of what a right voxel earns.
    cost = 1.0

    def __init__(self, weighting: str, empty: str) -> None:
        super().__init__()
        check_option("weighting", weighting, tuple(WEIGHTING))
        check_option("empty", empty, EMPTY)
        self.weighting, self.empty = weighting, empty

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        false, missed, positives, negatives = _pooled_sums(logits, target, 1, self.empty)
        if is_exclusive(logits, target):
            errors, missed, volumes = false + missed, missed, positives
        else:  # two classes each, and one's error is the other's
            errors = (false + missed).unsqueeze(-1)
            missed, volumes = torch.stack([false, missed], -1), torch.stack([negatives, positives], -1)
        weights = self._weights(volumes)
        wrong = (self.cost * weights * errors).sum(-1)
        return (wrong / (wrong + (2 * weights * (volumes - missed)).sum(-1))).mean()

    def _weights(self, volumes: Tensor) -> Tensor:
        absent = volumes == 0
        weights = (volumes.clamp(min=1) ** -WEIGHTING[self.weighting]).masked_fill(absent, 0)
        return weights if self.empty == "skip" else torch.where(absent, weights.amax(-1, keepdim=True), weights)


class PenalizedGeneralizedDiceLoss(GeneralizedDiceLoss):
    """``1 - D / (1 + k (1 - D))``, ``D`` the generalized Dice score: every error costs ``1 + k`` times as much.

    Yang et al. 2019, https://openreview.net/forum?id=H1lTh8unKN: ``k sum_c w_c (FP_c + FN_c)`` is added to the denominator of
    ``D``. ``variant=survey`` is ``L / (1 + k (1 - L))`` with ``L = 1 - D``, the form of the survey of Ma et al. 2021,
    https://doi.org/10.1016/j.media.2021.102035: the same with ``1 / (1 + k)`` for ``1 + k``, so that errors cost less, not more.
    ``k = 0`` is :class:`GeneralizedDiceLoss`, which says the rest.

    Args:
        k: strength of the penalty, at least 0.
        variant: ``paper`` or ``survey``.
        weighting: as in GeneralizedDiceLoss.
        empty: as in GeneralizedDiceLoss.

    Raises:
        ValueError: an unknown option, or ``k`` below 0.

    >>> loss = PenalizedGeneralizedDiceLoss(k=2.5, variant="paper", weighting="square", empty="smooth")
    >>> loss(torch.tensor([[[[20.0, -20.0, -20.0, -20.0]]]]), torch.tensor([[[[1, 1, 0, 0]]]]))
    tensor(0.5385)
    """

    def __init__(self, k: float, variant: str, weighting: str, empty: str) -> None:
        super().__init__(weighting, empty)
        check_option("variant", variant, ("paper", "survey"))
        if k < 0:
            raise ValueError(f"expected k to be at least 0, got {k}; 0 is the generalized Dice loss")
        self.cost = 1 + k if variant == "paper" else 1 / (1 + k)


class MCCLoss(SegmentationLoss):
    """``1 - (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))``, each class against the rest.

    One minus Matthews' correlation coefficient of soft counts, to each of which ``eps`` is added. Abhishek and Hamarneh 2021,
    https://arxiv.org/abs/2010.13454. 0 is perfect, 1 no better than chance, 2 inverted. Mean over classes without background,
    whose coefficient in the binary case is the foreground's.

    A class absent from the truth, whose coefficient would be 0 / 0 without ``eps``, costs 0.5 where nothing of it is predicted,
    1.5 where all is, and nearly 1 between: with a small ``eps`` it teaches next to nothing there. So does one that fills it.

    Args:
        eps: added to each of the four counts, in voxels; positive.
        empty: ``skip``, ``smooth`` or ``batch``, see :mod:`calf.losses.contract`.

    Raises:
        ValueError: an unknown option, or ``eps`` not positive.

    >>> loss = MCCLoss(eps=1e-5, empty="batch")
    >>> loss(torch.tensor([[[[20.0, -20.0, -20.0, -20.0]]]]), torch.tensor([[[[1, 1, 0, 0]]]]))
    tensor(0.4227)
    """

    def __init__(self, eps: float, empty: str) -> None:
        super().__init__()
        check_option("empty", empty, EMPTY)
        if not eps > 0:
            raise ValueError(f"expected eps to be positive, got {eps}: an absent class would be 0 / 0; for next to none use 1e-7")
        self.eps, self.empty = eps, empty

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        found, rejected = right_sums(logits, target)
        false, missed, positives = error_sums(logits, target, 1)
        # a voxel's share of what is right shrinks as that of what is wrong grows
        found, rejected = found + (missed.detach() - missed), rejected + (false.detach() - false)
        first = int(is_exclusive(logits, target))
        tp, fp, fn, tn = (_pooled(x, self.empty)[:, first:] + self.eps for x in (found, false, missed, rejected))
        return mean_over_classes(one_minus_mcc(tp, fp, fn, tn), _pooled(positives, self.empty)[:, first:], self.empty)


def one_minus_mcc(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    """From positive counts, without their products of four, which overflow, and without a difference of nearly equal numbers.

    With ``g = TP + FN`` and ``m = TN + FP``, MCC is ``x / sqrt(s)`` of ``x = TP / g - FP / m`` and
    ``s = (TP + FP) (TN + FN) / (g m)``. Then ``s - x^2 = (g + m) / (g m) (TP FN / g + TN FP / m)``, and
    ``1 - x / sqrt(s) = (s - x^2) / (sqrt(s) (sqrt(s) + x))``.
    """
    g, m = tp + fn, tn + fp
    x, root = tp / g - fp / m, (((tp + fp) / g) * ((tn + fn) / m)).sqrt()
    rest = (tp / g * (fn / g) + tn / m * (fp / g)) * (1 + g / m)
    better = x >= 0  # than chance; the inner choice only keeps the branch that is not taken finite
    return torch.where(better, rest / (root * (root + torch.where(better, x, 0))), 1 - x / root)


class SensitivitySpecificityLoss(SegmentationLoss):
    """``r sum_i (y - p)^2 y / sum_i y + (1 - r) sum_i (y - p)^2 (1 - y) / sum_i (1 - y)``, each class against the rest.

    Mean squared errors of foreground and background, as if both were of the same size. Brosch et al. 2015,
    https://doi.org/10.1007/978-3-319-24574-4_1. Mean over classes without background. Where a class is absent from the truth, or
    fills it, the term that has no voxels is 0 and the other one still teaches.

    Args:
        r: weight of the foreground's term, the sensitivity; the background's, the specificity, has ``1 - r``.
        empty: ``skip``, ``smooth`` or ``batch``, see :mod:`calf.losses.contract`.

    Raises:
        ValueError: an unknown option, or ``r`` outside 0 to 1.

    >>> loss = SensitivitySpecificityLoss(r=0.05, empty="smooth")
    >>> loss(torch.zeros(1, 1, 1, 4), torch.tensor([[[[1, 0, 0, 0]]]]))
    tensor(0.2500)
    """

    def __init__(self, r: float, empty: str) -> None:
        super().__init__()
        check_option("empty", empty, EMPTY)
        if not 0 <= r <= 1:
            raise ValueError(f"expected r between 0 and 1, got {r}")
        self.r, self.empty = r, empty

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        false, missed, positives, negatives = _pooled_sums(logits, target, 2, self.empty)
        losses = self.r * missed / positives.clamp(min=1) + (1 - self.r) * false / negatives.clamp(min=1)
        first = int(is_exclusive(logits, target))
        return mean_over_classes(losses[:, first:], positives[:, first:], self.empty)


def _pooled_sums(logits: Tensor, target: Tensor, power: int, empty: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`error_sums` and the volume of what is not the class, of samples or of the batch."""
    false, missed, positives = error_sums(logits, target, power)
    negatives = (logits[0, 0].numel() - positives).clamp(min=0)  # counts above 2^24 are rounded
    return _pooled(false, empty), _pooled(missed, empty), _pooled(positives, empty), _pooled(negatives, empty)


def _pooled(sums: Tensor, empty: str) -> Tensor:
    """``(B, C)`` as it is, or ``(1, C)`` of the whole batch with ``empty=batch``."""
    return sums.sum(0, keepdim=True) if empty == "batch" else sums


def error_sums(logits: Tensor, target: Tensor, power: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of ``|y - p| ^ power`` where a channel is not and where it is, and its volume, of a target in either form.

    All ``(B, C)``, of exclusive classes background included. With ``power=1`` they are FP, FN and the true volume; the other
    power is 2. The first two are differentiable once with respect to the logits. Only the errors, or the probabilities of
    classes, are kept for the backward pass.
    """
    if is_exclusive(logits, target):
        false, missed, positives = _ClassErrorSums.apply(logits, target, power)
    else:
        false, missed, positives = _ErrorSums.apply(logits, target.to(logits.dtype), power)
    return false, missed, positives


@torch.no_grad()
def right_sums(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """TP and TN of every channel, ``(B, C)``, without gradient."""
    if is_exclusive(logits, target):
        parts = [_right_of_classes(z, y) for z, y in _parts(logits, target)]
        found, rejected = (torch.cat(sums) for sums in zip(*parts, strict=True))
    else:  # turned round, the errors are what is right
        rejected, found, _ = error_sums(-logits, target, 1)
    return found, rejected


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The samples of some tensors, on the CPU a few at a time."""
    first = tensors[0]
    on_host = first.device.type == "cpu" and not torch.compiler.is_compiling()
    step = max(1, CACHED // first[0].numel()) if on_host else len(first)
    return zip(*(x.split(step) for x in tensors), strict=True)


def _spread(sums: Tensor, like: Tensor) -> Tensor:
    """``(B, C)`` in a shape that broadcasts over voxels."""
    return sums.view(*sums.shape, *[1] * (like.ndim - 2))


class _ErrorSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor, power: int) -> tuple[Tensor, Tensor, Tensor]:
        errors = torch.empty_like(z)
        parts = [_errors_of_channels(some, truth, out, power) for some, truth, out in _parts(z, y, errors)]
        false, missed, positives = (torch.cat(sums) for sums in zip(*parts, strict=True))
        ctx.mark_non_differentiable(positives)
        ctx.save_for_backward(errors, y)
        ctx.power = power
        return false, missed, positives

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_false: Tensor, by_missed: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        errors, y = ctx.saved_tensors
        by_false, by_missed = _spread(by_false, y), _spread(by_missed, y)
        grad = (y * -(by_false + by_missed)).add_(by_false)
        if ctx.power == 2:
            grad.mul_(errors).mul_(2)
        # the errors are a sigmoid as well, of z or of -z
        return torch.ops.aten.sigmoid_backward.grad_input(grad, errors, grad_input=grad), None, None


def _errors_of_channels(z: Tensor, y: Tensor, errors: Tensor, power: int) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`error_sums` gives; writes ``|y - p|``."""
    # 1 - p of the truth, also where p rounds to 1
    torch.addcmul(z, y, z, value=-2, out=errors).sigmoid_()
    powers = errors if power == 1 else errors.square()
    inside = powers * y
    missed = voxel_sums(inside, "smooth")
    return voxel_sums(torch.sub(powers, inside, out=inside), "smooth"), missed, voxel_sums(y, "smooth")


class _ClassErrorSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, power: int) -> tuple[Tensor, Tensor, Tensor]:
        probs = torch.empty_like(logits)
        parts = [_errors_of_classes(some, truth, out, power) for some, truth, out in _parts(logits, target, probs)]
        false, missed, positives = (torch.cat(sums) for sums in zip(*parts, strict=True))
        ctx.mark_non_differentiable(positives)
        ctx.save_for_backward(probs, target)
        ctx.power = power
        return false, missed, positives

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_false: Tensor, by_missed: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        probs, target = ctx.saved_tensors
        # the operation below writes as if memory were contiguous, whatever the strides of what it writes to
        grad = torch.empty_like(probs, memory_format=torch.contiguous_format)
        for p, y, false, missed, out in _parts(probs, target, _spread(by_false, probs), _spread(by_missed, probs), grad):
            onehot = _onehot(y, p)
            slope = (onehot * -(false + missed)).add_(false)
            if ctx.power == 2:
                slope.mul_(onehot.sub_(p).abs_()).mul_(2)
            torch.ops.aten._softmax_backward_data.out(slope, p, 1, p.dtype, grad_input=out)
        return grad, None, None


def _errors_of_classes(logits: Tensor, target: Tensor, probs: Tensor, power: int) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`error_sums` gives; writes the probabilities."""
    onehot = _onehot(target, torch.softmax(logits, 1, out=probs))
    false = torch.addcmul(probs, probs, onehot, value=-1)
    # what a class misses of a voxel is what the others have of it; 1 - p would round
    missed = false.sum(1, keepdim=True)
    if power == 2:
        false.mul_(false)
        missed.mul_(missed)
    return voxel_sums(false, "smooth"), voxel_sums(onehot * missed, "smooth"), voxel_sums(onehot, "smooth")


def _right_of_classes(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`right_sums` gives."""
    probs = logits.softmax(1)
    onehot = _onehot(target, probs)
    rejected = 1 - probs
    rejected.addcmul_(rejected, onehot, value=-1)
    return voxel_sums(probs.mul_(onehot), "smooth"), voxel_sums(rejected, "smooth")


def _onehot(target: Tensor, like: Tensor) -> Tensor:
    # compared in place and as floating point, which is faster than a detour by integers and booleans
    classes = torch.arange(like.shape[1], dtype=like.dtype, device=like.device)
    voxels = [1] * (like.ndim - 2)
    return target.to(like.dtype).unsqueeze(1).repeat(1, len(classes), *voxels).eq_(classes.view(-1, *voxels))
