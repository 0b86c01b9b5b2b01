"""MetaImage files (``.mha``, and ``.mhd`` with its file of voxels).

Parsed here, not by ITK: on a damaged header ITK writes past its arrays and takes the process with it, and it reads voxels that
are cut short as if they were whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calf.data.grid import LPS, Grid, Volume, VolumeError, check_channel, make_grid, make_volume
from calf.data.stored import ZLIB, exactly, read_bytes

_HEADER_LIMIT = 1 << 20  # bytes in which a header has to end
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
# what would change the voxels if it were anything else
_FIXED = {
    "ObjectType": ("image",),
    "BinaryData": ("true",),
    "HeaderSize": ("0", "-1"),
    "DistanceUnits": ("mm",),
    "ElementToIntensityFunctionSlope": ("1",),
    "ElementToIntensityFunctionOffset": ("0",),
}


@dataclass(frozen=True)
class _Header:
    grid: Grid
    shape: tuple[int, ...]  # of the stored array, the slowest axis first, channels of a voxel last
    dtype: np.dtype[Any]
    compressed_size: int | None  # -1: not said; None: not compressed
    file: Path
    offset: int


def read_header(path: Path) -> Grid:
    """The grid of a MetaImage file; its voxels are neither read nor looked for."""
    return _header(path).grid


def read_channels(path: Path, channels: Sequence[int | None]) -> Iterator[Volume]:
    """Channels of one file, which is read once: the components of its voxels, or the fourth axis of scalar ones."""
    header = _header(path)
    indices = [check_channel(path, header.grid, channel) for channel in channels]
    stored = memoryview(read_bytes(header.file, f"the voxels of {path.name}"))[header.offset :]
    if header.compressed_size not in (None, -1, len(stored)):
        raise VolumeError(
            f"{header.file}: expected {header.compressed_size} compressed bytes, got {len(stored)}: fetch the file again"
        )
    wbits = None if header.compressed_size is None else ZLIB
    content = exactly(header.file, stored, wbits, math.prod(header.shape) * header.dtype.itemsize)
    array = np.frombuffer(content, header.dtype).reshape(header.shape)
    if len(header.shape) == 5:
        array = np.moveaxis(array[..., 0], 0, -1)
    for index in indices:
        yield make_volume(header.grid, array[..., index].T)


def data_file(path: Path) -> Path | None:
    """The file of the voxels of a ``.mhd`` header; None if the header itself holds them, or cannot be read."""
    try:
        file = _header(path).file
    except VolumeError:
        return None
    return file if file != path else None


def _header(path: Path) -> _Header:
    start = read_bytes(path, "a MetaImage file", _HEADER_LIMIT)
    fields, end = _fields(start)
    if "ElementDataFile" not in fields:
        raise VolumeError(f"{path}: expected a MetaImage header, but the file begins with {start[:8]!r}: fetch the file again")
    for key, allowed in _FIXED.items():
        if fields.get(key, allowed[0]).lower() not in allowed:
            raise VolumeError(f"{path}: expected {key} = {allowed[0]}, got {fields[key]}: save the file without it")
    try:
        sizes, components, dtype = _array_of(fields)
        affine = _affine(fields, len(sizes))
        compressed_size = int(fields.get("CompressedDataSize", "-1")) if _flag(fields, "CompressedData") else None
    except (KeyError, ValueError) as error:
        raise VolumeError(f"{path}: the MetaImage header is damaged, or not of an image in 3-D ({error!r})") from error
    grid = make_grid(path, sizes[:3], LPS @ affine, components * (sizes[3] if len(sizes) == 4 else 1))
    name = fields["ElementDataFile"]
    if re.match("LIST", name) or re.search(r"[%\x00]", name):
        raise VolumeError(f"{path}: expected one file of voxels, got {name!r}: save the image as one file")
    local = name.upper() == "LOCAL"
    shape = (*sizes[::-1], components)
    return _Header(grid, shape, dtype, compressed_size, path if local else path.parent / name, end if local else 0)


def _fields(start: bytes) -> tuple[dict[str, str], int]:
    """The header's lines ``key = value``, and where it ends; ElementDataFile is its last line."""
    fields = {}
    for line in re.finditer(rb"([^\n]*)\n", start):
        key, _, value = (part.strip() for part in line[1].decode("latin-1").partition("="))
        fields[key] = value
        if key == "ElementDataFile":
            return fields, line.end()
    return fields, len(start)


def _array_of(fields: dict[str, str]) -> tuple[tuple[int, ...], int, np.dtype[Any]]:
    """Voxels along each axis, values a voxel and their type."""
    sizes = tuple(int(size) for size in fields["DimSize"].split())
    components = int(fields.get("ElementNumberOfChannels", "1"))
    if int(fields["NDims"]) != len(sizes) or min(*sizes, components) < 1:
        raise ValueError(f"NDims = {fields['NDims']}, DimSize = {fields['DimSize']}, {components} channels")
    if len(sizes) == 4 and sizes[3] == 1:
        sizes = sizes[:3]
    if len(sizes) != 3 and (len(sizes) != 4 or components != 1):
        raise ValueError(f"DimSize = {fields['DimSize']}, {components} channels")
    big = _flag(fields, "BinaryDataByteOrderMSB") or _flag(fields, "ElementByteOrderMSB")
    return sizes, components, np.dtype((">" if big else "<") + _TYPES[fields["ElementType"]])


def _affine(fields: dict[str, str], dims: int) -> NDArray[np.float64]:
    """Voxel index to mm in ITK's axes; the rows of TransformMatrix are the directions of the axes."""
    dims = int(fields["NDims"])
    directions = _numbers(fields, ("TransformMatrix", "Rotation", "Orientation"), dims * dims, np.eye(dims)).reshape(dims, dims)
    spacing = _numbers(fields, ("ElementSpacing", "ElementSize"), dims, None)
    if (spacing <= 0).any():
        raise ValueError(f"ElementSpacing = {spacing}")
    affine = np.eye(4)
    affine[:3, :3] = (directions.T * spacing)[:3, :3]
    affine[:3, 3] = _numbers(fields, ("Offset", "Position", "Origin"), dims, np.zeros(dims))[:3]
    return affine


def _numbers(fields: dict[str, str], names: Sequence[str], count: int, default: NDArray[Any] | None) -> NDArray[np.float64]:
    """The numbers of the first of these fields that is there."""
    for name in names:
        if name in fields:
            found = np.array([float(number) for number in fields[name].split()])
            if found.shape != (count,) or not np.isfinite(found).all():
                raise ValueError(f"{name} = {fields[name]}")
            return found
    if default is None:
        raise KeyError(names[0])
    return default


def _flag(fields: dict[str, str], name: str) -> bool:
    value = fields.get(name, "False").lower()
    if value not in ("true", "false", "1", "0"):
        raise ValueError(f"{name} = {value}")
    return value in ("true", "1")
