"""Overlap scores from voxel counts, and the one place where it is decided what an empty mask scores.

Every function takes counts of shape ``(..., 4)``: true positive, false positive, false negative and true negative voxels
(any integer dtype) and gives float64 of shape ``(...)``. A plain score of an empty denominator is NaN; what that means is
settled by ``case_scores`` (one case at a time) or ``pooled_scores`` (the authors' batches). Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

OK = "ok"
MISSED = "missed"
FALSE_POSITIVE = "false_positive"
TRUE_NEGATIVE = "true_negative"
PARTLY_LABELLED = "partly_labelled"
POOLED = "pooled"
STATUSES = (OK, MISSED, FALSE_POSITIVE, TRUE_NEGATIVE, PARTLY_LABELLED, POOLED)

EMPTY_RULE = (
    "A case whose reference and prediction are both empty is counted as a true negative, one whose reference alone is empty as "
    "a false positive (its predicted volume is in cases.csv); Dice, IoU, sensitivity, precision, balanced accuracy, relative "
    "volume error, surface distances, NSD and the lesion-wise rates are undefined for both and left out of their means. A case "
    "whose prediction alone is empty is a miss and always counts: Dice, IoU, sensitivity, precision, NSD and the lesion-wise "
    "rates are 0, HD, HD95 and ASSD the diagonal of the image. Lesion-wise metrics follow the same rule with lesions in place "
    "of voxels. Specificity and balanced accuracy are undefined without a negative voxel; MAE, accuracy, volume difference, the "
    "number of false positive lesions and calibration are always defined. In a volume of which only a part was annotated, "
    "surfaces and lesions are undefined, and everything else is of the annotated voxels."
)
POOLED_RULE = "A score whose denominator is empty over a whole batch counts 1."


def _ratio(numerator: Counts, denominator: Counts) -> Floats:
    empty = denominator == 0
    return np.where(empty, np.nan, numerator / np.where(empty, 1, denominator))


def dice(counts: Counts) -> Floats:
    """``2 TP / (2 TP + FP + FN)``.

    >>> dice(np.array([[2, 2, 4, 8], [0, 0, 0, 16]])).tolist()
    [0.4, nan]
    """
    tp, fp, fn, _ = np.moveaxis(counts, -1, 0)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def iou(counts: Counts) -> Floats:
    """``TP / (TP + FP + FN)``, the Jaccard index."""
    tp, fp, fn, _ = np.moveaxis(counts, -1, 0)
    return _ratio(tp, tp + fp + fn)


def sensitivity(counts: Counts) -> Floats:
    """``TP / (TP + FN)``, the share of the reference that was found (recall)."""
    tp, _, fn, _ = np.moveaxis(counts, -1, 0)
    return _ratio(tp, tp + fn)


def specificity(counts: Counts) -> Floats:
    """``TN / (TN + FP)``; near 1 for every method when the foreground is small."""
    _, fp, _, tn = np.moveaxis(counts, -1, 0)
    return _ratio(tn, tn + fp)


def precision(counts: Counts) -> Floats:
    """``TP / (TP + FP)``, the share of the prediction that is right."""
    tp, fp, _, _ = np.moveaxis(counts, -1, 0)
    return _ratio(tp, tp + fp)


def mae(counts: Counts) -> Floats:
    """``(FP + FN) / all``: the mean absolute error of the binary mask, that is the share of wrong voxels."""
    tp, fp, fn, tn = np.moveaxis(counts, -1, 0)
    return _ratio(fp + fn, tp + fp + fn + tn)


def accuracy(counts: Counts) -> Floats:
    """``(TP + TN) / all``, which is ``1 - mae``."""
    tp, fp, fn, tn = np.moveaxis(counts, -1, 0)
    return _ratio(tp + tn, tp + fp + fn + tn)


def balanced_accuracy(counts: Counts) -> Floats:
    """``(sensitivity + specificity) / 2``; 0.5 for an empty and for a full prediction, however small the foreground."""
    return (sensitivity(counts) + specificity(counts)) / 2


def relative_volume_error(counts: Counts) -> Floats:
    """``|predicted - reference| / reference volume``; 0 says that the volumes are equal, not that they overlap.

    >>> relative_volume_error(np.array([[2, 2, 4, 8], [0, 0, 4, 12], [0, 3, 0, 13]])).tolist()
    [0.3333333333333333, 1.0, nan]
    """
    tp, fp, fn, _ = np.moveaxis(counts, -1, 0)
    return _ratio(np.abs(fp - fn), tp + fn)


def volume_difference_ml(counts: Counts, voxel_volume_mm3: float) -> Floats:
    """Predicted minus reference volume in mL; negative where too little is segmented."""
    _, fp, fn, _ = np.moveaxis(counts, -1, 0)
    return (fp - fn) * (voxel_volume_mm3 / 1000)


SCORES: dict[str, Callable[[Counts], Floats]] = {
    score.__name__: score for score in (dice, iou, sensitivity, specificity, precision, mae, accuracy)
}
METRICS = tuple(SCORES)
# of every metric of this room, those that calf.metrics.volumetric adds included
LOWER_IS_BETTER = frozenset(
    {"mae", "relative_volume_error", "hd95_mm", "hd_mm", "assd_mm", "false_positive_lesions", "ece", "ace", "brier"}
)
SHARES = frozenset(
    {*METRICS, "balanced_accuracy", "lesion_sensitivity", "lesion_precision", "lesion_f1", "ece", "ace", "brier"}
)  # and NSD, which has its tolerance in its name
UNRANKED = frozenset({"volume_difference_ml"})  # signed: errors of opposite sign cancel in its mean, so none is best
NEEDS_BACKGROUND = frozenset({"specificity", "balanced_accuracy"})  # undefined without a negative voxel, whatever the status
FOREGROUND_ONLY = np.isin(METRICS, ["dice", "iou", "sensitivity", "precision"])


def is_share(metric: str) -> bool:
    """Whether its values lie in [0, 1], unlike distances, volumes, numbers of lesions and the relative volume error."""
    return metric in SHARES or metric.startswith("nsd_")


def case_status(counts: Counts) -> npt.NDArray[np.str_]:
    """Which branch of the empty rule each case takes: ``ok``, ``missed``, ``false_positive`` or ``true_negative``."""
    tp, fp, fn, _ = np.moveaxis(counts, -1, 0)
    no_reference, no_prediction = tp + fn == 0, tp + fp == 0
    return np.select(
        [no_reference & no_prediction, no_reference, no_prediction], [TRUE_NEGATIVE, FALSE_POSITIVE, MISSED], default=OK
    )


def case_scores(counts: Counts) -> tuple[Floats, npt.NDArray[np.str_]]:
    """Every score of every case under ``EMPTY_RULE``, and the branch of the rule that was taken.

    ``counts``: ``(..., 4)``, summed over a whole case. Returns values ``(..., len(METRICS))``, NaN where a score is
    undefined, and status ``(...)``.

    >>> values, status = case_scores(np.array([[2, 2, 4, 8], [0, 0, 4, 12], [0, 0, 0, 16]]))
    >>> values[:, METRICS.index("dice")].tolist(), status.tolist()
    ([0.4, 0.0, nan], ['ok', 'missed', 'true_negative'])
    """
    status = case_status(counts)
    values = np.stack([score(counts) for score in SCORES.values()], axis=-1)
    undefined = (status == TRUE_NEGATIVE) | (status == FALSE_POSITIVE)
    values[undefined[..., None] & FOREGROUND_ONLY] = np.nan
    values[(status == MISSED)[..., None] & FOREGROUND_ONLY] = 0.0
    return values, status


def pooled_scores(counts: Counts) -> Floats:
    """Every score of every pool of voxels, an empty denominator scoring 1: the rule of the ``paper`` protocol.

    ``counts``: ``(..., 4)``, summed over a batch of slices. Returns ``(..., len(METRICS))`` without NaN.
    """
    values = np.stack([score(counts) for score in SCORES.values()], axis=-1)
    return np.nan_to_num(values, nan=1.0)
