"""Generalized Dice: overlap of all classes in one ratio, each weighted by its volume."""

from __future__ import annotations

import torch
from torch import Tensor

from calf.losses.contract import EMPTY, SegmentationLoss, check_option
from calf.losses.counts import errors_of_classes

#: Powers of a class's volume that its weight is divided by.
WEIGHTING = {"square": 2, "simple": 1, "uniform": 0}


class GeneralizedDiceLoss(SegmentationLoss):
    """``1 - 2 sum_c w_c TP_c / sum_c w_c (P_c + G_c)``, ``w_c = 1 / G_c^2``, over all classes, background among them.

    ``P_c`` and ``G_c`` are the predicted and the true volume. Sudre et al. 2017, https://arxiv.org/abs/1707.03237, section 2.1,
    without smoothing in either sum: added to terms of the size of ``1 / G``, 1e-5 would be a tenth of them and more. Exclusive
    classes share one ratio; each sigmoid channel has one of its own, of background and foreground, and the mean over channels
    counts. A class of a few voxels outweighs all others: with classes of very different sizes in each image the loss is known
    to lose the large ones.

    A class absent from the truth would weigh infinitely much. With ``smooth`` and ``batch`` it has the largest weight of the
    other classes of its ratio, as in NiftyNet; an empty sigmoid channel then costs the mean probability, and teaches. With
    ``skip`` it weighs nothing; the background of an empty sigmoid channel remains, so that none counts 0.

    Args:
        weighting: ``square``; ``simple``, ``w_c = 1 / G_c``; ``uniform``, ``w_c = 1``.
        empty: ``skip``, ``smooth`` or ``batch``, see :mod:`calf.losses.contract`.

    Raises:
        ValueError: an unknown option.

    >>> loss = GeneralizedDiceLoss(weighting="square", empty="smooth")
    >>> loss(torch.tensor([[[[20.0, -20.0, -20.0, -20.0]]]]), torch.tensor([[[[1, 1, 0, 0]]]]))
    tensor(0.2500)
    """

    #: What an error costs, in parts of what a right voxel earns.
    cost = 1.0

    def __init__(self, weighting: str, empty: str) -> None:
        super().__init__()
        check_option("weighting", weighting, tuple(WEIGHTING))
        check_option("empty", empty, EMPTY)
        self.weighting, self.empty = weighting, empty

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        fp, missed, volumes = errors_of_classes(logits, target, self.empty)
        weights = self._weights(volumes)
        wrong = (self.cost * weights * (fp + missed)).sum(-1)
        return (wrong / (wrong + (2 * weights * (volumes - missed)).sum(-1))).mean()

    def _weights(self, volumes: Tensor) -> Tensor:
        absent = volumes == 0
        weights = (volumes.clamp(min=1) ** -WEIGHTING[self.weighting]).masked_fill(absent, 0)
        return weights if self.empty == "skip" else torch.where(absent, weights.amax(-1, keepdim=True), weights)


class PenalizedGeneralizedDiceLoss(GeneralizedDiceLoss):
    """``1 - D / (1 + k (1 - D))``, ``D`` the generalized Dice score: every error costs ``1 + k`` times as much.

    Yang et al. 2019, https://openreview.net/forum?id=H1lTh8unKN: ``k sum_c w_c (FP_c + FN_c)`` is added to the denominator of
    ``D``. ``variant=survey`` is ``L / (1 + k (1 - L))`` with ``L = 1 - D``, the form of the survey of Ma et al. 2021,
    https://doi.org/10.1016/j.media.2021.102035: the same with ``1 / (1 + k)`` for ``1 + k``, so that errors cost less, not more.
    ``k = 0`` is :class:`GeneralizedDiceLoss`, which says the rest.

    Args:
        k: strength of the penalty, at least 0.
        variant: ``paper`` or ``survey``.
        weighting: as in GeneralizedDiceLoss.
        empty: as in GeneralizedDiceLoss.

    Raises:
        ValueError: an unknown option, or ``k`` below 0.

    >>> loss = PenalizedGeneralizedDiceLoss(k=2.5, variant="paper", weighting="square", empty="smooth")
    >>> loss(torch.tensor([[[[20.0, -20.0, -20.0, -20.0]]]]), torch.tensor([[[[1, 1, 0, 0]]]]))
    tensor(0.5385)
    """

    def __init__(self, k: float, variant: str, weighting: str, empty: str) -> None:
        super().__init__(weighting, empty)
        check_option("variant", variant, ("paper", "survey"))
        if k < 0:
            raise ValueError(f"expected k to be at least 0, got {k}; 0 is the generalized Dice loss")
        self.cost = 1 + k if variant == "paper" else 1 / (1 + k)
