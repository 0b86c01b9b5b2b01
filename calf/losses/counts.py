"""Soft counts of what is right and wrong in every class, the errors summed voxel by voxel.

As the difference of two large sums, FP or FN would be rounding as soon as a network is good, and every ratio with them above.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from calf.losses.contract import is_exclusive, onehot, voxel_sums
from calf.losses.voxels import parts, spread

Counts = tuple[Tensor, Tensor, Tensor, Tensor]


def soft_counts(logits: Tensor, target: Tensor, empty: str, squared: bool = False) -> Counts:
    """Soft counts of every channel, of exclusive classes background included, of checked arguments in either form.

    Only the errors, or the probabilities of classes, are kept for the backward pass.

    Args:
        logits: ``(B, C, *S)``, float32 or float64.
        target: class indices ``(B, *S)`` or channels ``(B, C, *S)``, any dtype.
        empty: ``batch`` sums over the whole batch.
        squared: sum the squares of the errors.

    Returns:
        ``TP = sum p y``, ``FP = sum p (1 - y)``, ``FN = sum (1 - p) y``, or the sums of their squares for the latter two, and
        ``sum y``, each ``(B, C)``, or ``(1, C)`` with ``empty=batch``. All but the last are differentiable once with respect to
        the logits. FP and FN keep their digits however small they are; TP is the rest of ``sum y``, see :func:`right_sums`.

    >>> logits, target = torch.tensor([[[[-20.0, 20.0, 20.0]]]]), torch.tensor([[[[0, 1, 0]]]])
    >>> [f"{count.item():.1e}" for count in soft_counts(logits, target, "smooth")]
    ['1.0e+00', '1.0e+00', '2.1e-09', '1.0e+00']
    """
    counts = _SoftCounts.apply(logits, target, is_exclusive(logits, target), squared)
    tp, fp, fn, truth = (counts.sum(1, keepdim=True) if empty == "batch" else counts).unbind()
    return tp, fp, fn, truth.detach()


def errors_of_classes(logits: Tensor, target: Tensor, empty: str) -> tuple[Tensor, Tensor, Tensor]:
    """Soft false positives, false negatives and volumes of the truth, in voxels, of each class of each problem.

    Exclusive classes are one problem. A sigmoid channel is a problem of its own, of two classes: its complement, and itself.

    Returns:
        Three tensors ``(B, K, C)`` for ``K`` problems of ``C`` classes, or ``(1, K, C)`` with ``empty=batch``.

    >>> logits, target = torch.tensor([[[[-200.0, 200.0, 200.0]]]]), torch.tensor([[[[0, 1, 0]]]])
    >>> fp, fn, volume = errors_of_classes(logits, target, "smooth")
    >>> fp.tolist(), fn.tolist(), volume.tolist()
    ([[[0.0, 1.0]]], [[[1.0, 0.0]]], [[[2.0, 1.0]]])
    """
    _, fp, fn, truth = soft_counts(logits, target, empty)
    if is_exclusive(logits, target):
        return fp.unsqueeze(1), fn.unsqueeze(1), truth.unsqueeze(1)
    # counts above 2^24 are rounded
    rest = (logits.numel() // truth.numel() - truth).clamp_min(0)
    # what foreground has too much, background lacks
    return torch.stack([fn, fp], 2), torch.stack([fp, fn], 2), torch.stack([rest, truth], 2)


@torch.no_grad()
def right_sums(logits: Tensor, target: Tensor, empty: str) -> tuple[Tensor, Tensor]:
    """TP and TN of every channel, as :func:`soft_counts` gives its errors: exact, and without gradient."""
    if is_exclusive(logits, target):
        sums = [_right_of_classes(z, y) for z, y in parts(logits, target)]
        tp, tn = (torch.cat(some) for some in zip(*sums, strict=True))
    else:  # turned round, the errors are what is right
        _, tn, tp, _ = soft_counts(-logits, target, "smooth")
    return pooled(tp, empty), pooled(tn, empty)


def pooled(sums: Tensor, empty: str) -> Tensor:
    """``(B, C)`` as it is, or ``(1, C)`` of the whole batch with ``empty=batch``."""
    return sums.sum(0, keepdim=True) if empty == "batch" else sums


def _right_of_classes(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`right_sums` gives."""
    probs = logits.softmax(1)
    y = onehot(target, range(probs.shape[1]), probs.dtype)
    rejected = 1 - probs
    rejected.addcmul_(rejected, y, value=-1)
    return voxel_sums(probs.mul_(y), "smooth"), voxel_sums(rejected, "smooth")


