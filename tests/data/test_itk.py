"""MetaImage and NRRD files against ITK's own reading of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from calf.data.volumes import VolumeError, files_of, read_header, read_volume, to_original

SHAPE = (5, 4, 3)
OBLIQUE = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])


def image(dtype: str = "int16", direction: np.ndarray = OBLIQUE) -> sitk.Image:
    array = np.random.default_rng(0).integers(0, 100, SHAPE[::-1]).astype(dtype)
    made = sitk.GetImageFromArray(array)
    made.SetSpacing((0.5, 0.75, 3.5))
    made.SetOrigin((-20.25, 7.5, 11))
    made.SetDirection(direction.ravel().tolist())
    return made


def expect_as_itk_reads_it(path: Path) -> None:
    """The same value at the same place in the world, for every voxel."""
    reference = sitk.ReadImage(str(path))
    volume = read_volume(path)
    expected = sitk.GetArrayFromImage(reference)
    np.testing.assert_array_equal(to_original(volume.data, volume.original_affine), expected.T)
    assert volume.data.dtype == expected.dtype
    assert volume.original_shape == reference.GetSize() == SHAPE
    for index in itertools.product(*((0, length - 1) for length in volume.ras_shape)):
        x, y, z = (volume.affine @ (*index, 1))[:3]
        place = reference.TransformPhysicalPointToIndex((-x, -y, z))
        assert reference[place] == volume.data[index]
        np.testing.assert_allclose(reference.TransformIndexToPhysicalPoint(place), (-x, -y, z), atol=1e-9)
    np.testing.assert_array_equal(read_header(path).affine, volume.affine)


TURNS = [
    np.eye(3)[list(order)] * np.array(signs) for order in itertools.permutations(range(3)) for signs in ((1, 1, 1), (-1, 1, -1))
]


@pytest.mark.parametrize("direction", [OBLIQUE, *TURNS], ids=str)
@pytest.mark.parametrize("suffix", ["mha", "nrrd"])
def test_orientations(tmp_path: Path, direction: np.ndarray, suffix: str) -> None:
    sitk.WriteImage(image(direction=direction), tmp_path / f"v.{suffix}")
    expect_as_itk_reads_it(tmp_path / f"v.{suffix}")


@pytest.mark.parametrize("suffix", ["mha", "mhd", "nrrd", "nhdr"])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"])
def test_types_and_ways_to_store(tmp_path: Path, suffix: str, compressed: bool, dtype: str) -> None:
    sitk.WriteImage(image(dtype), tmp_path / f"v.{suffix}", compressed)
    expect_as_itk_reads_it(tmp_path / f"v.{suffix}")


@pytest.mark.parametrize("suffix", ["mha", "nrrd"])
def test_channels(tmp_path: Path, suffix: str) -> None:
    """Values of a voxel and a fourth axis are the same to us."""
    array = np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)
    together, apart = tmp_path / f"together.{suffix}", tmp_path / f"apart.{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(array.transpose(2, 1, 0, 3), isVector=True), together)
    sitk.WriteImage(sitk.GetImageFromArray(array.T, isVector=False), apart)
    for path in (together, apart):
        assert read_header(path).num_channels == 2
        for channel in (0, 1):
            volume = read_volume(path, channel)
            np.testing.assert_array_equal(to_original(volume.data, volume.original_affine), array[..., channel])
        with pytest.raises(VolumeError, match="got 2 channels: choose one"):
            read_volume(path)
        with pytest.raises(VolumeError, match="a channel 2, it has 2"):
            read_volume(path, 2)


def test_names_that_older_writers_use(tmp_path: Path) -> None:
    """Big-endian, Position for Offset, Orientation for TransformMatrix, and a fourth axis of one."""
    array = np.arange(60, dtype=">i2").reshape(SHAPE[::-1])
    header = (
        "NDims = 4\nDimSize = 5 4 3 1\nElementByteOrderMSB = True\nElementType = MET_SHORT\nElementSize = 2 1 1 1\n"
        "Orientation = 0 1 0 0 -1 0 0 0 0 0 1 0 0 0 0 1\nPosition = 1 2 3 0\nElementDataFile = LOCAL\n"
    )
    (tmp_path / "v.mha").write_bytes(header.encode() + array.tobytes())
    volume = read_volume(tmp_path / "v.mha")
    np.testing.assert_array_equal(to_original(volume.data, volume.original_affine), array.T)
    # the first axis runs along ITK's second one, hence to our front, 2 mm a step; the second one against ITK's first
    np.testing.assert_allclose(volume.original_affine, [[0, 1, 0, -1], [-2, 0, 0, -2], [0, 0, 1, 3], [0, 0, 0, 1]])


def test_the_header_alone_says_where_the_voxels_lie(tmp_path: Path) -> None:
    for suffix in ("mhd", "nhdr"):
        sitk.WriteImage(image(), tmp_path / f"v.{suffix}")
        (tmp_path / "v.raw").write_bytes(b"?")
        assert read_header(tmp_path / f"v.{suffix}").original_shape == SHAPE
        (tmp_path / "v.raw").unlink()
        with pytest.raises(VolumeError, match=rf"v.raw: expected the voxels of v.{suffix}, cannot read it: No such file"):
            read_volume(tmp_path / f"v.{suffix}")


def test_files_of_an_image(tmp_path: Path) -> None:
    sitk.WriteImage(image(), tmp_path / "a.mhd", True)
    sitk.WriteImage(image(), tmp_path / "b.nhdr", True)
    sitk.WriteImage(image(), tmp_path / "c.mha", True)
    assert files_of(tmp_path / "a.mhd") == [tmp_path / "a.mhd", tmp_path / "a.zraw"]
    assert files_of(tmp_path / "b.nhdr") == [tmp_path / "b.nhdr", tmp_path / "b.raw.gz"]
    assert files_of(tmp_path / "c.mha") == [tmp_path / "c.mha"]
    (tmp_path / "a.zraw").unlink()  # what is missing is listed: to read it names it
    assert files_of(tmp_path / "a.mhd") == [tmp_path / "a.mhd", tmp_path / "a.zraw"]
    (tmp_path / "a.mhd").write_bytes(b"")
    assert files_of(tmp_path / "a.mhd") == [tmp_path / "a.mhd"]


def replaced(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("suffix", "compressed", "old", "new", "message"),
    [
        ("mha", False, b"DimSize = 5 4 3", b"DimSize = 5 4 2", "expected 80 bytes of voxels, got more than that"),
        ("mha", False, b"DimSize = 5 4 3", b"DimSize = 5 4 30000000", "expected 1200000000 bytes of voxels, got 120"),
        ("mha", True, b"DimSize = 5 4 3", b"DimSize = 5 4 3000000000000", "bytes of voxels, got 120"),
        ("mha", False, b"NDims = 3", b"NDims = 320", "damaged"),
        ("mha", False, b"DimSize = 5 4 3", b"DimSize = 20 3", "damaged, or not of an image in 3-D"),
        ("mha", False, b"ElementSpacing = 0.5", b"ElementSpacing = 0", "damaged"),
        ("mha", False, b"0.5 0.75 3.5", b"0.5 nan 3.5", "damaged"),
        ("mha", False, b"MET_SHORT", b"MET_OTHER", "MET_OTHER"),
        ("mha", False, b"ElementType", b"HeaderSize = 7\nElementType", "expected HeaderSize = 0, got 7"),
        ("mha", False, b"ElementType", b"DistanceUnits = um\nElementType", "expected DistanceUnits = mm, got um"),
        ("mha", False, b"BinaryData = True", b"BinaryData = False", "expected BinaryData = true"),
        ("mha", False, b"LOCAL", b"LIST", "expected one file of voxels"),
        ("mha", True, b"CompressedDataSize = ", b"CompressedDataSize = 1", "compressed bytes, got"),
        ("nrrd", False, b"sizes: 5 4 3", b"sizes: 5 4 2", "expected 80 bytes of voxels, got more than that"),
        ("nrrd", True, b"sizes: 5 4 3", b"sizes: 5 4 3000000", "expected 120000000 bytes of voxels, got 120"),
        ("nrrd", True, b"sizes: 5 4 3", b"sizes: 5 4 x", "ITK cannot read the header"),
        ("nrrd", False, b"encoding: raw", b"encoding: ascii", "raw or gzip encoding"),
        ("nrrd", False, b"encoding: raw", b"encoding: raw\nbyte skip: 8", "nothing skipped"),
        ("nrrd", False, b"encoding: raw", b'encoding: raw\nspace units: "um" "um" "um"', "the header says um"),
    ],
)
def test_headers_that_lie(tmp_path: Path, suffix: str, compressed: bool, old: bytes, new: bytes, message: str) -> None:
    path = tmp_path / f"v.{suffix}"
    sitk.WriteImage(image(), path, compressed)
    replaced(path, old, new)
    with pytest.raises(VolumeError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", ["mha", "nrrd"])
@pytest.mark.parametrize("compressed", [True, False])
def test_files_cut_short_anywhere(tmp_path: Path, suffix: str, compressed: bool) -> None:
    path = tmp_path / f"v.{suffix}"
    sitk.WriteImage(image(), path, compressed)
    content = path.read_bytes()
    for length in range(0, len(content), 5):
        path.write_bytes(content[:length])
        with pytest.raises(VolumeError):
            read_volume(path)


@pytest.mark.parametrize("suffix", ["mha", "nrrd"])
def test_a_flipped_bit_of_compressed_voxels_is_noticed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v.{suffix}"
    sitk.WriteImage(image(), path, True)
    content = bytearray(path.read_bytes())
    content[-20] ^= 4
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=r"damaged|cut short"):
        read_volume(path)


def test_complex_and_flat_images_are_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image([4, 4], sitk.sitkUInt8), tmp_path / "flat.nrrd")
    with pytest.raises(VolumeError, match=r"got shape \(4, 4\)"):
        read_volume(tmp_path / "flat.nrrd")
    (tmp_path / "renamed.mha").write_bytes((tmp_path / "flat.nrrd").read_bytes())
    with pytest.raises(VolumeError, match="begins with b'NRRD0004'"):
        read_volume(tmp_path / "renamed.mha")
