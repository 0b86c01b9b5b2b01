"""How often a voxel is foreground where a run says how probable that is: from kept probabilities, over many cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calf.report.volumes import Unreadable
from calf.ui.library import Unknown
from calf.ui.measures import Sweep, levels, sweep
from calf.ui.volumes import Cases

NUM_BINS = 20  # that of calf.metrics.calibration
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width of the predicted probability, over all voxels of ``num_cases`` cases together that were scored.

    Attributes:
        voxels: in each bin.
        probability: their mean probability; NaN in an empty bin.
        share: how many of them are foreground in the truth; NaN in an empty bin.
        num_cases: cases that went into it.
        problems: why others did not, each sentence once.
        remarks: what has to be known of those that did, each sentence once.
    """

    voxels: NDArray[np.int64]
    probability: Floats
    share: Floats
    num_cases: int
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def ece(self) -> float:
        """Mean of ``|probability - share|``, each bin weighing as many voxels as it has; NaN without a voxel."""
        if not self.voxels.sum():
            return float("nan")
        gaps = np.nan_to_num(np.abs(self.probability - self.share))
        return float((gaps * self.voxels).sum() / self.voxels.sum())


def reliability(cases: Cases, run: str, ids: Sequence[str], name: str, num_bins: int = NUM_BINS) -> Reliability:
    """Of one run and class, over the cases of these ids; reads their probabilities and masks."""
    count, positive = np.zeros(256, np.int64), np.zeros(256, np.int64)
    problems: dict[str, None] = {}
    remarks: dict[str, None] = {}
    num_cases = 0
    for id in ids:
        try:
            case = cases.open(id, [run])
            own = levels(case, run, name)
        except (Unreadable, Unknown) as reason:
            problems[str(reason)] = None
            continue
        count, positive, num_cases = count + own[0], positive + own[1], num_cases + 1
        if warning := case.warning(run, name):
            remarks[warning] = None
    return _binned(count, positive, num_bins, num_cases, tuple(problems), tuple(remarks))


def mean_sweep(cases: Cases, run: str, ids: Sequence[str], name: str) -> tuple[Sweep, int]:
    """The mean over the cases of these ids of their sweeps, undefined values left out, and how many went into it.

    Raises:
        Unreadable: none has both probabilities and a truth.
    """
    found: list[Sweep] = []
    why = "there is no case"
    for id in ids:
        try:
            found.append(sweep(cases.open(id, [run]), run, name))
        except (Unreadable, Unknown) as reason:
            why = str(reason)
    if not found:
        raise Unreadable(why)
    means = {key: _means([getattr(own, key) for own in found]) for key in ("dice", "sensitivity", "precision")}
    step = 128 if all(own.mask_step == 128 for own in found) else None
    return Sweep(found[0].steps, **means, mask_step=step), len(found)


def _means(values: Sequence[Floats]) -> Floats:
    stacked = np.stack(values)
    defined = ~np.isnan(stacked)
    number = defined.sum(0)
    return np.where(number > 0, np.where(defined, stacked, 0).sum(0) / np.maximum(number, 1), np.nan)


def _binned(
    count: NDArray[np.int64],
    positive: NDArray[np.int64],
    num_bins: int,
    num_cases: int,
    problems: tuple[str, ...],
    remarks: tuple[str, ...],
) -> Reliability:
    level = np.arange(256) / 255
    bins = np.minimum((level * num_bins).astype(np.intp), num_bins - 1)
    voxels = np.bincount(bins, count, num_bins).astype(np.int64)
    filled = np.maximum(voxels, 1)
    probability = np.where(voxels > 0, np.bincount(bins, count * level, num_bins) / filled, np.nan)
    share = np.where(voxels > 0, np.bincount(bins, positive, num_bins) / filled, np.nan)
    return Reliability(voxels, probability, share, num_cases, problems, remarks)
