"""Slice areas, alone and in batches as training would draw them, and the branch of CALF that follows from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calf.data.sampling import Sampling
from calf.imbalance import skewness_and_kurtosis
from calf.losses.calf import BRANCHES, choose_branch

BATCH_SIZES = (8, 16, 32, 64)
NUM_BATCHES = 4000
NUM_BINS = 30
QUANTILES = (5, 50, 95)


def moments(areas: NDArray[Any]) -> dict[str, Any]:
    """Skewness and excess kurtosis of the areas (N,) of all slices, empty ones too, and CALF's branch at ``scope=dataset``."""
    skewness, kurtosis = skewness_and_kurtosis(np.asarray(areas)[:, None])
    branch = choose_branch(skewness, kurtosis)
    return {"skewness": float(skewness[0]), "kurtosis": float(kurtosis[0]), "branch": BRANCHES[int(branch[0])]}


def histogram(areas: NDArray[Any]) -> dict[str, Any]:
    """How many slices are empty, and the areas (N,) of the others in at most ``NUM_BINS`` equal bins."""
    shown = areas[areas > 0]
    bins = np.linspace(0, shown.max(), min(NUM_BINS, int(shown.max())) + 1) if shown.size else np.zeros(1)
    counts = np.histogram(shown, bins)[0] if shown.size else np.zeros(0, int)
    return {"empty": int(areas.size - shown.size), "edges_px": bins.tolist(), "counts": counts.tolist()}


def draw_batches(areas: NDArray[Any], size: int, sampling: Sampling, seed: int = 0) -> NDArray[np.int64]:
    """Places in ``areas`` (N, names) of simulated batches, (size, batches), drawn as training on one device draws them.

    Whole epochs of ``sampling`` until there are ``NUM_BATCHES``. Fewer slices than ``size`` are one batch.
    """
    if len(areas) <= size:
        return np.arange(len(areas))[:, None]
    rng, drawn = np.random.default_rng(seed), list[NDArray[np.int64]]()
    while len(drawn) < NUM_BATCHES:
        drawn += sampling.epoch(areas, size, 1, rng)
    return np.stack(drawn[:NUM_BATCHES], axis=1)


def simulate(areas: NDArray[Any], names: tuple[str, ...], size: int, sampling: Sampling, seed: int = 0) -> dict[str, Any]:
    """What CALF would see in batches of ``size`` slices of these areas (N, names), and which branch it would take.

    The areas are pixel counts and the moments CALF's own (``scope=batch``, ``area=pixels``). Skewness and kurtosis are
    undefined in batches whose areas are all equal, which choose BCE + Dice.
    """
    drawn = areas[draw_batches(areas, size, sampling, seed)]  # (size, batches, names)
    skewness, kurtosis = skewness_and_kurtosis(drawn)
    branch = choose_branch(skewness, kurtosis)
    return {
        "size": size,
        "slices": len(drawn),
        "batches": drawn.shape[1],
        "targets": {
            name: {
                "branches": {label: float((branch[:, place] == index).mean()) for index, label in enumerate(BRANCHES)},
                "skewness": _quantiles(skewness[:, place]),
                "kurtosis": _quantiles(kurtosis[:, place]),
                "undefined": float(np.isnan(skewness[:, place]).mean()),
                "without_foreground": float((drawn[..., place] == 0).all(axis=0).mean()),
            }
            for place, name in enumerate(names)
        },
    }


def _quantiles(values: NDArray[np.float64]) -> dict[str, float | None]:
    defined = values[~np.isnan(values)]
    levels = np.percentile(defined, QUANTILES) if defined.size else [None] * len(QUANTILES)
    return {f"p{rank}": None if level is None else float(level) for rank, level in zip(QUANTILES, levels, strict=True)}
