"""The conditionally adaptive loss function: the imbalance of the batch chooses the formula.

Alam et al. 2025, https://arxiv.org/abs/2504.04458.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calf.imbalance import Array, contour_areas, several_ranks, skewness_and_kurtosis
from calf.losses.contract import SegmentationLoss, check_option, one_versus_rest
from calf.losses.margin import ARCSINE, EVERYWHERE, FISHER, LN, LOGIT, OVERLAP, Plan, cell_sums, into_cells, margin_sums
from calf.losses.voxels import on_host

BRANCHES = ("fisher", "logit", "arcsine", "ln", "log10", "bce_dice")
#: The first four branches are numbered as the forms they are made of; these two are made of the last.
LOG10, BCE_DICE = LN + 1, LN + 2
FORMS_OF_BRANCH = ((FISHER,), (LOGIT,), (ARCSINE,), (LN,), (LN,), (OVERLAP, LN))


def choose_branch(skewness: Array, kurtosis: Array) -> Array:
    """Index into BRANCHES for each entry, int64, of tensors (on their device) or arrays.

    ``S <= -1`` Fisher; ``-1 < S <= -0.5`` logit; ``-0.5 < S < 0`` arcsine; ``0 < S < 0.5`` with ``K < 0`` and ``S >= 1`` log10;
    ``0.5 <= S < 1`` natural log; everything else BCE + Dice: ``S = 0``, ``0 < S < 0.5`` with ``K >= 0``, and NaN.

    >>> chosen = choose_branch(torch.tensor([-2.0, 0.7, 3.0, torch.nan]), torch.zeros(4))
    >>> [BRANCHES[index] for index in chosen]
    ['fisher', 'ln', 'log10', 'bce_dice']
    """
    where: Any = np.where if isinstance(skewness, np.ndarray) else torch.where
    s, slight = skewness, where(kurtosis < 0, LOG10, BCE_DICE)
    # no comparison holds for NaN
    right = where(s >= 1, LOG10, where(s >= 0.5, LN, where(s > 0, slight, BCE_DICE)))
    return where(s <= -1, FISHER, where(s <= -0.5, LOGIT, where(s < 0, ARCSINE, right)))


def branch_losses(
    z: Tensor, y: Tensor, pixels: Tensor, branch: Tensor, clamp: float | None, known: list[int] | None = None
) -> Tensor:
    """The loss of each cell in its own branch.

    Args:
        z: logits of ``G`` cells over the batch, as :func:`calf.losses.margin.into_cells` cuts them.
        y: truth, same shape and dtype, 0 or 1.
        pixels: ``(B, G)``, the sum of ``y`` in each cell.
        branch: ``(G,)`` int64 on the device of ``z``, index into BRANCHES.
        clamp: bound of ``|z|``, ``None`` for no bound.
        known: the same branches on the host, where they are known there; then nothing else is computed. Without them all
            forms are, and weights of 0 and 1 pick on the device: more arithmetic, but the host need not wait.

    Returns:
        ``(G,)``.
    """
    losses, wrong, missed = margin_sums(z, y, _weights(branch, z, known), clamp, _plan(known))
    if known is not None and BCE_DICE not in known:
        return losses
    # 1 - (2 TP + e) / (2 TP + FP + FN + e), without the cancellation
    dice = wrong / (2 * (pixels.sum(0) - missed) + wrong + 1e-7)
    return losses + dice.where(branch == BCE_DICE, 0)


def _weights(branch: Tensor, z: Tensor, known: list[int] | None) -> Tensor:
    """``(4, G)``: what each form's sum counts in each cell; 0 for those that are not of its branch."""
    mean = branch.numel() / z.numel()
    if known is not None and len(set(known)) == 1:  # then no other form is computed
        return z.new_full((OVERLAP, len(known)), mean / math.log(10) if known[0] == LOG10 else mean)
    scale = torch.full_like(branch, mean, dtype=z.dtype).masked_fill(branch == LOG10, mean / math.log(10))
    forms = torch.arange(OVERLAP, device=z.device)[:, None]
    return torch.where(forms == branch.clamp(max=LN), scale, 0)


def _plan(known: list[int] | None) -> Plan:
    forms = (FISHER, LOGIT, ARCSINE, OVERLAP, LN)
    if known is None:
        return [(form, EVERYWHERE) for form in forms]
    cells = {form: [cell for cell, branch in enumerate(known) if form in FORMS_OF_BRANCH[branch]] for form in forms}
    # picking cells means copying them: when most are wanted, it is cheaper to take all and weigh the others 0
    return [(form, EVERYWHERE if 2 * len(chosen) > len(known) else chosen) for form, chosen in cells.items() if chosen]


