"""CALF as the paper words it, on probabilities and with scipy: what ours is tested against."""

from __future__ import annotations

import scipy.stats
import torch
from torch import Tensor

CLAMP = 16.118

#: Areas of four samples for which each branch is chosen.
AREAS = {
    "fisher": (1, 50, 52, 51),
    "logit": (10, 28, 40, 45),
    "arcsine": (10, 22, 31, 40),
    "log10": (5, 6, 7, 60),
    "ln": (5, 12, 20, 40),
    "bce_dice": (20, 20, 20, 20),
}

FUNCTIONS = {
    "fisher": torch.atanh,
    "logit": torch.logit,
    "arcsine": lambda p: p.sqrt().asin(),
    "log10": torch.log10,
    "ln": torch.log,
    "bce_dice": torch.log,
}


def squares(areas: tuple[int, ...]) -> Tensor:
    """``(B, 1, 8, 8)``, the first pixels of each sample set."""
    return (torch.arange(64) < torch.tensor(areas)[:, None]).float().view(-1, 1, 8, 8)


def published_loss(p: Tensor, y: Tensor, branch: str) -> Tensor:
    f = FUNCTIONS[branch]
    loss = -(y * f(p) + (1 - y) * f(1 - p)).mean()
    if branch == "bce_dice":
        loss = loss + 1 - (2 * (p * y).sum() + 1e-7) / (p.sum() + y.sum() + 1e-7)
    return loss


def published_branch(areas: list[float]) -> str:
    if len(set(areas)) == 1:
        return "bce_dice"  # scipy gives NaN, with a warning
    skewness, kurtosis = scipy.stats.skew(areas), scipy.stats.kurtosis(areas)
    if skewness <= -1:
        return "fisher"
    if skewness <= -0.5:
        return "logit"
    if skewness < 0:
        return "arcsine"
    if skewness >= 1 or (0 < skewness < 0.5 and kurtosis < 0):
        return "log10"
    return "ln" if 0.5 <= skewness < 1 else "bce_dice"


def published_region_loss(logits: Tensor, y: Tensor, grid: int) -> Tensor:
    """Cell by cell, for one channel in 2-D."""
    height, width = (length // grid for length in y.shape[-2:])
    total, weights = torch.zeros((), dtype=logits.dtype), 0.0
    for row in range(grid):
        for column in range(grid):
            cell = (..., slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
            p, truth = logits[cell].sigmoid(), y[cell]
            weight = 1 + (p.round() != truth).sum().item()
            branch = published_branch(truth.flatten(1).sum(1).tolist())
            total, weights = total + weight * published_loss(p, truth, branch), weights + weight
    return total / weights
