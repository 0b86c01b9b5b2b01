"""Losses that weigh voxels by their distance to a border.

Distances are Euclidean, from a voxel's centre to that of the nearest voxel of the other kind, and constants for the gradient.
Those to the truth's border depend on the truth alone: a :class:`DistanceLoss` takes them where the store has them, and computes
them in each call where it has not, which costs more than the rest of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from calf.losses.contract import SegmentationLoss, check_option, is_exclusive, probs_and_onehot
from calf.losses.distance_transform import all_positive, signed_distance
from calf.losses.voxels import on_host


class DistanceLoss(SegmentationLoss):
    """A loss on distances to the truth's border: of maps that it is given for its next call, else of those it computes.

    Maps that are given are in voxels; with a ``spacing`` they are not what is asked for, and distances are computed.

    Args:
        spacing: size of a voxel along each axis; ``None``: distances in voxels.

    Raises:
        ValueError: a spacing that is not positive; in a call, maps that do not fit the target, as far as can be seen.
    """

    def __init__(self, spacing: Sequence[float] | None) -> None:
        super().__init__()
        self.spacing = None if spacing is None else [float(step) for step in spacing]
        if self.spacing is not None and not all_positive(self.spacing):
            raise ValueError(f"expected spacing to be positive numbers, got {self.spacing}; for distances in voxels use null")
        self._next_maps: Tensor | None = None
        self._maps: Tensor | None = None

    def take_distance_maps(self, maps: Tensor) -> None:
        """``maps``: ``(B, K, *S)`` of the next call's truth, by the convention of :func:`signed_distance`, in voxels."""
        self._next_maps = maps

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        # taken before anything can fail: a map must never outlive the call it was meant for
        self._maps, self._next_maps = self._next_maps, None
        return super().forward(logits, target)

    def truth_distance(self, logits: Tensor, target: Tensor, background: bool = False) -> Tensor:
        """Signed distance to the truth's border of each foreground channel; of class 0 as well, before them, if asked for."""
        given, self._maps = self._maps, None
        classes = range(0 if background else 1, logits.shape[1]) if is_exclusive(logits, target) else None
        if given is None or self.spacing is not None:
            return signed_distance(_masks(target, classes), self.spacing)
        maps = given.to(logits.device, torch.float32)
        _check_maps(maps, logits, target)
        if background and classes:
            maps = torch.cat([signed_distance(_masks(target, range(1))), maps], 1)
        return maps


def _masks(target: Tensor, classes: range | None) -> Tensor:
    """The truth of these exclusive classes, or of sigmoid channels: ``(B, K, *S)``, boolean."""
    return target > 0.5 if classes is None else torch.stack([target == index for index in classes], 1)


def _check_maps(maps: Tensor, logits: Tensor, target: Tensor) -> None:
    """Raise a ValueError unless the maps have the truth's shape and, seen on the CPU in some of the voxels, its sides."""
    classes = range(1, logits.shape[1]) if is_exclusive(logits, target) else None
    expected = (len(logits), logits.shape[1] if classes is None else len(classes), *logits.shape[2:])
    if maps.shape != expected:
        raise ValueError(f"expected distance maps {expected}, one for each foreground channel, got {tuple(maps.shape)}")
    if not on_host(logits):
        return
    # some hundreds of each channel, which costs next to nothing; an odd stride sees other columns in each row
    stride = logits[0, 0].numel() // 512 | 1
    inside = _masks(target.flatten(1 if classes else 2)[..., ::stride], classes)
    sides = maps.flatten(2)[..., ::stride].sign()
    bordered = inside.any(-1, keepdim=True) & ~inside.all(-1, keepdim=True)
    if bool(((sides != torch.where(inside, -1, 1)) & (bordered | (sides != 0))).any()):
        raise ValueError(
            "expected distance maps of this target, positive outside and negative inside, got some of another: "
            "of another batch, another order of channels, or the target before it was augmented"
        )


