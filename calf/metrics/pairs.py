"""A predicted and a reference mask of one image: checked, and cropped to what is in either of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Box = tuple[slice, ...]


def check_pair(prediction: Mask, reference: Mask, spacing_mm: Sequence[float]) -> None:
    """ValueError unless both are bool arrays of one shape, 2-D or 3-D, with a positive spacing for each axis."""
    if prediction.shape != reference.shape or prediction.dtype != np.bool_ or reference.dtype != np.bool_:
        raise ValueError(
            f"expected a bool prediction and a bool reference of the same shape, got {prediction.shape} {prediction.dtype} and "
            f"{reference.shape} {reference.dtype}; threshold the prediction and bring both onto one grid first"
        )
    if reference.ndim not in (2, 3):
        raise ValueError(f"expected masks of 2 or 3 axes, got {reference.ndim}: score one class of one image at a time")
    if len(spacing_mm) != reference.ndim or not all(0 < spacing < np.inf for spacing in spacing_mm):
        raise ValueError(f"expected a positive spacing in mm for each of {reference.ndim} axes, got {tuple(spacing_mm)}")


def bounding_box(mask: Mask) -> Box | None:
    """The smallest box that holds every true voxel; None without one."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        # each axis is searched within what the ones before have left
        kept = mask[tuple(box)]
        found = np.flatnonzero(kept.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not found.size:
            return None
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)


def crop_pair(prediction: Mask, reference: Mask) -> tuple[Mask, Mask] | None:
    """Both within the box of what is in either of them, contiguous copies; None where both are empty."""
    box = bounding_box(prediction | reference)
    return None if box is None else (np.ascontiguousarray(prediction[box]), np.ascontiguousarray(reference[box]))
