"""A case: images and mask on one grid, or brought onto one, and what is refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from calf.data.cases import Case, Image
from calf.data.volumes import (
    Grid,
    VolumeError,
    read_case,
    read_images,
    read_volume,
)
from tests.data.nifti import LABELS, LPS, SHAPE, affine_of, save


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Two modalities and a mask on one grid, valid in every way."""
    rng = np.random.default_rng(0)
    for name in ("t1", "t1ce"):
        save(tmp_path / f"p1_{name}.nii.gz", rng.normal(size=SHAPE).astype(np.float32))
    save(tmp_path / "p1_seg.nii.gz", rng.choice([0, 1, 2, 4], SHAPE).astype(np.uint8))
    images = {name: Image(tmp_path / f"p1_{name}.nii.gz") for name in ("t1", "t1ce")}
    return Case("p1", "p1", images, tmp_path / "p1_seg.nii.gz")


def read(case: Case) -> np.ndarray:
    return read_case(case, ("t1", "t1ce"), LABELS).mask


# --- cases ----------------------------------------------------------------------------------------------------------


def test_a_case(case: Case) -> None:
    volumes = read_case(case, ("t1ce", "t1"), LABELS)
    assert volumes.images.shape == (2, *SHAPE)
    assert volumes.images.dtype == np.float32
    assert volumes.mask.dtype == np.uint8
    assert volumes.reference is None
    assert volumes.spacing_mm == (1, 1.5, 4)
    assert volumes.original_shape == SHAPE
    np.testing.assert_array_equal(volumes.original_affine, LPS)
    assert case.mask is not None
    np.testing.assert_array_equal(volumes.images[1], read_volume(case.images["t1"].path).data)
    np.testing.assert_array_equal(volumes.mask, read_volume(case.mask).data)


def test_files_of_different_orientation_come_out_alike(case: Case) -> None:
    assert case.mask is not None
    before = read(case)
    image = nib.load(case.mask)
    turned = image.as_reoriented([[2, 1], [0, -1], [1, 1]])
    nib.save(nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine), case.mask)
    np.testing.assert_array_equal(read(case), before)


def test_a_reference_is_checked_like_the_mask(case: Case, tmp_path: Path) -> None:
    clean = Case(case.id, case.patient, case.images, case.mask, save(tmp_path / "clean.nii.gz", np.full(SHAPE, 2, np.uint8)))
    assert (read_case(clean, ("t1",), LABELS).reference == 2).all()
    save(tmp_path / "clean.nii.gz", np.full(SHAPE, 3, np.uint8))
    with pytest.raises(VolumeError, match=r"clean\.nii\.gz: unexpected label 3"):
        read_case(clean, ("t1",), LABELS)


@pytest.mark.parametrize("which", ["mask", "image"])
def test_shapes_differ(case: Case, which: str) -> None:
    path = case.mask if which == "mask" else case.images["t1ce"].path
    assert path is not None
    save(path, np.zeros((4, 5, 2), np.uint8))
    with pytest.raises(VolumeError, match=rf"{path.name}.*\(4, 5, 3\) of .*p1_t1.nii.gz.*got \(4, 5, 2\)"):
        read(case)


@pytest.mark.parametrize("entry", [(0, 0), (2, 3), (0, 1)])
def test_affines_differ_by_more_than_the_tolerance(case: Case, entry: tuple[int, int]) -> None:
    assert case.mask is not None
    for difference, fits in ((1e-4, True), (-1e-4, True), (1e-2, False), (-1e-2, False)):
        affine = LPS.copy()
        affine[entry] += difference
        save(case.mask, np.zeros(SHAPE, np.uint8), affine)
        if fits:
            read(case)
        else:
            with pytest.raises(VolumeError, match=r"p1_seg.nii.gz: its affine differs by .*allowed 0.001.*p1_t1.nii.gz"):
                read(case)


