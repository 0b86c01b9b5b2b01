"""The Unified Focal loss: a focal cross-entropy and a focal Tversky loss that share their parameters.

Yeung et al. 2022, https://arxiv.org/abs/2102.04525. The paper's equations and the authors' code differ; ``variant`` chooses:

=============================  ============================================  ============================================
point                          ``paper``                                     ``code``
=============================  ============================================  ============================================
``weight`` is the share of     the focal part (eq. 19)                       the Tversky part
Tversky part, over classes     sum (eq. 21)                                  mean
symmetric: exponents           ``1 - gamma`` focal, ``gamma`` Tversky part   ``gamma`` focal, ``1 - gamma`` Tversky part
symmetric: in the focal part   every class counts ``delta``                  background ``1 - delta``, others ``delta``
=============================  ============================================  ============================================

With ``weight = gamma = 0.5`` the first and the third make no difference. Two points of the paper are followed by neither: eq. 20
multiplies the background's modulation with the rare class's logarithm, a misprint according to its author, and Figure 1 has the
ends of ``weight`` the other way round than eq. 19.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calf.losses.contract import EMPTY, SegmentationLoss, check_option, mean_over_classes
from calf.losses.counts import errors_of_classes
from calf.losses.cross_entropy import Side, mean_cross_entropy


class UnifiedFocalLoss(SegmentationLoss):
    """What the symmetric and the asymmetric loss share; they set the sides of the focal part and the powers of the other."""

    background: Side
    rare: Side
    powers: tuple[float, float]  #: of background's ``1 - mTI`` and of the rare classes'

    def __init__(self, weight: float, delta: float, variant: str, smooth: float, empty: str) -> None:
        super().__init__()
        check_option("variant", variant, ("paper", "code"))
        check_option("empty", empty, EMPTY)
        for name, value in (("weight", weight), ("delta", delta)):
            if not 0 <= value <= 1:
                raise ValueError(f"expected {name} between 0 and 1, got {value}")
        if not smooth > 0:
            raise ValueError(f"expected smooth to be positive, got {smooth}; for next to no smoothing use 1e-7")
        self.focal_weight = weight if variant == "paper" else 1 - weight
        self.delta, self.smooth, self.empty, self.sum_classes = delta, smooth, empty, variant == "paper"

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        total = logits.new_zeros(())
        if self.focal_weight > 0:
            total = total + self.focal_weight * mean_cross_entropy(logits, target, self.background, self.rare)
        if self.focal_weight < 1:
            total = total + (1 - self.focal_weight) * self._focal_tversky(logits, target)
        return total

    def _focal_tversky(self, logits: Tensor, target: Tensor) -> Tensor:
        fp, fn, volume = (count.flatten(0, 1) for count in errors_of_classes(logits, target, self.empty))
        wrong = self.delta * fn + (1 - self.delta) * fp
        # 1 - mTI in one fraction: near a perfect prediction the difference would be rounding
        distance = wrong / (volume - fn + wrong + self.smooth)
        losses = torch.cat([_power(distance[:, :1], self.powers[0]), _power(distance[:, 1:], self.powers[1])], 1)
        if not self.sum_classes:
            return mean_over_classes(losses, volume, self.empty)
        return (losses.where(volume > 0, 0) if self.empty == "skip" else losses).sum(1).mean()


def _power(x: Tensor, exponent: float) -> Tensor:
    # the slope of a root is infinite at 0, and times a slope of 0 that is NaN: x is held where it is rounding
    return x if exponent == 1 else x.clamp_min(torch.finfo(x.dtype).eps) ** exponent


class AsymmetricUnifiedFocalLoss(UnifiedFocalLoss):
    r"""``w mean_i(a (1 - p)^g CE) + (1 - w) (1 - mTI_0 + sum_r (1 - mTI_r)^(1 - gamma))``: only the rare classes are enhanced.

    Yeung et al. 2022, https://arxiv.org/abs/2102.04525, eq. 20 and 21; ``variant=code`` differs as the table of this module says.
    ``mTI = (TP + s) / (TP + delta FN + (1 - delta) FP + s)`` of a class; ``CE = -ln p`` with ``p`` the true class's probability.
    Background voxels have ``a = 1 - delta`` and ``g = gamma``; those of rare classes ``a = delta`` and ``g = 0``: no easy voxel
    of theirs is played down. With exclusive classes every class but background is rare, as the author advises. A sigmoid channel
    is a problem of its own, with its complement as background; the loss is the mean over channels.
    ``weight = 1`` is the focal part, ``weight = 0`` the Tversky part (the other way round with ``variant=code``). ``gamma = 0``
    leaves weighted cross-entropy and Tversky losses; with ``delta = 0.5``, ``weight = 0.5`` and ``variant=code`` that is half of
    Dice plus a quarter of cross-entropy.

    A class absent from the truth: with ``smooth`` its index is next to 0 for whatever is predicted, a constant that teaches
    nothing. ``skip`` leaves just that constant out (with ``variant=code`` the mean is then over fewer classes); ``batch`` makes
    it rarer.

    Args:
        weight: share of the focal part, 0 to 1; of the Tversky part with ``variant=code``.
        delta: cost of a false negative, ``1 - delta`` is that of a false positive; share of rare classes in the focal part.
        gamma: how much easy background is played down, and how much the rare classes' Tversky losses are raised; below 1.
        variant: ``paper`` or ``code``.
        smooth: ``s`` above.
        empty: ``skip``, ``smooth`` or ``batch``: an absent class, see :mod:`calf.losses.contract`.

    Raises:
        ValueError: an unknown option, or a number outside its range.

    >>> loss = AsymmetricUnifiedFocalLoss(weight=0.5, delta=0.6, gamma=0.5, variant="paper", smooth=1e-7, empty="skip")
    >>> loss(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    tensor(0.5141)
    """

    def __init__(self, weight: float, delta: float, gamma: float, variant: str, smooth: float, empty: str) -> None:
        if not 0 <= gamma < 1:
            raise ValueError(f"expected gamma at least 0 and below 1, got {gamma}")
        super().__init__(weight, delta, variant, smooth, empty)
        self.background, self.rare, self.powers = Side(1 - delta, gamma), Side(delta), (1, 1 - gamma)


class SymmetricUnifiedFocalLoss(UnifiedFocalLoss):
    r"""``w mean_i(delta (1 - p)^(1 - gamma) CE) + (1 - w) sum_c (1 - mTI_c)^gamma``: the same for all classes.

    Yeung et al. 2022, https://arxiv.org/abs/2102.04525, eq. 19; ``variant=code`` differs as the table of this module says, for
    one in ``gamma``: cross-entropy and Tversky loss are at ``gamma = 1`` with ``paper``, at ``gamma = 0`` with ``code``.
    Everything else as in :class:`AsymmetricUnifiedFocalLoss`.

    Args:
        weight: share of the focal part, 0 to 1; of the Tversky part with ``variant=code``.
        delta: cost of a false negative, ``1 - delta`` is that of a false positive; factor of the focal part.
        gamma: exponent of ``1 - mTI``; ``1 - gamma`` is that of ``1 - p``. With ``variant=code`` the other way round.
        variant: ``paper`` or ``code``.
        smooth: added to TP above and below.
        empty: ``skip``, ``smooth`` or ``batch``: an absent class, see :mod:`calf.losses.contract`.

    Raises:
        ValueError: an unknown option, or a number outside its range.

    >>> loss = SymmetricUnifiedFocalLoss(weight=0.5, delta=0.6, gamma=0.5, variant="code", smooth=1e-7, empty="skip")
    >>> loss(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    tensor(0.4532)
    """

    def __init__(self, weight: float, delta: float, gamma: float, variant: str, smooth: float, empty: str) -> None:
        if not 0 <= gamma <= 1 or gamma == (0 if variant == "paper" else 1):
            allowed = "at least 0 and below 1" if variant == "code" else "above 0 and at most 1"
            raise ValueError(f"expected gamma {allowed} with variant={variant}, got {gamma}")
        super().__init__(weight, delta, variant, smooth, empty)
        if variant == "paper":
            self.background, self.rare, self.powers = Side(delta, 1 - gamma), Side(delta, 1 - gamma), (gamma, gamma)
        else:
            self.background, self.rare, self.powers = Side(1 - delta, gamma), Side(delta, gamma), (1 - gamma, 1 - gamma)
