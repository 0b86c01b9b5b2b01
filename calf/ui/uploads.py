"""Images that a browser sends: kept in a folder that nobody else can read, and checked before a voxel of them is read.

A file lies under a name of the server's; what the browser calls it is shown and nothing else. What is larger than was promised is
refused while it arrives, or while it is inflated, and never kept whole in memory for that.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
from isal import igzip
from isal.igzip_lib import IsalError
from starlette.concurrency import run_in_threadpool

from calf.data.grid import Grid, VolumeError
from calf.data.volumes import read_header
from calf.report.volumes import Unreadable

LIMIT_BYTES = 10**9  # as they are sent, of all files of one page
MOST_VOXELS = 2**27  # 512 x 512 x 512
MOST_INFLATED = 2**31  # bytes of a file; what reads it holds it in memory whole
SLACK = 2**20  # bytes that may follow the voxels
LONGEST_NAME = 120
_PIECE = 2**20
# whose folder: of a server on this machine, since others may have the same place for temporary files
_OURS = f"calf-ui-{re.sub(r'[^A-Za-z0-9.]', '_', socket.gethostname())}-"
_DAMAGED = (EOFError, gzip.BadGzipFile, IsalError)


class TooLarge(Unreadable):
    """A file is larger than what is taken."""


@dataclass(frozen=True)
class Upload:
    """A file that was taken: where it lies, what it is called, its size as it was sent, and its grid."""

    path: Path
    name: str
    size: int
    grid: Grid

    def public(self) -> dict[str, Any]:
        """What a browser is told of it."""
        shape, spacing = self.grid.ras_shape, self.grid.spacing_mm
        return {"name": self.name, "bytes": self.size, "shape": shape, "spacing_mm": spacing}


class PrivateFolder:
    """A temporary folder for one server, mode 0700, made when it is first needed; gone after :meth:`remove`."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._removed = False
        self._lock = threading.Lock()

    def new(self) -> Path:
        """A new folder in it; :class:`Unreadable` once it was removed."""
        with self._lock:
            if self._removed:
                raise Unreadable("calf ui is ending")
            if self._path is None:
                self._path = Path(tempfile.mkdtemp(prefix=f"{_OURS}{os.getpid()}-"))
            made = self._path / secrets.token_hex(8)
            made.mkdir(mode=0o700)
            return made

    def remove(self) -> None:
        """With everything in it, for good."""
        with self._lock:
            self._removed = True
            if self._path is not None:
                shutil.rmtree(self._path, ignore_errors=True)


def remove_abandoned() -> None:
    """Delete the temporary folders that servers of one's own left on this machine when they were killed."""
    if os.name != "posix":
        return
    for path in Path(tempfile.gettempdir()).glob(f"{_OURS}*"):
        pid = path.name.removeprefix(_OURS).partition("-")[0]
        try:
            found = path.lstat()
            if pid.isdecimal() and stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not _runs(int(pid)):
                shutil.rmtree(path, ignore_errors=True)
        except OSError:  # another server was faster
            continue


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of somebody else's
        pass
    return True


async def receive(stream: AsyncIterator[bytes], path: Path, admit: Callable[[int], None]) -> int:
    """Write what arrives; returns the number of bytes. Whatever is raised, no part of it is left.

    ``admit`` is told the bytes so far before the last of them are written, and raises to end it.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    size = 0
    try:
        with open(path, "xb", opener=_private) as file:
            async for piece in stream:
                size += len(piece)
                admit(size)
                await run_in_threadpool(file.write, piece)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return size


def shown_name(name: str) -> str:
    """What a browser called a file, to be shown: without folders and control characters, and not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(char for char in last if char.isprintable())[:LONGEST_NAME] or "file"


def check(path: Path, name: str) -> Grid:
    """The grid of a NIfTI file that can be read safely; no voxel is kept.

    Raises:
        Unreadable: it is no NIfTI-1 or NIfTI-2 file of one 3-D volume, is cut short or damaged, or holds more than its header
            promises.
        TooLarge: its header promises more voxels or bytes than are taken.
    """
    try:
        grid = read_header(path)
        if grid.num_channels > 1:
            raise VolumeError(f"{path}: expected one 3-D volume, got {grid.num_channels} of them: save the one that is meant")
        shape = " x ".join(map(str, grid.original_shape))
        if math.prod(grid.original_shape) > MOST_VOXELS:
            raise TooLarge(f"{name}: its header promises {shape} voxels; at most {MOST_VOXELS} are taken")
        promised = _promised_bytes(path)
        if not 0 < promised <= MOST_INFLATED:
            raise TooLarge(f"{name}: its header promises {promised} bytes; at most {MOST_INFLATED} are taken")
        found = _count_bytes(path, promised + SLACK)
    except VolumeError as reason:
        if _is_something_else(path):
            raise Unreadable(f"{name}: expected a NIfTI file, .nii or .nii.gz; this is none") from reason
        raise Unreadable(str(reason).replace(str(path), name)) from reason
    except _DAMAGED as reason:  # type: ignore[misc]  # the stub has an instance
        raise Unreadable(f"{name}: its compressed data are damaged or cut short: save it anew") from reason
    if found < promised:
        raise Unreadable(f"{name}: it is cut short: expected {promised} bytes, got {found}: save it anew")
    if found > promised + SLACK:
        raise TooLarge(f"{name}: it holds more than the {promised} bytes that its header promises")
    return grid


def _is_something_else(path: Path) -> bool:
    """Whether a file, inflated if need be, begins as no NIfTI file does; False for one that is empty or damaged."""
    try:
        with _opened(path) as file:
            start = file.read(540)
    except _DAMAGED:  # type: ignore[misc]  # the stub has an instance
        return False
    sizes = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
    known = (348 in sizes and start[344:346] in (b"n+", b"ni")) or (540 in sizes and start[4:6] in (b"n+", b"ni"))
    return bool(start) and not known


def _promised_bytes(path: Path) -> int:
    """Up to the last voxel; the header was checked by ``read_header``."""
    with _opened(path) as file:
        start = file.read(540)
    sizes = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
    kind = nib.Nifti2Header if 540 in sizes else nib.Nifti1Header
    header = kind(start[: kind.template_dtype.itemsize])
    try:
        offset = int(header.get_data_offset())
    except (ValueError, OverflowError) as error:  # NaN or infinite
        raise VolumeError(f"{path}: the NIfTI header is damaged ({error}): save the file anew") from error
    return offset + math.prod(int(length) for length in header.get_data_shape()) * int(header.get_data_dtype().itemsize)


def _count_bytes(path: Path, limit: int) -> int:
    """Of the file as it is read, inflated if need be; stops soon after ``limit``."""
    count = 0
    with _opened(path) as file:
        while count <= limit and (piece := file.read(_PIECE)):
            count += len(piece)
    return count


def _opened(path: Path) -> Any:
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return igzip.open(path, "rb") if compressed else open(path, "rb")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
