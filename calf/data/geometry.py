"""Where a prepared volume lies in the file it was made from, and the way back.

A volume in RAS+ order is cropped, resampled, cut into slices, and each slice fitted into a stored plane. A :class:`Geometry`
keeps what is needed to undo that for masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
FITS = ("pad", "resize")

Shape = tuple[int, int, int]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """One case's way from its files to stored planes. Axes are RAS+ unless said otherwise.

    Attributes:
        shape: voxels of the volume in its file.
        spacing_mm: of those voxels.
        affine: 4 x 4, of the file in its own order of axes.
        original_shape: of the file in its own order of axes.
        crop: first and end voxel along each axis that were kept.
        resampled: voxels of the kept part after resampling; its own number of voxels where it was not.
        plane: axial, coronal or sagittal.
        fit: how a slice came into its plane, ``pad`` or ``resize``.
        size: rows and columns of a stored plane.
    """

    shape: Shape
    spacing_mm: tuple[float, float, float]
    affine: list[list[float]]
    original_shape: Shape
    crop: Box
    resampled: Shape
    plane: str
    fit: str
    size: tuple[int, int]

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Self:
        """Of fields that went through JSON, which has lists for tuples."""
        plain = ("affine", "annotated_slices")
        return cls(**{key: value if key in plain else _tuple(value) for key, value in entry.items()})

    @property
    def grid(self) -> Shape:
        """Number of slices, and rows and columns of one before it is fitted into a plane."""
        return slice_grid(self.resampled, self.plane)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Where a slice lies in its plane: first row, end row, first column, end column."""
        return box_in(self.size, *self.grid[1:], self.fit)

    @cached_property
    def unchanged(self) -> bool:
        """Whether stored pixels are the file's own voxels, only padded."""
        return self.fit == "pad" and self.crop == tuple((0, length) for length in self.shape) and self.resampled == self.shape

    @property
    def voxel_volume_mm3(self) -> float:
        """Of the file's own voxels."""
        return float(np.prod(self.spacing_mm))

    @property
    def stored_voxel_volume_mm3(self) -> float:
        """What a stored pixel stands for, after resampling and resizing."""
        kept = float(np.prod([end - start for start, end in self.crop])) * self.voxel_volume_mm3
        top, bottom, left, right = self.box
        return kept / (self.grid[0] * (bottom - top) * (right - left))

    def restore(self, slices: NDArray[Any], masks: bool = True) -> NDArray[Any]:
        """Stored masks of all slices, (S, *size), as a RAS volume of ``shape`` and the same dtype; 0 outside the crop.

        Exact after padding and cropping; where the volume was resampled or its slices resized see :func:`resample_mask`, or
        with ``masks`` false, for probabilities and other quantities without steps, :func:`interpolate`.
        """
        if slices.shape != (self.grid[0], *self.size):
            raise ValueError(f"expected the masks of all {self.grid[0]} slices, {(self.grid[0], *self.size)}, got {slices.shape}")
        volume = from_slices(unfit_slices(slices, *self.grid[1:], self.fit, masks), self.plane)
        kept = (resample_mask if masks else interpolate)(volume, tuple(end - start for start, end in self.crop))
        if kept.shape == self.shape:
            return np.ascontiguousarray(kept)
        restored = np.zeros(self.shape, kept.dtype)
        restored[tuple(slice(start, end) for start, end in self.crop)] = kept
        return restored


def _tuple(value: Any) -> Any:
    return tuple(_tuple(entry) for entry in value) if isinstance(value, list) else value


def slice_grid(shape: Shape, plane: str) -> Shape:
    """Number of slices, rows and columns of a volume of this (RAS) shape."""
    axis = PLANES[plane]
    columns, rows = (size for index, size in enumerate(shape) if index != axis)
    return shape[axis], rows, columns


def to_slices(volume: NDArray, plane: str) -> NDArray:
    """A RAS volume (X, Y, Z) as slices (S, rows, columns); a view."""
    return np.moveaxis(volume, PLANES[plane], 0).swapaxes(1, 2)[:, ::-1, ::-1]


