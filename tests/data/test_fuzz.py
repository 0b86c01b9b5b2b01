"""Bytes of good files flipped, cut off, put in and left out: a volume comes out, or a VolumeError, and never anything else.

A crash of a library below would take the tests with it; a header that asks for more memory than the file can fill fails, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from calf.data.grid import make_grid
from calf.data.volumes import VolumeError, read_header, read_mask, read_volume

ROUNDS = 120
ANY = dict.fromkeys(range(256), "any")

Reading = tuple[Path, Callable[[], np.ndarray], int]


def damaged(content: bytes, header: int, rng: np.random.Generator) -> bytes:
    """The content with one to three accidents, most of them among the first ``header`` bytes."""
    spoilt = bytearray(content)
    if rng.random() < 0.15:
        return content[: rng.integers(len(content))]
    for _ in range(rng.integers(1, 4)):
        end = len(spoilt) if rng.random() < 0.2 else min(header, len(spoilt))
        place = int(rng.integers(end))
        match rng.integers(5):
            case 0:
                spoilt[place] ^= 1 << int(rng.integers(8))
            case 1:
                spoilt[place] = int(rng.integers(256))
            case 2:
                spoilt[place] = int(rng.choice(list(b"0123456789- .=\n")))
            case 3:
                spoilt[place:place] = bytes(rng.choice(list(b"0123456789 "), rng.integers(1, 9)).tolist())
            case _:
                del spoilt[place : place + int(rng.integers(1, 9))]
    return bytes(spoilt)


def crop_of_a_real_volume(shared: Path) -> tuple[np.ndarray, np.ndarray]:
    volume = read_volume(shared / "data/pyradiomics/breast1_image.nrrd")
    return np.ascontiguousarray(volume.data[20:30, 40:49, 5:13]), volume.affine


def nifti(suffix: str) -> Callable[[Path, Path], Reading]:
    def make(folder: Path, shared: Path) -> Reading:
        nib.save(nib.Nifti1Image(*crop_of_a_real_volume(shared)), folder / f"v.{suffix}")
        return folder / f"v.{suffix}", lambda: read_volume(folder / f"v.{suffix}").data, 352

    return make


def itk(suffix: str, compressed: bool) -> Callable[[Path, Path], Reading]:
    def make(folder: Path, shared: Path) -> Reading:
        path = folder / f"v.{suffix}"
        sitk.WriteImage(sitk.GetImageFromArray(crop_of_a_real_volume(shared)[0]), path, compressed)
        header = path.read_bytes().index(b"LOCAL" if suffix == "mha" else b"\n\n")
        return path, lambda: read_volume(path).data, header

    return make


def series(folder: Path, shared: Path) -> Reading:
    for name in ("01.dcm", "02.dcm", "03.dcm"):
        dataset = pydicom.dcmread(shared / "data/dicom_seg/ct-3slice" / name)
        array = np.ascontiguousarray(dataset.pixel_array[::64, ::64])
        (dataset.Rows, dataset.Columns), dataset.PixelData = array.shape, array.tobytes()
        dataset.save_as(folder / name)
    return folder / "02.dcm", lambda: read_volume(folder).data, (folder / "02.dcm").stat().st_size


def binary_segmentation(folder: Path, shared: Path) -> Reading:
    """A window of 40 x 32 pixels of a real one."""
    dataset = pydicom.dcmread(shared / "data/dicom_seg/liver.dcm")
    dataset.PixelData = np.packbits(dataset.pixel_array[:, 240:272, 140:180].ravel(), bitorder="little").tobytes()
    dataset.Rows, dataset.Columns = 32, 40
    dataset.save_as(folder / "v.dcm")
    whole = read_header(shared / "data/dicom_seg/ct-3slice")
    grid = make_grid(folder, (40, 32, 3), whole.original_affine, 1)
    content = (folder / "v.dcm").read_bytes()
    return folder / "v.dcm", lambda: read_mask(folder / "v.dcm", ANY, folder / "image.nii", grid), len(content) - 480


def label_map_segmentation(folder: Path, shared: Path) -> Reading:
    content = (shared / "data/dicom_seg/sparse-labelmap-ppv5.dcm").read_bytes()
    (folder / "v.dcm").write_bytes(content)
    affine = np.diag([-0.7, -0.7, 2.5, 1])
    affine[:3, 3] = (-46.464901, -5.0188098, -177.75)
    grid = make_grid(folder, (24, 38, 3), affine, 1)
    return folder / "v.dcm", lambda: read_mask(folder / "v.dcm", ANY, folder / "image.nii", grid), len(content) - 24 * 38 * 2


FILES = {
    "NIfTI": nifti("nii"),
    "NIfTI, compressed": nifti("nii.gz"),
    "MetaImage": itk("mha", False),
    "MetaImage, compressed": itk("mha", True),
    "NRRD": itk("nrrd", False),
    "NRRD, compressed": itk("nrrd", True),
    "DICOM series": series,
    "DICOM segmentation": binary_segmentation,
    "DICOM label map": label_map_segmentation,
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("error")
def test_a_volume_or_a_reason(tmp_path: Path, shared: Path, kind: str) -> None:
    path, read, header = FILES[kind](tmp_path, shared)
    content, good, rng = path.read_bytes(), read(), np.random.default_rng(0)
    outcomes: Counter[str] = Counter()
    for _ in range(ROUNDS):
        path.write_bytes(damaged(content, header, rng))
        try:
            array = read()
        except VolumeError as error:
            outcomes["refused" if str(tmp_path) in str(error) else "nameless"] += 1
            continue
        outcomes["read"] += 1
        assert array.ndim == 3
        # nothing was invented: as many bytes as the file can hold, at the ratio that deflate reaches at most
        assert array.size * array.itemsize <= 1032 * len(content) + good.nbytes
    assert outcomes["refused"] > ROUNDS / 10
    assert not outcomes["nameless"]
    path.write_bytes(content)
    np.testing.assert_array_equal(read(), good)


@pytest.mark.parametrize("kind", ["NIfTI, compressed", "MetaImage, compressed", "NRRD, compressed"])
def test_voxels_with_a_checksum_are_right_or_refused(tmp_path: Path, shared: Path, kind: str) -> None:
    """One bit, anywhere behind the header."""
    path, read, header = FILES[kind](tmp_path, shared)
    header = 12 if kind.startswith("NIfTI") else header + 8
    content, good, rng = path.read_bytes(), read(), np.random.default_rng(0)
    for _ in range(ROUNDS):
        spoilt = bytearray(content)
        spoilt[rng.integers(header, len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoilt)
        try:
            array = read()
        except VolumeError:
            continue
        np.testing.assert_array_equal(array, good)
