"""Numbers of slices of an open case: areas and Dice of each, where runs disagree, and how scores move with the threshold.

What is said of a whole case comes from cases.csv (:meth:`calf.ui.volumes.OpenCase.row`) and is not computed here. Everything is
kept in the cache of the case, so that asking again costs nothing. Formulas are those of :mod:`calf.metrics.scores`. What is set
against the truth is counted in the slices that a run was scored in (:meth:`calf.ui.volumes.OpenCase.annotated`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calf.metrics import scores
from calf.report.volumes import AXES, Unreadable
from calf.ui.regions import Region, common_box
from calf.ui.volumes import OpenCase

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """What stands along the slices of one plane; arrays have a value a slice.

    Attributes:
        truth_mm2: area of the truth; None where there is no truth.
        areas_mm2: of each run that can be shown the area of its prediction.
        dice: of each such run the Dice of the slice's voxels that were scored; NaN where none was, where it is not known which
            were, and where truth and prediction are both empty; no run is in it without a truth.
        disagreement: share of the slice's pixels in which these runs do not all say the same; 0 for fewer than two runs.
        problems: of each other run why it cannot be shown.
    """

    truth_mm2: Floats | None
    areas_mm2: dict[str, Floats]
    dice: dict[str, Floats]
    disagreement: Floats
    problems: dict[str, str]


@dataclass(frozen=True)
class Sweep:
    """Scores of one run's case and name with everything from ``steps / 255`` on taken for foreground.

    ``steps``: 1 ... 255; ``dice``, ``sensitivity``, ``precision``: one a step, under ``calf.metrics.scores.EMPTY_RULE``: NaN
    where the reference is empty, 0 where the prediction alone is. ``mask_step``: 128 where the mask at 128 is the one that was
    saved, voxel by voxel, so that its scores are those of cases.csv; None where it is not, as for classes that exclude each
    other and images that were resampled.
    """

    steps: NDArray[np.int64]
    dice: Floats
    sensitivity: Floats
    precision: Floats
    mask_step: int | None


def profile(case: OpenCase, name: str, runs: Sequence[str], plane: str, threshold: int | None = None) -> Profile:
    """Areas, Dice and disagreement along ``plane`` (axial, coronal, sagittal) for one target name.

    Raises:
        Unknown: no run has this name.
    """
    axis, problems = AXES[plane], {}
    predictions: dict[str, Region] = {}
    for run in runs:
        try:
            predictions[run] = case.prediction(run, name, threshold)
        except Unreadable as reason:
            problems[run] = str(reason)
    try:
        truth = case.truth(name)
    except Unreadable:
        truth = None
    pixel_mm2 = np.float64(math.prod(step for other, step in enumerate(case.spacing_mm) if other != axis))
    whole = np.ones(case.shape[2], bool)
    areas = {run: _areas(case, region, axis, whole) * pixel_mm2 for run, region in predictions.items()}
    if truth is None:
        return Profile(None, areas, {}, _disagreement(case, list(predictions.values()), axis), problems)
    dice = {run: _dice(case, run, truth, region, axis) for run, region in predictions.items()}
    truth_mm2 = _areas(case, truth, axis, whole) * pixel_mm2
    return Profile(truth_mm2, areas, dice, _disagreement(case, list(predictions.values()), axis), problems)


def sweep(case: OpenCase, run: str, name: str) -> Sweep:
    """How Dice, sensitivity and precision of a case move with the threshold, exactly at every step of the probabilities.

    Raises as :func:`levels`.
    """
    everywhere, in_truth = levels(case, run, name)
    at_least = np.cumsum([everywhere[::-1], in_truth[::-1]], axis=1)[:, ::-1][:, 1:]
    tp, fp, fn = at_least[1], at_least[0] - at_least[1], in_truth.sum() - at_least[1]
    counts = np.stack([tp, fp, fn, everywhere.sum() - tp - fp - fn], axis=-1)
    values = scores.case_scores(counts)[0]
    dice, sensitivity, precision = (values[:, scores.METRICS.index(name)] for name in ("dice", "sensitivity", "precision"))
    return Sweep(np.arange(1, 256), dice, sensitivity, precision, 128 if _same(case, run, name) else None)


def levels(case: OpenCase, run: str, name: str) -> NDArray[np.int64]:
    """(2, 256): how many voxels have each step of the probability, and how many of these are foreground in the truth.

    Raises:
        Unknown: no run has this name.
        Unreadable: the probabilities were not kept, there is no truth, or it is not known which slices were annotated.
    """
    truth, steps, scored = case.truth(name), case.probability(run, name), case.annotated(run)

    def computed() -> NDArray[np.int64]:
        count = np.bincount(steps.values[:, :, scored[steps.box[2]]].ravel(), minlength=256)
        count[0] += math.prod(steps.shape[:2]) * np.count_nonzero(scored) - count.sum()  # what was cropped away is 0
        inside = steps.within(truth.box)[truth.within(truth.box) & scored[truth.box[2]]]
        return np.stack([count, np.bincount(inside, minlength=256)])

    key = "levels", truth.key, case.prediction(run, name, 128).key, scored.tobytes()
    return case.cached(key, computed, _size)


def _same(case: OpenCase, run: str, name: str) -> bool:
    try:
        saved, swept = case.prediction(run, name), case.prediction(run, name, 128)
    except Unreadable:
        return False
    box = common_box([saved, swept])
    return bool((saved.within(box) == swept.within(box)).all())


def _areas(case: OpenCase, region: Region, axis: int, slices: NDArray[np.bool_]) -> NDArray[np.int64]:
    """In voxels, of what lies in these axial slices."""

    def computed() -> NDArray[np.int64]:
        return _along(region.within(region.box) & slices[region.box[2]], region, axis)

    return case.cached(("areas", region.key, axis, slices.tobytes()), computed, _size)


def _dice(case: OpenCase, run: str, truth: Region, prediction: Region, axis: int) -> Floats:
    try:
        scored = case.annotated(run)
    except Unreadable:
        return np.full(case.shape[axis], np.nan)

    def computed() -> NDArray[np.int64]:
        # beyond the truth nothing is found
        both = truth.within(truth.box) & prediction.within(truth.box)
        return _along(both & scored[truth.box[2]], truth, axis)

    tp = case.cached(("found", truth.key, prediction.key, axis, scored.tobytes()), computed, _size)
    predicted, real = _areas(case, prediction, axis, scored), _areas(case, truth, axis, scored)
    return scores.dice(np.stack([tp, predicted - tp, real - tp, np.zeros_like(tp)], axis=-1))


def _disagreement(case: OpenCase, regions: Sequence[Region], axis: int) -> Floats:
    def computed() -> NDArray[np.int64]:
        box = common_box(regions)
        some = everywhere = regions[0].within(box)
        for region in regions[1:]:
            mask = region.within(box)
            some, everywhere = some | mask, everywhere & mask
        return _placed(some & ~everywhere, box[axis].start, axis, case.shape[axis])

    if len(regions) < 2:
        return np.zeros(case.shape[axis])
    key = "disagreement", tuple(region.key for region in regions), axis
    return case.cached(key, computed, _size) / (np.prod(case.shape) / case.shape[axis])


def _along(mask: NDArray[np.bool_], region: Region, axis: int) -> NDArray[np.int64]:
    return _placed(mask, region.box[axis].start, axis, region.shape[axis])


def _placed(mask: NDArray[np.bool_], first: int, axis: int, length: int) -> NDArray[np.int64]:
    """How many voxels of each slice are true, of a mask whose first slice is ``first``."""
    counts = np.zeros(length, np.int64)
    found = np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis))
    counts[first : first + len(found)] = found
    return counts


def _size(counts: NDArray[np.int64]) -> int:
    return int(counts.nbytes)
