"""One case's volumes become uint8 slices: normalised, cropped, resampled, cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from calf.data.geometry import (
    FITS,
    PLANES,
    Box,
    Geometry,
    Shape,
    box_in,
    fit_slices,
    resample_mask,
    slice_grid,
    to_slices,
)
from calf.data.volumes import Grid

NORMALISATIONS = ("volume_percentile", "slice_minmax", "zscore", "window")
CROPS = ("none", "foreground")
ORDERS = (1, 3)
Z_LIMIT = 5.0  # standard deviations on either side of the mean that the 256 levels span


@dataclass(frozen=True)
class Preparation:
    """How volumes are cut into slices; every field is part of the store's key.

    A volume is normalised, cropped, resampled and cut, in this order. Background is the value that all eight corners of a
    modality share; where they differ there is none.

    Args:
        modalities: the modalities taken, in the order of the network's input channels; None: all of the layout.
        onto: the modality whose grid the other images of a case are resampled onto, linearly; the mask lies on that grid, too.
            None: an image on a grid of its own is an error.
        plane: axial, coronal or sagittal. Rows run towards the feet or the back, columns towards the patient's left
            (sagittal: towards the back), so that slices look as a radiologist expects them.
        spacing_mm: of the voxels (x, y, z in RAS order) that volumes are resampled to, as nearly as a whole number of voxels
            over the same extent allows; None: as they are. Masks as :func:`calf.data.geometry.resample_mask` says. Scores are
            those of the file's own voxels all the same, to which predictions are brought back.
        order: of the spline that resamples images: 1 linear, 3 cubic.
        crop: ``foreground``: to the smallest box that holds what is not background in some modality.
        size: rows and columns of a stored slice; None: the largest slice of the data set, up to the next multiples of 32.
        fit: ``pad`` centres the slice in ``size`` (a larger one is an error); ``resize`` interpolates images linearly; masks as
            with ``spacing_mm``.
        normalise: ``volume_percentile`` maps the two percentiles of the volume's foreground to 0 and 255, and background to 0;
            ``zscore`` maps the mean of the foreground minus and plus five standard deviations, and background to 0;
            ``window`` maps ``window``, the same for every case, as CT wants it; ``slice_minmax`` maps each slice's minimum and
            maximum, as the CALF authors do. What lies outside is clipped; a constant volume or slice becomes 0.
        percentiles: the two percentiles of ``volume_percentile``.
        window: the two intensities of ``window``.
    """

    modalities: tuple[str, ...] | None = None
    onto: str | None = None
    plane: str = "axial"
    spacing_mm: tuple[float, float, float] | None = None
    order: int = 1
    crop: str = "none"
    size: tuple[int, int] | None = None
    fit: str = "pad"
    normalise: str = "volume_percentile"
    percentiles: tuple[float, float] = (0.5, 99.5)
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        choices = (("plane", tuple(PLANES)), ("fit", FITS), ("normalise", NORMALISATIONS), ("crop", CROPS), ("order", ORDERS))
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise ValueError(f"preparation.{name} is one of {', '.join(map(str, allowed))}; got {getattr(self, name)!r}")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"preparation.percentiles are two rising numbers in 0 ... 100; got {tuple(self.percentiles)}")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"preparation.size is [rows, columns] or null; got {self.size}")
        if self.spacing_mm is not None and (len(self.spacing_mm) != 3 or min(self.spacing_mm) <= 0):
            raise ValueError(f"preparation.spacing_mm is three positive numbers (x, y, z) or null; got {self.spacing_mm}")
        if self.normalise == "window" and self.window is None:
            raise ValueError("preparation.normalise=window needs preparation.window=[low, high], such as [-79, 304] HU")
        if self.window is not None and (len(self.window) != 2 or self.window[0] >= self.window[1]):
            raise ValueError(f"preparation.window is two rising intensities or null; got {self.window}")

    def resampled(self, shape: Shape, spacing_mm: tuple[float, float, float]) -> Shape:
        """Voxels of a volume after resampling."""
        if self.spacing_mm is None:
            return shape
        x, y, z = (
            max(1, round(length * have / want)) for length, have, want in zip(shape, spacing_mm, self.spacing_mm, strict=True)
        )
        return x, y, z

    def check_fits(self, rows: int, columns: int) -> None:
        """Raise a ValueError if slices of this size do not fit the chosen one."""
        if self.size is not None:
            box_in(self.size, rows, columns, self.fit)


@dataclass(frozen=True, eq=False)
class Slices:
    """A case cut into slices of their own rows and columns: ``images`` (S, modalities, R, C), ``masks`` (S, masks, R, C).

    ``crop`` and ``resampled`` are what :class:`calf.data.geometry.Geometry` keeps.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    crop: Box
    resampled: Shape

    def planes(self, size: tuple[int, int], fit: str) -> NDArray[np.uint8]:
        """Fitted into planes: (S, modalities + masks, *size)."""
        parts = [(self.images[:, index], False) for index in range(self.images.shape[1])]
        parts += [(self.masks[:, index], True) for index in range(self.masks.shape[1])]
        planes = np.empty((len(self.images), len(parts), *size), np.uint8)
        for index, (part, masks) in enumerate(parts):
            planes[:, index] = fit_slices(part, size, fit, masks)
        return planes

    def geometry(self, grid: Grid, preparation: Preparation, size: tuple[int, int]) -> Geometry:
        """The way back from planes of ``size`` to the files."""
        return Geometry(
            shape=grid.ras_shape,
            spacing_mm=grid.spacing_mm,
            affine=np.asarray(grid.original_affine).tolist(),
            original_shape=grid.original_shape,
            crop=self.crop,
            resampled=self.resampled,
            plane=preparation.plane,
            fit=preparation.fit,
            size=size,
        )


