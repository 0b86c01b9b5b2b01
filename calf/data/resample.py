"""Images onto the grid of another one, by ITK."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from calf.data.grid import LPS, Grid, Volume, VolumeError

MIN_OVERLAP = 0.1  # of the image or of the grid, whichever is smaller: less is a wrong header or another part of the body


def resample(path: Path, volume: Volume, grid: Grid) -> NDArray[np.float32]:
    """The volume on another grid: float32 (X, Y, Z) in that grid's RAS+ order.

    Linear between voxel centres and constant over the outer half of the outermost voxels; beyond the volume its minimum. Nothing
    is smoothed before: onto a much coarser grid it aliases.

    Raises:
        VolumeError: less than ``MIN_OVERLAP`` of the volume lies on the grid, and it covers less than that of the grid.
    """
    common = max(_share_within(volume, grid), _share_within(grid, volume))
    if common < MIN_OVERLAP:
        raise VolumeError(
            f"{path}: expected an image of the same part of the body, but it shares {common:.0%} with the grid it is to be "
            f"resampled onto (at least {MIN_OVERLAP:.0%}): is its header right, and is it of this examination?"
        )
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.T, np.float32))
    origin, spacing, direction = _geometry(volume)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    origin, spacing, direction = _geometry(grid)
    filter_ = sitk.ResampleImageFilter()
    filter_.SetNumberOfThreads(1)  # cases are prepared in parallel
    filter_.SetInterpolator(sitk.sitkLinear)
    filter_.SetDefaultPixelValue(float(volume.data.min()))
    filter_.SetSize(grid.ras_shape)
    filter_.SetOutputOrigin(origin)
    filter_.SetOutputSpacing(spacing)
    filter_.SetOutputDirection(direction)
    return sitk.GetArrayFromImage(filter_.Execute(image)).T


def _share_within(grid: Grid, other: Grid) -> float:
    """The share of the grid's voxels whose centres lie in the other one; of at most 16 along each axis."""
    places = [np.unique(np.linspace(0, length - 1, 16).round()) for length in grid.ras_shape]
    index = np.stack(np.meshgrid(*places, indexing="ij"), -1).reshape(-1, 3)
    mapping = np.linalg.inv(other.affine) @ grid.affine
    found = index @ mapping[:3, :3].T + mapping[:3, 3]
    return float(np.all((found >= -0.5) & (found <= np.array(other.ras_shape) - 0.5), axis=1).mean())


def _geometry(grid: Grid) -> tuple[list[float], list[float], list[float]]:
    """ITK's origin, spacing and direction of the RAS+ voxels."""
    affine = LPS @ grid.affine
    return affine[:3, 3].tolist(), list(grid.spacing_mm), (affine[:3, :3] / np.array(grid.spacing_mm)).ravel().tolist()