def from_slices(slices: NDArray, plane: str) -> NDArray:
    """Inverse of :func:`to_slices`; a view."""
    return np.moveaxis(slices[:, ::-1, ::-1].swapaxes(1, 2), 0, PLANES[plane])


def resample_mask(mask: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A mask on a grid of other voxels over the same extent.

    Along axes that gain voxels each takes the value of the voxel its centre lies in. Along axes that lose some it takes the value
    that weighs most in the linear interpolation to its centre, the lowest of those that weigh the same. Nearest neighbour would
    not do there: with half as many voxels every centre lies on a border, and the mask would move half a voxel away from the
    image.
    """
    kept = tuple(min(new, old) for new, old in zip(shape, mask.shape, strict=True))
    if kept != mask.shape:
        codes = np.unique(mask)
        factors = np.divide(kept, mask.shape).tolist()
        shares = [zoom((mask == code).astype(np.float32), factors, order=1, mode="nearest", grid_mode=True) for code in codes]
        # what is a tie on paper is one within the rounding of the weights, too
        mask = codes[np.argmax(np.round(shares, 4), axis=0)]
    return nearest(mask, shape)


def interpolate(volume: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The volume on a grid of other voxels over the same extent, linearly between their centres; whole numbers rounded."""
    if volume.shape == shape:
        return volume
    factors = np.divide(shape, volume.shape).tolist()
    found = zoom(volume.astype(np.float32), factors, order=1, mode="nearest", grid_mode=True)
    return (np.rint(found) if np.issubdtype(volume.dtype, np.integer) else found).astype(volume.dtype)


def nearest(volume: NDArray, shape: tuple[int, ...]) -> NDArray:
    """The volume on a grid of other voxels over the same extent, each taking the value of the voxel its centre lies in."""
    if volume.shape == shape:
        return volume
    # the centre of a new voxel, in whole numbers: (i + 1/2) old / new
    places = [(2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(shape, volume.shape, strict=True)]
    return volume[np.ix_(*places)]


def box_in(size: tuple[int, int], rows: int, columns: int, fit: str) -> tuple[int, int, int, int]:
    """Where the slice lies in a stored plane: first row, end row, first column, end column.

    Raises:
        ValueError: a slice that is to be padded is larger than ``size``.
    """
    if fit == "resize":
        return 0, size[0], 0, size[1]
    if rows > size[0] or columns > size[1]:
        raise ValueError(
            f"slices of {rows} x {columns} do not fit preparation.size={list(size)}: take a larger size, null, or fit=resize"
        )
    top, left = (size[0] - rows) // 2, (size[1] - columns) // 2
    return top, top + rows, left, left + columns


def fit_slices(slices: NDArray[np.uint8], size: tuple[int, int], fit: str, masks: bool) -> NDArray[np.uint8]:
    """Slices (S, rows, columns) padded with 0 or resized to ``size``: images linearly, masks by :func:`resample_mask`."""
    top, bottom, left, right = box_in(size, slices.shape[1], slices.shape[2], fit)
    fitted = np.zeros((len(slices), *size), np.uint8)
    if fit == "pad":
        fitted[:, top:bottom, left:right] = slices
        return fitted
    if masks:
        return resample_mask(slices, (len(slices), *size))
    for index, plane in enumerate(slices):
        fitted[index] = cv2.resize(np.ascontiguousarray(plane), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return fitted


def unfit_slices(slices: NDArray[Any], rows: int, columns: int, fit: str, masks: bool = True) -> NDArray[Any]:
    """Slices (S, *size) back to their own rows and columns: exact after padding; after resizing masks by
    :func:`resample_mask`, others by :func:`interpolate`.
    """
    if fit == "resize":
        return (resample_mask if masks else interpolate)(slices, (len(slices), rows, columns))
    top, bottom, left, right = box_in((slices.shape[1], slices.shape[2]), rows, columns, fit)
    return slices[:, top:bottom, left:right]
