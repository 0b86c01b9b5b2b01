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
from calf.losses.voxels import parts, softplus_into


class Side(NamedTuple):
    """How the voxels count whose true class is background, or is not: by ``share (1 - p)^focus``."""

    share: float | Tensor = 1.0
    focus: float = 0.0


PLAIN = Side()


def mean_cross_entropy(
    logits: Tensor, target: Tensor, background: Side = PLAIN, foreground: Side = PLAIN, power: float = 1.0
) -> Tensor:
    """Mean over samples, voxels and sigmoid channels of ``share (1 - p)^focus (-ln p)^power``, ``p`` that of the true class.

    The value is exact to float32's rounding voxel by voxel, however small: torch's ``binary_cross_entropy_with_logits`` and
    ``cross_entropy`` take the difference of ``z`` and nearly ``z`` where ``p`` nears 1, and have 0 or 1e-7 there. So is the
    gradient, but where all voxels count alike, without focus or power: then it is torch's ``sigmoid(z) - y``, off by up to 1e-7,
    which takes less time.

    Args:
        logits, target: in any form of the contract; softmax over exclusive classes. The target is 0 or 1, not between.
        background, foreground: a share is a number, or a tensor without gradient with the axes of ``(B, K, *S)``, each of its
            length or 1; ``K = 1`` for exclusive classes.
        power: above 0.

    Returns:
        A scalar, differentiable once with respect to the logits.

    >>> half = Side(0.5)
    >>> mean_cross_entropy(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4), half, half)
    tensor(0.3466)
    >>> certain = torch.full((1, 1, 4, 4), 40.0)
    >>> f"{mean_cross_entropy(certain, torch.ones(1, 1, 4, 4)):.2e}"  # ln(1 + exp(-40))
    '4.25e-18'
    """
    z, y = logits, target
    if is_exclusive(logits, target):
        y = (target > 0).unsqueeze(1)
        z = margins(logits, target).unsqueeze(1) * (1 - 2 * y.to(logits.dtype))
    shares = (background.share, foreground.share)
    alike = shares[0] is shares[1] or (not any(isinstance(share, Tensor) for share in shares) and shares[0] == shares[1])
    focus = (background.focus, foreground.focus)
    loss: Tensor = _MeanCrossEntropy.apply(z, y, shares[0], None if alike else shares[1], focus, power)
    return loss


class _MeanCrossEntropy(torch.autograd.Function):
    """Mean of ``share q^focus s^power``, with ``m = (1 - 2y) z``, ``q = sigmoid(m) = 1 - p`` and ``s = softplus(m) = -ln p``.

    Written with plain operations this would keep up to five tensors of the logits' size until the backward pass, and fetching
    that memory costs more than computing them again; this keeps none. No power of a number that rounds to 0 is differentiated.
    The foreground's share is None where it is the background's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        y: Tensor,
        background: float | Tensor,
        foreground: float | Tensor | None,
        focus: tuple[float, float],
        power: float,
    ) -> Tensor:
        shares = (background, foreground)
        ctx.save_for_backward(z, y, *(share if isinstance(share, Tensor) else None for share in shares))
        ctx.shares, ctx.focus, ctx.power = tuple(None if isinstance(share, Tensor) else share for share in shares), focus, power
        sums = []
        for some, truth, *share in parts(z, y, *shares):
            truth = truth.to(z.dtype)
            loss = torch.addcmul(some, truth, some, value=-2)
            focused = _focused(loss.sigmoid(), truth, focus) if any(focus) else None
            softplus_into(loss, out=loss)
            if power != 1:
                loss.pow_(power)
            if focused is not None:
                loss.mul_(focused)
            sums.append(_weighted(loss, truth, *share).sum())
        return torch.stack(sums).sum() / z.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, y, *tensors = ctx.saved_tensors
        background, foreground = (x if tensor is None else tensor for x, tensor in zip(ctx.shares, tensors, strict=True))
        # share (1 - 2y), with the scale, is the first where y is 0, and less by the second where it is 1
        first = background * (grad / z.numel())
        second = None if foreground is None else first + foreground * (grad / z.numel())
        plain = foreground is None and not any(ctx.focus) and ctx.power == 1
        slope = torch.empty_like(z)
        for some, truth, out, *factors in parts(z, y, slope, first, second):
            truth = truth.to(z.dtype)
            if plain:
                torch.sigmoid(some, out=out).sub_(truth).mul_(factors[0])
            else:
                _slope_by_margin(torch.addcmul(some, truth, some, value=-2, out=out), truth, ctx.focus, ctx.power)
                _weigh_by_logit(out, truth, *factors)
        return slope, None, None, None, None, None


def _weighted(x: Tensor, y: Tensor, background: float | Tensor, foreground: float | Tensor | None) -> Tensor:
    """``x`` times the shares; overwrites it."""
    if foreground is not None:
        return x.mul_(torch.mul(y, foreground - background).add_(background))
    return x if isinstance(background, float) and background == 1 else x.mul_(background)


def _weigh_by_logit(slope: Tensor, y: Tensor, first: Tensor, second: Tensor | None) -> None:
    if second is None:
        slope.addcmul_(slope, y, value=-2).mul_(first)
    else:
        slope.mul_(torch.mul(y, -second).add_(first))


def _slope_by_margin(m: Tensor, y: Tensor, focus: tuple[float, float], power: float) -> None:
    """Overwrites ``m`` with ``d/dm q^focus s^power``, which is ``q^focus s^(power - 1) (power q + focus (1 - q) s)``."""
    s = F.softplus(m) if any(focus) or power != 1 else None
    q = m.sigmoid_()
    if s is None:
        return
    focused = _focused(q, y, focus) if any(focus) else None
    # s is at least about q, which is 0 where s is
    steepness = s.clamp_min(torch.finfo(s.dtype).tiny).pow_(power - 1) if power != 1 else None
    if focused is None:
        q.mul_(power)
    else:
        rest = s.addcmul_(s, q, value=-1)
        rest.mul_(focus[0] if focus[0] == focus[1] else torch.mul(y, focus[1] - focus[0]).add_(focus[0]))
        q.mul_(power).add_(rest).mul_(focused)
    if steepness is not None:
        q.mul_(steepness)


def _focused(q: Tensor, y: Tensor, focus: tuple[float, float]) -> Tensor:
    """``q^focus`` of each voxel."""
    if focus[0] == focus[1]:
        return q.pow(focus[0])
    background, foreground = (q.pow(power) if power else q.new_ones(()) for power in focus)
    return torch.lerp(background, foreground, y)
