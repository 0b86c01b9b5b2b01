"""CALF's closed forms, summed over voxels.

With truth ``y`` in {0, 1} and logit ``z`` every form is a function of the margin of error ``m = (1 - 2y) z`` alone, which is
negative where the network is right. Written with plain operations each form keeps three to five tensors of the logits' size
until the backward pass, and getting that memory costs more than the arithmetic; this function keeps none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LN2 = math.log(2)
#: F.softplus that can be told where to write.
_softplus = torch.ops.aten.softplus.out

#: The forms; OVERLAP is two sums in one.
FISHER, LOGIT, ARCSINE, LN, OVERLAP = range(5)

#: The forms to compute, each in all cells or in those listed.
Plan = Sequence[tuple[int, "slice | list[int]"]]
EVERYWHERE = slice(None)


def margin_sums(z: Tensor, y: Tensor, weight: Tensor, clamp: float | None, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the voxels of each cell.

    =======  ===============================  ===========================================
    form     summand                          for ``p``, probability of the truth
    =======  ===============================  ===========================================
    FISHER   ``-0.5 softplus(ln 2 - m)``      ``-atanh(p)``
    LOGIT    ``m``                            ``-ln(p / (1 - p))``
    ARCSINE  ``-atan(exp(-m / 2))``           ``-asin(sqrt(p))``
    LN       ``softplus(m)``                  ``-ln(p)``
    OVERLAP  ``q = sigmoid(m)`` and ``y q``   ``1 - p``, everywhere and in the foreground
    =======  ===============================  ===========================================

    Args:
        z: logits ``(G, n)`` of ``G`` cells of ``n`` voxels.
        y: truth, same shape and dtype, 0 or 1.
        weight: ``(4, G)``, of each of the first four forms in each cell; no gradient.
        clamp: bound of ``|z|``, with no gradient beyond it; ``None`` for no bound.
        plan: the forms that are computed; the others count as 0.

    Returns:
        Three tensors ``(G,)``, differentiable once with respect to ``z``: the weighted sum of the first four forms; the soft
        number of wrong voxels (FP + FN); the soft number of missed ones (FN).
    """
    weighted, wrong, missed = _MarginSums.apply(z, y, weight, clamp, plan)
    return weighted, wrong, missed


class _MarginSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor, weight: Tensor, clamp: float | None, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
        margin = torch.addcmul(z, y, z, value=-2)
        if clamp is not None and _within(margin, clamp):
            clamp = None
        ctx.save_for_backward(z, y, weight)
        ctx.clamp, ctx.plan = clamp, plan
        if clamp is not None:
            margin.clamp_(-clamp, clamp)
        weighted, wrong, missed = torch.zeros(3, margin.shape[0], dtype=z.dtype, device=z.device).unbind()
        for form, cells in plan:
            m, out = _of_cells(margin, cells, last=form == plan[-1][0])
            if form == OVERLAP:
                q = torch.sigmoid(m, out=out)
                wrong[cells] = q.sum(1)
                missed[cells] = q.mul_(y[cells]).sum(1)
            else:
                weighted[cells] += _sum(form, m, out) * weight[form, cells]
        return weighted, wrong, missed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        z, y, weight = ctx.saved_tensors
        by_weighted, by_wrong, by_missed = grads
        margin, total, parts = torch.addcmul(z, y, z, value=-2), None, []
        for form, cells in ctx.plan:
            if form == OVERLAP:
                factor = torch.addcmul(by_wrong[cells, None], y[cells], by_missed[cells, None])
            else:
                factor = (by_weighted[cells] * weight[form, cells])[:, None]
            m, out = _of_cells(margin, cells, last=form == ctx.plan[-1][0])
            slope = _slope(form, m, factor, out)
            if isinstance(cells, list):
                parts.append((torch.tensor(cells, device=z.device), slope))
            else:
                total = slope if total is None else total.add_(slope)
        total = margin.zero_() if total is None else total
        for rows, slope in parts:
            total.index_add_(0, rows, slope)
        gradient = torch.addcmul(total, total, y, value=-2, out=total)
        if ctx.clamp is not None:
            torch.ops.aten.hardtanh_backward(gradient, z, -ctx.clamp, ctx.clamp, grad_input=gradient)
        return gradient, None, None, None, None


def _within(margin: Tensor, clamp: float) -> bool:
    """Whether there is nothing to clamp, where to look costs less than to clamp: where the host need not wait for it."""
    if margin.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    low, high = margin.aminmax()
    return max(-float(low), float(high)) <= clamp


def _of_cells(margin: Tensor, cells: slice | list[int], last: bool) -> tuple[Tensor, Tensor]:
    """Margins of some cells, and memory for what is made of them: their own, unless forms to come need the margins."""
    m = margin[cells]
    return m, m if last or isinstance(cells, list) else torch.empty_like(m)


def _sum(form: int, m: Tensor, out: Tensor) -> Tensor:
    """The sum of a form over each row of ``m``."""
    if form == FISHER:
        return -0.5 * _softplus(torch.sub(m.new_full((), LN2), m, out=out), out=out).sum(1)
    if form == ARCSINE:
        # atan(exp(-m / 2)), which atan2 computes faster
        return -torch.atan2(m.new_ones(()), torch.mul(m, 0.5, out=out).exp_(), out=out).sum(1)
    return _softplus(m, out=out).sum(1) if form == LN else m.sum(1)


def _slope(form: int, m: Tensor, factor: Tensor, out: Tensor) -> Tensor:
    """The derivative of a form with respect to ``m``, times ``factor`` ``(G, 1)`` or ``(G, n)``."""
    if form == FISHER:
        return torch.sub(m.new_full((), LN2), m, out=out).sigmoid_().mul_(0.5 * factor)
    if form == ARCSINE:
        # 0.25 / cosh(m / 2), which cannot overflow in this form
        e = torch.abs(m, out=out).mul_(-0.5).exp_()
        return e.div_(torch.addcmul(e.new_ones(()), e, e)).mul_(0.5 * factor)
    if form == LOGIT:
        return out.copy_(factor)
    q = torch.sigmoid(m, out=out)
    return q.mul_(factor) if form == LN else torch.addcmul(q, q, q, value=-1, out=q).mul_(factor)
