"""NIfTI volumes in and out: read, checked, reoriented to RAS+, and written back into their own grid."""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import nibabel as nib
import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from calf.data.cases import Case, Target

AFFINE_TOLERANCE = 1e-3  # absolute; the rounding of a qform alone moves directions by 2e-4
LABEL_TOLERANCE = 1e-3  # resampled or rescaled masks hold 0.9999999 for 1

_RAS = np.array([[0, 1], [1, 1], [2, 1]])
_GZIP = b"\x1f\x8b"
_BAD_HEADER = (HeaderDataError, WrapStructError, KeyError, ValueError, OverflowError)  # all that nibabel is seen to raise


class VolumeError(ValueError):
    """A file of a case cannot be used; the message names the file, what was expected, what came and what to do."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a file lie, in the file's own order of axes and in RAS+ order.

    Affines are 4 x 4, voxel index to mm; ``spacing_mm`` belongs to the RAS+ axes. ``original_affine`` alone is
    enough to go back, see :func:`to_original`. ``num_channels`` is the length of the fourth axis, 1 without one.
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


@dataclass(frozen=True, eq=False)
class CaseVolumes(Grid):
    """A case on one grid: ``images`` (C, X, Y, Z) float32, ``mask`` and ``reference`` (X, Y, Z) uint8 label values."""

    images: NDArray[np.float32]
    mask: NDArray[np.uint8]
    reference: NDArray[np.uint8] | None


def read_header(path: Path | str) -> Grid:
    """The grid of a NIfTI file; of a compressed one only the beginning is inflated.

    Raises:
        VolumeError: the file is missing, empty, not NIfTI, or its header is damaged. Voxels are not looked at.
    """
    path = Path(path)
    start = _read_bytes(path, 1 << 16)
    if start.startswith(_GZIP):
        try:
            start = zlib.decompressobj(wbits=31).decompress(start, 1024)
        except zlib.error as error:
            raise VolumeError(f"{path}: the compressed data are damaged ({error}): fetch the file again") from error
    return _grid(path, start)


def read_volume(path: Path | str, channel: int | None = None) -> Volume:
    """Read a 3-D NIfTI file, or one channel of the last axis of a 4-D one, and reorient it to RAS+.

    NIfTI-1 and -2, single file, compressed or not, whatever the suffix says. Trailing axes of length 1 are dropped.

    Raises:
        VolumeError: missing, empty, truncated or damaged file, not NIfTI, not 3-D, no such channel.
    """
    path = Path(path)
    grid, data = _parse(path, _inflate(path), channel)
    return Volume(**vars(grid), data=data)


def read_images(case: Case, modalities: Sequence[str]) -> tuple[NDArray[np.float32], Grid]:
    """The named modalities of a case: (C, X, Y, Z) float32 in RAS+ order, and the grid that they share.

    Raises:
        VolumeError: a modality is missing, a file cannot be read, grids differ, a voxel is NaN or infinite.
    """
    if not modalities:
        raise ValueError(f"case {case.id}: no modality was asked for; take at least one of {', '.join(case.images)}")
    raw, inflated = b"", None
    for index, modality in enumerate(modalities):
        if modality not in case.images:
            raise _missing_modality(case, modality)
        path, channel = case.images[modality].path, case.images[modality].channel
        if path != inflated:  # the channels of a 4-D file come from one reading
            raw, inflated = _inflate(path), path
        grid, data = _parse(path, raw, channel)
        if index == 0:
            first, first_path = grid, path
            images = np.empty((len(modalities), *grid.ras_shape), np.float32)
        _check_grid(path, grid, first_path, first)
        with np.errstate(over="ignore"):  # what float32 cannot hold is reported as infinite
            images[index] = data
        _check_finite(path, images[index])
    return images, first


def read_case(case: Case, modalities: Sequence[str], labels: dict[int, str]) -> CaseVolumes:
    """Images, mask and reference of a case, on one grid, in RAS+ order, checked.

    The affines, after reorientation, agree within ``AFFINE_TOLERANCE`` (absolute). Masks of any type are rounded
    to integers, from which they may differ by ``LABEL_TOLERANCE``, and hold only keys of ``labels`` (0 ... 255).

    Raises:
        VolumeError: as :func:`read_images`; or the case has no mask, or a mask holds anything but ``labels``.
    """
    if case.mask is None:
        raise VolumeError(f"case {case.id} has no mask: it can be predicted, not trained on or scored")
    images, grid = read_images(case, modalities)
    masks = []
    for path in (case.mask, case.reference):
        if path is not None:
            mask_grid, data = _parse(path, _inflate(path), None)
            _check_grid(path, mask_grid, case.images[modalities[0]].path, grid)
            masks.append(_labels_of(path, data, labels))
    return CaseVolumes(**vars(grid), images=images, mask=masks[0], reference=masks[1] if len(masks) > 1 else None)


def encode_target(labels: NDArray[Any], target: Target) -> NDArray[np.uint8]:
    """Label values (any shape, integers 0 ... 255) as the target's uint8 code.

    Exclusive: the class index, 1 for the first name, 0 for every value that no class names. Otherwise bit ``i`` is set
    where region ``i`` is; a single region gives 0 and 1.
    """
    if labels.dtype.kind not in "ui":
        raise ValueError(f"expected integer label values, got {labels.dtype}: cast them first")
    if labels.size and not 0 <= labels.min() <= labels.max() <= 255:
        raise ValueError(f"expected label values in 0 ... 255, got {labels.min()} ... {labels.max()}")
    code = np.zeros(256, np.uint8)
    for index, values in enumerate(target.labels):
        code[list(values)] |= index + 1 if target.exclusive else 1 << index
    return code[labels]


def to_original(array: NDArray[Any], original_affine: NDArray[Any]) -> NDArray[Any]:
    """A RAS+ array (X, Y, Z, ...) in the order of axes of the file it belongs to; inverse of the reorientation of reading.

    ``write_volume(path, to_original(prediction, volume.original_affine), volume.original_affine)`` lies on the image.
    """
    return np.ascontiguousarray(apply_orientation(array, ornt_transform(_RAS, io_orientation(original_affine))))


def write_volume(path: Path | str, array: NDArray[Any], affine: NDArray[Any]) -> None:
    """Write (X, Y, Z) or (X, Y, Z, C) as NIfTI-1; ``.nii.gz`` is compressed.

    The same array and affine give the same bytes. The file appears whole or not at all. Booleans become uint8; 64-bit
    integers, which few programs read, are refused.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: a volume is written as .nii or .nii.gz")
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.dtype in (np.int64, np.uint64):
        raise ValueError(f"{path}: {array.dtype} voxels are refused; cast them to a smaller type first")
    image = nib.Nifti1Image(array, affine)
    image.header.set_sform(affine, code="scanner")
    image.header.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    if path.name.endswith(".gz"):
        content = zlib.compress(content, 1, wbits=31)  # a gzip stream without name and time
    partial = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _read_bytes(path: Path, limit: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(limit)
    except OSError as error:
        raise VolumeError(f"{path}: expected a NIfTI file, cannot read it: {error.strerror}") from error
    if not content:
        raise VolumeError(f"{path}: expected a NIfTI file, got zero bytes: fetch the file again")
    return content


def _inflate(path: Path) -> bytes:
    content = _read_bytes(path)
    if not content.startswith(_GZIP):
        return content
    try:
        return igzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, IsalError) as error:  # type: ignore[misc]  # the stub has an instance
        reason = "are cut short" if isinstance(error, EOFError) else "are damaged"
        raise VolumeError(
            f"{path}: the compressed data {reason} ({len(content)} bytes; {error}): fetch the file again"
        ) from error


