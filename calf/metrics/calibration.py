"""How far predicted probabilities are from the frequencies that they promise, per case and class.

Voxels are sorted into bins of equal width by their predicted probability of the foreground, [left, right) and the last one
closed; in each bin the mean probability is compared with the share of voxels that are foreground in the reference. Per image and
class, as in Barfoot et al. 2025 (https://arxiv.org/abs/2506.03942) and monai. Every labelled voxel counts, the background
included, so that confident false alarms far from a lesion count too; where the foreground is small, ECE and Brier score are small
for every method, and ACE, whose bins weigh the same, tells more.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calf.metrics.pairs import Mask
from calf.metrics.scores import Floats

CALIBRATION_METRICS = ("ece", "ace", "brier")


def calibration_scores(
    probabilities: npt.NDArray[np.uint8] | npt.NDArray[np.floating],
    reference: Mask,
    valid: Mask | None = None,
    num_bins: int = 20,
) -> dict[str, float]:
    """Expected and average calibration error and Brier score of one case and class; all are 0 at best and at most 1.

    ``ece``: the mean over bins of ``|mean probability - share of foreground|``, each bin weighing as many voxels as it has.
    ``ace``: the same, each bin that has a voxel weighing the same. ``brier``: the mean of ``(probability - truth)^2``.

    Args:
        probabilities: of the foreground, any shape; float in [0, 1], or uint8 with 255 for 1 (then each is off by up to 0.002,
            which near 0 may be more than the error itself).
        reference: bool, of the same shape; may be empty or full.
        valid: bool, of the same shape, the voxels that count; all of them if None.
        num_bins: number of bins.

    Raises:
        ValueError: probabilities outside [0, 1] or not a number, other dtypes, shapes that differ, or no voxel that counts.

    >>> calibration_scores(np.array([0.75, 0.75, 0.75, 0.75]), np.array([True, True, True, False]))["ece"]
    0.0
    """
    if probabilities.shape != reference.shape or reference.dtype != np.bool_ or num_bins < 1:
        raise ValueError(
            f"expected probabilities and a bool reference of the same shape and at least 1 bin, got {probabilities.shape} "
            f"{probabilities.dtype}, {reference.shape} {reference.dtype} and {num_bins}"
        )
    if valid is not None:
        probabilities, reference = probabilities[valid], reference[valid]
    if not reference.size:
        raise ValueError("expected a voxel that counts, got none: is the case labelled?")
    levels, count, positive = _levels(probabilities, reference)
    bins = np.minimum((levels * num_bins).astype(np.intp), num_bins - 1)
    in_bin = np.bincount(bins, count, num_bins)
    gap = np.abs(np.bincount(bins, count * levels, num_bins) - np.bincount(bins, positive, num_bins))
    filled = in_bin > 0
    brier = (count * levels**2 - 2 * positive * levels + positive).sum()
    return {
        "ece": float(gap.sum() / reference.size),
        "ace": float((gap[filled] / in_bin[filled]).mean()),
        "brier": float(brier / reference.size),
    }


def _levels(
    probabilities: npt.NDArray[np.uint8] | npt.NDArray[np.floating], reference: Mask
) -> tuple[Floats, npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    """Probabilities that occur, how many voxels have each of them, and how many of these are foreground in the reference."""
    if probabilities.dtype == np.float16 and probabilities.size and 0 <= probabilities.min() <= probabilities.max() <= 1:
        # their bits are whole numbers: a histogram of 2^14 levels instead of as many as there are voxels
        bits = np.ascontiguousarray(probabilities).view(np.uint16) & 0x7FFF  # -0 is 0
        one = int(np.float16(1).view(np.uint16)) + 1
        levels = np.arange(one, dtype=np.uint16).view(np.float16).astype(np.float64)
        return levels, np.bincount(bits.ravel(), minlength=one), np.bincount(bits[reference], minlength=one)
    if probabilities.dtype == np.uint8:
        count = np.bincount(probabilities.ravel(), minlength=256)
        return np.arange(256) / 255, count, np.bincount(probabilities[reference], minlength=256)
    if not np.issubdtype(probabilities.dtype, np.floating) or not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError(f"expected probabilities as float in [0, 1] or as uint8, got {probabilities.dtype} beyond these")
    levels = probabilities.ravel().astype(np.float64)
    return levels, np.ones(levels.shape, np.int64), reference.ravel().astype(np.int64)
