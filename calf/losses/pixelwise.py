"""Losses that are a mean over voxels: cross-entropy, and what weighs or picks its voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from calf.losses.contract import SegmentationLoss, is_exclusive, one_versus_rest
from calf.losses.cross_entropy import Side, mean_cross_entropy
from calf.losses.voxels import on_host


class BCELoss(SegmentationLoss):
    """``-mean(y ln(p) + (1 - y) ln(1 - p))`` over samples, voxels and channels.

    A survey that names it: Jadon 2020, https://arxiv.org/abs/2006.14822. Exclusive classes: each foreground class is asked
    against the rest, with its softmax probability; the mean over foreground classes. With two classes this is
    :class:`CrossEntropyLoss`, with more it is another loss. In all three forms it is what CALF's natural-log branch computes.
    An absent class is background everywhere, nothing special. The target must be 0 or 1. Differentiable once.

    Sigmoid channels are exact voxel by voxel to float32's rounding, 1e-7 of each value. Torch's ``BCEWithLogitsLoss`` is off by
    up to 1.5 % of a voxel's value at a logit of 10 on the right side, and by all of it at 15. The gradient is torch's.

    >>> BCELoss()(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.int64))
    tensor(0.6931)
    """

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        return mean_cross_entropy(*one_versus_rest(logits, target))


class CrossEntropyLoss(SegmentationLoss):
    """``-ln(p_t)``, with ``p_t`` the true class's softmax probability, background included: weighted mean over voxels.

    Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597, eq. 1, without its weights for borders. On sigmoid channels each
    channel is a problem of two classes of its own, and the mean over channels counts: without weights this is :class:`BCELoss`.

    Exclusive classes are torch's ``cross_entropy``: in float32 a right voxel whose logit leads by 10 is off by up to 0.2 %, by 15
    up to 26 %, and from 17 on it counts 0. Sigmoid channels without label smoothing are exact, as :class:`BCELoss`.

    Args:
        class_weights: a positive number for each class, background first; for sigmoid channels ``[background, foreground]``.
            As in torch the mean is a weighted one: divided by the sum of the voxels' weights over the batch (in each sigmoid
            channel), so that only ratios count, an absent class's weight does not, and a sample's share depends on its batch.
            ``None``: all the same.
        label_smoothing: share of the truth spread evenly over all classes, as in torch; Szegedy et al. 2016,
            https://arxiv.org/abs/1512.00567, section 7. 0: none.

    Raises:
        ValueError: fewer than two weights, one that is not positive, label smoothing outside 0 to 1; when called, weights for
            another number of classes.

    >>> loss = CrossEntropyLoss(class_weights=[1.0, 3.0], label_smoothing=0.0)
    >>> loss(torch.tensor([[[[0.0, -20.0]]]]), torch.tensor([[[[1, 0]]]]))  # (3 ln 2 + 0) / (3 + 1)
    tensor(0.5199)
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None, label_smoothing: float) -> None:
        super().__init__()
        weights = None if class_weights is None else [float(weight) for weight in class_weights]
        if weights is not None and (len(weights) < 2 or not all(weight > 0 for weight in weights)):
            raise ValueError(
                f"expected class_weights to be positive, one for each class with background first, got {weights}; "
                "for a class that shall hardly count use 1e-3"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"expected label_smoothing of at least 0 and below 1, got {label_smoothing}")
        self.register_buffer("class_weights", None if weights is None else torch.tensor(weights), persistent=False)
        self.label_smoothing = label_smoothing

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        exclusive = is_exclusive(logits, target)
        weights = self.class_weights
        if weights is not None:
            self._check_number(weights, logits, exclusive)
            weights = weights.to(logits.dtype)
        if exclusive:
            return F.cross_entropy(logits, target.long(), weights, label_smoothing=self.label_smoothing)
        y = target.to(logits.dtype)
        ratio = 1.0 if weights is None else weights[1] / weights[0]
        if self.label_smoothing:
            return self._smoothed(logits, y, ratio)
        if weights is None:
            return mean_cross_entropy(logits, y)
        share = _share_of_background(y, ratio)
        return mean_cross_entropy(logits, y, Side(share), Side(ratio * share))

    def _smoothed(self, logits: Tensor, y: Tensor, ratio: float | Tensor) -> Tensor:
        """Of sigmoid channels; never near 0, so that torch's own has digits enough."""
        smoothed = torch.lerp(y, y.new_full((), 0.5), self.label_smoothing)
        weight = ratio if isinstance(ratio, Tensor) else None
        losses = F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=weight, reduction="none")
        return losses.mul(_share_of_background(y, ratio)).mean()

    def _check_number(self, weights: Tensor, logits: Tensor, exclusive: bool) -> None:
        classes = logits.shape[1] if exclusive else 2
        if len(weights) != classes:
            what = f"each of {classes} classes" if exclusive else "background and foreground of sigmoid channels"
            raise ValueError(f"expected class_weights for {what}, got {len(weights)} of them")