class _SoftCounts(torch.autograd.Function):
    """What :func:`soft_counts` gives of each sample, ``(4, B, C)``; keeps the errors, or the probabilities of classes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, exclusive: bool, squared: bool) -> Tensor:
        kept, counts = torch.empty_like(logits), logits.new_empty(4, *logits.shape[:2])
        write = _count_classes if exclusive else _count_channels
        for some, y, out, *sums in parts(logits, target, kept, *(spread(count, logits) for count in counts)):
            write(some, y, out, sums, squared)
        tp, _, fn, truth = counts
        torch.sub(truth, tp if squared else fn, out=tp).clamp_min_(0)
        ctx.save_for_backward(kept, target)
        ctx.exclusive, ctx.squared = exclusive, squared
        return counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor, None, None, None]:
        kept, target = ctx.saved_tensors
        by_tp, by_fp, by_fn, _ = (spread(by, kept) for by in grads)
        # the slope by the probability outside of the truth, by how much it differs inside, and what is not of a square
        slopes = (2 * by_fp, -2 * (by_fp + by_fn), by_tp) if ctx.squared else (by_fp, by_tp - by_fp - by_fn, None)
        differentiate = _differentiate_classes if ctx.exclusive else _differentiate_channels
        # softmax's operation writes as if memory were contiguous, whatever the strides of what it writes to
        grad = torch.empty_like(kept, memory_format=torch.contiguous_format if ctx.exclusive else torch.preserve_format)
        for some, y, out, *slope in parts(kept, target, grad, *slopes):
            differentiate(some, y, out, slope)
        return grad, None, None, None


def _sum(x: Tensor, out: Tensor) -> None:
    torch.sum(x, tuple(range(2, x.ndim)), keepdim=True, out=out)


def _count_channels(z: Tensor, y: Tensor, errors: Tensor, sums: Sequence[Tensor], squared: bool) -> None:
    """Writes ``|y - p|`` and the sums, but for TP; in its place the plain ``sum (1 - p) y`` where FN is that of squares."""
    tp, fp, fn, truth = sums
    y = y.to(z.dtype)
    # 1 - p of the truth, also where p rounds to 1
    torch.addcmul(z, y, z, value=-2, out=errors).sigmoid_()
    inside = errors * y
    _sum(y, truth)
    _sum(inside, tp if squared else fn)
    if squared:
        _sum(inside.mul_(errors), fn)
        errors = errors.square()
    _sum(torch.sub(errors, inside, out=inside), fp)


def _count_classes(logits: Tensor, target: Tensor, probs: Tensor, sums: Sequence[Tensor], squared: bool) -> None:
    """Writes the probabilities, and sums as :func:`_count_channels`."""
    tp, fp, fn, truth = sums
    torch.softmax(logits, 1, out=probs)
    y = onehot(target, range(probs.shape[1]), probs.dtype)
    outside = torch.addcmul(probs, probs, y, value=-1)
    # what a class misses of a voxel is what the others have of it; 1 - p would round
    missed = outside.sum(1, keepdim=True)
    _sum(y, truth)
    _sum(y * missed, tp if squared else fn)
    if squared:
        _sum(y * missed.square(), fn)
        outside.mul_(outside)
    _sum(outside, fp)


def _differentiate_channels(errors: Tensor, y: Tensor, grad: Tensor, slopes: Sequence[Tensor | None]) -> None:
    slope = _slope_by_probability(y.to(errors.dtype), errors, slopes, grad)
    # the errors are a sigmoid as well, of z or of -z
    torch.ops.aten.sigmoid_backward.grad_input(slope, errors, grad_input=grad)


def _differentiate_classes(probs: Tensor, target: Tensor, grad: Tensor, slopes: Sequence[Tensor | None]) -> None:
    y = onehot(target, range(probs.shape[1]), probs.dtype)
    slope = _slope_by_probability(y, (y - probs).abs_() if slopes[-1] is not None else probs, slopes, torch.empty_like(probs))
    torch.ops.aten._softmax_backward_data.out(slope, probs, 1, probs.dtype, grad_input=grad)


def _slope_by_probability(y: Tensor, errors: Tensor, slopes: Sequence[Tensor | None], out: Tensor) -> Tensor:
    outside, inside, linear = slopes
    assert outside is not None
    assert inside is not None
    slope = torch.mul(y, inside, out=out).add_(outside)
    return slope if linear is None else slope.mul_(errors).addcmul_(y, linear)
