"""Scores whose unit is the lesion: how many were found, and how many findings are lesions.

A lesion is a connected component of a mask: voxels that share a face, an edge or a corner (26 neighbours in 3-D, 8 in 2-D). What
annotators or networks draw as touching is one lesion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import generate_binary_structure, label

from calf.metrics.pairs import Mask, check_pair, crop_pair
from calf.metrics.scores import FALSE_POSITIVE, MISSED, OK, TRUE_NEGATIVE

LESION_METRICS = ("lesion_sensitivity", "lesion_precision", "lesion_f1", "false_positive_lesions")
ROUNDING = 1e-6  # relative; spacings in file headers are single precision

Labels = npt.NDArray[np.signedinteger]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LesionCounts:
    """Numbers of lesions of one case and class: in the reference, found of these, in the prediction, matched of these."""

    num_reference: int
    num_found: int
    num_predicted: int
    num_matched: int

    @property
    def status(self) -> str:
        """Which branch of the empty rule the lesions take."""
        if not self.num_reference:
            return FALSE_POSITIVE if self.num_predicted else TRUE_NEGATIVE
        return OK if self.num_predicted else MISSED

    def scores(self) -> dict[str, float]:
        """``LESION_METRICS`` under ``EMPTY_RULE``, lesions taking the place of voxels.

        Sensitivity is found of reference, precision matched of predicted lesions, F1 their harmonic mean. Without a lesion in
        the reference the three are NaN, without one in the prediction 0. The number of false positive lesions (predicted, not
        matched) is always defined.
        """
        false_positives = float(self.num_predicted - self.num_matched)
        if not self.num_reference:
            return dict(zip(LESION_METRICS, (math.nan, math.nan, math.nan, false_positives), strict=True))
        sensitivity = self.num_found / self.num_reference
        precision = self.num_matched / self.num_predicted if self.num_predicted else 0.0
        f1 = 2 * sensitivity * precision / (sensitivity + precision) if sensitivity + precision else 0.0
        return dict(zip(LESION_METRICS, (sensitivity, precision, f1, false_positives), strict=True))


def count_lesions(
    prediction: Mask,
    reference: Mask,
    spacing_mm: Sequence[float],
    min_volume_mm3: float = 0.0,
    min_iou: float | None = None,
) -> LesionCounts:
    """Match the lesions of a prediction with those of the reference.

    The rule is that of the WMH segmentation challenge (Kuijf et al. 2019, https://arxiv.org/abs/1904.00682): a lesion of the
    reference is found if one voxel of it is predicted, a predicted lesion is matched if one voxel of it is in the reference.
    Each side is counted by itself, so one prediction may find several lesions, and no fragment of a found lesion is false. It
    says nothing of how well a lesion is outlined, and a prediction that floods the image finds all of them.

    Args:
        prediction: bool, 2-D or 3-D.
        reference: bool, of the same shape.
        spacing_mm: voxel size along each axis.
        min_volume_mm3: smaller lesions do not count (mm2 in 2-D): those of the prediction are removed; those of the reference
            need not be found, and what is predicted there and nowhere else is neither right nor wrong.
        min_iou: instead of a voxel, ask for an IoU above this, at least 0.5: then matches are one to one, and F1 is the
            recognition quality of panoptic segmentation (Kirillov et al. 2019, https://arxiv.org/abs/1801.00868).

    Raises:
        ValueError: ``min_iou`` below 0.5 (a lesion could match twice) or from 1 on, a negative volume, or masks that do not fit.

    >>> reference, prediction = np.zeros((2, 4, 9), bool)
    >>> reference[1, [1, 2, 7]] = prediction[1, [2, 4]] = True
    >>> count_lesions(prediction, reference, (1.0, 1.0)).scores()["lesion_sensitivity"]
    0.5
    """
    check_pair(prediction, reference, spacing_mm)
    check_matching(min_volume_mm3, min_iou)
    cropped = crop_pair(prediction, reference)
    if cropped is None:
        return LesionCounts(0, 0, 0, 0)
    min_voxels = min_volume_mm3 / math.prod(spacing_mm) * (1 - ROUNDING)
    (predicted, predicted_sizes), (actual, actual_sizes) = (_components(mask) for mask in cropped)
    large_predicted, large_actual = predicted_sizes >= min_voxels, actual_sizes >= min_voxels
    pairs, common = _overlaps(predicted, actual)
    # a predicted lesion that touches none but small ones of the reference is left out
    touches_small, touches_large = _among(pairs[0], large_predicted), _among(pairs[0][large_actual[pairs[1]]], large_predicted)
    counted = large_predicted & (touches_large | ~touches_small)
    matching = large_predicted[pairs[0]] & large_actual[pairs[1]]
    if min_iou is not None:
        matching &= common / (predicted_sizes[pairs[0]] + actual_sizes[pairs[1]] - common) > min_iou
    return LesionCounts(
        num_reference=int(large_actual.sum()),
        num_found=len(np.unique(pairs[1][matching])),
        num_predicted=int(counted.sum()),
        num_matched=len(np.unique(pairs[0][matching])),
    )


def check_matching(min_volume_mm3: float, min_iou: float | None) -> None:
    """ValueError unless the two can be used by ``count_lesions``."""
    if min_iou is not None and not 0.5 <= min_iou < 1:
        raise ValueError(f"min_iou: expected None or 0.5 <= min_iou < 1, got {min_iou}: below 0.5 matches are not one to one")
    if not 0 <= min_volume_mm3 < np.inf:
        raise ValueError(f"minimal volume of a lesion: expected at least 0 mm3, got {min_volume_mm3}")


def _components(mask: Mask) -> tuple[Labels, npt.NDArray[np.intp]]:
    """Number of each voxel's component, -1 in the background, and the components' sizes in voxels."""
    labels, num = label(mask, generate_binary_structure(mask.ndim, mask.ndim))
    return labels - 1, np.bincount(labels[mask] - 1, minlength=num)


def _overlaps(predicted: Labels, actual: Labels) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """Pairs of components that share voxels, (2, pairs): predicted, actual; and how many voxels they share."""
    both = (predicted >= 0) & (actual >= 0)
    number = int(actual.max()) + 1
    codes, common = np.unique(predicted[both].astype(np.int64) * max(number, 1) + actual[both], return_counts=True)
    return np.stack(np.divmod(codes, max(number, 1))), common


def _among(numbers: npt.NDArray[np.int64], like: Flags) -> Flags:
    flags = np.zeros_like(like)
    flags[numbers] = True
    return flags