def _share_of_background(y: Tensor, ratio: float | Tensor) -> Tensor:
    """What background weighs in each channel, ``(1, K, 1...)``, if foreground weighs ``ratio`` times as much and the mean 1."""
    foreground = y.mean((0, *range(2, y.ndim)), keepdim=True)
    return 1 / (1 + (ratio - 1) * foreground)


class WeightedBCELoss(SegmentationLoss):
    """``-mean(w y ln(p) + (1 - y) ln(1 - p))``: binary cross-entropy whose foreground weighs ``w``, background 1.

    With ``weight=balanced``, ``w`` is background voxels / foreground voxels of the truth, so that both weigh the same in sum:
    the ratio of the weights in Xie and Tu 2015, https://arxiv.org/abs/1504.06375, eq. 2. There background weighs 1 minus
    its share, so that an image without foreground would teach nothing; here it teaches that there is none. With a number this is
    torch's BCEWithLogitsLoss with that ``pos_weight``, and with 1 it is :class:`BCELoss`. Each channel has its own ``w``;
    exclusive classes are taken one against the rest, and the mean over foreground classes counts.

    Args:
        weight: ``w``, or ``balanced``. Where foreground or background is absent, the balanced weight is 1.
        max_weight: a balanced weight is at most this; ``None``: no bound.
        per_sample: balance each sample by its own voxels; else all by those of the batch, and a sample's share depends on it.

    Raises:
        ValueError: a weight that is neither positive nor ``balanced``, or a bound below 1.

    >>> loss = WeightedBCELoss(weight="balanced", max_weight=None, per_sample=True)
    >>> loss(torch.zeros(1, 1, 2, 2), torch.tensor([[[[0, 0], [0, 1]]]]))  # (3 ln 2 + 3 * ln 2) / 4
    tensor(1.0397)
    """

    def __init__(self, weight: float | str, max_weight: float | None, per_sample: bool) -> None:
        super().__init__()
        if weight != "balanced" and (isinstance(weight, str) or not weight > 0):
            raise ValueError(f"expected weight to be a positive number or balanced, got {weight!r}")
        if max_weight is not None and not max_weight >= 1:
            raise ValueError(f"expected max_weight of at least 1, or null for no bound, got {max_weight}")
        self.weight, self.max_weight, self.per_sample = weight, max_weight, per_sample

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        z, y = one_versus_rest(logits, target)
        weight = self._balanced(y) if isinstance(self.weight, str) else self.weight
        return mean_cross_entropy(z, y, foreground=Side(weight))

    def _balanced(self, y: Tensor) -> Tensor:
        """``(B, K, 1...)``, or ``(1, K, 1...)`` over the batch."""
        axes = tuple(range(2, y.ndim)) + (() if self.per_sample else (0,))
        foreground = y.sum(axes, keepdim=True)
        background = y.numel() // foreground.numel() - foreground
        ratio = background / foreground.clamp(min=1)
        if self.max_weight is not None:
            ratio = ratio.clamp(max=self.max_weight)
        return torch.where(foreground * background > 0, ratio, 1)


class TopKLoss(SegmentationLoss):
    """Mean of ``-ln(p_t)``, with ``p_t`` the true class's probability, over the ``k`` % of voxels where it is largest.

    Wu et al. 2016, https://arxiv.org/abs/1605.06885, learn from hard pixels only; a share ``k`` is nnU-Net's form of it
    (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z). Softmax for exclusive classes, background included; each
    sigmoid channel picks its own voxels, and the mean over channels counts. ``k = 100`` is :class:`CrossEntropyLoss`. The count
    is rounded down, but at least one voxel; an absent class is background everywhere, nothing special.

    Voxels that are equally bad share what places are left, where nnU-Net takes any of them: the value is the same, but from
    equal logits a step down such a gradient leaves the loss where it is, since the voxels not taken are as bad as before.

    Args:
        k: percentage of voxels, above 0 and at most 100.
        per_sample: the worst of each sample; else of the batch as a whole, as nnU-Net does, and what a sample counts depends on
            the others.

    Raises:
        ValueError: ``k`` outside its range.

    >>> loss = TopKLoss(k=25, per_sample=False)
    >>> loss(torch.tensor([[[[20.0, 0.0], [-20.0, -20.0]]]]), torch.tensor([[[[1, 1], [0, 0]]]]))
    tensor(0.6931)
    """

    def __init__(self, k: float, per_sample: bool) -> None:
        super().__init__()
        if not 0 < k <= 100:
            raise ValueError(f"expected k to be a percentage above 0 and at most 100, got {k}")
        self.k, self.per_sample = k, per_sample

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        if is_exclusive(logits, target):
            rows, y = self._rows(F.cross_entropy(logits, target.long(), reduction="none").unsqueeze(1)), None
        else:
            rows, y = self._rows(logits), self._rows(target.to(logits.dtype))
        loss: Tensor = _MeanOfWorst.apply(rows, y, max(1, int(rows.shape[1] * self.k / 100)))
        return loss

    def _rows(self, x: Tensor) -> Tensor:
        """``(B, K, *S)`` with a row for each choice: each channel of each sample, or of all samples together."""
        return x.flatten(2).flatten(0, 1) if self.per_sample else x.transpose(0, 1).flatten(1)


