"""DICOM series and segmentations: real ones of dcmqi, against ITK, highdicom and the label maps that belong to them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from calf.data.cases import Case, Image
from calf.data.grid import make_grid
from calf.data.volumes import Grid, VolumeError, files_of, read_case, read_header, read_mask, read_volume, to_original

SEGMENTS = {number: str(number) for number in range(6)}
OBLIQUE = [0.8, 0.6, 0, -0.36, 0.48, 0.8]


@pytest.fixture
def ct(shared: Path) -> Path:
    return shared / "data/dicom_seg/ct-3slice"


@pytest.fixture
def small(ct: Path, tmp_path: Path) -> Path:
    """Six slices of 24 x 32 pixels with different values, oblique, 2.5 mm apart, in files of no meaningful order."""
    folder = tmp_path / "series"
    folder.mkdir()
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    for number, name in enumerate("dbface"):
        header = pydicom.dcmread(ct / "01.dcm")
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        header.SpecificCharacterSet = "ISO_IR 100"
        header.Rows, header.Columns, header.PixelSpacing = 24, 32, [0.75, 0.5]
        header.ImageOrientationPatient = OBLIQUE
        header.ImagePositionPatient = [round(float(x), 4) for x in np.array([10, -20, 30]) + number * 2.5 * normal]
        header.PixelData = (np.arange(24 * 32, dtype=np.int16) + 1000 * number).tobytes()
        header.save_as(folder / f"{name}.dcm")
    return folder


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


def test_slices_lie_where_they_say_whatever_they_are_called(small: Path) -> None:
    volume = read_volume(small)
    array = to_original(volume.data, volume.original_affine)
    assert volume.original_shape == array.shape == (32, 24, 6)
    for number, name in enumerate("dbface"):
        header = pydicom.dcmread(small / f"{name}.dcm")
        np.testing.assert_array_equal(array[:, :, number], header.pixel_array.T - 1024.0)
        np.testing.assert_allclose(
            volume.original_affine @ [0, 0, number, 1], [*np.array([-1, -1, 1]) * header.ImagePositionPatient, 1], atol=1e-3
        )
    x, y, z = (volume.original_affine @ [31, 23, 0, 1])[:3]
    np.testing.assert_allclose(
        (-x, -y, z), np.array([10, -20, 30]) + 31 * 0.5 * np.array(OBLIQUE[:3]) + 23 * 0.75 * np.array(OBLIQUE[3:])
    )


def test_each_slice_has_a_rescaling_of_its_own(small: Path) -> None:
    change(small / "d.dcm", RescaleSlope=0.5, RescaleIntercept=3)
    change(small / "b.dcm", RescaleSlope=None, RescaleIntercept=None)
    volume = read_volume(small)
    array = to_original(volume.data, volume.original_affine)
    np.testing.assert_array_equal(array[:2, 0, :3], [[3, 1000, 976], [3.5, 1001, 977]])


def test_other_files_beside_the_slices(small: Path, shared: Path) -> None:
    before = read_volume(small).data
    shutil.copy(shared / "data/dicom_seg/liver.dcm", small / "0-seg.dcm")
    (small / "._d.dcm").write_bytes(b"\0\5\x16\7")
    (small / "LICENSE").write_text("free")
    (small / "folder").mkdir()
    report = pydicom.dcmread(small / "d.dcm")
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(report, keyword)
    report.Modality, report.SeriesInstanceUID = "SR", generate_uid()
    report.save_as(small / "report.dcm")
    np.testing.assert_array_equal(read_volume(small).data, before)


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
def test_a_series_that_is_no_volume(small: Path, how: str) -> None:
    spoil, message = ODD_SERIES[how]
    spoil(small)
    with pytest.raises(VolumeError, match=message):
        read_volume(small)


def test_positions_rounded_to_a_tenth_of_a_millimetre(small: Path) -> None:
    for file in small.iterdir():
        change(file, ImagePositionPatient=[round(float(x), 1) for x in pydicom.dcmread(file).ImagePositionPatient])
    assert read_volume(small).spacing_mm == pytest.approx((0.5, 2.5, 0.75), abs=0.03)  # the slices lie from back to front


def test_a_single_file_is_no_image(small: Path, tmp_path: Path) -> None:
    for reader in (read_header, read_volume):
        with pytest.raises(VolumeError, match="a single DICOM file can only be a segmentation"):
            reader(small / "d.dcm")
        with pytest.raises(VolumeError, match=r"none.dcm: expected .*No such file"):
            reader(tmp_path / "none.dcm")
    (tmp_path / "slice").write_bytes((small / "d.dcm").read_bytes())
    with pytest.raises(VolumeError, match=r"expected a NIfTI file .* but it is DICOM"):
        read_volume(tmp_path / "slice")


# --- segmentations --------------------------------------------------------------------------------------------------


def test_a_real_segmentation_is_its_label_map(ct: Path) -> None:
    grid = read_header(ct)
    mask = read_mask(ct.parent / "liver.dcm", SEGMENTS, ct, grid)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, read_volume(ct.parent / "liver_seg.nrrd").data)
    as_volume = read_mask(ct.parent / "liver_seg.nrrd", SEGMENTS, ct, grid)  # the mask may be either
    np.testing.assert_array_equal(mask, as_volume)
    case = Case("p", "p", {"ct": Image(ct)}, ct.parent / "liver.dcm")
    np.testing.assert_array_equal(read_case(case, ("ct",), {0: "background", 1: "liver"}).mask, mask)
    with pytest.raises(VolumeError, match="unexpected label 1"):
        read_case(case, ("ct",), {0: "background", 2: "tumour"})


def test_segments_that_overlap_are_read_one_at_a_time(ct: Path) -> None:
    """Seven frames for five segments on three slices; the label maps hold segments 1, 4, 5; 2; 3."""
    path, grid = ct.parent / "partial_overlaps.dcm", read_header(ct)
    with pytest.raises(VolumeError, match=r"frame 2: 3017 voxels belong to several segments \(1 GREEN, 2 ORANGE\)"):
        read_mask(path, SEGMENTS, ct, grid)
    for number, segments in ((1, (1, 4, 5)), (2, (2,)), (3, (3,))):
        expected = read_volume(ct.parent / f"partial_overlaps-{number}.nrrd").data
        for segment in segments:
            mask = read_mask(path, SEGMENTS, ct, grid, segment)
            np.testing.assert_array_equal(mask, np.where(expected == segment, segment, 0))
            assert mask.any()
    with pytest.raises(VolumeError, match="expected a segment 7, it has 1 GREEN, 2 ORANGE"):
        read_mask(path, SEGMENTS, ct, grid, 7)
    with pytest.raises(ValueError, match="only a DICOM segmentation"):
        read_mask(ct.parent / "liver_seg.nrrd", SEGMENTS, ct, grid, 1)


def test_a_label_map_segmentation_with_a_gap(ct: Path) -> None:
    """Two frames, 5 mm apart on a grid of 2.5 mm slices: what lies between is background."""
    path = ct.parent / "sparse-labelmap-ppv5.dcm"
    affine = np.diag([-0.7, -0.7, 2.5, 1])
    affine[:3, 3] = (-46.464901 + 0.7 * 3, -5.0188098, -177.75 - 2.5)  # three columns and a slice more than the segmentation
    mask = read_mask(path, SEGMENTS, path, make_grid(path, (30, 38, 6), affine, 1))
    frames = pydicom.dcmread(path).pixel_array
    expected = np.zeros((30, 38, 6), np.uint8)
    expected[3:27, :, 1], expected[3:27, :, 3] = frames[0].T, frames[1].T
    np.testing.assert_array_equal(to_original(mask, affine), expected)
    assert frames[0].any()
    assert frames[1].any()


def write_segmentation(path: Path, series: Path, labels: np.ndarray, **options: object) -> pydicom.Dataset:
    """By highdicom: one frame a segment and slice, empty ones left out; ``labels`` (columns, rows, slices)."""
    sources = [pydicom.dcmread(series / f"{name}.dcm") for name in "dbface"]
    segments = [
        hd.seg.SegmentDescription(
            number, f"s{number}", codes.SCT.Tissue, codes.SCT.Tissue, hd.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number in (1, 2)
    ]
    kind = options.pop("kind", hd.seg.SegmentationTypeValues.BINARY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = hd.seg.Segmentation(
            sources, labels.transpose(2, 1, 0), kind, segments, "1.2.3.4", 1, "1.2.3.5", 1, "m", "m", "1", "1", **options
        )
    made.save_as(path)
    return made


@pytest.fixture
def labels() -> np.ndarray:
    made = np.random.default_rng(0).choice([0, 0, 1, 2], (32, 24, 6)).astype(np.uint8)
    made[:, :, [1, 4]] = 0
    made[:16, :, 2] = 0
    return made


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_frames_in_any_order_and_left_out(small: Path, tmp_path: Path, labels: np.ndarray, kind: str) -> None:
    path, grid = tmp_path / "seg.dcm", read_header(small)
    made = write_segmentation(path, small, labels, kind=hd.seg.SegmentationTypeValues(kind))
    assert made.NumberOfFrames == (8 if kind == "BINARY" else 4)
    np.testing.assert_array_equal(to_original(read_mask(path, SEGMENTS, small, grid), grid.original_affine), labels)
    dataset = pydicom.dcmread(path)
    order = np.random.default_rng(1).permutation(dataset.NumberOfFrames)
    frames = dataset.pixel_array[order]
    dataset.PerFrameFunctionalGroupsSequence = [dataset.PerFrameFunctionalGroupsSequence[i] for i in order]
    dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes() if kind == "BINARY" else frames.tobytes()
    dataset.save_as(path)
    np.testing.assert_array_equal(to_original(read_mask(path, SEGMENTS, small, grid), grid.original_affine), labels)


@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_on_a_grid_of_any_orientation(small: Path, tmp_path: Path, labels: np.ndarray, turn: tuple[int, int, int]) -> None:
    """The same image, stored with other axes: the mask of each voxel stays what it was."""
    write_segmentation(tmp_path / "seg.dcm", small, labels)
    affine = read_header(small).original_affine
    shape = np.array(labels.shape)
    flipped = affine @ np.array([[-1, 0, 0, shape[0] - 1], [0, 1, 0, 0], [0, 0, -1, shape[2] - 1], [0, 0, 0, 1.0]])
    turned = flipped[:, [*turn, 3]]
    grid = make_grid(small, tuple(int(shape[axis]) for axis in turn), turned, 1)
    mask = read_mask(tmp_path / "seg.dcm", SEGMENTS, tmp_path / "image.nii", grid)
    np.testing.assert_array_equal(to_original(mask, turned), labels[::-1, :, ::-1].transpose(turn))


def moved(grid: Grid, x: float = 0, y: float = 0, z: float = 0) -> Grid:
    """The grid of a file whose first voxel lies at this index."""
    affine = grid.original_affine @ np.array([[1, 0, 0, x], [0, 1, 0, y], [0, 0, 1, z], [0, 0, 0, 1]])
    return make_grid(Path("moved.nii"), grid.original_shape, affine, 1)


def test_what_does_not_lie_on_the_image(small: Path, tmp_path: Path, labels: np.ndarray) -> None:
    path, grid, nifti = tmp_path / "seg.dcm", read_header(small), tmp_path / "image.nii"
    write_segmentation(path, small, labels)
    read_mask(path, SEGMENTS, nifti, moved(grid, z=0.1))  # rounded positions
    for other, message in (
        (moved(grid, z=0.4), "frame 1 does not lie on the image's grid .*0.4 voxels off"),
        (moved(grid, x=1), "frame . reaches beyond the image"),
        (moved(grid, z=1), "frame . reaches beyond the image"),
        (
            make_grid(path, (32, 24, 12), grid.original_affine @ np.diag([1, 1, 0.5, 1]), 1),
            "slices 2.5 mm apart, but the image's are 1.25 mm",
        ),
        (
            make_grid(path, grid.original_shape, grid.original_affine @ np.diag([1.1, 1, 1, 1]), 1),
            "does not lie on the image's grid",
        ),
    ):
        with pytest.raises(VolumeError, match=message):
            read_mask(path, SEGMENTS, nifti, other)


def test_a_segmentation_turned_upside_down(small: Path, tmp_path: Path, labels: np.ndarray) -> None:
    """Positions in reverse: each is one of the image's, but not that of the slice which the frame refers to."""
    path, grid = tmp_path / "seg.dcm", read_header(small)
    dataset = write_segmentation(path, small, labels)
    groups = dataset.PerFrameFunctionalGroupsSequence
    positions = [group.PlanePositionSequence for group in groups]
    for group, position in zip(groups, reversed(positions), strict=True):
        group.PlanePositionSequence = position
    dataset.save_as(path)
    with pytest.raises(VolumeError, match=r"frame 1 says it was drawn on ..dcm, but lies 12.5 mm away from it: .*upside down"):
        read_mask(path, SEGMENTS, small, grid)


