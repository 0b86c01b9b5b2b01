"""DICOM series: real ones of dcmqi, against ITK."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import generate_uid

from calf.data.volumes import VolumeError, files_of, read_header, read_volume, to_original
from tests.data.conftest import OBLIQUE


def change(file: Path, **elements: object) -> None:
    dataset = pydicom.dcmread(file)
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(file)


# --- series ---------------------------------------------------------------------------------------------------------


def test_a_real_series_as_itk_reads_it(ct: Path) -> None:
    reader = sitk.ImageSeriesReader()
    reference = sitk.ReadImage(reader.GetGDCMSeriesFileNames(str(ct)))
    volume = read_volume(ct)
    np.testing.assert_array_equal(to_original(volume.data, volume.original_affine), sitk.GetArrayFromImage(reference).T)
    lps = np.diag([-1, -1, 1]) @ volume.original_affine[:3]
    np.testing.assert_allclose(lps[:, 3], reference.GetOrigin())
    np.testing.assert_allclose(lps[:, :3], np.array(reference.GetDirection()).reshape(3, 3) * reference.GetSpacing())
    assert read_header(ct).ras_shape == volume.ras_shape == (512, 512, 3)
    assert volume.data.dtype == np.float32
    assert files_of(ct) == [ct / "01.dcm", ct / "02.dcm", ct / "03.dcm"]


def test_slices_lie_where_they_say_whatever_they_are_called(small_series: Path) -> None:
    volume = read_volume(small_series)
    array = to_original(volume.data, volume.original_affine)
    assert volume.original_shape == array.shape == (32, 24, 6)
    for number, name in enumerate("dbface"):
        header = pydicom.dcmread(small_series / f"{name}.dcm")
        np.testing.assert_array_equal(array[:, :, number], header.pixel_array.T - 1024.0)
        np.testing.assert_allclose(
            volume.original_affine @ [0, 0, number, 1], [*np.array([-1, -1, 1]) * header.ImagePositionPatient, 1], atol=1e-3
        )
    x, y, z = (volume.original_affine @ [31, 23, 0, 1])[:3]
    np.testing.assert_allclose(
        (-x, -y, z), np.array([10, -20, 30]) + 31 * 0.5 * np.array(OBLIQUE[:3]) + 23 * 0.75 * np.array(OBLIQUE[3:])
    )


def test_each_slice_has_a_rescaling_of_its_own(small_series: Path) -> None:
    change(small_series / "d.dcm", RescaleSlope=0.5, RescaleIntercept=3)
    change(small_series / "b.dcm", RescaleSlope=None, RescaleIntercept=None)
    volume = read_volume(small_series)
    array = to_original(volume.data, volume.original_affine)
    np.testing.assert_array_equal(array[:2, 0, :3], [[3, 1000, 976], [3.5, 1001, 977]])


def test_other_files_beside_the_slices(small_series: Path, shared: Path) -> None:
    before = read_volume(small_series).data
    shutil.copy(shared / "data/dicom_seg/liver.dcm", small_series / "0-seg.dcm")
    (small_series / "._d.dcm").write_bytes(b"\0\5\x16\7")
    (small_series / "LICENSE").write_text("free")
    (small_series / "folder").mkdir()
    report = pydicom.dcmread(small_series / "d.dcm")
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(report, keyword)
    report.Modality, report.SeriesInstanceUID = "SR", generate_uid()
    report.save_as(small_series / "report.dcm")
    np.testing.assert_array_equal(read_volume(small_series).data, before)


def shifted(file: Path, millimetres: float, along: np.ndarray) -> None:
    position = np.array(pydicom.dcmread(file).ImagePositionPatient, float) + millimetres * along
    change(file, ImagePositionPatient=[round(float(x), 4) for x in position])


NORMAL, ACROSS = np.cross(OBLIQUE[:3], OBLIQUE[3:]), np.array(OBLIQUE[3:])
ODD_SERIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing slice": (lambda s: (s / "f.dcm").unlink(), "slices are missing: b.dcm and a.dcm lie 5 mm apart, the others 2.5 mm"),
    "slice twice": (lambda s: shutil.copy(s / "f.dcm", s / "g.dcm"), r"same place: f.dcm and g.dcm lie 0 mm apart"),
    "irregular": (lambda s: shifted(s / "f.dcm", 0.6, NORMAL), "equally spaced slices, but .* lie 1.9 mm apart"),
    "sideways": (
        lambda s: [shifted(f, i, ACROSS) for i, f in enumerate(s / f"{n}.dcm" for n in "dbface")],
        "shifted sideways by up to 5 mm",
    ),
    "two series": (lambda s: change(s / "f.dcm", SeriesInstanceUID="1.2.9"), r"found several: .*\(1 files, 1.2.9\)"),
    "scout": (lambda s: change(s / "f.dcm", ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "f.dcm: expected a slice like a.dcm"),
    "other spacing": (lambda s: change(s / "f.dcm", PixelSpacing=[0.7, 0.5]), "f.dcm: expected a slice like a.dcm"),
    "other frame": (lambda s: change(s / "f.dcm", FrameOfReferenceUID="1.2"), "f.dcm: expected a slice like a.dcm"),
    "no position": (
        lambda s: change(s / "f.dcm", ImagePositionPatient=None),
        "f.dcm: expected 3 numbers as ImagePositionPatient",
    ),
    "no spacing": (lambda s: change(s / "f.dcm", PixelSpacing=None), "f.dcm: expected 2 numbers as PixelSpacing"),
    "skewed": (
        lambda s: change(s / "f.dcm", ImageOrientationPatient=[1, 0, 0, 0.1, 1, 0]),
        "f.dcm: expected perpendicular unit vectors",
    ),
    "multi-frame": (lambda s: change(s / "f.dcm", NumberOfFrames=2), "f.dcm: multi-frame DICOM images are not read"),
    "inverted": (lambda s: change(s / "f.dcm", PhotometricInterpretation="MONOCHROME1"), "f.dcm: expected MONOCHROME2"),
    "truncated": (lambda s: (s / "f.dcm").write_bytes((s / "f.dcm").read_bytes()[:-7]), "f.dcm: the DICOM file is damaged"),
    "not DICOM": (lambda s: (s / "f.dcm").write_bytes(b"<html>"), "f.dcm: expected a DICOM file, as its name says"),
    "empty file": (lambda s: (s / "f.dcm").write_bytes(b""), "f.dcm: expected a DICOM file, as its name says"),
    "one slice": (lambda s: [f.unlink() for f in s.iterdir() if f.name != "f.dcm"], "found only f.dcm"),
    "no slice": (lambda s: [f.unlink() for f in s.iterdir()], "a folder without DICOM images"),
}


@pytest.mark.parametrize("how", ODD_SERIES)
def test_a_series_that_is_no_volume(small_series: Path, how: str) -> None:
    spoil, message = ODD_SERIES[how]
    spoil(small_series)
    with pytest.raises(VolumeError, match=message):
        read_volume(small_series)


def test_positions_rounded_to_a_tenth_of_a_millimetre(small_series: Path) -> None:
    for file in small_series.iterdir():
        change(file, ImagePositionPatient=[round(float(x), 1) for x in pydicom.dcmread(file).ImagePositionPatient])
    assert read_volume(small_series).spacing_mm == pytest.approx((0.5, 2.5, 0.75), abs=0.03)  # the slices lie from back to front


def test_a_single_file_is_no_image(small_series: Path, tmp_path: Path) -> None:
    for reader in (read_header, read_volume):
        with pytest.raises(VolumeError, match="a single DICOM file can only be a segmentation"):
            reader(small_series / "d.dcm")
        with pytest.raises(VolumeError, match=r"none.dcm: expected .*No such file"):
            reader(tmp_path / "none.dcm")
    (tmp_path / "slice").write_bytes((small_series / "d.dcm").read_bytes())
    with pytest.raises(VolumeError, match=r"expected a NIfTI file .* but it is DICOM"):
        read_volume(tmp_path / "slice")
