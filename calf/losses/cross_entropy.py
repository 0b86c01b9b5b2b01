"""Cross-entropy that counts background and foreground differently: by weights, focus and power.

Exclusive classes are one problem whose class 0 is background. A sigmoid channel is a problem of its own, with two classes: its
complement as background, and itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from calf.losses.contract import is_exclusive, margins

#: F.softplus that can be told where to write.
_softplus = torch.ops.aten.softplus.out


class Side(NamedTuple):
    """How the voxels count whose true class is background, or is not: by ``share (1 - p)^focus``."""

    share: float | Tensor
    focus: float = 0.0


def mean_cross_entropy(logits: Tensor, target: Tensor, background: Side, foreground: Side, power: float = 1.0) -> Tensor:
    """Mean over samples, voxels and sigmoid channels of ``share (1 - p)^focus (-ln p)^power``, ``p`` that of the true class.

    Args:
        logits, target: in any form of the contract; softmax over exclusive classes.
        background, foreground: a share is a number, or a tensor without gradient that broadcasts over ``(B, K, *S)``, ``K = 1``
            for exclusive classes.
        power: above 0.

    Returns:
        A scalar, differentiable once with respect to the logits.

    >>> half = Side(0.5)
    >>> mean_cross_entropy(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4), half, half)
    tensor(0.3466)
    """
    z, y = logits, target
    if is_exclusive(logits, target):
        y = (target > 0).unsqueeze(1)
        z = margins(logits, target).unsqueeze(1) * (1 - 2 * y.to(logits.dtype))
    # a number is filled in where the logits are: copied there, the device would have to be waited for
    shares = (x if isinstance(x, Tensor) else z.new_full((), x) for x in (background.share, foreground.share))
    loss: Tensor = _MeanCrossEntropy.apply(z, y.to(z.dtype), *shares, background.focus, foreground.focus, power)
    return loss


class _MeanCrossEntropy(torch.autograd.Function):
    """Mean of ``share q^focus s^power``, with ``m = (1 - 2y) z``, ``q = sigmoid(m) = 1 - p`` and ``s = softplus(m) = -ln p``.

    Keeps nothing of the logits' size for the backward pass. No power of a number that rounds to 0 is differentiated.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, y: Tensor, background: Tensor, foreground: Tensor, focus: float, focus_fg: float, power: float
    ) -> Tensor:
        ctx.save_for_backward(z, y, background, foreground)
        ctx.focus, ctx.power = (focus, focus_fg), power
        loss = torch.addcmul(z, y, z, value=-2)
        weight = _weight(loss.sigmoid() if focus or focus_fg else loss, y, (background, foreground), ctx.focus)
        _softplus(loss, out=loss)
        if power != 1:
            loss.pow_(power)
        return loss.mul_(weight).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, y, background, foreground = ctx.saved_tensors
        q = torch.addcmul(z, y, z, value=-2)
        # d/dm = share q^focus s^(power - 1) (power q + focus (1 - q) s)
        s = F.softplus(q) if any(ctx.focus) or ctx.power != 1 else q
        q.sigmoid_()
        weight = _weight(q, y, (background, foreground), ctx.focus)
        slope = q * (ctx.power * grad / z.numel())
        if any(ctx.focus):
            on_background, on_foreground = (grad * (focus / z.numel()) for focus in ctx.focus)
            rest = torch.addcmul(s, s, q, value=-1)
            alike = ctx.focus[0] == ctx.focus[1]
            slope.add_(rest.mul_(on_background if alike else torch.lerp(on_background, on_foreground, y)))
        if ctx.power != 1:
            # s is at least about q, which is 0 where s is
            slope.mul_(s.clamp_min_(torch.finfo(s.dtype).tiny).pow_(ctx.power - 1))
        slope.mul_(weight)
        # dm / dz = 1 - 2y
        return slope.addcmul_(slope, y, value=-2), None, None, None, None, None, None


def _weight(q: Tensor, y: Tensor, shares: tuple[Tensor, Tensor], focus: tuple[float, float]) -> Tensor:
    """``share q^focus`` of each voxel."""
    if focus[0] == focus[1]:
        share = torch.lerp(*shares, y)
        return share.mul_(q.pow(focus[0])) if focus[0] else share
    background, foreground = (q.pow(f).mul_(share) if f else share for f, share in zip(focus, shares, strict=True))
    return torch.lerp(background, foreground, y)