def test_a_segmentation_of_another_examination(small: Path, tmp_path: Path, labels: np.ndarray) -> None:
    write_segmentation(tmp_path / "seg.dcm", small, labels)
    change(tmp_path / "seg.dcm", FrameOfReferenceUID="1.2.3")
    with pytest.raises(VolumeError, match=r"expected the frame of reference of .*got 1.2.3"):
        read_mask(tmp_path / "seg.dcm", SEGMENTS, small, read_header(small))


def test_files_that_are_no_segmentation(small: Path, tmp_path: Path, labels: np.ndarray) -> None:
    path, grid = tmp_path / "seg.dcm", read_header(small)
    write_segmentation(path, small, labels)
    content = path.read_bytes()
    with pytest.raises(VolumeError, match="expected a DICOM segmentation, got CT"):
        read_mask(small / "d.dcm", SEGMENTS, small, grid)
    change(path, SegmentationType="FRACTIONAL")
    with pytest.raises(VolumeError, match="expected a BINARY or LABELMAP segmentation, got FRACTIONAL"):
        read_mask(path, SEGMENTS, small, grid)
    for damaged, message in (
        (content[:-9], "damaged"),
        (b"", "zero bytes"),
        (b"text", "not DICOM"),
        (b"\0\5\x16\7", "AppleDouble"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(VolumeError, match=message):
            read_mask(path, SEGMENTS, small, grid)
    path.unlink()
    with pytest.raises(VolumeError, match="No such file"):
        read_mask(path, SEGMENTS, small, grid)


def test_two_frames_of_a_segment_at_one_place(small: Path, tmp_path: Path, labels: np.ndarray) -> None:
    path = tmp_path / "seg.dcm"
    dataset = write_segmentation(path, small, labels)
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[0].PlanePositionSequence
    groups[1].DerivationImageSequence = groups[0].DerivationImageSequence
    dataset.save_as(path)
    with pytest.raises(VolumeError, match="frame 2 lies where another frame of the same segment lies"):
        read_mask(path, SEGMENTS, small, read_header(small))
