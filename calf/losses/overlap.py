"""Losses that compare regions: the overlap of prediction and truth against what only one of them has.

The smoothing ``s`` of every loss here is added to TP, above and below: ``(TP + s) / (TP + alpha FP + beta FN + s)``. Added to
``2 TP``, as many write Dice, the same number does half as much: ``(2 TP + s) / (2 TP + FP + FN + s)`` is ours with ``s / 2``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calf.losses.contract import EMPTY, SegmentationLoss, check_option, counted, mean_over_classes
from calf.losses.counts import soft_counts


class OverlapLoss(SegmentationLoss):
    """Mean over classes, and over samples, of a loss of the soft counts; subclasses write ``of_classes``.

    Args:
        smooth: ``s``, added to TP above and below.
        empty: what a class costs that is absent from the truth. ``skip``: nothing. ``smooth``: what ``s`` makes of it, sample by
            sample. ``batch``: the samples of the batch are pooled into one before dividing, then as ``smooth``.
        background: with exclusive classes, count class 0 in the mean. Sigmoid channels have no background.

    Raises:
        ValueError: ``smooth`` is not positive: an absent class that is not predicted would be 0 / 0; or an unknown ``empty``.
    """

    squared = False  #: whether ``fp`` and ``fn`` of ``of_classes`` are sums of squares

    def __init__(self, smooth: float, empty: str, background: bool) -> None:
        super().__init__()
        if not smooth > 0:
            raise ValueError(f"expected smooth to be positive, got {smooth}; for next to no smoothing use 1e-7")
        check_option("empty", empty, EMPTY)
        self.smooth, self.empty, self.background = smooth, empty, background

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        tp, fp, fn, truth = soft_counts(logits, target, self.empty, self.squared)
        channels = counted(logits, target, self.background)
        return mean_over_classes(self.of_classes(tp, fp, fn)[:, channels], truth[:, channels], self.empty)

    def of_classes(self, tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
        """The loss of each class, ``(B, C)``, of what :func:`soft_counts` gives."""
        raise NotImplementedError


class TverskyLoss(OverlapLoss):
    r"""Mean over classes of ``1 - (TP + s) / (TP + alpha FP + beta FN + s)``, with soft counts.

    Salehi et al. 2017, https://arxiv.org/abs/1706.05721, eq. 3, which has no ``s``.
    ``alpha = beta = 0.5`` is soft Dice; ``alpha = beta = 1`` is soft Jaccard; ``alpha + beta = 1`` is an F-beta score.
    A class that is absent from the truth costs ``alpha FP / (alpha FP + s)``: with a small ``s`` that is 1, and teaches next to
    nothing until the network has all but removed the class. ``empty`` says what to do about it.

    Args:
        alpha: cost of a false positive.
        beta: cost of a false negative.
        smooth: ``s`` above.
        empty: ``skip`` | ``smooth`` | ``batch``, see :class:`OverlapLoss`.
        background: with exclusive classes, count class 0 in the mean.

    Raises:
        ValueError: a negative cost, or none at all; or as :class:`OverlapLoss`.

    >>> dice = TverskyLoss(alpha=0.5, beta=0.5, smooth=1e-5, empty="batch", background=False)
    >>> dice(torch.tensor([[[[20.0, 20.0, -20.0]]]]), torch.tensor([[[[0, 1, 1]]]]))
    tensor(0.5000)
    """

    def __init__(self, alpha: float, beta: float, smooth: float, empty: str, background: bool) -> None:
        super().__init__(smooth, empty, background)
        if alpha < 0 or beta < 0 or alpha + beta == 0:
            raise ValueError(f"expected costs of at least 0, and one above, got alpha={alpha} and beta={beta}")
        self.alpha, self.beta = alpha, beta

    def of_classes(self, tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
        # 1 - index in one fraction: near a perfect prediction the difference would be rounding
        wrong = self.alpha * fp + self.beta * fn
        return wrong / (tp + wrong + self.smooth)


class FBetaLoss(TverskyLoss):
    """``1 - F_beta``, with soft counts: the Tversky loss with costs ``1 / (1 + beta^2)`` and ``beta^2 / (1 + beta^2)``.

    Asymmetric similarity loss. Hashemi et al. 2019, https://doi.org/10.1109/ACCESS.2018.2886371. ``beta = 1`` is soft Dice.
    The paper writes ``((1 + beta^2) TP) / ((1 + beta^2) TP + beta^2 FN + FP)``; an ``s`` added there would be ours times
    ``1 + beta^2``. A class absent from the truth: as :class:`TverskyLoss`.

    Args:
        beta: how many times as important recall is as precision.
        smooth: ``s`` of :class:`TverskyLoss`.
        empty: ``skip`` | ``smooth`` | ``batch``, see :class:`OverlapLoss`.
        background: with exclusive classes, count class 0 in the mean.

    Raises:
        ValueError: a negative beta; or as :class:`OverlapLoss`.

    >>> loss = FBetaLoss(beta=2.0, smooth=1e-7, empty="batch", background=False)
    >>> loss(torch.tensor([[[[20.0, 20.0, 20.0]]]]), torch.tensor([[[[0, 1, 1]]]]))  # 1 - 10 / 11
    tensor(0.0909)
    """

    def __init__(self, beta: float, smooth: float, empty: str, background: bool) -> None:
        if beta < 0:
            raise ValueError(f"expected beta to be at least 0, got {beta}")
        alpha = 1 / (1 + beta**2)
        super().__init__(alpha, 1 - alpha, smooth, empty, background)


class FocalTverskyLoss(TverskyLoss):
    """Mean over classes of ``(1 - TI) ^ (1 / gamma)``, ``TI`` the Tversky index.

    Abraham and Khan 2019, https://arxiv.org/abs/1810.07842, eq. 4, which sums over classes. ``gamma = 1`` is
    :class:`TverskyLoss`. With gamma above 1 a class that is nearly right keeps a large gradient, without bound as the index
    nears 1; where ``1 - TI`` is less than rounding it is held there, and the gradient is 0. A class absent from the truth: as
    :class:`TverskyLoss`, to the same power.

    Args:
        alpha: cost of a false positive; the paper calls this one beta.
        beta: cost of a false negative; the paper calls this one alpha.
        gamma: above 1 the focus is on classes that are nearly right, below 1 on those that are far off.
        smooth: ``s`` of :class:`TverskyLoss`.
        empty: ``skip`` | ``smooth`` | ``batch``, see :class:`OverlapLoss`.
        background: with exclusive classes, count class 0 in the mean.

    Raises:
        ValueError: gamma is not positive; or as :class:`TverskyLoss`.

    >>> loss = FocalTverskyLoss(alpha=0.5, beta=0.5, gamma=0.5, smooth=1e-7, empty="batch", background=False)
    >>> loss(torch.tensor([[[[20.0, 20.0, -20.0]]]]), torch.tensor([[[[0, 1, 1]]]]))
    tensor(0.2500)
    """

    def __init__(self, alpha: float, beta: float, gamma: float, smooth: float, empty: str, background: bool) -> None:
        super().__init__(alpha, beta, smooth, empty, background)
        if not gamma > 0:
            raise ValueError(f"expected gamma to be positive, got {gamma}")
        self.gamma = gamma

    def of_classes(self, tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
        losses = super().of_classes(tp, fp, fn)
        # the slope of a root is infinite at 0, and times a slope of 0 that is NaN
        return losses.clamp_min(torch.finfo(losses.dtype).eps) ** (1 / self.gamma)


class LogCoshTverskyLoss(TverskyLoss):
    """Mean over classes of ``ln cosh(1 - TI)``, ``TI`` the Tversky index; with ``alpha = beta = 0.5`` log-cosh Dice.

    Jadon 2020, https://arxiv.org/abs/2006.14822. There all voxels are one sum, which is ``empty=batch`` on one sigmoid channel;
    with more channels the function is applied to each class (and sample), so that classes stay apart as in the other losses.
    At most ``ln cosh 1 = 0.434``. Near a perfect prediction it is half the square of the Tversky loss, and so is slow there.
    A class absent from the truth: ``ln cosh`` of what :class:`TverskyLoss` makes of it.

    Args:
        alpha: cost of a false positive.
        beta: cost of a false negative.
        smooth: ``s`` of :class:`TverskyLoss`.
        empty: ``skip`` | ``smooth`` | ``batch``, see :class:`OverlapLoss`.
        background: with exclusive classes, count class 0 in the mean.

    Raises:
        ValueError: as :class:`TverskyLoss`.

    >>> loss = LogCoshTverskyLoss(alpha=0.5, beta=0.5, smooth=1e-7, empty="batch", background=False)
    >>> loss(torch.tensor([[[[20.0, 20.0, -20.0]]]]), torch.tensor([[[[0, 1, 1]]]]))
    tensor(0.1201)
    """

    def of_classes(self, tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
        # cosh x - 1 = 2 sinh^2(x / 2): exact where x is small, and x is at most 1
        return torch.log1p(2 * torch.sinh(super().of_classes(tp, fp, fn) / 2) ** 2)


class SquaredDiceLoss(OverlapLoss):
    """Mean over classes of ``1 - (2 TP + 2 s) / (sum p^2 + sum y^2 + 2 s)``: Dice with squares below.

    Milletari et al. 2016, https://arxiv.org/abs/1606.04797, section 3, which has no ``s``. In one fraction it is
    ``sum (p - y)^2 / (sum p^2 + sum y^2 + 2 s)``. Where every ``p`` is 0 or 1 it equals :class:`TverskyLoss` with
    ``alpha = beta = 0.5``, else it is lower. A class absent from the truth costs ``sum p^2 / (sum p^2 + 2 s)``.

    Args:
        smooth: ``s`` above.
        empty: ``skip`` | ``smooth`` | ``batch``, see :class:`OverlapLoss`.
        background: with exclusive classes, count class 0 in the mean.

    Raises:
        ValueError: as :class:`OverlapLoss`.

    >>> loss = SquaredDiceLoss(smooth=1e-7, empty="batch", background=False)
    >>> loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[[0, 1]]]]))  # 1 - 2 * 0.5 / (0.25 + 0.25 + 1)
    tensor(0.3333)
    """

    squared = True

    def of_classes(self, tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
        wrong = fp + fn  # sum (p - y)^2, which is sum p^2 + sum y^2 - 2 TP
        return wrong / (wrong + 2 * (tp + self.smooth))