def test_a_tolerable_difference_that_adds_up_over_the_volume(tmp_path: Path) -> None:
    """Directions off by 2e-4, as between PI-CAI's images and masks, are 0.04 mm after 384 voxels of 0.5 mm."""
    for length, spacing, difference, fits in ((384, 0.5, 2e-4 * 0.5, True), (800, 0.5, 9e-4, False), (240, 1.0, 9e-4, True)):
        affine = np.diag([spacing, spacing, 3, 1])
        image = save(tmp_path / "image.nii", np.zeros((length, 4, 3), np.uint8), affine)
        affine[1, 0] += difference
        mask = save(tmp_path / "mask.nii", np.zeros((length, 4, 3), np.uint8), affine)
        case = Case("p", "p", {"t2": Image(image)}, mask)
        if fits:
            read_case(case, ("t2",), LABELS)
        else:
            with pytest.raises(VolumeError, match=r"0.0009 \(allowed 0.001\).* up to 0.719 mm apart \(allowed 0.125\)"):
                read_case(case, ("t2",), LABELS)


# --- images on grids of their own -----------------------------------------------------------------------------------


@pytest.fixture
def prostate(tmp_path: Path) -> Case:
    """A fine T2, a coarse ADC that reaches further, both samples of one linear function, and a mask on the T2's grid."""

    def sampled(name: str, affine: np.ndarray, shape: tuple[int, int, int]) -> Path:
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        return save(tmp_path / name, (world @ [1.0, 2.0, -3.0] + 100).astype(np.float32), affine)

    fine = np.diag([-0.5, -0.5, 3, 1]) + np.array([[0, 0, 0, 10.0], [0, 0, 0, 10], [0, 0, 0, -6], [0, 0, 0, 0]])
    coarse = affine_of("PIR")
    coarse[:3, 3] = (-8, 30, 20)
    images = {"t2": Image(sampled("t2.nii", fine, (40, 36, 5))), "adc": Image(sampled("adc.nii.gz", coarse, (30, 20, 45)))}
    mask = save(tmp_path / "mask.nii.gz", np.ones((40, 36, 5), np.uint8), fine)
    return Case("p", "p", images, mask)


