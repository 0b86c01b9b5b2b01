"""Files that cannot be used: cut, altered, flat, of another kind."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from calf.data.volumes import (
    VolumeError,
    read_volume,
    write_volume,
)
from tests.data.nifti import LPS, SHAPE, save

# --- what is wrong with files ---------------------------------------------------------------------------------------


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def plain_and_cut(path: Path) -> None:
    path.write_bytes(gzip.decompress(path.read_bytes())[:-9])


def with_unit(path: Path) -> None:
    image = nib.load(path)
    image.header.set_xyzt_units("micron")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), path)


def half_of_a_pair(path: Path) -> None:
    path.write_bytes(gzip.decompress(path.read_bytes()).replace(b"n+1\0", b"ni1\0"))


def flat(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[280:284] = bytes(4)  # the first element of srow_x
    path.write_bytes(content)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: cut(path, 0.5), "compressed data are cut short"),
    "checksum": (flip_a_bit, "damaged|cut short"),
    "truncated, not compressed": (plain_and_cut, "voxels are cut short: expected [0-9]+ bytes"),
    "empty": (lambda path: path.write_bytes(b""), "zero bytes"),
    "attributes for macOS": (
        lambda path: path.write_bytes(b"\0\5\x16\7" + bytes(99)),
        "got an AppleDouble file.*take odd.nii.gz",
    ),
    "a web page": (lambda path: path.write_bytes(b"<!DOCTYPE html><html>404</html>"), "expected a NIfTI file .* b'<!DOCTYP'"),
    "missing": (Path.unlink, "No such file"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "a folder without DICOM images"),
    "one slice": (lambda path: save(path, np.zeros((4, 5), np.uint8)), r"got shape \(4, 5\)"),
    "five axes": (lambda path: save(path, np.zeros((4, 5, 3, 1, 3), np.uint8)), r"got shape \(4, 5, 3, 1, 3\)"),
    "colours": (lambda path: save(path, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])), "one number a voxel"),
    "complex": (lambda path: save(path, np.zeros(SHAPE, np.complex64)), "one number a voxel"),
    "microns": (with_unit, "expected millimetres, but the header says micron"),
    "half of a pair": (half_of_a_pair, "half of a .hdr/.img pair"),
    "flat": (flat, "an affine that can be inverted"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, how: str) -> None:
    path = save(tmp_path / "odd.nii.gz", np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    spoil, message = BROKEN[how]
    spoil(path)
    with pytest.raises(VolumeError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)


def test_no_length_of_a_file_and_no_byte_of_a_header_gets_past_as_another_error(tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nii", np.arange(60, dtype=np.float32).reshape(SHAPE), LPS)
    content, odd = (tmp_path / "v.nii").read_bytes(), tmp_path / "odd.nii"
    for length in range(0, len(content), 5):
        odd.write_bytes(content[:length])
        with pytest.raises(VolumeError):
            read_volume(odd)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        spoilt = bytearray(content)
        spoilt[rng.integers(352)] = rng.integers(256)
        odd.write_bytes(spoilt)
        try:
            read_volume(odd)
        except VolumeError:
            refused += 1
    assert 0 < refused < 300
