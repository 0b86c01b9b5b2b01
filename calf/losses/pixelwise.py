"""Losses that are a mean over voxels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from calf.losses.contract import SegmentationLoss, is_exclusive, margins


class BCELoss(SegmentationLoss):
    """Cross-entropy: ``-ln`` of the true class's probability, mean over samples, voxels and sigmoid channels.

    Sigmoid channels: binary cross-entropy with logits. Exclusive classes: softmax cross-entropy, background included.

    >>> BCELoss()(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.int64))
    tensor(0.6931)
    """

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        if is_exclusive(logits, target):
            return F.cross_entropy(logits, target.long())
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


class FocalLoss(SegmentationLoss):
    """``-alpha_t (1 - p_t)^gamma ln(p_t)`` with ``p_t`` the true class's probability.

    Mean over samples, voxels and sigmoid channels. Lin et al. 2017, https://arxiv.org/abs/1708.02002, eq. 5; there the sum is
    divided by the number of positive anchors, which a mask has not. ``gamma = 0``, ``alpha = None`` is :class:`BCELoss`.

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
        if gamma < 0:
            raise ValueError(f"expected gamma to be at least 0, got {gamma}")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"expected alpha between 0 and 1, or null for no weights, got {alpha}")
        self.gamma, self.alpha = gamma, alpha

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        margin = margins(logits, target)
        cross_entropy = F.softplus(margin)
        # ln(1 - p_t) = margin - cross_entropy: no power of a number that rounds to 0
        loss = torch.exp(self.gamma * (margin - cross_entropy)) * cross_entropy
        if self.alpha is not None:
            loss = loss * torch.where(target > 0, self.alpha, 1 - self.alpha).to(loss.dtype)
        return loss.mean()
