"""Combo loss: cross-entropy that weighs false negatives against false positives, and Dice."""

from __future__ import annotations

from torch import Tensor

from calf.losses.contract import EMPTY, SegmentationLoss, check_option, mean_over_classes, one_versus_rest
from calf.losses.counts import soft_counts
from calf.losses.cross_entropy import Side, mean_cross_entropy


class ComboLoss(SegmentationLoss):
    r"""``alpha mean(-beta y ln p - (1 - beta)(1 - y) ln(1 - p)) + (1 - alpha)(1 - Dice)``.

    Taghanaki et al. 2019, https://arxiv.org/abs/1805.02798, who subtract ``(1 - alpha) Dice``: their value is ours minus
    ``1 - alpha``, at the same gradient. Ours is not negative, which sums and schedules that divide by losses need. The authors'
    code has a misplaced bracket, by which background voxels are rewarded for being wrong; there is no variant of it here.
    ``Dice = (2 TP + S) / (2 TP + FP + FN + S)``; mean over classes, each foreground class against the rest, as is the
    cross-entropy. ``alpha = 1``, ``beta = 0.5`` is half of the binary cross-entropy, ``alpha = 0`` soft Dice.
    A class absent from the truth: Dice is ``S / (FP + S)``; ``empty`` says what to do about it.

    Args:
        alpha: share of cross-entropy, 0 to 1.
        beta: above 0.5 false negatives cost more than false positives, below less; 0 to 1.
        smooth: ``S`` above, which is added to 2 TP.
        empty: ``skip``, ``smooth`` or ``batch``, see :mod:`calf.losses.contract`.

    Raises:
        ValueError: a share outside 0 to 1, ``smooth`` not positive, or an unknown option.

    >>> import torch
    >>> loss = ComboLoss(alpha=0.5, beta=0.5, smooth=1.0, empty="batch")
    >>> loss(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))  # 0.25 ln 2 + 0.5 (1 - 17 / 25)
    tensor(0.3333)
    """

    def __init__(self, alpha: float, beta: float, smooth: float, empty: str) -> None:
        super().__init__()
        check_option("empty", empty, EMPTY)
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not 0 <= value <= 1:
                raise ValueError(f"expected {name} between 0 and 1, got {value}")
        if not smooth > 0:
            raise ValueError(f"expected smooth to be positive, got {smooth}; for next to no smoothing use 1e-7")
        self.alpha, self.beta, self.smooth, self.empty = alpha, beta, smooth, empty

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        z, y = one_versus_rest(logits, target)
        # not torch's own, which on background takes the difference of z and nearly z
        cross_entropy = mean_cross_entropy(z, y, Side(1 - self.beta), Side(self.beta))
        tp, fp, fn, truth = soft_counts(z, y, self.empty)
        wrong = fp + fn
        dice_loss = mean_over_classes(wrong / (wrong + 2 * tp + self.smooth), truth, self.empty)
        return self.alpha * cross_entropy + (1 - self.alpha) * dice_loss