class FocalLoss(SegmentationLoss):
    """``-alpha_t (1 - p_t)^gamma ln(p_t)`` with ``p_t`` the true class's probability.

    Mean over samples, voxels and sigmoid channels; softmax for exclusive classes, background included. Lin et al. 2017,
    https://arxiv.org/abs/1708.02002, eq. 5; there the sum is divided by the number of positive anchors, which a mask has not.
    ``gamma = 0``, ``alpha = None`` is :class:`CrossEntropyLoss`. An absent class is background everywhere, nothing special.

    Args:
        gamma: how much well classified voxels are played down, at least 0.
        alpha: weight of foreground; background weighs ``1 - alpha``. ``None``: both weigh 1.

    Raises:
        ValueError: gamma below 0 or alpha outside 0 to 1.

    >>> FocalLoss(gamma=2.0, alpha=None)(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    tensor(0.1733)
    """

    def __init__(self, gamma: float, alpha: float | None) -> None:
        super().__init__()
        if not gamma >= 0:
            raise ValueError(f"expected gamma to be at least 0, got {gamma}")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"expected alpha between 0 and 1, or null for no weights, got {alpha}")
        self.gamma, self.alpha = float(gamma), alpha

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        foreground, background = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        if not is_exclusive(logits, target):
            return mean_cross_entropy(logits, target, Side(background, self.gamma), Side(foreground, self.gamma))
        # torch's own takes half the time of the margins that keep small numbers exact, which a focus plays down anyhow;
        # a power below 1 has no derivative at 0: certain voxels are kept from it, and get none
        cross_entropy = F.cross_entropy(logits, target.long(), reduction="none").clamp(min=1e-30)
        loss = (-torch.expm1(-cross_entropy)).pow(self.gamma) * cross_entropy
        return loss.mean() if self.alpha is None else (loss * torch.where(target > 0, foreground, background)).mean()


class _MeanOfWorst(torch.autograd.Function):
    """Mean over rows ``(R, N)`` of the mean of the ``count`` largest ``softplus(m)``, with ``m = (1 - 2y) z``.

    Without ``y``, of the ``count`` largest ``z``.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor | None, count: int) -> Tensor:
        # softplus grows with m: choose first, and compute it of those chosen only
        worst = _largest(z if y is None else torch.addcmul(z, y, z, value=-2), count)
        least = worst.amin(1, keepdim=True)
        places = (worst == least).sum(1, keepdim=True)
        ctx.save_for_backward(z, y, least, places)
        ctx.chosen = worst.numel()
        return (worst if y is None else F.softplus(worst)).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        z, y, least, places = ctx.saved_tensors
        m = z.clone() if y is None else torch.addcmul(z, y, z, value=-2)
        # straight into floating point: booleans are slower to make and to sum
        share = torch.eq(m, least, out=torch.empty_like(m))
        share.mul_(places / share.sum(1, keepdim=True)).add_(m.gt_(least)).mul_(grad / ctx.chosen)
        if y is None:
            return share, None, None
        # the margins again: cheaper than a third tensor
        slope = torch.addcmul(z, y, z, value=-2, out=m).sigmoid_().mul_(share)
        # dm / dz = 1 - 2y
        return slope.addcmul_(slope, y, value=-2), None, None


def _largest(rows: Tensor, count: int) -> Tensor:
    """The ``count`` largest of each row of ``(R, N)``, in any order."""
    if on_host(rows):
        # torch's own orders pairs of value and index, in twice the time
        return torch.from_numpy(np.partition(rows.numpy(), -count)[:, -count:])
    return rows.topk(count, sorted=False).values
