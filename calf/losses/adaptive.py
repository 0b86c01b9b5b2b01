"""Losses whose own parameters follow the truth or the course of the training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from calf.imbalance import several_ranks
from calf.losses.contract import (
    EMPTY,
    SegmentationLoss,
    check_option,
    counted,
    is_exclusive,
    mean_over_classes,
    one_versus_rest,
    probs_and_onehot,
    voxel_sums,
)
from calf.losses.voxels import spread


class AdaptiveFocalLoss(SegmentationLoss):
    r"""A-FL: ``-alpha_t (1 - p_t)^gamma ln(p_t)`` with ``gamma = fg / n + smoothness`` and ``alpha = bg / n`` of the truth.

    Islam et al. 2024, https://arxiv.org/abs/2407.09828. ``fg`` and ``bg`` are counts of voxels, ``n`` their sum; as in the focal
    loss, foreground weighs ``alpha`` and background ``1 - alpha``. ``smoothness`` is the mean over *all* voxels of the mask's
    gradient magnitude, by central differences, one-sided at the border of the image (``numpy.gradient``): it is higher for
    rougher outlines, and it depends on which voxels are neighbours. Nothing here is learned or tuned. For small lesions ``gamma``
    is nearly 0, 1e-3 and less, and what is left is class-weighted cross-entropy.

    Each sigmoid channel has its own ``gamma`` and ``alpha``; exclusive classes are taken one against the rest, without
    background; mean over voxels and channels. All voxels of an empty mask, and of a full one, weigh 0.

    Args:
        variant: ``paper``, as above; ``repo``, as the authors' code: exclusive classes are independent sigmoid channels,
            background included, and ``gamma`` is that of all foreground together. There the weight that is meant for the
            foreground goes to the background: all voxels of a channel weigh ``n_c / n``, the share of the channel's *own* class,
            in an empty mask 1 for the background and 0 for the others (0 / 0 in their code). Where one sigmoid channel stands for
            both classes these weights add up to a constant 1 / 2.
        empty: the samples that share ``gamma`` and ``alpha``. ``batch``: all; for batches of one, as the authors', it is their
            code. ``smooth``: each has its own, and an empty sample teaches nothing. ``skip``: likewise, and its channel is left
            out of the mean.

    Raises:
        ValueError: an unknown option.

    >>> loss = AdaptiveFocalLoss(variant="paper", empty="batch")
    >>> mask = torch.zeros(1, 1, 4, 4)
    >>> mask[..., :2, :] = 1  # fg / n is 0.5, smoothness 0.25: two rows of four have a slope of 0.5
    >>> loss(torch.zeros_like(mask), mask)  # 0.5 * 0.5^0.75 * ln 2
    tensor(0.2061)
    """

    def __init__(self, variant: str, empty: str) -> None:
        super().__init__()
        check_option("variant", variant, ("paper", "repo"))
        check_option("empty", empty, EMPTY)
        self.variant, self.empty = variant, empty

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.variant == "repo" and is_exclusive(logits, target):
            y = torch.stack([(target == c).to(logits.dtype) for c in range(logits.shape[1])], 1)
            foreground = (target > 0).to(logits.dtype).unsqueeze(1)
            losses = self._focal(logits, y, foreground, self._share(y), self._share(y)).mean(1, keepdim=True)
            return mean_over_classes(losses, voxel_sums(foreground, self.empty), self.empty)
        z, y = one_versus_rest(logits, target)
        share = self._share(y)
        half = torch.full_like(share, 0.5)
        weights = (1 - share, share) if self.variant == "paper" else (half, half)
        return mean_over_classes(self._focal(z, y, y, *weights), share, self.empty)

    def _share(self, y: Tensor) -> Tensor:
        """The part of the voxels that is foreground: ``(B, K)``, or ``(1, K)`` of the whole batch."""
        pooled = y.shape[0] if self.empty == "batch" else 1
        return voxel_sums(y, self.empty) / (pooled * y[0, 0].numel())

    def _focal(self, z: Tensor, y: Tensor, mask: Tensor, of_foreground: Tensor, of_background: Tensor) -> Tensor:
        """Mean over voxels ``(B, K)`` of the focal loss with the ``gamma`` of ``mask``."""
        smooth = smoothness(mask)
        gamma = self._share(mask) + (smooth.mean(0, keepdim=True) if self.empty == "batch" else smooth)
        losses: Tensor = _FocalMeans.apply(z, y, gamma, of_foreground, of_background)
        return losses


def smoothness(mask: Tensor) -> Tensor:
    """Mean over voxels ``(B, K)`` of the gradient magnitude of masks ``(B, K, *S)``, as ``numpy.gradient`` has it.

    Central differences, one-sided at the ends of an axis; along an axis of a single voxel nothing changes.

    >>> smoothness(torch.tensor([[[[0.0, 0.0, 1.0, 1.0]]]]))
    tensor([[0.2500]])
    """
    # next to 0 rather than 0, of which some processors take the root several times as slowly
    square = torch.full_like(mask, 1e-30)
    for axis in range(2, mask.ndim):
        length = mask.shape[axis]
        if length > 1:
            inner = mask.narrow(axis, min(2, length), max(length - 2, 0)) - mask.narrow(axis, 0, max(length - 2, 0))
            square.narrow(axis, 1, length - 2).addcmul_(inner, inner, value=0.25)
            for end, next_to_it in ((0, 1), (length - 1, length - 2)):
                step = mask.select(axis, end) - mask.select(axis, next_to_it)
                square.select(axis, end).addcmul_(step, step)
    return square.sqrt_().flatten(2).mean(2)


class _FocalMeans(torch.autograd.Function):
    """Mean over voxels ``(B, K)`` of ``sigmoid(m)^gamma softplus(m)``, the focal loss on margins, times the weight of the truth.

    The forward pass leaves the slope, one tensor of the logits' size, and nothing else to the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor, gamma: Tensor, of_foreground: Tensor, of_background: Tensor) -> Tensor:
        num_voxels = z[0, 0].numel()
        margin = torch.addcmul(z, y, z, value=-2)
        focal = softplus(margin)
        wrong = torch.sigmoid(margin)
        # ln(1 - p_t) = margin - cross-entropy: no power of a number that rounds to 0
        power = margin.sub_(focal).mul_(spread(gamma, z)).exp_()
        total = focal.mul_(power).flatten(2).sum(2)
        of_y = (focal * y).flatten(2).sum(2)
        # (1 - p_t)^gamma (gamma p_t (-ln p_t) + 1 - p_t), by which the loss grows with the margin; dm / dz = 1 - 2y
        slope = power.mul_(wrong).addcmul_(focal.mul_(spread(gamma, z)), wrong.neg_().add_(1))
        background, either = (spread(weight / num_voxels, z) for weight in (of_background, of_background + of_foreground))
        ctx.save_for_backward(slope.mul_(torch.addcmul(background, y, either, value=-1, out=focal)))
        return (of_background * (total - of_y) + of_foreground * of_y) / num_voxels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * spread(grad, slope), None, None, None, None


