"""CALF's closed forms, summed over voxels.

With truth ``y`` in {0, 1} and logit ``z`` every form is a function of the margin of error ``m = (1 - 2y) z`` alone, which is
negative where the network is right. Written with plain operations each form keeps three to five tensors of the logits' size
until the backward pass, and getting that memory costs more than the arithmetic; this function keeps none, but for one where
FISHER is alone, whose exponent costs more to compute again than to keep.

Values are exact voxel by voxel to float32's rounding; the slope of LN is ``sigmoid(z) - y``, as torch's, which on the right side
of a foreground voxel is off by up to 1e-7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from calf.losses.voxels import softplus_into

LN2 = math.log(2)

#: The forms; OVERLAP is two sums in one.
FISHER, LOGIT, ARCSINE, LN, OVERLAP = range(5)

#: What the summands of the first four are multiplied with once they are summed.
COEFFICIENT = (-0.5, 1.0, -1.0, 1.0)

#: The forms to compute, each in all cells or in those listed.
Plan = Sequence[tuple[int, "list[int] | None"]]
EVERYWHERE = None


def into_cells(x: Tensor, grid: int) -> Tensor:
    """``(B, K, *S)`` seen as ``grid ** D`` cells of each channel, ``(B, K, grid, height, grid, width)`` in 2-D, likewise in 3-D.

    Cells are numbered channel by channel, row by row; there are ``G = K * grid ** D`` of them.

    Raises:
        ValueError: the grid does not divide an axis.
    """
    shape = x.shape[2:]
    if any(length % grid for length in shape):
        raise ValueError(
            f"expected images that {grid} cells divide along each axis, got {tuple(shape)}: what is left over would be predicted "
            "but never trained. Pad or resize them, or take another grid"
        )
    return x.reshape(*x.shape[:2], *(n for length in x.shape[2:] for n in (grid, length // grid)))


def cell_sums(x: Tensor) -> Tensor:
    """Sums over the voxels of each sample's cells: ``(B, G)`` of what :func:`into_cells` gives."""
    if all(cells == 1 for cells in x.shape[2::2]):
        return x.sum(tuple(range(2, x.ndim)))
    # axis by axis, in the order of memory
    for axis in range(x.ndim - 1, 2, -2):
        x = x.sum(axis)
    return x.flatten(1)


