"""The bytes of files: read, measured and inflated, with errors that say which file is at fault and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isal import isal_zlib

from calf.data.grid import VolumeError

ZLIB, GZIP = 15, 31  # zlib's wbits of the two ways to wrap a compressed stream

_APPLE_DOUBLE = b"\x00\x05\x16\x07"
_PIECE = 1 << 16  # of compressed data that are inflated at a time; at most a thousand times as much comes out


def read_bytes(path: Path, expected: str, limit: int = -1) -> bytes:
    """The file, or its first ``limit`` bytes.

    Raises:
        VolumeError: it is missing, empty, or one of the ``._`` files that macOS puts beside the real ones.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(limit)
    except OSError as error:
        raise VolumeError(f"{path}: expected {expected}, cannot read it: {error.strerror}") from error
    if not content:
        raise VolumeError(f"{path}: expected {expected}, got zero bytes: fetch the file again")
    if content.startswith(_APPLE_DOUBLE):
        raise VolumeError(
            f"{path}: expected {expected}, got an AppleDouble file, in which macOS keeps attributes of the real one: "
            f"take {path.name.removeprefix('._')}, and delete the ._ files"
        )
    return content


def exactly(file: Path, stored: memoryview, wbits: int | None, needed: int) -> memoryview | bytearray:
    """The ``needed`` bytes that are stored there, as they are (``wbits`` None) or compressed.

    No more than a piece beyond ``needed`` is ever inflated, whatever a damaged header asks for.

    Raises:
        VolumeError: there are fewer or more bytes, or the compressed stream is damaged or cut short.
    """
    content: Any = stored
    length = len(stored)
    if wbits is not None:
        content = inflated = _inflate(file, stored, wbits, needed)
        length = len(inflated)
    if length != needed:
        more = "more than that" if length > needed else str(length)
        raise VolumeError(f"{file}: expected {needed} bytes of voxels, got {more}: cut short or damaged, fetch the file again")
    return content


def _inflate(file: Path, stored: memoryview, wbits: int, limit: int) -> bytearray:
    stream, content = isal_zlib.decompressobj(wbits=wbits), bytearray()
    try:
        for first in range(0, len(stored), _PIECE):
            content += stream.decompress(stored[first : first + _PIECE])
            if len(content) > limit or (stream.eof and first + _PIECE < len(stored)):
                break
    except isal_zlib.error as error:  # type: ignore[misc]  # the stub has an instance
        raise VolumeError(f"{file}: the compressed data are damaged ({error}): fetch the file again") from error
    if len(content) <= limit and (not stream.eof or stream.unused_data or first + _PIECE < len(stored)):
        raise VolumeError(f"{file}: the compressed data are cut short, or followed by others: fetch the file again")
    return content