#: What the search multiplies the parameters with; first what leaves them as they are, so that it wins a draw.
CANDIDATES = sorted(itertools.product((0.9, 1.0, 1.1), repeat=3), key=lambda factors: factors != (1.0, 1.0, 1.0))


class GeneralizedLossFunction(SegmentationLoss):
    r"""GLF: ``1 - ((1 + b) TP + s) / ((1 + b) TP + a_p FP + b a_n FN + s)`` of squared soft counts, its parameters adapted.

    ``TP = sum((y p)^2)``, ``FP = sum(((1 - y) p)^2)``, ``FN = sum((y (1 - p))^2)``; ``a_p``, ``a_n`` and ``b``, the ``beta^2`` of
    F-beta, start at 1, where the loss is one minus Dice with squared counts. Seo et al. 2021,
    https://doi.org/10.1109/TMI.2020.3031913. The paper's network has one output; here the loss is the mean over foreground
    channels, which share the parameters.

    ``update=deterministic``: before a training step's loss is taken, each parameter is multiplied with a factor that depends on a
    ratio: 0.5 for one below 1/15, 0.75 below 1/2, 1 up to 2, 1.25 above it, 1.5 above 15. ``a_p`` goes by ``TP / FP``, unless FP
    is below 5 voxels, ``a_n`` by ``TP / FN``, unless FN is below 1, then ``b`` by recall / precision with the new ``a_n`` and
    ``a_p``. Counts are those of all channels and of the whole batch of all ranks, whatever ``empty`` says: a sample's loss
    depends on its batch, and ranks have to take each step together. A ratio that passes a threshold changes the loss at once, so
    that a step down the gradient can raise it. In the authors' code an exact tie gives a factor of 0, here that of the side
    nearer to 1. Their product has no bounds, and overflows after some hundred steps of a network that is mostly right: hence
    ``bounds``.

    ``update=exploratory``: before a step, :meth:`explore` tries the 27 combinations of the parameters times 0.9, 1 or 1.1, each
    by one gradient step of the network, and keeps the one with the smallest mean squared error after it: what the paper means. In
    the authors' code the prediction does not depend on the parameters, and the search always keeps them. It costs 27 steps each
    time and makes the host wait.

    In eval mode and without gradients nothing is adapted.

    Args:
        update: ``none``, ``deterministic`` or ``exploratory``.
        every: training steps from one update to the next.
        bounds: lowest and highest value of each parameter, with 1 between them.
        smooth: ``s`` above.
        empty: what the counts are summed over, and what becomes of a class that is absent from the truth (see
            :mod:`calf.losses.contract`); where nothing is predicted either it costs 0.

    Raises:
        ValueError: an unknown option; bounds that are not positive or do not enclose 1; ``every`` below 1; ``smooth`` not
            positive.

    >>> loss = GeneralizedLossFunction("deterministic", every=1, bounds=[0.1, 10], smooth=1e-10, empty="batch")
    >>> mask = torch.zeros(1, 1, 8, 8)
    >>> mask[..., :4, :] = 1
    >>> loss(torch.zeros_like(mask), mask)  # TP, FP and FN are all 8
    tensor(0.5000)
    >>> loss(4 * mask - 2, mask)  # FP and FN are 0.45, and too few to be adapted by
    tensor(0.0180)
    """

    settings: Tensor
    steps: Tensor

    def __init__(self, update: str, every: int, bounds: Sequence[float], smooth: float, empty: str) -> None:
        super().__init__()
        check_option("update", update, ("none", "deterministic", "exploratory"))
        check_option("empty", empty, EMPTY)
        if every < 1:
            raise ValueError(f"expected every to be at least 1 step, got {every}")
        if len(bounds) != 2 or not 0 < bounds[0] <= 1 <= bounds[1]:
            raise ValueError(f"expected bounds [low, high] with 0 < low <= 1 <= high, got {list(bounds)}")
        if not smooth > 0:
            raise ValueError(f"expected smooth to be positive, got {smooth}; for next to no smoothing use 1e-10")
        self.update, self.every, self.smooth, self.empty = update, every, smooth, empty
        self.low, self.high = (float(bound) for bound in bounds)
        self.register_buffer("settings", torch.ones(3))  # a_p, a_n, b
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        p, y = _foreground(logits, target)
        counts = _SquaredCounts.apply(p, y)
        if self.update == "deterministic" and self.training and torch.is_grad_enabled():
            self._adapt(counts.detach().sum((1, 2)))
        if self.empty == "batch":
            counts = counts.sum(1, keepdim=True)
        tp, fp, fn = counts.unbind()
        alpha_p, alpha_n, beta2 = self.settings.to(p.dtype).unbind()
        wrong = alpha_p * fp + beta2 * alpha_n * fn
        # 1 - (...), without the cancellation
        losses = wrong / ((1 + beta2) * tp + wrong + self.smooth)
        return mean_over_classes(losses, voxel_sums(y, "skip") if self.empty == "skip" else losses, self.empty)

    def _adapt(self, counts: Tensor) -> None:
        """Update the parameters by the batch's TP, FP and FN, ``(3,)``, if it is time to."""
        if several_ranks():
            dist.all_reduce(counts)
        tp, fp, fn = counts.unbind()
        alpha_p, alpha_n, beta2 = self.settings.to(counts.dtype).unbind()
        alpha_p = self._bounded(alpha_p * torch.where(fp < 5, 1, _factor(tp, fp)))
        alpha_n = self._bounded(alpha_n * torch.where(fn < 1, 1, _factor(tp, fn)))
        precision, recall = ((tp + self.smooth) / (tp + wrong + self.smooth) for wrong in (alpha_p * fp, alpha_n * fn))
        settings = torch.stack([alpha_p, alpha_n, self._bounded(beta2 * _factor(recall, precision))])
        # new tensors: the graphs of steps whose backward pass is still to come hold the old ones
        self.settings = torch.where(self.steps % self.every == 0, settings, self.settings)
        self.steps = self.steps + 1

    def _bounded(self, settings: Tensor) -> Tensor:
        return settings.clamp(self.low, self.high)

    @torch.no_grad()
    def explore(self, trial: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """Choose the parameters of the coming step by trial steps, if ``update`` says so and it is time to.

        All ranks must call it together; they choose by the error over all of them. An error that is not a number never wins.
        """
        if self.update != "exploratory" or not self.training:
            return
        due = int(self.steps) % self.every == 0
        self.steps = self.steps + 1
        if not due:
            return
        before = self.settings
        candidates = self._bounded(before * before.new_tensor(CANDIDATES))
        try:
            errors = torch.stack([self._error(candidate, trial) for candidate in candidates])
        finally:
            self.settings = before
        if several_ranks():
            dist.all_reduce(errors)
        means = (errors[:, 0] / errors[:, 1]).nan_to_num(nan=torch.inf, posinf=torch.inf)
        self.settings = candidates[int(means.argmin())].clone()

    def _error(self, candidate: Tensor, trial: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
        """Sum of squared errors after a step with a candidate, and of how many voxels."""
        self.settings = candidate
        with torch.enable_grad():
            logits, target = trial()
        p, y = _foreground(logits.detach().float(), target)
        square = (p - y).square_().sum()
        return torch.stack([square, torch.full_like(square, p.numel())])


def _foreground(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and truth of the foreground channels."""
    channels = counted(logits, target)
    p, y = probs_and_onehot(logits, target)
    return p[:, channels], y[:, channels]


def _factor(x: Tensor, y: Tensor) -> Tensor:
    """What a parameter is multiplied with, by the ratio ``x / y``; 1 for 0 / 0 and what is not a number.

    >>> _factor(torch.tensor([0.0, 1.0, 15.0, 16.0]), torch.tensor([1.0, 2.0, 1.0, 1.0]))
    tensor([0.5000, 1.0000, 1.2500, 1.5000])
    """
    low = torch.where(x < y / 15, 0.5, torch.where(x < y / 2, 0.75, 1.0))
    return torch.where(x > 15 * y, 1.5, torch.where(x > 2 * y, 1.25, low)).to(x.dtype)


class _SquaredCounts(torch.autograd.Function):
    """Squared soft TP, FP and FN of each sample and channel, ``(3, B, C)``, keeping nothing beside its inputs."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(p, y)
        hit = p * y
        # differences of voxels, not of sums, which would lose the little that a good network has wrong
        part = torch.sub(p, hit)
        fp = part.square_().flatten(2).sum(2)
        fn = torch.sub(y, hit, out=part).square_().flatten(2).sum(2)
        return torch.stack([hit.square_().flatten(2).sum(2), fp, fn])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        p, y = ctx.saved_tensors
        by_tp, by_fp, by_fn = (spread(2 * g, p) for g in grad)
        # y (tp p - fn (1 - p)) + (1 - y) fp p
        slope = torch.addcmul(by_fp, y, by_tp + by_fn - by_fp).mul_(p)
        return slope.addcmul_(y, by_fn, value=-1), None