def indices_in(volume: Grid, grid: Grid) -> np.ndarray:
    """Where the voxels of a grid lie in a volume: (X, Y, Z, 3) voxel indices, not whole."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.ras_shape), indexing="ij"), -1)
    mapping = np.linalg.inv(volume.affine) @ grid.affine
    return index @ mapping[:3, :3].T + mapping[:3, 3]


def test_images_are_brought_onto_the_grid_of_one(prostate: Case) -> None:
    with pytest.raises(VolumeError, match=r"adc.nii.gz: expected the shape .* or name a modality in preparation.onto"):
        read_images(prostate, ("t2", "adc"))
    volumes = read_case(prostate, ("adc", "t2"), LABELS, onto="t2")
    assert volumes.images.shape == (2, 40, 36, 5)
    np.testing.assert_array_equal(volumes.images[1], read_volume(prostate.images["t2"].path).data)
    # both are the same linear function of the place, which linear interpolation keeps between voxel centres
    adc = read_volume(prostate.images["adc"].path)
    place = indices_in(adc, volumes)
    between = ((place >= 0) & (place <= np.array(adc.ras_shape) - 1)).all(-1)
    assert between.mean() > 0.8
    np.testing.assert_allclose(volumes.images[0][between], volumes.images[1][between], atol=1e-3)
    alone, grid = read_images(prostate, ("adc",), onto="t2")  # whose grid it is need not be read
    np.testing.assert_array_equal(alone[0], volumes.images[0])
    np.testing.assert_array_equal(grid.affine, volumes.affine)


def test_beyond_an_image_there_is_its_minimum(prostate: Case) -> None:
    images, grid = read_images(prostate, ("t2",), onto="adc")
    own = read_volume(prostate.images["t2"].path)
    place = indices_in(own, grid)
    outside = ((place < -0.5) | (place > np.array(own.ras_shape) - 0.5)).any(-1)
    assert 0 < outside.mean() < 1
    assert (images[0][outside] == own.data.min()).all()


def test_masks_lie_on_the_grid_that_images_are_brought_to(prostate: Case) -> None:
    with pytest.raises(VolumeError, match=r"mask.nii.gz: expected the shape .* of .*adc.nii.gz"):
        read_case(prostate, ("t2", "adc"), LABELS, onto="adc")
    with pytest.raises(VolumeError, match="has no hbv image"):
        read_images(prostate, ("t2",), onto="hbv")


def test_an_image_of_another_place(prostate: Case, tmp_path: Path) -> None:
    far = affine_of("RAS")
    far[0, 3] = 500
    images = prostate.images | {"adc": Image(save(tmp_path / "far.nii", np.zeros((20, 20, 20), np.float32), far))}
    with pytest.raises(VolumeError, match=r"far.nii: .* shares 0% with the grid"):
        read_images(Case("p", "p", images), ("t2", "adc"), onto="t2")
    array = np.ones((30, 20, 45), np.float32)
    array[3, 4, 5] = np.nan
    save(prostate.images["adc"].path, array, nib.load(prostate.images["adc"].path).affine)
    with pytest.raises(VolumeError, match=r"adc.nii.gz: expected finite voxels, got 1 NaN"):
        read_images(prostate, ("t2", "adc"), onto="t2")


def test_the_message_shows_both_affines(case: Case) -> None:
    assert case.mask is not None
    save(case.mask, np.zeros(SHAPE, np.float64), np.eye(4))
    with pytest.raises(VolumeError) as caught:
        read(case)
    assert "1.5" in str(caught.value).split("expected\n")[1]
    assert "1.5" not in str(caught.value).split("expected\n")[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_voxel_that_is_no_number(case: Case, value: float) -> None:
    path = case.images["t1ce"].path
    array = np.zeros(SHAPE)
    array[0, 0, 2] = value
    save(path, array)
    with pytest.raises(VolumeError, match=r"p1_t1ce.nii.gz: .*got 1 NaN or infinite ones, the first at \(3, 4, 2\)"):
        read(case)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_masks_of_any_type(case: Case, dtype: str) -> None:
    assert case.mask is not None
    before = read(case)
    save(case.mask, np.asarray(nib.load(case.mask).dataobj).astype(dtype))
    np.testing.assert_array_equal(read(case), before)


def test_a_mask_that_rounding_moved_by_a_hair(case: Case) -> None:
    assert case.mask is not None
    save(case.mask, np.full(SHAPE, 0.99999997))
    assert (read(case) == 1).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, r"unexpected label 3 \(1 voxels\); allowed are 0 background, 1 core, 2 oedema, 4 enhancing"),
        (-1, "unexpected label -1"),
        (256, "unexpected label 256"),
        (1e6, r"unexpected label 1e\+06"),
        (1.5, "whole label values, got fractions"),
        (np.nan, "1 NaN or infinite"),
    ],
)
def test_labels_that_are_not_of_the_data_set(case: Case, value: float, message: str) -> None:
    assert case.mask is not None
    array = np.zeros(SHAPE)
    array[0, 0, 0] = value
    save(case.mask, array)
    with pytest.raises(VolumeError, match=rf"p1_seg.nii.gz: .*{message}"):
        read(case)


def test_a_missing_modality_names_the_files_there_are(case: Case, tmp_path: Path) -> None:
    images = {"t1": case.images["t1"]}
    with pytest.raises(VolumeError, match=r"case p1 has no t1ce image: it has t1 \(.*p1_t1\.nii\.gz\)"):
        read(Case("p1", "p1", images, case.mask))
    named = {"flair": Image(tmp_path / "Flair_norm.nii.gz")}
    with pytest.raises(VolumeError, match=r"has no t1c image: it has flair \(.*Flair_norm"):
        read_images(Case("p1", "p1", named), ("t1c",))
    with pytest.raises(VolumeError, match="no image at all"):
        read_images(Case("p1", "p1", {}), ("t1",))
    with pytest.raises(ValueError, match="no modality was asked for"):
        read_images(case, ())


def test_a_case_without_a_mask_can_only_be_predicted(case: Case) -> None:
    images, grid = read_images(Case("p1", "p1", case.images), ("t1", "t1ce"))
    assert images.shape == (2, *grid.ras_shape)
    with pytest.raises(VolumeError, match="p1 has no mask"):
        read(Case("p1", "p1", case.images))