def _image_class(path: Path, start: bytes) -> type[nib.Nifti1Image]:
    for image_class, size, magic in ((nib.Nifti1Image, 348, start[344:348]), (nib.Nifti2Image, 540, start[4:8])):
        if size in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")):
            if magic.startswith((b"ni1", b"ni2")):
                raise VolumeError(f"{path}: half of a .hdr/.img pair: convert the pair to a single .nii.gz file")
            if magic.startswith((b"n+1", b"n+2")):
                return image_class
    raise VolumeError(f"{path}: expected a NIfTI file (.nii or .nii.gz), but it begins with {start[:8]!r}: convert it to NIfTI")


def _grid(path: Path, start: bytes) -> Grid:
    """Parse a header; ``start`` is the beginning of the inflated file."""
    header_class = _image_class(path, start).header_class
    try:
        header = header_class(start[: header_class.template_dtype.itemsize])
        shape, affine = tuple(int(size) for size in header.get_data_shape()), header.get_best_affine()
        unit = header.get_xyzt_units()[0]
    except _BAD_HEADER as error:
        raise VolumeError(f"{path}: the NIfTI header is damaged ({error}): fetch the file again") from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise VolumeError(f"{path}: expected a volume (X, Y, Z) or (X, Y, Z, channels), got shape {shape}")
    if header.get_data_dtype().kind not in "uif":
        raise VolumeError(f"{path}: expected one number a voxel, got {header.get_data_dtype()}: convert it to a scalar image")
    if unit not in ("mm", "unknown"):
        raise VolumeError(f"{path}: expected millimetres, but the header says {unit}: convert the file to millimetres")
    axes = io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
    if np.isnan(axes).any():
        raise VolumeError(f"{path}: expected an affine that can be inverted, got\n{_text(affine)}\nRepair the sform or qform")
    oriented = affine @ inv_ornt_aff(axes, shape[:3])
    x, y, z = (shape[axis] for axis in np.argsort(axes[:, 0]))
    dx, dy, dz = (float(size) for size in nib.affines.voxel_sizes(oriented))
    num_channels = shape[3] if len(shape) == 4 else 1
    return Grid((x, y, z), oriented, (dx, dy, dz), (shape[0], shape[1], shape[2]), affine, num_channels)


