"""What every reader of volumes shares: the grid that voxels lie on, and the error it raises."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

AFFINE_TOLERANCE = 1e-3  # absolute; the rounding of a qform alone moves directions by 2e-4
# Of a voxel's shortest edge: what an error of the directions may add up to at the far corner. 1e-3 in the affine would be
# three voxels at the end of 1024 voxels of 0.34 mm.
VOXEL_TOLERANCE = 0.25
# Cosine of the angle between two axes of a file: volumes, as the product of the spacings, are then wrong by 5e-5 at most.
SHEAR_TOLERANCE = 1e-2

# between world axes to the right, the front and the head (RAS, ours) and to the left, the back and the head (LPS: ITK, DICOM)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class VolumeError(ValueError):
    """A file of a case cannot be used; the message names the file, what was expected, what came and what to do."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a file lie, in the file's own order of axes and in RAS+ order.

    Affines are 4 x 4, voxel index to mm; ``spacing_mm`` belongs to the RAS+ axes. ``original_affine`` alone is
    enough to go back, see :func:`calf.data.volumes.to_original`. ``num_channels`` is the number of values a voxel has.
    """

    ras_shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    original_shape: tuple[int, int, int]
    original_affine: NDArray[np.float64]
    num_channels: int


@dataclass(frozen=True, eq=False)
class Volume(Grid):
    """One 3-D image: ``data`` (X, Y, Z) in RAS+ order, in the file's type (floating if the file rescales)."""

    data: NDArray[Any]


def make_grid(path: Path, shape: tuple[int, ...], affine: NDArray[Any], num_channels: int) -> Grid:
    """The grid of a file of this shape (X, Y, Z) and affine, both in the file's own order of axes.

    Raises:
        VolumeError: the affine cannot be inverted, or its axes are not perpendicular: distances and volumes would be wrong.
    """
    axes = io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
    if np.isnan(axes).any() or not np.linalg.det(affine):
        raise VolumeError(f"{path}: expected an affine that can be inverted, got\n{_text(affine)}\nRepair the file's header")
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    shear = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if shear > SHEAR_TOLERANCE:
        angle = np.degrees(np.arccos(shear))
        raise VolumeError(
            f"{path}: expected perpendicular axes, got two at {angle:.1f} degrees (a tilted gantry?) in the affine\n"
            f"{_text(affine)}\nResample image and mask to a grid of right angles"
        )
    oriented = affine @ inv_ornt_aff(axes, shape)
    x, y, z = (shape[axis] for axis in np.argsort(axes[:, 0]))
    dx, dy, dz = (float(size) for size in nib.affines.voxel_sizes(oriented))
    return Grid((x, y, z), oriented, (dx, dy, dz), (shape[0], shape[1], shape[2]), affine, num_channels)


def make_volume(grid: Grid, array: NDArray[Any]) -> Volume:
    """The volume of an array (X, Y, Z) in the file's own order of axes."""
    return Volume(**vars(grid), data=to_ras(grid, array))


def to_ras(grid: Grid, array: NDArray[Any]) -> NDArray[Any]:
    """An array (X, Y, Z) in the file's own order of axes, in RAS+ order; a view."""
    return apply_orientation(array, io_orientation(grid.original_affine))


def check_channel(path: Path, grid: Grid, channel: int | None) -> int:
    """The channel to read; a VolumeError if the file has no such one, or several and none was chosen."""
    if channel is None and grid.num_channels > 1:
        raise VolumeError(f"{path}: expected a 3-D volume, got {grid.num_channels} channels: choose one of them")
    if channel is not None and not 0 <= channel < grid.num_channels:
        raise VolumeError(f"{path}: expected a file with a channel {channel}, it has {grid.num_channels}, counted from 0")
    return channel or 0


def same_grid(grid: Grid, other: Grid) -> bool:
    """Whether voxels of the same RAS+ index lie at the same place.

    The shapes are equal, no element of the RAS+ affines differs by more than ``AFFINE_TOLERANCE``, and no voxel lies more than
    ``VOXEL_TOLERANCE`` of a voxel's shortest edge away from its counterpart.
    """
    if grid.ras_shape != other.ras_shape:
        return False
    largest, shift = _distance(grid, other)
    return largest <= AFFINE_TOLERANCE and shift <= VOXEL_TOLERANCE * min(other.spacing_mm)


def check_grid(path: Path, grid: Grid, other_path: Path, other: Grid, advice: str = "") -> None:
    """Raise a VolumeError if ``path`` does not lie on the grid of ``other_path``."""
    if same_grid(grid, other):
        return
    if grid.ras_shape != other.ras_shape:
        raise VolumeError(
            f"{path}: expected the shape {other.ras_shape} of {other_path} (axes in RAS order), got {grid.ras_shape}: "
            f"files of a case share one grid; resample or replace the odd one{advice}"
        )
    largest, shift = _distance(grid, other)
    raise VolumeError(
        f"{path}: its affine differs by {largest:.3g} (allowed {AFFINE_TOLERANCE:g}) from that of {other_path}, and voxels lie "
        f"up to {shift:.3g} mm apart (allowed {VOXEL_TOLERANCE * min(other.spacing_mm):.3g}); in RAS order got\n"
        f"{_text(grid.affine)}\nexpected\n{_text(other.affine)}\nCopy the right header, or resample the file{advice}"
    )


def _distance(grid: Grid, other: Grid) -> tuple[float, float]:
    """Of two grids of one shape: the largest difference of the affines, and how far apart counterparts lie at most (mm)."""
    difference = grid.affine - other.affine
    # an affine map is furthest off in a corner
    corners = np.array(list(itertools.product(*((0, length - 1) for length in grid.ras_shape))))
    shifts = np.linalg.norm(corners @ difference[:3, :3].T + difference[:3, 3], axis=1)
    return float(np.abs(difference).max()), float(shifts.max())


def _text(affine: NDArray[Any]) -> str:
    return np.array2string(np.asarray(affine), precision=5, suppress_small=True)
