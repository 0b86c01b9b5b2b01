"""One case's volumes become the uint8 planes of its slices."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
FITS = ("pad", "resize")
NORMALISATIONS = ("volume_percentile", "slice_minmax")


@dataclass(frozen=True)
class Preparation:
    """How volumes are cut into slices; every field is part of the store's key.

    Args:
        modalities: the modalities taken, in the order of the network's input channels; None: all of the layout.
        plane: axial, coronal or sagittal. Rows run towards the feet or the back, columns towards the patient's left
            (sagittal: towards the back), so that slices look as a radiologist expects them.
        size: rows and columns of a stored slice; None: the largest slice of the data set, up to the next multiples of 32.
        fit: ``pad`` centres the slice in ``size`` (a larger one is an error) and keeps the grid, so that scores are
            those of the original voxels; ``resize`` interpolates images linearly and masks by nearest neighbour.
        normalise: ``volume_percentile`` maps the two percentiles of the volume's foreground to 0 and 255 (background, the
            value that all eight corners share, is left out and becomes 0); ``slice_minmax`` maps each slice's minimum
            and maximum to 0 and 255, as the CALF authors do; a constant slice becomes 0.
        percentiles: the two percentiles of ``volume_percentile``.
    """

    modalities: tuple[str, ...] | None = None
    plane: str = "axial"
    size: tuple[int, int] | None = None
    fit: str = "pad"
    normalise: str = "volume_percentile"
    percentiles: tuple[float, float] = (0.5, 99.5)

    def __post_init__(self) -> None:
        for name, allowed in (("plane", tuple(PLANES)), ("fit", FITS), ("normalise", NORMALISATIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"preparation.{name} is one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"preparation.percentiles are two rising numbers in 0 ... 100; got {tuple(self.percentiles)}")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"preparation.size is [rows, columns] or null; got {self.size}")

    def grid(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Number of slices, rows and columns of a volume of this (RAS) shape."""
        axis = PLANES[self.plane]
        columns, rows = (size for index, size in enumerate(shape) if index != axis)
        return shape[axis], rows, columns


def to_slices(volume: NDArray, plane: str) -> NDArray:
    """A RAS volume (X, Y, Z) as slices (S, rows, columns); a view."""
    return np.moveaxis(volume, PLANES[plane], 0).swapaxes(1, 2)[:, ::-1, ::-1]


def from_slices(slices: NDArray, plane: str) -> NDArray:
    """Inverse of :func:`to_slices`; a view."""
    return np.moveaxis(slices[:, ::-1, ::-1].swapaxes(1, 2), 0, PLANES[plane])


def normalise_volume(volume: NDArray, percentiles: tuple[float, float]) -> NDArray[np.uint8]:
    """Percentiles of the foreground to 0 ... 255; see :class:`Preparation`."""
    corners = volume[:: max(volume.shape[0] - 1, 1), :: max(volume.shape[1] - 1, 1), :: max(volume.shape[2] - 1, 1)]
    background = volume == corners.flat[0] if np.all(corners == corners.flat[0]) else None
    inside = volume if background is None else volume[~background]
    if inside.size == 0:
        return np.zeros(volume.shape, np.uint8)
    low, high = np.percentile(inside, percentiles)
    scaled = _scale(volume, low, high)
    if background is not None:
        scaled[background] = 0
    return scaled


def normalise_slices(slices: NDArray) -> NDArray[np.uint8]:
    """Each slice's minimum and maximum to 0 and 255."""
    low = slices.min(axis=(1, 2), keepdims=True)
    high = slices.max(axis=(1, 2), keepdims=True)
    return _scale(slices, low, high)


def _scale(values: NDArray, low: NDArray | float, high: NDArray | float) -> NDArray[np.uint8]:
    span = np.subtract(high, low, dtype=np.float64)
    scaled = (values - low) * np.divide(255.0, span, out=np.zeros_like(span), where=span > 0)
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def box_in(size: tuple[int, int], rows: int, columns: int, fit: str) -> tuple[int, int, int, int]:
    """Where the slice lies in a stored plane: first row, end row, first column, end column."""
    if fit == "resize":
        return 0, size[0], 0, size[1]
    if rows > size[0] or columns > size[1]:
        raise ValueError(
            f"slices of {rows} x {columns} do not fit preparation.size={list(size)}: take a larger size, null, or fit=resize"
        )
    top, left = (size[0] - rows) // 2, (size[1] - columns) // 2
    return top, top + rows, left, left + columns


def fit_slices(slices: NDArray[np.uint8], size: tuple[int, int], fit: str, nearest: bool) -> NDArray[np.uint8]:
    """Slices (S, rows, columns) padded with 0 or resized to ``size``."""
    top, bottom, left, right = box_in(size, slices.shape[1], slices.shape[2], fit)
    fitted = np.zeros((len(slices), *size), np.uint8)
    if fit == "pad":
        fitted[:, top:bottom, left:right] = slices
        return fitted
    how = cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_LINEAR
    for index, plane in enumerate(slices):
        fitted[index] = cv2.resize(np.ascontiguousarray(plane), (size[1], size[0]), interpolation=how)
    return fitted


def unfit_slices(slices: NDArray[np.uint8], rows: int, columns: int, fit: str) -> NDArray[np.uint8]:
    """Masks (S, *size) back to their own rows and columns: exact after padding, nearest neighbour after resizing."""
    if fit == "resize":
        return fit_slices(slices, (rows, columns), "resize", nearest=True)
    top, bottom, left, right = box_in((slices.shape[1], slices.shape[2]), rows, columns, fit)
    return slices[:, top:bottom, left:right]


def planes_of_case(
    images: NDArray[np.float32], masks: list[NDArray[np.uint8]], preparation: Preparation, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Images (C, X, Y, Z) and encoded masks (X, Y, Z) as planes (S, C + len(masks), *size)."""
    planes = []
    for volume in images:
        if preparation.normalise == "volume_percentile":
            slices = to_slices(normalise_volume(volume, preparation.percentiles), preparation.plane)
        else:
            slices = normalise_slices(to_slices(volume, preparation.plane))
        planes.append(fit_slices(slices, size, preparation.fit, nearest=False))
    for mask in masks:
        planes.append(fit_slices(to_slices(mask, preparation.plane), size, preparation.fit, nearest=True))
    return np.stack(planes, axis=1)
