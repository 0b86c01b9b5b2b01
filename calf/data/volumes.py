"""Volumes of whatever format: read, checked, reoriented to RAS+, and brought back into their own grid.

What a path is decides how it is read: ``.mha`` and ``.mhd`` as MetaImage; ``.nrrd`` and ``.nhdr`` as NRRD; a folder as one DICOM
series; ``.dcm`` as a DICOM segmentation, which lies on the grid of an image; anything else has to be NIfTI.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from isal import isal_zlib
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from numpy.typing import NDArray

from calf.data import metaimage, nifti
from calf.data.cases import Case, Target
from calf.data.grid import Grid, Volume, VolumeError, check_grid, same_grid
from calf.data.nifti import write_volume

__all__ = [
    "CaseVolumes",
    "Grid",
    "Volume",
    "VolumeError",
    "content_digest",
    "encode_target",
    "files_of",
    "read_case",
    "read_header",
    "read_images",
    "read_mask",
    "read_volume",
    "to_original",
    "write_volume",
]

LABEL_TOLERANCE = 1e-3  # resampled or rescaled masks hold 0.9999999 for 1
_SLAB = 2**21  # voxels of a mask that are converted at once
_MOST_NAMED = 10  # values of a mask that a message lists

_RAS = np.array([[0, 1], [1, 1], [2, 1]])


@dataclass(frozen=True, eq=False)
class CaseVolumes(Grid):
    """A case on one grid: ``images`` (C, X, Y, Z) float32, ``mask`` and ``reference`` (X, Y, Z) uint8 label values."""

    images: NDArray[np.float32]
    mask: NDArray[np.uint8]
    reference: NDArray[np.uint8] | None


class _Format(Protocol):
    def read_header(self, path: Path) -> Grid: ...

    def read_channels(self, path: Path, channels: Sequence[int | None]) -> Iterator[Volume]: ...


def read_header(path: Path | str) -> Grid:
    """The grid of an image: of files only the beginning, of a DICOM series the headers are read.

    Raises:
        VolumeError: the file is missing, empty, of an unknown format, or its header is damaged; it is a DICOM segmentation, which
            has the grid of its image. Voxels are not looked at.
    """
    path = Path(path)
    return _format(path).read_header(path)


def read_volume(path: Path | str, channel: int | None = None) -> Volume:
    """Read a 3-D file, or one channel of a file with several, or a folder with one DICOM series, and reorient it to RAS+.

    Channels are the last axis of a 4-D file, or the components of MetaImage's and NRRD's voxels. Trailing axes of length 1 are
    dropped. NIfTI-1 and -2 are read as single files, compressed or not, whatever the suffix says.

    Raises:
        VolumeError: missing, empty, truncated or damaged file, unknown format, not 3-D, no such channel; a folder with several
            series, or whose slices do not stack.
    """
    path = Path(path)
    return next(_format(path).read_channels(path, [channel]))


def read_images(case: Case, modalities: Sequence[str], onto: str | None = None) -> tuple[NDArray[np.float32], Grid]:
    """The named modalities of a case: (C, X, Y, Z) float32 in RAS+ order, and the grid that they share.

    Args:
        case: its images.
        modalities: which of them, in this order.
        onto: the modality whose grid all are brought to, whether or not it is one of ``modalities``. An image on another grid
            is interpolated linearly; where it does not reach it takes its minimum. None: images have to share their grid.

    Raises:
        VolumeError: a modality is missing, a file cannot be read, grids differ, a voxel is NaN or infinite; with ``onto``, an
            image that hardly meets the grid.
    """
    if not modalities:
        raise ValueError(f"case {case.id}: no modality was asked for; take at least one of {', '.join(case.images)}")
    for modality in (*modalities, *([onto] if onto else [])):
        if modality not in case.images:
            raise _missing_modality(case, modality)
    first_path = case.images[onto or modalities[0]].path
    grid = read_header(first_path)
    # x runs fastest, as in most files and as axial slices want it
    images = np.empty((len(modalities), *grid.ras_shape[::-1]), np.float32).transpose(0, 3, 2, 1)
    # the channels of one file come from one reading
    for path, group in groupby(enumerate(modalities), key=lambda entry: case.images[entry[1]].path):
        wanted = list(group)
        volumes = _format(path).read_channels(path, [case.images[modality].channel for _, modality in wanted])
        for (index, _), volume in zip(wanted, volumes, strict=True):
            if onto is None:
                check_grid(path, volume, first_path, grid, ", or name a modality in preparation.onto")
            with np.errstate(over="ignore"):  # what float32 cannot hold is reported as infinite
                images[index] = volume.data if onto is None or same_grid(volume, grid) else _resampled(path, volume, grid)
            _check_finite(path, images[index])
    return images, grid


def read_case(case: Case, modalities: Sequence[str], labels: dict[int, str], onto: str | None = None) -> CaseVolumes:
    """Images, mask and reference of a case, on one grid, in RAS+ order, checked.

    The grids, after reorientation, agree as :func:`calf.data.grid.same_grid` says. Masks of any type are rounded
    to integers, from which they may differ by ``LABEL_TOLERANCE``, and hold only keys of ``labels`` (0 ... 255).

    Raises:
        VolumeError: as :func:`read_images`; or the case has no mask, a mask lies on another grid (that of ``onto``, if given), or
            holds anything but ``labels``.
    """
    if case.mask is None:
        raise VolumeError(f"case {case.id} has no mask: it can be predicted, not trained on or scored")
    images, grid = read_images(case, modalities, onto)
    image = case.images[onto or modalities[0]].path
    mask = read_mask(case.mask, labels, image, grid)
    reference = None if case.reference is None else read_mask(case.reference, labels, image, grid)
    return CaseVolumes(**vars(grid), images=images, mask=mask, reference=reference)


def read_mask(path: Path | str, labels: dict[int, str], image: Path, grid: Grid, segment: int | None = None) -> NDArray[np.uint8]:
    """A mask on the grid of ``image``: uint8 label values (X, Y, Z) in RAS+ order, each of them a key of ``labels``.

    The values of a DICOM segmentation are its segment numbers. ``segment`` takes one of them alone, which is the only way to read
    segments that overlap; other formats have none.

    Raises:
        VolumeError: the mask cannot be read, lies on another grid, holds other values, or its segments overlap.
    """
    path = Path(path)
    if _is_segmentation(path):
        from calf.data import dicom_seg

        return _labels_of(path, dicom_seg.read_segmentation(path, grid, image, segment), labels)
    if segment is not None:
        raise ValueError(f"{path}: only a DICOM segmentation (.dcm) has segments to choose from")
    check_grid(path, read_header(path), image, grid)  # before voxels of another grid, of whatever size, take memory
    volume = read_volume(path)
    check_grid(path, volume, image, grid)
    return _labels_of(path, volume.data, labels)


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


def content_digest(array: NDArray[Any]) -> str:
    """Recognises the same image (X, Y, Z) in RAS+ order under another name, format, voxel type or order of axes.

    SHA-256 of the shape and of a CRC-32 of each axial slice of the float32 values: no proof against forgery, but images that
    differ by chance in ``n`` slices agree with probability 2^(-32 n). Spacing and place in the world are not part of it.
    """
    digest = hashlib.sha256(repr(array.shape).encode())
    # + 0 turns -0.0 into 0.0, which is the same number
    for plane in np.ascontiguousarray(array.T, "<f4"):  # x runs fastest
        digest.update(isal_zlib.crc32(plane + np.float32(0)).to_bytes(4, "little"))
    return digest.hexdigest()


def files_of(path: Path | str) -> list[Path]:
    """The files that an image or mask is read from, in a fixed order: itself; with the file of its voxels, if it is a header
    (``.mhd``, ``.nhdr``); of a folder all but hidden ones. Files that are missing are listed too: reading names them.
    """
    path = Path(path)
    voxels = None
    if path.suffix.lower() == ".mhd":
        voxels = metaimage.data_file(path)
    elif path.suffix.lower() == ".nhdr":
        from calf.data import nrrd

        voxels = nrrd.data_file(path)
    if path.is_dir():
        from calf.data import dicom

        return dicom.files_in(path)
    return [path] if voxels is None else [path, voxels]


def _is_segmentation(path: Path) -> bool:
    return path.suffix.lower() == ".dcm" and not path.is_dir()


def _format(path: Path) -> _Format:
    """The reader of a path. ITK and pydicom take most of a second to import, which data sets of NIfTI files need not spend."""
    if path.suffix.lower() in (".mha", ".mhd"):
        return metaimage
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        from calf.data import nrrd

        return nrrd
    if path.is_dir() or path.suffix.lower() == ".dcm":
        from calf.data import dicom

        return dicom
    return nifti


def _resampled(path: Path, volume: Volume, grid: Grid) -> NDArray[np.float32]:
    from calf.data.resample import resample

    _check_finite(path, volume.data)
    return resample(path, volume, grid)


def _missing_modality(case: Case, modality: str) -> VolumeError:
    held = ", ".join(f"{name} ({image.path})" for name, image in case.images.items())
    return VolumeError(f"case {case.id} has no {modality} image: " + (f"it has {held}" if held else "it has no image at all"))


def _check_finite(path: Path, data: NDArray[Any]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(data.sum()):  # a NaN or an infinity stays one in a sum, which is a tenth of the work
            return
    finite = np.isfinite(data)
    if not finite.all():
        place = tuple(int(index) for index in np.unravel_index(np.argmin(finite), finite.shape))
        raise VolumeError(
            f"{path}: expected finite voxels, got {finite.size - np.count_nonzero(finite)} NaN or infinite ones, the first at "
            f"{place} (RAS order): replace them, or export the image again"
        )


def _labels_of(path: Path, data: NDArray[Any], labels: dict[int, str]) -> NDArray[np.uint8]:
    """A mask (X, Y, Z) of any type as uint8 label values, each of them a key of ``labels``.

    Slab by slab: beside ``data`` and the result nothing as large as they is held.
    """
    fractional = data.dtype.kind == "f"
    if fractional:
        _check_finite(path, data)
    allowed = np.zeros(256, bool)
    allowed[list(labels)] = True
    mask, worst, known_all = np.empty_like(data, np.uint8), 0.0, True
    for slab in _slabs(data):
        part = data[slab]
        values = np.rint(part) if fractional else part
        if fractional:
            worst = max(worst, float(np.abs(part - values).max()))
        with np.errstate(invalid="ignore"):  # what does not fit is refused below
            mask[slab] = values.astype(np.uint8)
        known_all = bool(known_all and values.min() >= 0 and values.max() <= 255 and allowed[mask[slab]].all())
    if worst > LABEL_TOLERANCE:
        raise VolumeError(
            f"{path}: expected whole label values, got fractions (up to {worst:.3g} off): a mask resampled "
            "linearly? Resample it with nearest neighbour"
        )
    if not known_all:
        odd = [f"{value:g} ({count} voxels)" for value, count in _unknown_values(data, labels).items()]
        found = ", ".join(odd[:_MOST_NAMED]) + (", ..." if len(odd) > _MOST_NAMED else "")
        known = ", ".join(f"{value} {meaning}" for value, meaning in labels.items())
        raise VolumeError(f"{path}: unexpected label {found}; allowed are {known}: is it a mask of this data set and year?")
    return mask


def _slabs(data: NDArray[Any]) -> Iterator[Any]:
    """Indices of parts of ``data`` (X, Y, Z) along its last axis, of about ``_SLAB`` voxels."""
    thickness = max(1, _SLAB // max(1, data[..., 0].size))
    for first in range(0, data.shape[-1], thickness):
        yield (..., slice(first, first + thickness))


def _unknown_values(data: NDArray[Any], labels: dict[int, str]) -> dict[Any, int]:
    """The least values, rounded, that are no key of ``labels``, one more than are named, and how many voxels hold each."""
    odd: dict[Any, int] = {}
    for slab in _slabs(data):
        part = np.rint(data[slab]) if data.dtype.kind == "f" else data[slab]
        values, counts = np.unique(part, return_counts=True)
        unknown = ~np.isin(values, list(labels))
        # what is among the least of all is among the least of each slab that holds it, and of each beginning
        for value, count in zip(values[unknown][: _MOST_NAMED + 1], counts[unknown], strict=False):
            odd[value] = odd.get(value, 0) + int(count)
        odd = dict(sorted(odd.items())[: _MOST_NAMED + 1])
    return odd
