"""NRRD files (``.nrrd``, and ``.nhdr`` with its file of voxels), read by ITK.

ITK reads files that are cut short or damaged as if they were whole, so the stored voxels are measured, and inflated for their
checksum, before it is asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from calf.data.grid import LPS, Grid, Volume, VolumeError, check_channel, make_grid, make_volume
from calf.data.stored import GZIP, exactly, read_bytes

_HEADER_LIMIT = 1 << 20  # bytes in which a header has to end
_WBITS = {"raw": None, "gzip": GZIP, "gz": GZIP}

sitk.ProcessObject.SetGlobalWarningDisplay(False)


@dataclass(frozen=True)
class _Stored:
    """Where the voxels are, and how they are stored."""

    file: Path
    offset: int
    wbits: int | None


def read_header(path: Path) -> Grid:
    """The grid of a NRRD file; its voxels are not read, but ITK wants them to be there."""
    return _grid(path, _reader(path, _stored(path)))


def read_channels(path: Path, channels: Sequence[int | None]) -> Iterator[Volume]:
    """Channels of one file, which is read once: the components of its voxels, or the fourth axis of scalar ones."""
    stored = _stored(path)
    reader = _reader(path, stored)
    grid = _grid(path, reader)
    indices = [check_channel(path, grid, channel) for channel in channels]
    one = sitk.Image([1, 1], reader.GetPixelID(), reader.GetNumberOfComponents())
    needed = math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * one.GetSizeOfPixelComponent()
    content = memoryview(read_bytes(stored.file, f"the voxels of {path.name}"))[stored.offset :]
    exactly(stored.file, content, stored.wbits, needed)
    try:
        array = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise VolumeError(f"{path}: ITK cannot read it ({_reason(error)}): fetch the file again") from error
    array = array.reshape((*reader.GetSize()[::-1], -1))
    if array.ndim == 5:
        array = np.moveaxis(array[..., 0], 0, -1)
    for index in indices:
        yield make_volume(grid, array[..., index].T)


def data_file(path: Path) -> Path | None:
    """The file of the voxels of a ``.nhdr`` header; None if the header itself holds them, or cannot be read."""
    try:
        file = _stored(path).file
    except VolumeError:
        return None
    return file if file != path else None


def _reader(path: Path, stored: _Stored) -> sitk.ImageFileReader:
    read_bytes(stored.file, f"the voxels of {path.name}", 4)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise VolumeError(f"{path}: ITK cannot read the header ({_reason(error)}): fetch the file again") from error
    return reader


def _grid(path: Path, reader: sitk.ImageFileReader) -> Grid:
    shape, components = reader.GetSize(), reader.GetNumberOfComponents()
    if len(shape) not in (3, 4) or (len(shape) == 4 and components != 1) or min(*shape, components) < 1:
        raise VolumeError(
            f"{path}: expected a volume (X, Y, Z), or several channels of one, got shape {shape}, {components} channels"
        )
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in kind or not ("integer" in kind or "float" in kind):
        raise VolumeError(f"{path}: expected real numbers, got {kind}: convert it to a scalar image")
    n = len(shape)
    affine = np.eye(4)
    affine[:3, :3] = (np.array(reader.GetDirection()).reshape(n, n) * reader.GetSpacing())[:3, :3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    return make_grid(path, shape[:3], LPS @ affine, components * (shape[3] if n == 4 else 1))


def _stored(path: Path) -> _Stored:
    """From the header's text: what ITK would not tell."""
    start = read_bytes(path, "a NRRD file", _HEADER_LIMIT)
    blank = re.search(rb"\r?\n\r?\n", start)
    if not start.startswith(b"NRRD000") or (blank is None and path.suffix.lower() == ".nrrd"):
        raise VolumeError(f"{path}: expected a NRRD header, but the file begins with {start[:8]!r}: fetch the file again")
    lines = start[: blank.start() if blank else None].decode("latin-1").splitlines()
    pairs = (line.split(": ", 1) for line in lines[1:] if ": " in line and not line.startswith("#"))
    fields = {key.strip().lower().replace(" ", ""): value.strip() for key, value in pairs}
    encoding = fields.get("encoding", "none").lower()
    if encoding not in _WBITS or {fields.get(key, "0") for key in ("lineskip", "byteskip")} != {"0"}:
        raise VolumeError(f"{path}: expected voxels in raw or gzip encoding, nothing skipped, got {encoding}: save the file so")
    if units := set(re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))) - {"mm", ""}:
        raise VolumeError(f"{path}: expected millimetres, but the header says {', '.join(sorted(units))}: convert the file")
    name = fields.get("datafile")
    if name is None:
        return _Stored(path, blank.end() if blank else len(start), _WBITS[encoding])
    if re.match("LIST", name) or re.search(r"[%\x00]", name):
        raise VolumeError(f"{path}: expected one file of voxels, got {name!r}: save the image as one file")
    return _Stored(path.parent / name, 0, _WBITS[encoding])


def _reason(error: RuntimeError) -> str:
    """The last line of ITK's report, without its addresses."""
    return re.sub(r"^.*?\(0x[0-9a-f]+\):\s*", "", str(error).strip().splitlines()[-1])
