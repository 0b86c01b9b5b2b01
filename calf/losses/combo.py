"""Combo loss: cross-entropy that weighs false negatives against false positives, and Dice."""

from __future__ import annotations

from torch import Tensor

from calf.losses.contract import SegmentationLoss, one_versus_rest
from calf.losses.cross_entropy import Side, mean_cross_entropy
from calf.losses.overlap import TverskyLoss


class ComboLoss(SegmentationLoss):
    r"""``alpha mean(-beta y ln p - (1 - beta)(1 - y) ln(1 - p)) + (1 - alpha)(1 - Dice)``.

    Taghanaki et al. 2019, https://arxiv.org/abs/1805.02798, who subtract ``(1 - alpha) Dice``: their value is ours minus
    ``1 - alpha``, at the same gradient. Ours is not negative, which sums and schedules that divide by losses need. The authors'
    code has a misplaced bracket, by which background voxels are rewarded for being wrong; there is no variant of it here.
    ``Dice = (2 TP + S) / (2 TP + FP + FN + S)``; mean over classes, each foreground class against the rest, as is the
    cross-entropy. ``alpha = 1``, ``beta = 0.5`` is half of the binary cross-entropy, ``alpha = 0`` soft Dice.
    A class absent from the truth: Dice is ``S / (FP + S)``; ``empty`` says what to do about it.

    A class of its own, not a YAML over ``weighted_bce`` and ``dice``: there ``beta`` would have to be set in two places, as the
    weight ``beta / (1 - beta)`` of foreground and in the share ``alpha (1 - beta)`` of the sum, and ``beta = 1`` in none.

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
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not 0 <= value <= 1:
                raise ValueError(f"expected {name} between 0 and 1, got {value}")
        if not smooth > 0:
            raise ValueError(f"expected smooth to be positive, got {smooth}; for next to no smoothing use 1e-7")
        self.alpha, self.beta = alpha, beta
        self.dice = TverskyLoss(0.5, 0.5, smooth / 2, empty, background=False)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        cross_entropy = mean_cross_entropy(*one_versus_rest(logits, target), Side(1 - self.beta), Side(self.beta))
        return self.alpha * cross_entropy + (1 - self.alpha) * self.dice.compute(logits, target)
