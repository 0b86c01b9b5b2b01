"""Soft counts of what is right and wrong in every class, the errors summed voxel by voxel.

As the difference of two large sums, FP or FN would be rounding as soon as a network is good, and every ratio with them above.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from calf.losses.contract import is_exclusive, onehot, voxel_sums

#: On the CPU as many numbers are gone through at once as stay in its cache.
CACHED = 2**18

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
    function = _OfClasses if is_exclusive(logits, target) else _OfChannels
    tp, fp, fn, truth = (pooled(sums, empty) for sums in function.apply(logits, target, squared))
    return tp, fp, fn, truth


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
        parts = [_right_of_classes(z, y) for z, y in _parts(logits, target)]
        tp, tn = (torch.cat(sums) for sums in zip(*parts, strict=True))
    else:  # turned round, the errors are what is right
        _, tn, tp, _ = soft_counts(-logits, target, "smooth")
    return pooled(tp, empty), pooled(tn, empty)


def pooled(sums: Tensor, empty: str) -> Tensor:
    """``(B, C)`` as it is, or ``(1, C)`` of the whole batch with ``empty=batch``."""
    return sums.sum(0, keepdim=True) if empty == "batch" else sums


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The samples of some tensors, on the CPU a few at a time."""
    first = tensors[0]
    on_host = first.device.type == "cpu" and not torch.compiler.is_compiling()
    step = max(1, CACHED // first[0].numel()) if on_host else len(first)
    return zip(*(x.split(step) for x in tensors), strict=True)


def _spread(sums: Tensor, like: Tensor) -> Tensor:
    """``(B, C)`` in a shape that broadcasts over voxels."""
    return sums.view(*sums.shape, *[1] * (like.ndim - 2))


class _OfChannels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, target: Tensor, squared: bool) -> Counts:
        errors = torch.empty_like(z)
        parts = [_counts_of_channels(some, y.to(z.dtype), out, squared) for some, y, out in _parts(z, target, errors)]
        tp, fp, fn, truth = (torch.cat(sums) for sums in zip(*parts, strict=True))
        ctx.mark_non_differentiable(truth)
        ctx.save_for_backward(errors, target)
        ctx.squared = squared
        return tp, fp, fn, truth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_tp: Tensor, by_fp: Tensor, by_fn: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        errors, target = ctx.saved_tensors
        grad = torch.empty_like(errors)
        slopes = (_spread(by, errors) for by in (by_tp, by_fp, by_fn))
        for q, some, tp, fp, fn, out in _parts(errors, target, *slopes, grad):
            slope = _slope_by_probability(some.to(q.dtype), q, tp, fp, fn, ctx.squared, out)
            # the errors are a sigmoid as well, of z or of -z
            torch.ops.aten.sigmoid_backward.grad_input(slope, q, grad_input=out)
        return grad, None, None


def _counts_of_channels(z: Tensor, y: Tensor, errors: Tensor, squared: bool) -> Counts:
    """What :func:`soft_counts` gives; writes ``|y - p|``."""
    # 1 - p of the truth, also where p rounds to 1
    torch.addcmul(z, y, z, value=-2, out=errors).sigmoid_()
    inside = errors * y
    fn, truth = voxel_sums(inside, "smooth"), voxel_sums(y, "smooth")
    tp = (truth - fn).clamp_min(0)
    if squared:
        fn, errors = voxel_sums(inside.mul_(errors), "smooth"), errors.square()
    return tp, voxel_sums(torch.sub(errors, inside, out=inside), "smooth"), fn, truth


def _slope_by_probability(
    y: Tensor, errors: Tensor, by_tp: Tensor, by_fp: Tensor, by_fn: Tensor, squared: bool, out: Tensor
) -> Tensor:
    if not squared:
        return torch.mul(y, by_tp - by_fp - by_fn, out=out).add_(by_fp)
    slope = torch.mul(y, -2 * (by_fp + by_fn), out=out).add_(2 * by_fp).mul_(errors)
    return slope.addcmul_(y, by_tp)


class _OfClasses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, squared: bool) -> Counts:
        probs = torch.empty_like(logits)
        parts = [_counts_of_classes(some, y, out, squared) for some, y, out in _parts(logits, target, probs)]
        tp, fp, fn, truth = (torch.cat(sums) for sums in zip(*parts, strict=True))
        ctx.mark_non_differentiable(truth)
        ctx.save_for_backward(probs, target)
        ctx.squared = squared
        return tp, fp, fn, truth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_tp: Tensor, by_fp: Tensor, by_fn: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        probs, target = ctx.saved_tensors
        # the operation below writes as if memory were contiguous, whatever the strides of what it writes to
        grad = torch.empty_like(probs, memory_format=torch.contiguous_format)
        slopes = (_spread(by, probs) for by in (by_tp, by_fp, by_fn))
        for p, some, tp, fp, fn, out in _parts(probs, target, *slopes, grad):
            y = onehot(some, range(p.shape[1]), p.dtype)
            errors = (y - p).abs_() if ctx.squared else p
            slope = _slope_by_probability(y, errors, tp, fp, fn, ctx.squared, torch.empty_like(p))
            torch.ops.aten._softmax_backward_data.out(slope, p, 1, p.dtype, grad_input=out)
        return grad, None, None


def _counts_of_classes(logits: Tensor, target: Tensor, probs: Tensor, squared: bool) -> Counts:
    """What :func:`soft_counts` gives; writes the probabilities."""
    torch.softmax(logits, 1, out=probs)
    y = onehot(target, range(probs.shape[1]), probs.dtype)
    outside = torch.addcmul(probs, probs, y, value=-1)
    # what a class misses of a voxel is what the others have of it; 1 - p would round
    missed = outside.sum(1, keepdim=True)
    fn, truth = voxel_sums(y * missed, "smooth"), voxel_sums(y, "smooth")
    tp = (truth - fn).clamp_min(0)
    if squared:
        fn, outside = voxel_sums(y * missed.square(), "smooth"), outside.mul_(outside)
    return tp, voxel_sums(outside, "smooth"), fn, truth


def _right_of_classes(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`right_sums` gives."""
    probs = logits.softmax(1)
    y = onehot(target, range(probs.shape[1]), probs.dtype)
    rejected = 1 - probs
    rejected.addcmul_(rejected, y, value=-1)
    return voxel_sums(probs.mul_(y), "smooth"), voxel_sums(rejected, "smooth")