def margin_sums(z: Tensor, y: Tensor, weight: Tensor, clamp: float | None, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the voxels of each cell in the whole batch.

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
        z: logits, cut by :func:`into_cells` into ``G`` cells.
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
        ctx.clamp, ctx.plan = clamp, plan
        exponent = None
        margin = torch.addcmul(z, y, z, value=-2)
        if clamp is not None:
            margin.clamp_(-clamp, clamp)
        weighted, wrong, missed = torch.zeros(3, weight.shape[1], dtype=z.dtype, device=z.device).unbind()
        for form, cells in plan:
            rows = ... if cells is None else cells
            m, out = _margins(margin, cells, last=form == plan[-1][0])
            if form == OVERLAP:
                q = torch.sigmoid(m, out=out)
                wrong[rows] = _sums(q, cells)
                missed[rows] = _sums(q.mul_(_pick(y, cells)), cells)
            else:
                if form == FISHER:
                    m = torch.sub(m.new_full((), LN2), m, out=out)
                    if len(plan) == 1 and cells is None:  # then there is memory to keep it
                        exponent, out = m, torch.empty_like(m)
                weighted[rows] += COEFFICIENT[form] * _sums(_summand(form, m, out), cells) * weight[form, rows]
        ctx.save_for_backward(z, y, weight, exponent)
        return weighted, wrong, missed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        z, y, weight, exponent = ctx.saved_tensors
        by_weighted, by_wrong, by_missed = grads
        total, parts = None, []
        for form, cells in ctx.plan:
            some_z, some_y = _pick(z, cells), _pick(y, cells)
            if form == OVERLAP:
                slope = _overlap_slope(some_z, some_y, _spread(by_wrong, z, cells), _spread(by_missed, z, cells))
            else:
                slope = _slope(form, some_z, some_y, _spread(by_weighted * weight[form], z, cells), exponent)
            if cells is not None:
                parts.append((cells, slope))
            else:
                total = slope if total is None else total.add_(slope)
        total = torch.zeros_like(z) if total is None else total
        for cells, slope in parts:
            for cell, part in zip(cells, slope, strict=True):
                total[_cell(cell, total)] += part
        if ctx.clamp is not None:
            torch.ops.aten.hardtanh_backward(total, z, -ctx.clamp, ctx.clamp, grad_input=total)
        return total, None, None, None, None


def _cell(number: int, x: Tensor) -> tuple[Any, ...]:
    """Where a cell is in what :func:`into_cells` gives: ``x[index]`` is ``(B, *cell)``."""
    index: list[Any] = []
    for size in reversed(x.shape[2::2]):
        number, place = divmod(number, size)
        index = [place, slice(None), *index]
    return (slice(None), number, *index)


def _pick(x: Tensor, cells: list[int] | None) -> Tensor:
    """``(r, B, *cell)`` of the cells listed, in memory of its own; or ``x`` itself."""
    return x if cells is None else torch.stack([x[_cell(cell, x)] for cell in cells])


def _margins(margin: Tensor, cells: list[int] | None, last: bool) -> tuple[Tensor, Tensor]:
    """Margins of some cells, and memory for what is made of them: their own, unless forms to come need the margins."""
    m = _pick(margin, cells)
    return m, m if last or cells is not None else torch.empty_like(m)


def _sums(values: Tensor, cells: list[int] | None) -> Tensor:
    """Sums over the batch's voxels in each cell, of all or of those that were picked."""
    return cell_sums(values).sum(0) if cells is None else values.flatten(1).sum(1)


def _spread(values: Tensor, x: Tensor, cells: list[int] | None) -> Tensor:
    """A number for each cell, in a shape that broadcasts over its voxels."""
    if cells is not None:
        return values[cells].view(-1, *[1] * (x.ndim // 2))
    return values.view(1, x.shape[1], *(n for size in x.shape[2::2] for n in (size, 1)))


def _summand(form: int, m: Tensor, out: Tensor) -> Tensor:
    """A form of ``m``, FISHER of ``ln 2 - m``, but for its coefficient."""
    if form == ARCSINE:
        # atan(exp(-m / 2)), which atan2 computes faster
        return torch.atan2(m.new_ones(()), torch.mul(m, 0.5, out=out).exp_(), out=out)
    return m if form == LOGIT else softplus_into(m, out=out)


def _slope(form: int, z: Tensor, y: Tensor, factor: Tensor, exponent: Tensor | None) -> Tensor:
    """The derivative of a form, coefficient included, with respect to ``z``, times a factor that broadcasts over it.

    ``exponent`` is ``ln 2 - m``, where FISHER has kept it.
    """
    if form == LN:
        return torch.sigmoid(z).sub_(y).mul_(factor)
    if form == FISHER:
        if exponent is None:
            m = torch.addcmul(z, y, z, value=-2)
            slope = torch.sub(m.new_full((), LN2), m, out=m).sigmoid_()
        else:
            slope = torch.sigmoid(exponent)
        slope.mul_(0.5 * factor)
    elif form == ARCSINE:
        # 0.25 / cosh(z / 2), which cannot overflow in this form
        e = z.abs().mul_(-0.5).exp_()
        slope = e.div_(torch.addcmul(e.new_ones(()), e, e)).mul_(0.5 * factor)
    else:
        return torch.addcmul(factor, factor, y, value=-2)
    # dm / dz = 1 - 2y
    return torch.addcmul(slope, slope, y, value=-2, out=slope)


def _overlap_slope(z: Tensor, y: Tensor, by_wrong: Tensor, by_missed: Tensor) -> Tensor:
    """The same for the two sums of OVERLAP."""
    p = torch.sigmoid(z)
    slope = torch.addcmul(by_wrong, y, 2 * by_wrong + by_missed, value=-1)
    return slope.mul_(torch.addcmul(p, p, p, value=-1, out=p))
