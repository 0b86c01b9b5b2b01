"""Errors of foreground and of background, as if both were of the same size."""

from __future__ import annotations

from torch import Tensor

from calf.losses.contract import EMPTY, SegmentationLoss, check_option, counted, mean_over_classes
from calf.losses.counts import soft_counts


class SensitivitySpecificityLoss(SegmentationLoss):
    """``r sum_i (y - p)^2 y / sum_i y + (1 - r) sum_i (y - p)^2 (1 - y) / sum_i (1 - y)``, each class against the rest.

    Mean squared errors of foreground and background, as if both were of the same size. Brosch et al. 2015,
    https://doi.org/10.1007/978-3-319-24574-4_1. Mean over classes without background. Where a class is absent from the truth, or
    fills it, the term that has no voxels is 0 and the other one still teaches.

    Args:
        r: weight of the foreground's term, the sensitivity; the background's, the specificity, has ``1 - r``.
        empty: ``skip``, ``smooth`` or ``batch``, see :mod:`calf.losses.contract`.

    Raises:
        ValueError: an unknown option, or ``r`` outside 0 to 1.

    >>> import torch
    >>> loss = SensitivitySpecificityLoss(r=0.05, empty="smooth")
    >>> loss(torch.zeros(1, 1, 1, 4), torch.tensor([[[[1, 0, 0, 0]]]]))
    tensor(0.2500)
    """

    def __init__(self, r: float, empty: str) -> None:
        super().__init__()
        check_option("empty", empty, EMPTY)
        if not 0 <= r <= 1:
            raise ValueError(f"expected r between 0 and 1, got {r}")
        self.r, self.empty = r, empty

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        _, fp, fn, positives = soft_counts(logits, target, self.empty, squared=True)
        negatives = logits[:, 0].numel() // len(positives) - positives
        losses = self.r * fn / positives.clamp(min=1) + (1 - self.r) * fp / negatives.clamp(min=1)
        channels = counted(logits, target)
        return mean_over_classes(losses[:, channels], positives[:, channels], self.empty)