def _parse(path: Path, raw: bytes, channel: int | None) -> tuple[Grid, NDArray[Any]]:
    grid = _grid(path, raw)
    if channel is None and grid.num_channels > 1:
        raise VolumeError(f"{path}: expected a 3-D volume, got {grid.num_channels} channels: choose one of them")
    if channel is not None and not 0 <= channel < grid.num_channels:
        raise VolumeError(f"{path}: expected a file with a channel {channel}, it has {grid.num_channels}, counted from 0")
    try:
        proxy: Any = _image_class(path, raw).from_bytes(raw).dataobj
        needed = math.prod(proxy.shape) * proxy.dtype.itemsize + proxy.offset
    except _BAD_HEADER as error:
        raise VolumeError(f"{path}: the NIfTI header is damaged ({error}): fetch the file again") from error
    if needed > len(raw):
        raise VolumeError(f"{path}: the voxels are cut short: expected {needed} bytes, got {len(raw)}: fetch the file again")
    data = np.asanyarray(proxy[..., channel or 0] if grid.num_channels > 1 else proxy)
    return grid, apply_orientation(data.reshape(grid.original_shape), io_orientation(grid.original_affine))


def _missing_modality(case: Case, modality: str) -> VolumeError:
    """Name the file that the case lacks, by analogy with one that it has."""
    hint = "the case has no image at all"
    for name, image in case.images.items():
        token = re.compile(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", re.IGNORECASE)
        pattern = token.sub(lambda found: modality.capitalize() if found[0][0].isupper() else modality, image.path.name)
        hint = f"it has {', '.join(case.images)} in {image.path.parent}"
        if pattern != image.path.name:
            return VolumeError(f"case {case.id} has no {modality} image: expected {image.path.parent / pattern}; {hint}")
    return VolumeError(f"case {case.id} has no {modality} image: {hint}")


def _check_grid(path: Path, grid: Grid, other_path: Path, other: Grid) -> None:
    if grid.ras_shape != other.ras_shape:
        raise VolumeError(
            f"{path}: expected the shape {other.ras_shape} of {other_path} (axes in RAS order), got {grid.ras_shape}: "
            "files of a case share one grid; resample or replace the odd one"
        )
    difference = float(np.abs(grid.affine - other.affine).max())
    if difference > AFFINE_TOLERANCE:
        raise VolumeError(
            f"{path}: its affine differs by {difference:.3g} (allowed {AFFINE_TOLERANCE:g}) from that of {other_path}; in RAS "
            f"order got\n{_text(grid.affine)}\nexpected\n{_text(other.affine)}\nCopy the right header, or resample the file"
        )


def _check_finite(path: Path, data: NDArray[Any]) -> None:
    finite = np.isfinite(data)
    if not finite.all():
        place = tuple(int(index) for index in np.argwhere(~finite)[0])
        raise VolumeError(
            f"{path}: expected finite voxels, got {finite.size - np.count_nonzero(finite)} NaN or infinite ones, the first at "
            f"{place} (RAS order): replace them, or export the image again"
        )


def _labels_of(path: Path, data: NDArray[Any], labels: dict[int, str]) -> NDArray[np.uint8]:
    """A mask of any type as uint8 label values, each of them a key of ``labels``."""
    values = data
    if data.dtype.kind == "f":
        _check_finite(path, data)
        values = np.rint(data)
        if (worst := float(np.abs(data - values).max())) > LABEL_TOLERANCE:
            raise VolumeError(
                f"{path}: expected whole label values, got fractions (up to {worst:.3g} off): a mask resampled "
                "linearly? Resample it with nearest neighbour"
            )
    allowed = np.zeros(256, bool)
    allowed[list(labels)] = True
    in_range = values.min() >= 0 and values.max() <= 255
    with np.errstate(invalid="ignore"):  # what does not fit is refused below
        mask = values.astype(np.uint8)
    if not in_range or not allowed[mask].all():
        counts = zip(*np.unique(values, return_counts=True), strict=True)
        odd = [f"{value:g} ({count} voxels)" for value, count in counts if value not in labels]
        found = ", ".join(odd[:10]) + (", ..." if len(odd) > 10 else "")
        known = ", ".join(f"{value} {meaning}" for value, meaning in labels.items())
        raise VolumeError(f"{path}: unexpected label {found}; allowed are {known}: is it a mask of this data set and year?")
    return np.ascontiguousarray(mask)


def _text(affine: NDArray[Any]) -> str:
    return np.array2string(np.asarray(affine), precision=5, suppress_small=True)