def cut(images: NDArray[np.float32], masks: Sequence[NDArray[np.uint8]], grid: Grid, preparation: Preparation) -> Slices:
    """Images (C, X, Y, Z), which are used up, and encoded masks (X, Y, Z) of a case as slices."""
    outside = [background(volume) for volume in images]
    crop = foreground_box(outside, grid.ras_shape) if preparation.crop == "foreground" else whole(grid.ras_shape)
    kept = tuple(slice(start, end) for start, end in crop)
    lengths: Shape = tuple(end - start for start, end in crop)  # type: ignore[assignment]
    resampled = preparation.resampled(lengths, grid.spacing_mm)
    shape = slice_grid(resampled, preparation.plane)
    preparation.check_fits(*shape[1:])
    cut_images = np.empty((shape[0], len(images), *shape[1:]), np.uint8)
    for index, (volume, empty) in enumerate(zip(images, outside, strict=True)):
        if preparation.normalise == "slice_minmax":
            slices = normalise_slices(to_slices(resample(volume[kept], resampled, preparation.order), preparation.plane))
        else:
            scaled = normalise_volume(volume, empty, preparation)
            slices = to_slices(_quantised(resample(scaled[kept], resampled, preparation.order)), preparation.plane)
        cut_images[:, index] = slices
    cut_masks = np.empty((shape[0], len(masks), *shape[1:]), np.uint8)
    for index, mask in enumerate(masks):
        cut_masks[:, index] = to_slices(resample_mask(mask[kept], resampled), preparation.plane)
    return Slices(cut_images, cut_masks, crop, resampled)


def whole(shape: Shape) -> Box:
    """The box of all of a volume."""
    return (0, shape[0]), (0, shape[1]), (0, shape[2])


def background(volume: NDArray) -> NDArray[np.bool_] | None:
    """Where the volume has the value that all its corners share; None where they differ."""
    corners = volume[:: max(volume.shape[0] - 1, 1), :: max(volume.shape[1] - 1, 1), :: max(volume.shape[2] - 1, 1)]
    return volume == corners.flat[0] if np.all(corners == corners.flat[0]) else None


def foreground_box(outside: Sequence[NDArray[np.bool_] | None], shape: Shape) -> Box:
    """The smallest box that holds what is not background in some modality; all where there is no background, or nothing else."""
    inside = np.zeros(shape, bool)
    for empty in outside:
        if empty is None:
            return whole(shape)
        inside |= ~empty
    if not inside.any():
        return whole(shape)
    spans = []
    for axis in range(3):
        seen = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append((int(seen[0]), int(seen[-1]) + 1))
    return spans[0], spans[1], spans[2]


def normalise_volume(volume: NDArray[np.float32], empty: NDArray[np.bool_] | None, preparation: Preparation) -> NDArray[Any]:
    """A volume on the scale 0 ... 255, see :class:`Preparation`: rounded, or floating if it is going to be interpolated."""
    if preparation.normalise == "window":
        empty = None
    # what is not background is a fraction of a brain's volume: only that is gone through, in the order it has in memory
    kept = None if empty is None else ~empty.ravel(order="K")
    inside = volume.ravel(order="K") if kept is None else volume.ravel(order="K")[kept]
    if preparation.normalise == "window":
        assert preparation.window is not None
        low, high = preparation.window
    elif not inside.size:
        low = high = 0.0
    elif preparation.normalise == "zscore":
        mean, spread = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
        low, high = mean - Z_LIMIT * spread, mean + Z_LIMIT * spread
    else:
        low, high = np.percentile(inside, preparation.percentiles)
    exact: NDArray[np.float32] = _scale(inside, low, high)
    scaled = _quantised(exact) if preparation.spacing_mm is None else exact
    filled = np.zeros_like(volume, scaled.dtype)
    filled.ravel(order="K")[slice(None) if kept is None else kept] = scaled
    return filled


def normalise_slices(slices: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Each slice's minimum and maximum to 0 and 255."""
    low = slices.min(axis=(1, 2), keepdims=True)
    high = slices.max(axis=(1, 2), keepdims=True)
    return _quantised(_scale(slices, low, high))


def resample(volume: NDArray, shape: Shape, order: int) -> NDArray:
    """The volume on a grid of other voxels over the same extent, by a spline; beyond the outermost centres it stays as it is."""
    if volume.shape == shape:
        return volume
    factors = np.divide(shape, volume.shape)
    # zoom chooses the length by rounding old * factor, which is the new one
    return zoom(volume, factors.tolist(), order=order, mode="nearest", grid_mode=True)  # type: ignore[call-overload]


def _scale(values: NDArray[np.float32], low: NDArray | float, high: NDArray | float) -> NDArray[np.float32]:
    span = np.subtract(high, low, dtype=np.float64)
    factor = np.divide(255.0, span, out=np.zeros_like(span), where=span > 0)
    scaled = np.subtract(values, np.float32(low), dtype=np.float32)
    scaled *= np.float32(factor)
    return scaled.clip(0, 255, out=scaled)


def _quantised(values: NDArray) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    return np.rint(values).clip(0, 255).astype(np.uint8)
