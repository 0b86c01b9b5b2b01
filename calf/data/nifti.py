"""NIfTI files in and out."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import nibabel as nib
import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from calf.data.grid import Grid, Volume, VolumeError, check_channel, make_grid, make_volume
from calf.data.stored import read_bytes

_GZIP = b"\x1f\x8b"
_BAD_HEADER = (HeaderDataError, WrapStructError, KeyError, ValueError, OverflowError)  # all that nibabel is seen to raise
_EXPECTED = "a NIfTI file"
_SLOPE_AT = 112  # bytes into the header: scl_slope and scl_inter, float32


def read_header(path: Path) -> Grid:
    """The grid of a NIfTI file; of a compressed one only the beginning is inflated."""
    start = read_bytes(path, _EXPECTED, 1 << 16)
    if start.startswith(_GZIP):
        try:
            start = zlib.decompressobj(wbits=31).decompress(start, 1024)
        except zlib.error as error:
            raise VolumeError(f"{path}: the compressed data are damaged ({error}): fetch the file again") from error
    return _grid(path, start)


def read_channels(path: Path, channels: Sequence[int | None]) -> Iterator[Volume]:
    """Channels of one file, which is inflated once. NIfTI-1 and -2, compressed or not, whatever the suffix says."""
    raw = _inflate(path)
    for channel in channels:
        yield _parse(path, raw, channel)


def write_volume(path: Path | str, array: NDArray[Any], affine: NDArray[Any], slope: float | None = None) -> None:
    """Write (X, Y, Z) or (X, Y, Z, C) as NIfTI-1; ``.nii.gz`` is compressed.

    ``slope``: what readers multiply the stored numbers by; None: they are the values.

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
    if slope is not None:  # nibabel writes a slope of its own choosing
        content = content[:_SLOPE_AT] + struct.pack("=2f", slope, 0) + content[_SLOPE_AT + 8 :]
    if path.name.endswith(".gz"):
        content = zlib.compress(content, 1, wbits=31)  # a gzip stream without name and time
    partial = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _inflate(path: Path) -> bytes:
    content = read_bytes(path, _EXPECTED)
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
    found = "it is DICOM" if start[128:132] == b"DICM" else f"it begins with {start[:8]!r}"
    raise VolumeError(
        f"{path}: expected a NIfTI file (.nii or .nii.gz), but {found}: other formats are known by their names (.mha, .mhd, "
        ".nrrd, .nhdr, .dcm for a DICOM segmentation, a folder for a DICOM series); convert anything else to NIfTI"
    )


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
    return make_grid(path, shape[:3], affine, shape[3] if len(shape) == 4 else 1)


def _parse(path: Path, raw: bytes, channel: int | None) -> Volume:
    grid = _grid(path, raw)
    index = check_channel(path, grid, channel)
    try:
        proxy: Any = _image_class(path, raw).from_bytes(raw).dataobj
        needed = math.prod(proxy.shape) * proxy.dtype.itemsize + proxy.offset
    except _BAD_HEADER as error:
        raise VolumeError(f"{path}: the NIfTI header is damaged ({error}): fetch the file again") from error
    if needed > len(raw):
        raise VolumeError(f"{path}: the voxels are cut short: expected {needed} bytes, got {len(raw)}: fetch the file again")
    data = np.asanyarray(proxy[..., index] if grid.num_channels > 1 else proxy)
    return make_volume(grid, data.reshape(grid.original_shape))
