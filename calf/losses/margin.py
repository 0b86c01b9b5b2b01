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
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LN2 = math.log(2)

#: What can be asked of :func:`margin_sums`, each also a row of its result; LN_OVERLAP fills the rows LN, WRONG and MISSED.
FISHER, LOGIT, ARCSINE, LN, WRONG, MISSED, LN_OVERLAP = range(7)
NUM_ROWS = LN_OVERLAP

#: The forms wanted in which cells; no cell is listed twice, nor a form.
Plan = Sequence[tuple["slice | list[int]", Sequence[int]]]
EVERYWHERE = slice(None)


def margin_sums(z: Tensor, y: Tensor, clamp: float | None, plan: Plan) -> Tensor:
    """Sums over the voxels of each cell.

    =======  =============================  =======================================
    row      summand                        for ``p``, probability of the truth
    =======  =============================  =======================================
    FISHER   ``-0.5 softplus(ln 2 - m)``    ``-atanh(p)``
    LOGIT    ``m``                          ``-ln(p / (1 - p))``
    ARCSINE  ``-atan(exp(-m / 2))``         ``-asin(sqrt(p))``
    LN       ``softplus(m)``                ``-ln(p)``
    WRONG    ``q = sigmoid(m)``             ``1 - p``: soft FP + FN
    MISSED   ``y q``                        ``1 - p`` in the foreground: soft FN
    =======  =============================  =======================================

    Args:
        z: logits ``(*G, *N)``: the first half of the axes counts cells, the second half their voxels; any strides.
        y: truth, same shape and dtype, 0 or 1.
        clamp: bound of ``|z|``, with no gradient beyond it; ``None`` for no bound.
        plan: the forms that are wanted; all other sums are 0.

    Returns:
        ``(6, G)`` with all cells on one axis, differentiable once with respect to ``z``.
    """
    return _MarginSums.apply(z, y, clamp, plan)


class _MarginSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor, clamp: float | None, plan: Plan) -> Tensor:
        ctx.save_for_backward(z, y)
        ctx.clamp, ctx.plan = clamp, plan
        margin = _margin(z, y)
        if clamp is not None:
            margin.clamp_(-clamp, clamp)
        sums = z.new_zeros(NUM_ROWS, margin.shape[0])
        for cells, forms in plan:
            m = margin[cells]
            for form in forms:
                # only the last form of a cell may overwrite its margins
                scratch = m if form == forms[-1] else m.clone()
                if form == LN_OVERLAP:
                    sums[LN, cells] = F.softplus(m).sum(1)
                    sums[WRONG, cells] = scratch.sigmoid_().sum(1)
                    sums[MISSED, cells] = scratch.mul_(_rows(y, cells)).sum(1)
                else:
                    sums[form, cells] = _summand(form, scratch).sum(1)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        z, y = ctx.saved_tensors
        margin = _margin(z, y)
        for cells, forms in ctx.plan:
            m, g = margin[cells], grad[:, cells, None]
            slopes = []
            for form in forms:
                scratch = m if form == forms[-1] else m.clone()
                if form == LN_OVERLAP:
                    q = scratch.sigmoid_()
                    slope = torch.addcmul(g[WRONG], _rows(y, cells), g[MISSED])
                    slopes.append(slope.mul_(1 - q).add_(g[LN]).mul_(q))
                else:
                    slopes.append(_slope(form, scratch, g[form]))
            slope = sum(slopes[1:], slopes[0])
            if cells == EVERYWHERE:
                margin = slope
            else:
                margin[cells] = slope
        slope = margin.view_as(z)
        # laid out as the logits are, so that what comes next need not copy
        gradient = torch.addcmul(slope, slope, y, value=-2, out=slope if z.is_contiguous() else torch.empty_like(z))
        if ctx.clamp is not None:
            torch.ops.aten.hardtanh_backward(gradient, z, -ctx.clamp, ctx.clamp, grad_input=gradient)
        return gradient, None, None, None


def _margin(z: Tensor, y: Tensor) -> Tensor:
    """``(1 - 2y) z`` as ``(G, n)``, in memory of its own."""
    margin = torch.empty_like(z, memory_format=torch.contiguous_format)
    torch.addcmul(z, y, z, value=-2, out=margin)
    return _rows(margin, EVERYWHERE)


def _rows(x: Tensor, cells: slice | list[int]) -> Tensor:
    """``(G, n)`` of ``(*G, *N)`` for some of the ``G`` cells."""
    half = x.ndim // 2
    return x.flatten(0, half - 1)[cells].flatten(1)


def _summand(form: int, m: Tensor) -> Tensor:
    """A form of ``m``, in its memory."""
    if form == FISHER:
        return F.softplus(m.neg_().add_(LN2), out=m).mul_(-0.5)
    if form == ARCSINE:
        return m.mul_(-0.5).exp_().atan_().neg_()
    return F.softplus(m, out=m) if form == LN else m


def _slope(form: int, m: Tensor, grad: Tensor) -> Tensor:
    """The derivative of a form by ``m``, times ``grad`` ``(G, 1)``, in the memory of ``m``."""
    if form == FISHER:
        return m.neg_().add_(LN2).sigmoid_().mul_(0.5 * grad)
    if form == ARCSINE:
        # 0.25 / cosh(m / 2), which cannot overflow in this form
        e = m.abs_().mul_(-0.5).exp_()
        return e.div_(1 + e * e).mul_(0.5 * grad)
    return m.sigmoid_().mul_(grad) if form == LN else m.copy_(grad)
