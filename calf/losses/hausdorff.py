"""The Hausdorff losses that need no distance transform: large errors cost more because they survive erosion or wide kernels.

Both follow Karimi & Salcudean 2019, who published no code, and who add soft Dice to either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from calf.losses.contract import SegmentationLoss, check_option, counted, probs_and_onehot
from calf.losses.voxels import on_host


class HausdorffERLoss(SegmentationLoss):
    r"""``sum over k = 1 ... K of k^alpha mean((p - y)^2 eroded k times)``: what survives many erosions is a large error.

    Karimi & Salcudean 2019, https://arxiv.org/abs/1904.10030. An erosion is the mean over the voxel and its neighbours along the
    axes, of which what exceeds 0.5 is left; outside the image there is no error. Taken literally, nothing would then exceed 0.5
    and a second erosion would leave nothing, so that the rest is stretched:

    * ``paper``: by 2, so that the inside of a wrong block keeps its error of 1. The stretching is ours.
    * ``code``: to 0 ... 1 in each image, as in https://github.com/PatRyg99/HausdorffLoss and kornia. The strongest error left
      becomes 1, however small it was: the loss jumps when one appears.

    The mean is over samples, channels and voxels. Errors below 0.7 everywhere erode to nothing: at zero logits value and gradient
    are 0, hence this is a term to add to another loss, and a small gradient step need not lower it. Neighbours count: permuting
    voxels changes it. ``erosions = 1`` sees no distance. An absent class is like any other. Differentiable once.

    Args:
        alpha: how much more a deep error costs, at least 0.
        erosions: ``K``; an error that is deeper than ``K`` voxels costs no more than one that is ``K`` deep.
        variant: ``paper`` or ``code``, above.
        background: with exclusive classes, count class 0 in the mean. Sigmoid channels have no background.

    Raises:
        ValueError: alpha below 0, erosions below 1, or an unknown variant.

    >>> loss = HausdorffERLoss(alpha=2.0, erosions=10, variant="paper", background=False)
    >>> mask = torch.zeros(1, 1, 3, 3)
    >>> loss(torch.full_like(mask, 100.0), mask)  # 1 in the centre, 0.6 beside it, 0.2 in the corners, then 4 * 0.36
    tensor(0.6267)
    """

    def __init__(self, alpha: float, erosions: int, variant: str, background: bool) -> None:
        super().__init__()
        check_option("variant", variant, ("paper", "code"))
        if alpha < 0:
            raise ValueError(f"expected alpha to be at least 0, got {alpha}")
        if erosions < 1:
            raise ValueError(f"expected at least one erosion, got erosions={erosions}")
        self.alpha, self.erosions, self.variant, self.background = alpha, erosions, variant, background

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        channels = counted(logits, target, self.background)
        p, y = (x[:, channels] for x in probs_and_onehot(logits, target))
        weights = [k**self.alpha / p[0, 0].numel() for k in range(1, self.erosions + 1)]
        losses: Tensor = _ErodedErrors.apply(p, y, weights, self.variant == "code")
        return losses.mean()


class HausdorffCVLoss(SegmentationLoss):
    r"""``sum over r of r^alpha mean((f(B_r*y') + f(B_r*p)) p (p - y)^2 + (f(B_r*y) + f(B_r*p')) y (p - y)^2)``.

    ``y' = 1 - y``, ``p' = 1 - p``, ``*`` convolution, ``B_r`` a disc or ball of radius ``r`` that sums to 1, ``f`` a soft
    threshold at 0.5: a false positive costs more when the truth is far from it, or when it lies deep in what is predicted; a
    missed voxel likewise. Karimi & Salcudean 2019, https://arxiv.org/abs/1904.10030. No other implementation is known; our
    reading are the shape of ``f``, the factors ``p`` and ``y`` of the squared error, ``|x| <= r`` for the voxels of ``B_r``, and
    background beyond the image's border.

    The mean is over samples, channels and voxels; the gradient goes through the convolutions. Neighbours count: permuting voxels
    changes the loss. Discs may be larger than the image: nearly all of such a disc is background, and what it adds is a squared
    error. An absent class is like any other. Differentiable once.

    Args:
        alpha: how much more a distant error costs, at least 0.
        radii: ``r``, in voxels along each axis: the largest should be the largest error to expect.
        steepness: ``f(x) = sigmoid(steepness (x - 0.5))``, or ``None`` for ``max(x - 0.5, 0)``.
        background: with exclusive classes, count class 0 in the mean. Sigmoid channels have no background.

    Raises:
        ValueError: alpha below 0, no radius or one below 1, or a steepness that is not positive.

    >>> loss = HausdorffCVLoss(alpha=2.0, radii=[1], steepness=None, background=False)
    >>> mask = torch.zeros(1, 1, 3, 3)
    >>> loss(torch.full_like(mask, 100.0), mask)  # 0.5 everywhere, and 0.5 in the centre, 0.3 beside it, 0.1 in the corners
    tensor(0.7333)
    """

    def __init__(self, alpha: float, radii: Sequence[float], steepness: float | None, background: bool) -> None:
        super().__init__()
        if alpha < 0:
            raise ValueError(f"expected alpha to be at least 0, got {alpha}")
        if not radii or min(radii) < 1:
            raise ValueError(f"expected radii of at least one voxel, got {list(radii)}; a smaller disc is a single voxel")
        if steepness is not None and not steepness > 0:
            raise ValueError(f"expected a positive steepness, or null for max(x - 0.5, 0), got {steepness}")
        self.alpha, self.radii, self.steepness, self.background = alpha, tuple(radii), steepness, background

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        channels = counted(logits, target, self.background)
        p, y = (x[:, channels] for x in probs_and_onehot(logits, target))
        weights = [radius**self.alpha / p[0, 0].numel() for radius in self.radii]
        losses: Tensor = _DistantErrors.apply(p, y, self.radii, weights, self.steepness)
        return losses.mean()


class _ErodedErrors(torch.autograd.Function):
    """``(B, C)``: weighted sums over voxels of the error after each erosion.

    Convolutions with one channel are slow, and autograd would keep six tensors for each erosion; this keeps the eroded error.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, y: Tensor, weights: Sequence[float], renormalise: bool) -> Tensor:
        axes = tuple(range(2, p.ndim))
        may_stop = on_host(p)
        error = (p - y).square_()
        total = p.new_zeros(p.shape[:2])
        kept: list[Tensor] = []
        for weight in weights:
            error = _mean_of_cross(error).sub_(0.5).clamp_min_(0)
            low = spread = None
            if renormalise:
                low, high = error.amin(axes, keepdim=True), error.amax(axes, keepdim=True)
                spread = high - low
                flat = (spread == 0).to(p.dtype)
                error.sub_(low * (1 - flat)).div_(spread + flat)
            else:
                error.mul_(2)
            sums = error.sum(axes)
            total += weight * sums
            if may_stop and not sums.any():
                break
            if ctx.needs_input_grad[0]:
                kept += [error] if low is None or spread is None else [error, low, spread]
        ctx.weights, ctx.renormalise = weights, renormalise
        ctx.save_for_backward(p, y, *kept)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: Tensor) -> tuple[Tensor, None, None, None]:
        p, y, *kept = ctx.saved_tensors
        slope = torch.zeros_like(p)
        by_sum = by_total[(...,) + (None,) * (p.ndim - 2)]
        step = 3 if ctx.renormalise else 1
        for k in reversed(range(len(kept) // step)):
            error, *scale = kept[k * step : (k + 1) * step]
            slope += ctx.weights[k] * by_sum
            alive = error.sign()
            if scale:
                slope = _through_renormalisation(slope, error, *scale)
                alive = torch.maximum(alive, scale[0].sign())  # a lowest error above 0 became 0
            else:
                slope.mul_(2)
            slope = _mean_of_cross(slope.mul_(alive))
        return slope.mul_(p - y).mul_(2), None, None, None


def _mean_of_cross(x: Tensor) -> Tensor:
    """The mean over each voxel of ``(B, C, *S)`` and its neighbours along the axes, with zeros outside; its own transpose."""
    share = 1 / (2 * x.ndim - 3)
    mean = x * share
    for axis in range(2, x.ndim):
        length = x.shape[axis] - 1
        mean.narrow(axis, 1, length).add_(x.narrow(axis, 0, length), alpha=share)
        mean.narrow(axis, 0, length).add_(x.narrow(axis, 1, length), alpha=share)
    return mean


def _through_renormalisation(slope: Tensor, error: Tensor, low: Tensor, spread: Tensor) -> Tensor:
    """The slope by ``b``, given that by ``error = (b - low) / spread``; extremes that are reached together share alike."""
    axes = tuple(range(2, error.ndim))
    stretched = (spread != 0).to(error.dtype)
    by_high = (slope * error).sum(axes, keepdim=True)
    by_low = slope.sum(axes, keepdim=True) - by_high
    for extreme, by_extreme in ((1, by_high), (0, by_low)):
        reached = torch.eq(error, extreme, out=torch.empty_like(error))
        share = stretched * by_extreme / reached.sum(axes, keepdim=True).clamp_(min=1)
        slope = torch.addcmul(slope, reached, share, value=-1)
    return slope.div_(spread + (1 - stretched))


class _DistantErrors(torch.autograd.Function):
    """``(B, C)``: sums over voxels of the weighted errors; the gradient is found on the way, and is all that is kept.

    Discs have too many voxels for direct convolution. In the frequency domain each radius costs two transforms, one more for the
    gradient, whose convolutions are summed before they are transformed back.
    """

    @staticmethod
    def forward(
        ctx: Any, p: Tensor, y: Tensor, radii: Sequence[float], weights: Sequence[float], steepness: float | None
    ) -> Tensor:
        shape, axes = p.shape[2:], tuple(range(2, p.ndim))
        lengths = [_fast_length(n + min(math.floor(max(radii)), n - 1)) for n in shape]
        image = tuple(slice(n) for n in shape)

        def spectrum(x: Tensor) -> Tensor:
            return torch.fft.rfftn(x, s=lengths, dim=axes)

        def voxels(x: Tensor) -> Tensor:
            return torch.fft.irfftn(x, s=lengths, dim=axes)[(..., *image)]

        spectra = spectrum(p), spectrum(y)
        squared = (p - y).square_()
        wrong, missed = squared * p, squared * y
        by_wrong, by_missed, by_spectrum = torch.zeros_like(p), torch.zeros_like(p), torch.zeros_like(spectra[0])
        for radius, weight in zip(radii, weights, strict=True):
            kernel = spectrum(_ball(radius, lengths, p)).real
            in_p, in_y = (voxels(x * kernel) for x in spectra)
            deep, slope_deep = _soft_threshold(in_p, steepness)
            far, slope_far = _soft_threshold(1 - in_p, steepness)
            by_wrong.add_(_soft_threshold(1 - in_y, steepness)[0].add_(deep), alpha=weight)
            by_missed.add_(_soft_threshold(in_y, steepness)[0].add_(far), alpha=weight)
            if ctx.needs_input_grad[0]:
                by_spectrum.add_(spectrum(slope_deep.mul_(wrong).sub_(slope_far.mul_(missed))) * kernel, alpha=weight)
        if ctx.needs_input_grad[0]:
            gradient = voxels(by_spectrum).addcmul_(by_wrong, squared)
            gradient.addcmul_(torch.addcmul(by_missed * y, by_wrong, p), p - y, value=2)
            ctx.save_for_backward(gradient)
        return wrong.mul_(by_wrong).addcmul_(missed, by_missed).sum(axes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * by_loss[(...,) + (None,) * (gradient.ndim - 2)], None, None, None, None


def _ball(radius: float, lengths: Sequence[int], like: Tensor) -> Tensor:
    """A ball that sums to 1, around the first voxel of a periodic image ``(1, 1, *lengths)``.

    Where it is larger than the image it is cut, but not made to sum to 1 again.
    """
    along_axes = [torch.arange(length, device=like.device, dtype=like.dtype) for length in lengths]
    ball = _within(radius, [torch.minimum(x, length - x) for x, length in zip(along_axes, lengths, strict=True)])
    reach = math.floor(radius)
    uncut = _within(radius, [torch.arange(-reach, reach + 1, device=like.device)] * len(lengths))
    return ball.to(like.dtype).div_(uncut.sum())[None, None]


def _within(radius: float, along_axes: Sequence[Tensor]) -> Tensor:
    """Which points of a grid are within the radius around 0; positions along each axis are given."""
    squared = along_axes[0].square()
    for position in along_axes[1:]:
        squared = squared.unsqueeze(-1) + position.square()
    return squared <= radius * radius


def _soft_threshold(x: Tensor, steepness: float | None) -> tuple[Tensor, Tensor]:
    """The soft threshold at 0.5, and its slope."""
    if steepness is None:
        passed = (x - 0.5).clamp_min_(0)
        return passed, passed.sign()
    passed = (x - 0.5).mul_(steepness).sigmoid_()
    return passed, (passed * (1 - passed)).mul_(steepness)


def _fast_length(length: int) -> int:
    """The next even number with no prime factors but 2, 3 and 5, for which transforms are fast."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1 and length % 2 == 0:
            return length
        length += 1
