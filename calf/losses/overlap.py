"""Losses that compare regions: true positives against false ones."""

from __future__ import annotations

from torch import Tensor

from calf.losses.contract import SegmentationLoss, is_exclusive, probs_and_onehot


class TverskyLoss(SegmentationLoss):
    r"""Mean over classes of ``1 - (TP + s) / (TP + alpha FP + beta FN + s)``, with soft counts.

    Salehi et al. 2017, https://arxiv.org/abs/1706.05721, eq. 3, which has no ``s``.
    ``alpha = beta = 0.5`` is soft Dice; ``alpha = beta = 1`` is soft Jaccard. A class that is absent from the truth scores
    ``s / (alpha FP + s)``: with a small ``s`` it costs 1 and teaches next to nothing until the network has all but removed it.

    Args:
        alpha: cost of a false positive.
        beta: cost of a false negative.
        smooth: ``s`` above.
        batch: pool the samples of the batch into one before dividing; else the mean over samples.
        background: with exclusive classes, count class 0 in the mean. Sigmoid channels have no background.

    Raises:
        ValueError: a negative cost, or ``smooth`` not positive: an absent class that is not predicted would be 0 / 0.

    >>> import torch
    >>> dice = TverskyLoss(alpha=0.5, beta=0.5, smooth=1e-5, batch=True, background=False)
    >>> dice(torch.tensor([[[[20.0, 20.0, -20.0]]]]), torch.tensor([[[[0, 1, 1]]]]))
    tensor(0.5000)
    """

    def __init__(self, alpha: float, beta: float, smooth: float, batch: bool, background: bool) -> None:
        super().__init__()
        if alpha < 0 or beta < 0:
            raise ValueError(f"expected costs of at least 0, got alpha={alpha} and beta={beta}")
        if not smooth > 0:
            raise ValueError(f"expected smooth to be positive, got {smooth}; for next to no smoothing use 1e-7")
        self.alpha, self.beta, self.smooth, self.batch, self.background = alpha, beta, smooth, batch, background

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        tp, fp, fn = soft_counts(*probs_and_onehot(logits, target), self.batch)
        score = (tp + self.smooth) / (tp + self.alpha * fp + self.beta * fn + self.smooth)
        first = 1 if is_exclusive(logits, target) and not self.background else 0
        return 1 - score[..., first:].mean()


def soft_counts(probs: Tensor, onehot: Tensor, batch: bool) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, false positives and false negatives, ``(B, C)``, or ``(C,)`` over the whole batch, of ``(B, C, *S)``."""
    axes = tuple(range(2, probs.ndim)) + ((0,) if batch else ())
    tp = (probs * onehot).sum(axes)
    return tp, probs.sum(axes) - tp, onehot.sum(axes) - tp
