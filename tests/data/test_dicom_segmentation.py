"""DICOM segmentations: real ones of dcmqi, and made by highdicom, against the label maps that belong to them."""

from __future__ import annotations

import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from calf.data.cases import Case, Image
from calf.data.grid import make_grid
from calf.data.volumes import Grid, VolumeError, read_case, read_header, read_mask, read_volume, to_original
from tests.data.test_dicom import change

SEGMENTS = {number: str(number) for number in range(6)}


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
def test_frames_in_any_order_and_left_out(small_series: Path, tmp_path: Path, labels: np.ndarray, kind: str) -> None:
    path, grid = tmp_path / "seg.dcm", read_header(small_series)
    made = write_segmentation(path, small_series, labels, kind=hd.seg.SegmentationTypeValues(kind))
    assert made.NumberOfFrames == (8 if kind == "BINARY" else 4)
    np.testing.assert_array_equal(to_original(read_mask(path, SEGMENTS, small_series, grid), grid.original_affine), labels)
    dataset = pydicom.dcmread(path)
    order = np.random.default_rng(1).permutation(dataset.NumberOfFrames)
    frames = dataset.pixel_array[order]
    dataset.PerFrameFunctionalGroupsSequence = [dataset.PerFrameFunctionalGroupsSequence[i] for i in order]
    dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes() if kind == "BINARY" else frames.tobytes()
    dataset.save_as(path)
    np.testing.assert_array_equal(to_original(read_mask(path, SEGMENTS, small_series, grid), grid.original_affine), labels)


@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_on_a_grid_of_any_orientation(small_series: Path, tmp_path: Path, labels: np.ndarray, turn: tuple[int, int, int]) -> None:
    """The same image, stored with other axes: the mask of each voxel stays what it was."""
    write_segmentation(tmp_path / "seg.dcm", small_series, labels)
    affine = read_header(small_series).original_affine
    shape = np.array(labels.shape)
    flipped = affine @ np.array([[-1, 0, 0, shape[0] - 1], [0, 1, 0, 0], [0, 0, -1, shape[2] - 1], [0, 0, 0, 1.0]])
    turned = flipped[:, [*turn, 3]]
    grid = make_grid(small_series, tuple(int(shape[axis]) for axis in turn), turned, 1)
    mask = read_mask(tmp_path / "seg.dcm", SEGMENTS, tmp_path / "image.nii", grid)
    np.testing.assert_array_equal(to_original(mask, turned), labels[::-1, :, ::-1].transpose(turn))


def moved(grid: Grid, x: float = 0, y: float = 0, z: float = 0) -> Grid:
    """The grid of a file whose first voxel lies at this index."""
    affine = grid.original_affine @ np.array([[1, 0, 0, x], [0, 1, 0, y], [0, 0, 1, z], [0, 0, 0, 1]])
    return make_grid(Path("moved.nii"), grid.original_shape, affine, 1)


def test_what_does_not_lie_on_the_image(small_series: Path, tmp_path: Path, labels: np.ndarray) -> None:
    path, grid, nifti = tmp_path / "seg.dcm", read_header(small_series), tmp_path / "image.nii"
    write_segmentation(path, small_series, labels)
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


def test_a_segmentation_turned_upside_down(small_series: Path, tmp_path: Path, labels: np.ndarray) -> None:
    """Positions in reverse: each is one of the image's, but not that of the slice which the frame refers to."""
    path, grid = tmp_path / "seg.dcm", read_header(small_series)
    dataset = write_segmentation(path, small_series, labels)
    groups = dataset.PerFrameFunctionalGroupsSequence
    positions = [group.PlanePositionSequence for group in groups]
    for group, position in zip(groups, reversed(positions), strict=True):
        group.PlanePositionSequence = position
    dataset.save_as(path)
    with pytest.raises(VolumeError, match=r"frame 1 says it was drawn on ..dcm, but lies 12.5 mm away from it: .*upside down"):
        read_mask(path, SEGMENTS, small_series, grid)


def test_a_segmentation_of_another_examination(small_series: Path, tmp_path: Path, labels: np.ndarray) -> None:
    write_segmentation(tmp_path / "seg.dcm", small_series, labels)
    change(tmp_path / "seg.dcm", FrameOfReferenceUID="1.2.3")
    with pytest.raises(VolumeError, match=r"expected the frame of reference of .*got 1.2.3"):
        read_mask(tmp_path / "seg.dcm", SEGMENTS, small_series, read_header(small_series))


def test_files_that_are_no_segmentation(small_series: Path, tmp_path: Path, labels: np.ndarray) -> None:
    path, grid = tmp_path / "seg.dcm", read_header(small_series)
    write_segmentation(path, small_series, labels)
    content = path.read_bytes()
    with pytest.raises(VolumeError, match="expected a DICOM segmentation, got CT"):
        read_mask(small_series / "d.dcm", SEGMENTS, small_series, grid)
    change(path, SegmentationType="FRACTIONAL")
    with pytest.raises(VolumeError, match="expected a BINARY or LABELMAP segmentation, got FRACTIONAL"):
        read_mask(path, SEGMENTS, small_series, grid)
    for damaged, message in (
        (content[:-9], "damaged"),
        (b"", "zero bytes"),
        (b"text", "not DICOM"),
        (b"\0\5\x16\7", "AppleDouble"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(VolumeError, match=message):
            read_mask(path, SEGMENTS, small_series, grid)
    path.unlink()
    with pytest.raises(VolumeError, match="No such file"):
        read_mask(path, SEGMENTS, small_series, grid)


def test_two_frames_of_a_segment_at_one_place(small_series: Path, tmp_path: Path, labels: np.ndarray) -> None:
    path = tmp_path / "seg.dcm"
    dataset = write_segmentation(path, small_series, labels)
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[0].PlanePositionSequence
    groups[1].DerivationImageSequence = groups[0].DerivationImageSequence
    dataset.save_as(path)
    with pytest.raises(VolumeError, match="frame 2 lies where another frame of the same segment lies"):
        read_mask(path, SEGMENTS, small_series, read_header(small_series))