class BoundaryLoss(DistanceLoss):
    """``mean(phi p)``: probability of the foreground times distance to the truth's border, negative inside.

    Kervadec et al. 2019, https://proceedings.mlr.press/v102/kervadec19a.html; 2021, https://arxiv.org/abs/1812.07032.
    ``phi`` is the distance to the nearest foreground voxel outside, and inside minus that to the nearest background voxel, less
    one: 0 in the foreground's outermost voxels, as the authors' code and monai have it. With a ``spacing`` it is less the
    smallest one, so that ``phi`` stays at or below 0 inside; the authors take off 1 whatever the unit. Mean over samples,
    channels and voxels as in their code: the paper's sum grows with the image, and its weight would have to shrink with it.

    It can be negative; no prediction has less than the truth. Where a channel of the truth is empty or full, ``phi`` is 0: false
    positives cost nothing there, and there is no gradient. The paper adds it to a regional loss, which sees to them. The order
    of voxels matters, since a distance depends on where they are.

    Args:
        spacing: size of a voxel along each axis; ``None``: distances in voxels. Given distance maps are for voxels alone.
        background: with exclusive classes, count class 0 in the mean. Sigmoid channels have no background.

    Raises:
        ValueError: as :class:`DistanceLoss`.

    >>> loss = BoundaryLoss(spacing=None, background=False)
    >>> loss(torch.zeros(1, 1, 1, 4), torch.tensor([[[[0, 0, 1, 1]]]]))  # phi: 2, 1, 0, -1
    tensor(0.2500)
    """

    def __init__(self, spacing: Sequence[float] | None, background: bool) -> None:
        super().__init__(spacing)
        self.background = background

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        distance = self.truth_distance(logits, target, self.background).to(logits.dtype)
        rim = distance.clamp(-min(self.spacing or [1.0]), 0)
        phi = torch.sub(distance, rim, out=rim)
        if is_exclusive(logits, target):
            return (logits.softmax(1)[:, -phi.shape[1] :] * phi).mean()
        mean: Tensor = _WeightedSigmoidMean.apply(logits, phi)
        return mean


