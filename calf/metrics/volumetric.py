"""Rows of ``cases.csv`` for what needs whole volumes: surfaces in mm, lesions, volumes in mL and calibration.

They stand beside those of ``calf.metrics.protocol.PerCase``, have the same columns and follow the same ``EMPTY_RULE``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from calf.metrics.calibration import CALIBRATION_METRICS, calibration_scores
from calf.metrics.lesions import LESION_METRICS, check_matching, count_lesions
from calf.metrics.pairs import Mask
from calf.metrics.protocol import ROW_COLUMNS
from calf.metrics.scores import (
    PARTLY_LABELLED,
    Counts,
    balanced_accuracy,
    case_status,
    relative_volume_error,
    volume_difference_ml,
)
from calf.metrics.surface import Convention, check_convention, check_tolerance, surface_metrics, surface_scores

COUNTED_METRICS = ("balanced_accuracy", "relative_volume_error", "volume_difference_ml")
Scored = dict[str, tuple[float, str]]  # metric -> value, status


@dataclass(frozen=True)
class VolumeScores:
    """Scores a case from its volumes, in the grid of its own files; a case never depends on another.

    Args:
        tolerance_mm: up to which distance two surfaces agree, for NSD. It belongs to the data set: how far apart two experts
            draw the same border. The metric carries it in its name, ``nsd_2mm``.
        min_lesion_mm3: smaller lesions do not count; see ``calf.metrics.lesions``.
        min_iou: from which IoU on lesions match; None: one common voxel.
        num_bins: bins of the calibration errors.
        surfaces: of ``voxels`` or ``elements``, the two conventions of ``calf.metrics.surface``.
    """

    tolerance_mm: float
    min_lesion_mm3: float = 0.0
    min_iou: float | None = None
    num_bins: int = 20
    surfaces: Convention = "voxels"

    def __post_init__(self) -> None:
        # said before the training, not after it
        check_tolerance(self.tolerance_mm)
        check_convention(self.surfaces)
        check_matching(self.min_lesion_mm3, self.min_iou)
        if self.num_bins < 1:
            raise ValueError(f"num_bins: expected at least 1, got {self.num_bins}")

    def metrics(self, calibration: bool) -> tuple[str, ...]:
        """The metrics in the order of the rows; those of calibration need probabilities."""
        names = (*surface_metrics(self.tolerance_mm), *LESION_METRICS, *COUNTED_METRICS)
        return (*names, *CALIBRATION_METRICS) if calibration else names

    def rows(
        self,
        case: str,
        patient: str,
        prediction: Mask,
        reference: Mask,
        names: Sequence[str],
        spacing_mm: Sequence[float],
        probabilities: npt.NDArray[np.uint8] | npt.NDArray[np.floating] | None = None,
        valid: Mask | None = None,
    ) -> pd.DataFrame:
        """One row a class and metric, in the columns ``ROW_COLUMNS``; value is NaN where a metric is undefined.

        Lesion-wise rows take the branch of the empty rule that the numbers of their lesions take, which differs from that of
        the voxels only if small lesions do not count. Where ``valid`` leaves voxels out, surfaces and lesions end where the
        annotation does, so their values are NaN and their status is ``partly_labelled``.

        Args:
            case: its id.
            patient: whose it is.
            prediction: bool (C, X, Y, Z), a channel a name, foreground only. A single image has one slice.
            reference: bool, of the same shape.
            names: the C classes or regions.
            spacing_mm: voxel size along X, Y and Z.
            probabilities: of the foreground, of the same shape, float in [0, 1] or uint8 with 255 for 1; None: no calibration.
            valid: bool (X, Y, Z), the voxels that were annotated; all of them if None.

        Raises:
            ValueError: shapes or dtypes that do not fit, or no valid voxel.
        """
        _check(prediction, reference, names, spacing_mm, probabilities, valid)
        if valid is not None and not valid.any():
            raise ValueError(f"case {case} has no valid voxel to score: leave it out of the split")
        if valid is not None and valid.all():
            valid = None
        rows = []
        for channel, name in enumerate(names):
            masks = prediction[channel], reference[channel]
            if valid is not None:
                masks = masks[0] & valid, masks[1] & valid
            counts = _counts(*masks, valid)
            status = str(case_status(counts))
            scored = self._counted(counts, math.prod(spacing_mm), status)
            scored |= self._shapes(*masks, spacing_mm, status) if valid is None else self._undefined()
            if probabilities is not None:
                calibration = calibration_scores(probabilities[channel], masks[1], valid, self.num_bins)
                scored |= {metric: (value, status) for metric, value in calibration.items()}
            tp, fp, fn, _ = (counts * math.prod(spacing_mm)).tolist()
            for metric in self.metrics(probabilities is not None):
                rows.append((case, patient, name, metric, *scored[metric], tp + fn, tp + fp))
        return pd.DataFrame(rows, columns=list(ROW_COLUMNS))

    def _counted(self, counts: Counts, voxel_volume_mm3: float, status: str) -> Scored:
        values = balanced_accuracy(counts), relative_volume_error(counts), volume_difference_ml(counts, voxel_volume_mm3)
        return {metric: (float(value), status) for metric, value in zip(COUNTED_METRICS, values, strict=True)}

    def _shapes(self, prediction: Mask, reference: Mask, spacing_mm: Sequence[float], status: str) -> Scored:
        surfaces = surface_scores(prediction, reference, spacing_mm, self.tolerance_mm, self.surfaces)
        lesions = count_lesions(prediction, reference, spacing_mm, self.min_lesion_mm3, self.min_iou)
        found = {metric: (value, lesions.status) for metric, value in lesions.scores().items()}
        return {metric: (value, status) for metric, value in surfaces.items()} | found

    def _undefined(self) -> Scored:
        return dict.fromkeys((*surface_metrics(self.tolerance_mm), *LESION_METRICS), (math.nan, PARTLY_LABELLED))


def _counts(prediction: Mask, reference: Mask, valid: Mask | None) -> Counts:
    """tp, fp, fn, tn of masks that are false outside ``valid``."""
    tp = np.count_nonzero(prediction & reference)
    predicted, actual = np.count_nonzero(prediction), np.count_nonzero(reference)
    total = reference.size if valid is None else np.count_nonzero(valid)
    return np.array([tp, predicted - tp, actual - tp, total - predicted - actual + tp])


def _check(
    prediction: Mask,
    reference: Mask,
    names: Sequence[str],
    spacing_mm: Sequence[float],
    probabilities: npt.NDArray[np.uint8] | npt.NDArray[np.floating] | None,
    valid: Mask | None,
) -> None:
    if prediction.shape != reference.shape or prediction.dtype != np.bool_ or reference.dtype != np.bool_ or reference.ndim != 4:
        raise ValueError(
            "expected a bool prediction and a bool reference of the same shape (C, X, Y, Z), got "
            f"{prediction.shape} {prediction.dtype} and {reference.shape} {reference.dtype}"
        )
    if len(names) != len(reference) or len(spacing_mm) != 3:
        raise ValueError(
            f"expected {len(reference)} names and 3 spacings for masks of shape {reference.shape}, got {tuple(names)} and "
            f"{tuple(spacing_mm)}"
        )
    if probabilities is not None and probabilities.shape != reference.shape:
        raise ValueError(f"expected probabilities of the masks' shape {reference.shape}, got {probabilities.shape}")
    if valid is not None and (valid.shape != reference.shape[1:] or valid.dtype != np.bool_):
        raise ValueError(f"expected valid as bool {reference.shape[1:]}, got {valid.shape} {valid.dtype}")