class ConditionallyAdaptiveLoss(SegmentationLoss):
    """What the image-wide and the region-wise loss share: measure the cells, choose their branches, compute them."""

    branches = BRANCHES

    def __init__(self, area: str, ddp: str, clamp: float | None) -> None:
        super().__init__()
        check_option("area", area, ("pixels", "contour"))
        check_option("ddp", ddp, ("global", "local"))
        if clamp is not None and not clamp > 0:
            raise ValueError(f"expected clamp to be positive, or null for no bound, got {clamp}")
        self.area, self.ddp, self.clamp = area, ddp, clamp
        # plain attributes: as buffers, DDP would overwrite every rank's with those of the first
        self.last_branch = torch.empty(0, dtype=torch.int64)
        self.last_skewness = torch.empty(0, dtype=torch.float64)
        self.last_kurtosis = torch.empty(0, dtype=torch.float64)

    def cell_losses(self, z: Tensor, y: Tensor) -> Tensor:
        """Logits and truth, cut by :func:`calf.losses.margin.into_cells`, to the loss ``(G,)`` of each of the cells."""
        pixels = cell_sums(y)
        skewness, kurtosis, branch = self.choose(y, pixels)
        # contours have made the host wait already
        known = branch.tolist() if on_host(y) or self.area == "contour" else None
        self.last_branch, self.last_skewness, self.last_kurtosis = branch, skewness, kurtosis
        clamp = None if on_host(z) and self.clamp is not None and _within(z, self.clamp) else self.clamp
        return branch_losses(z, y, pixels, branch, clamp, known)

    def choose(self, y: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Skewness, kurtosis and branch ``(G,)``, from ``pixels`` ``(B, G)`` or from the contours in ``y``."""
        areas = pixels
        if self.area == "contour":
            if y.ndim != 6:
                raise ValueError("contours exist in 2-D only: expected area=pixels for volumes, got area=contour")
            areas = contour_areas(y.movedim(3, 4)).flatten(1)
        all_ranks = self.ddp == "global" and several_ranks()
        if on_host(areas) and not all_ranks:
            moments = skewness_and_kurtosis(areas.numpy())
            skewness, kurtosis, branch = (torch.from_numpy(x) for x in (*moments, choose_branch(*moments)))
            return skewness, kurtosis, branch
        skewness, kurtosis = skewness_and_kurtosis(areas, all_ranks)
        return skewness, kurtosis, choose_branch(skewness, kurtosis)


def _within(z: Tensor, clamp: float) -> bool:
    """Whether there is nothing to clamp; to look costs less than to clamp."""
    low, high = z.detach().aminmax()
    return max(-float(low), float(high)) <= clamp


class CALFLoss(ConditionallyAdaptiveLoss):
    r"""``-mean(y f(p) + (1 - y) f(1 - p))``, with ``f`` chosen by skewness and kurtosis of the samples' foreground areas.

    ========  =================  =======================================================
    branch    ``f(p)``           what it does
    ========  =================  =======================================================
    fisher    ``atanh(p)``       unbounded below
    logit     ``ln(p / (1-p))``  unbounded below, the same gradient for every voxel
    arcsine   ``asin(sqrt(p))``  within -pi/2 and 0, forgives badly wrong voxels
    ln        ``ln(p)``          BCE
    log10     ``log10(p)``       BCE / 2.3026
    bce_dice  BCE + soft Dice    pooled over the batch, 1e-7 added above and below
    ========  =================  =======================================================

    :func:`choose_branch` states when. Alam et al. 2025, https://arxiv.org/abs/2504.04458. Fisher, logit and arcsine give negative
    values, and a sample's share depends on which samples are in its batch. Each sigmoid channel has its own areas and branch;
    exclusive classes are taken one against the rest, without background; the loss is the mean over channels. Empty samples
    count with area 0; all areas equal, or a single sample, leave skewness undefined and choose ``bce_dice``. The target must
    be 0 or 1. Differentiable once.

    Args:
        scope: the samples whose areas count: ``batch``, or ``dataset`` with one branch for the whole training, for which
            :meth:`observe_dataset` must be called before the first step.
        area: ``pixels``, or ``contour`` as in the authors' code (2-D and scope ``batch`` only, waits for the device; see
            :func:`calf.imbalance.contour_areas`).
        ddp: with several ranks, the areas of the ``global`` batch, for which all ranks must take each step, or of the
            ``local`` one. Sums over voxels are local.
        clamp: bound of ``|logit|``, without gradient beyond it; 16.118 is the authors' bound of 1e-7 on ``p``. ``None``: none.

    On CUDA no step waits for the device unless ``area`` is ``contour``. Afterwards ``last_branch``, ``last_skewness`` and
    ``last_kurtosis``, one entry for each channel, say what was chosen and why.

    Raises:
        ValueError: an unknown option; ``scope=dataset`` without the data set's areas; contours in 3-D.

    >>> loss = CALFLoss(scope="batch", area="pixels", ddp="global", clamp=16.118)
    >>> mask = torch.zeros(3, 1, 4, 4)
    >>> mask[2, 0, :2] = 1  # areas 0, 0 and 8: their skewness is 0.7
    >>> loss(torch.zeros_like(mask), mask)
    tensor(0.6931)
    >>> BRANCHES[loss.last_branch]
    'ln'
    """

    def __init__(self, scope: str, area: str, ddp: str, clamp: float | None) -> None:
        super().__init__(area, ddp, clamp)
        check_option("scope", scope, ("batch", "dataset"))
        if scope == "dataset" and area == "contour":
            raise ValueError("scope=dataset goes by the data set's pixel areas: expected area=pixels, got area=contour")
        self.scope = scope
        self._dataset: tuple[Tensor, Tensor, Tensor] | None = None

    def observe_dataset(self, areas: Tensor) -> None:
        """Fix the branch of ``scope=dataset`` from now on; without effect for ``scope=batch``.

        Args:
            areas: foreground pixels of every training sample, ``(N,)`` for one branch for all channels or ``(N, K)`` for one
                each. Skewness and kurtosis have no unit: any resolution will do.
        """
        if areas.ndim not in (1, 2) or areas.numel() == 0:
            raise ValueError(f"expected the areas of the training samples, (N,) or (N, channels), got {tuple(areas.shape)}")
        skewness, kurtosis = skewness_and_kurtosis(areas.reshape(areas.shape[0], -1))
        self._dataset = skewness, kurtosis, choose_branch(skewness, kurtosis)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        z, y = one_versus_rest(logits, target)
        return self.cell_losses(into_cells(z, 1), into_cells(y, 1)).mean()

    def choose(self, y: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.scope == "batch":
            return super().choose(y, pixels)
        if self._dataset is None:
            raise ValueError("scope=dataset needs the training set's areas first: call observe_dataset(areas) before training")
        channels, given = pixels.shape[1], len(self._dataset[0])
        if given not in (1, channels):
            raise ValueError(f"observe_dataset was given areas of {given} channels, the target has {channels}")
        skewness, kurtosis, branch = self._dataset = (
            self._dataset[0].to(y.device),
            self._dataset[1].to(y.device),
            self._dataset[2].to(y.device),
        )
        return skewness.expand(channels), kurtosis.expand(channels), branch.expand(channels)


class RegionCALFLoss(ConditionallyAdaptiveLoss):
    """CALF in each cell of a grid, the cells weighted by their errors: ``sum(w_r L_r) / sum(w_r)``, ``w_r = 1 + FP_r + FN_r``.

    Alam et al. 2025, https://arxiv.org/abs/2504.04458. ``L_r`` is :class:`CALFLoss` of that part of the image with its own areas
    and branch; FP and FN are counts of the thresholded prediction (logit > 0) over the batch's cell, without gradient. The
    authors drop lines that the grid leaves over, which their 256 x 256 images do not have; here such images are refused. Mean
    over channels; everything else as in CALFLoss with scope ``batch``. The value is no measure of progress: a cell that improves
    loses weight to others, whose formulas may have quite other values, so that a step down the gradient can raise it.

    Args:
        grid: cells along each spatial axis: ``grid ** 2`` cells in 2-D, ``grid ** 3`` in 3-D.
        area: ``pixels`` or ``contour``, as in CALFLoss.
        ddp: ``global`` or ``local``, as in CALFLoss. Weights are local.
        clamp: as in CALFLoss.

    ``last_branch``, ``last_skewness`` and ``last_kurtosis`` have one entry for each cell of each channel, channel by channel,
    row by row.

    Raises:
        ValueError: an unknown option; an image that the grid does not divide; contours in 3-D.
    """

    def __init__(self, grid: int, area: str, ddp: str, clamp: float | None) -> None:
        super().__init__(area, ddp, clamp)
        if grid < 1:
            raise ValueError(f"expected at least one cell along each axis, got grid={grid}")
        self.grid = grid

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        z, y = one_versus_rest(logits, target)
        z, y = into_cells(z, self.grid), into_cells(y, self.grid)
        losses = self.cell_losses(z, y).view(z.shape[1], -1)
        # straight into floating point: booleans are slower to make and to sum
        predicted = torch.gt(z.detach(), 0, out=torch.empty_like(y))
        weights = 1 + cell_sums(predicted.ne_(y)).sum(0).view_as(losses)
        return ((weights * losses).sum(1) / weights.sum(1)).mean()