class _WeightedSigmoidMean(torch.autograd.Function):
    """``mean(sigmoid(z) weight)``, which keeps one tensor where torch would keep two; overwrites ``weight``."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor) -> Tensor:
        p = z.sigmoid()
        product = weight.mul_(p)
        mean = product.mean()
        ctx.save_for_backward(product.addcmul_(product, p, value=-1))
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * (grad / slope.numel()), None


class HausdorffDTLoss(DistanceLoss):
    """``mean((p - q)^2 (d_p^alpha + d_q^alpha))``, with ``d`` the distances to the borders of truth and prediction.

    Karimi and Salcudean 2019, https://arxiv.org/abs/1904.10030; as there, ``p`` is the truth and ``q`` its probability. ``d_q``
    is that of ``q > 0.5``, a constant for the gradient: a small step can raise the loss, since ``d_q`` jumps as voxels pass 0.5.
    A voxel's distance is that to the nearest one of the other kind, on either side of the border, so 1 next to it and never 0,
    as in monai; some others have 0 outside. It depends on where the voxels are, so their order matters.

    Where the truth is empty or full ``d_p`` is 0, and so is ``d_q`` where the prediction is: a truth that is empty and predicted
    everywhere, or the reverse, costs nothing. The paper adds the loss to Dice, which sees to that.

    Args:
        alpha: power of the distance.
        one_sided: leave ``d_q`` out, which leaves nothing to compute where maps are given; then false positives cost nothing
            where the truth is empty.
        scale: ``none``: squares of voxels if ``alpha`` is 2; ``diagonal``: distances as parts of the image's diagonal;
            ``log``: ``ln(1 + loss)`` of the batch, as monai's ``LogHausdorffDTLoss``.
        spacing: size of a voxel along each axis; ``None``: distances in voxels. Given distance maps are for voxels alone.
        background: with exclusive classes, count class 0 in the mean. Sigmoid channels have no background.

    Raises:
        ValueError: ``alpha`` not positive; an unknown ``scale``; or as :class:`DistanceLoss`.

    >>> loss = HausdorffDTLoss(alpha=2.0, one_sided=False, scale="none", spacing=None, background=False)
    >>> loss(torch.tensor([[[[-9.0, -9.0, -9.0, 9.0]]]]), torch.tensor([[[[0, 0, 1, 1]]]]))  # one wrong, at 1 and 1
    tensor(0.4999)
    """

    def __init__(self, alpha: float, one_sided: bool, scale: str, spacing: Sequence[float] | None, background: bool) -> None:
        super().__init__(spacing)
        check_option("scale", scale, ("none", "diagonal", "log"))
        if not alpha > 0:
            raise ValueError(f"expected alpha to be positive, got {alpha}; without distances the loss is a squared error")
        self.alpha, self.one_sided, self.scale, self.background = alpha, one_sided, scale, background

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        weight = self.truth_distance(logits, target, self.background).abs().pow_(self.alpha)
        p, q = (channels[:, -weight.shape[1] :] for channels in reversed(probs_and_onehot(logits, target)))
        if not self.one_sided:
            weight += signed_distance(q.detach() > 0.5, self.spacing).abs_().pow_(self.alpha)
        if self.scale == "diagonal":
            lengths = (n * step for n, step in zip(q.shape[2:], self.spacing or [1.0] * (q.ndim - 2), strict=True))
            weight /= math.hypot(*lengths) ** self.alpha
        loss = ((p - q).square() * weight).mean()
        return loss.log1p() if self.scale == "log" else loss


class DistancePenalizedCELoss(DistanceLoss):
    """``mean((1 + Phi) CE)``: cross-entropy that counts up to twice next to the truth's border.

    Caliva et al. 2019, https://arxiv.org/abs/1908.03679. ``Phi`` falls linearly with the distance to the border, in each sample
    and on each side of it alone: 1 in the voxels next to it, 0 in the farthest one of that side. A side whose voxels are all
    equally near has ``Phi = 1``, an empty or full channel ``Phi = 0``; taken literally both would be 0 / 0. A distance depends on
    where the voxels are, so their order matters.

    Sigmoid channels: binary cross-entropy, each channel with its own border. Exclusive classes, of which the paper says nothing:
    softmax cross-entropy; each class, background too, is a side, and a voxel's distance is that to the nearest one of any other
    class. For two classes this is the same.

    Args:
        spacing: size of a voxel along each axis; ``None``: distances in voxels. Given distance maps are for voxels alone.

    Raises:
        ValueError: as :class:`DistanceLoss`.

    >>> loss = DistancePenalizedCELoss(spacing=None)
    >>> loss(torch.zeros(1, 1, 1, 4), torch.tensor([[[[0, 0, 0, 1]]]]))  # Phi: 0, 0.5, 1, 1
    tensor(1.1264)
    """

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        maps, axes = self.truth_distance(logits, target), tuple(range(2 - logits.ndim, 0))
        if not is_exclusive(logits, target):
            weight = _nearness(maps.abs(), (maps < 0, maps > 0), axes).add_(1).to(logits.dtype)
            return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), weight)
        # to the nearest voxel of another class: of all classes' borders, that of the voxel's own is the nearest
        distance = maps.abs().masked_fill_(maps == 0, torch.inf).amin(1)
        distance.masked_fill_(distance.isinf(), 0)
        nearness = _nearness(distance, (target == index for index in range(logits.shape[1])), axes)
        return ((1 + nearness) * F.cross_entropy(logits, target.long(), reduction="none")).mean()


def _nearness(distance: Tensor, sides: Iterable[Tensor], axes: tuple[int, ...]) -> Tensor:
    """``Phi``: on each side from 1 where the distance is least to 0 where it is greatest; 0 where there is no border."""
    nearness = torch.zeros_like(distance)
    for side in sides:
        farthest = torch.where(side, distance, 0).amax(axes, keepdim=True)
        span = farthest - torch.where(side, distance, torch.inf).amin(axes, keepdim=True)
        slope = torch.where(span > 0, 1 / span, 0)
        flat = (span == 0) & (farthest > 0)
        nearness = torch.where(side, torch.addcmul(farthest * slope + flat, distance, slope, value=-1), nearness)
    return nearness
