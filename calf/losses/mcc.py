"""Matthews' correlation coefficient: what is rightly left alone counts as well."""

from __future__ import annotations

import torch
from torch import Tensor

from calf.losses.contract import EMPTY, SegmentationLoss, check_option, counted, mean_over_classes
from calf.losses.counts import right_sums, soft_counts


class MCCLoss(SegmentationLoss):
    """``1 - (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))``, each class against the rest.

    One minus Matthews' correlation coefficient of soft counts, to each of which ``eps`` is added. Abhishek and Hamarneh 2021,
    https://arxiv.org/abs/2010.13454. 0 is perfect, 1 no better than chance, 2 inverted. Mean over classes without background,
    whose coefficient in the binary case is the foreground's.

    A class absent from the truth, whose coefficient would be 0 / 0 without ``eps``, costs 0.5 where nothing of it is predicted,
    1.5 where all is, and nearly 1 between: with a small ``eps`` it teaches next to nothing there. So does one that fills it.

    Args:
        eps: added to each of the four counts, in voxels; positive.
        empty: ``skip``, ``smooth`` or ``batch``, see :mod:`calf.losses.contract`.

    Raises:
        ValueError: an unknown option, or ``eps`` not positive.

    >>> loss = MCCLoss(eps=1e-5, empty="batch")
    >>> loss(torch.tensor([[[[20.0, -20.0, -20.0, -20.0]]]]), torch.tensor([[[[1, 1, 0, 0]]]]))
    tensor(0.4227)
    """

    def __init__(self, eps: float, empty: str) -> None:
        super().__init__()
        check_option("empty", empty, EMPTY)
        if not eps > 0:
            raise ValueError(f"expected eps to be positive, got {eps}: an absent class would be 0 / 0; for next to none use 1e-7")
        self.eps, self.empty = eps, empty

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        tp, tn = right_sums(logits, target, self.empty)
        _, fp, fn, truth = soft_counts(logits, target, self.empty)
        # a voxel's share of what is right shrinks as that of what is wrong grows
        tp, tn = tp + (fn.detach() - fn), tn + (fp.detach() - fp)
        channels = counted(logits, target)
        tp, fp, fn, tn = (count[:, channels] + self.eps for count in (tp, fp, fn, tn))
        return mean_over_classes(one_minus_mcc(tp, fp, fn, tn), truth[:, channels], self.empty)


def one_minus_mcc(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    """From positive counts, without their products of four, which overflow, and without a difference of nearly equal numbers.

    With ``g = TP + FN`` and ``m = TN + FP``, MCC is ``x / sqrt(s)`` of ``x = TP / g - FP / m`` and
    ``s = (TP + FP) (TN + FN) / (g m)``. Then ``s - x^2 = (g + m) / (g m) (TP FN / g + TN FP / m)``, and
    ``1 - x / sqrt(s) = (s - x^2) / (sqrt(s) (sqrt(s) + x))``.
    """
    g, m = tp + fn, tn + fp
    x, root = tp / g - fp / m, (((tp + fp) / g) * ((tn + fn) / m)).sqrt()
    rest = (tp / g * (fn / g) + tn / m * (fp / g)) * (1 + g / m)
    better = x >= 0  # than chance; the inner choice only keeps the branch that is not taken finite
    return torch.where(better, rest / (root * (root + torch.where(better, x, 0))), 1 - x / root)
