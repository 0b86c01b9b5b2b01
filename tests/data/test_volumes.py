from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from calf.data.cases import Case, Image, Target
from calf.data.volumes import (
    Grid,
    VolumeError,
    content_digest,
    encode_target,
    files_of,
    read_case,
    read_header,
    read_images,
    read_volume,
    to_original,
    write_volume,
)

LPS = np.array([[-1.0, 0, 0, 0], [0, -1.5, 0, 30], [0, 0, 4, -7], [0, 0, 0, 1]])
LABELS = {0: "background", 1: "core", 2: "oedema", 4: "enhancing"}
SHAPE = (4, 5, 3)


def save(path: Path, array: np.ndarray, affine: np.ndarray = LPS, image_class: type[nib.Nifti1Image] = nib.Nifti1Image) -> Path:
    nib.save(image_class(array, affine), path)
    return path


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


# --- orientation ---------------------------------------------------------------------------------------------------

ORIENTATIONS = [
    "".join(letters[sign] for letters, sign in zip(axes, signs, strict=True))
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for signs in itertools.product((0, 1), repeat=3)
]


def affine_of(orientation: str) -> np.ndarray:
    """Voxel sizes 1, 2, 3 mm along right, front and up, an oblique of one degree, and an origin off zero."""
    columns = {"R": (1, 0, 0), "A": (0, 2, 0), "S": (0, 0, 3), "L": (-1, 0, 0), "P": (0, -2, 0), "I": (0, 0, -3)}
    tilt = np.array([[np.cos(0.02), -np.sin(0.02), 0], [np.sin(0.02), np.cos(0.02), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.array([columns[letter] for letter in orientation], float).T
    affine[:3, 3] = (7, -11, 5)
    return affine


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_voxel_keeps_its_place_in_the_world_and_the_way_back_is_exact(tmp_path: Path, orientation: str) -> None:
    affine = affine_of(orientation)
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    array = (world @ [1.0, 100.0, 10000.0]).astype(np.float32)
    volume = read_volume(save(tmp_path / "v.nii.gz", array, affine))

    index = np.stack(np.meshgrid(*map(np.arange, volume.ras_shape), indexing="ij"), -1)
    world = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    np.testing.assert_allclose(volume.data, world @ [1.0, 100.0, 10000.0], rtol=1e-5)
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert volume.spacing_mm == pytest.approx((1, 2, 3))
    assert volume.original_shape == SHAPE
    np.testing.assert_array_equal(to_original(volume.data, volume.original_affine), array)


def test_a_prediction_lies_on_its_image_again(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii.gz", np.arange(60, dtype=np.int16).reshape(SHAPE), affine_of("PIR"))
    volume = read_volume(path)
    write_volume(tmp_path / "mask.nii.gz", to_original(volume.data > 30, volume.original_affine), volume.original_affine)
    image, mask = nib.load(path), nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(image.dataobj) > 30)
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)


def nrrd_array(path: Path) -> np.ndarray:
    """The array of a gzipped NRRD file, by its header's text."""
    header, data = path.read_bytes().split(b"\n\n", 1)
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line and line[0] != "#")
    dtype = {"short": "<i2", "int": "<i4", "unsigned short": "<u2"}[fields["type"]]
    return np.frombuffer(gzip.decompress(data), dtype).reshape([int(n) for n in fields["sizes"].split()], order="F")


def test_real_volumes_come_back_as_they_were(shared: Path) -> None:
    """All of them but the repetitive: five hippocampi, and no file that is slow to inflate."""
    hippocampi = sorted((shared / "data/Task04_Hippocampus").rglob("h*.nii.gz"))[:5]
    others = [p for p in (shared / "data").rglob("*.nii.gz") if "Task04" not in str(p) and p.stat().st_size < 2e5][::4]
    nrrds = sorted((shared / "data").rglob("*.nrrd"))
    assert len(hippocampi) == 5
    assert len(others) >= 5
    assert len(nrrds) > 10
    for path in [*hippocampi, *others, *nrrds]:
        expected = nrrd_array(path) if path.suffix == ".nrrd" else np.asarray(nib.load(path).dataobj)
        volume = read_volume(path)
        found = to_original(volume.data, volume.original_affine)
        assert np.array_equal(found, expected.reshape(found.shape)), path
        assert read_header(path).ras_shape == volume.ras_shape == volume.data.shape


def test_real_volumes_as_nibabel_reads_them(shared: Path) -> None:
    path = shared / "data/brats2013_expert/train/brats_2013_pat0002_1/OTMultiClass.nii.gz"
    expected = nib.as_closest_canonical(nib.load(path))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, np.asarray(expected.dataobj))
    np.testing.assert_allclose(volume.affine, expected.affine)
    assert volume.ras_shape == read_header(path).ras_shape == (240, 240, 155)


# --- what files there are -------------------------------------------------------------------------------------------


def test_the_header_alone_says_where_the_voxels_lie(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = save(tmp_path / "v.nii.gz", rng.normal(size=(40, 41, 42)).astype(np.float32), affine_of("PIR"))
    volume = read_volume(path)
    path.write_bytes(path.read_bytes()[:2000])  # what lies behind is never asked for
    header = read_header(path)
    assert header.ras_shape == volume.ras_shape == volume.data.shape == (42, 40, 41)
    np.testing.assert_array_equal(header.affine, volume.affine)


@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "float32", "float64", ">i2"])
def test_any_type_and_version(tmp_path: Path, dtype: str, image_class: type[nib.Nifti1Image]) -> None:
    array = np.arange(60).reshape(SHAPE).astype(dtype)
    header = image_class.header_class(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(dtype)
    nib.save(image_class(array, affine_of("RAS"), header), tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "v.nii.gz").data, array)


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(SHAPE)
    plain = save(tmp_path / "a.nii", array)
    (tmp_path / "b.nii.gz").write_bytes(plain.read_bytes())
    (tmp_path / "c.nii").write_bytes(gzip.compress(plain.read_bytes()))
    for name in ("b.nii.gz", "c.nii"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, read_volume(plain).data)
        assert read_header(tmp_path / name).ras_shape == SHAPE


def test_rescaling_of_the_header_is_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(SHAPE), affine_of("RAS"))
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "v.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "v.nii").data, np.asarray(nib.load(tmp_path / "v.nii").dataobj))


def test_channels_of_a_4d_file(tmp_path: Path) -> None:
    array = np.arange(120, dtype=np.float32).reshape(*SHAPE, 2)
    path = save(tmp_path / "v.nii.gz", array, affine_of("RAS"))
    assert read_header(path).num_channels == 2
    np.testing.assert_array_equal(read_volume(path, 1).data, array[..., 1])
    with pytest.raises(VolumeError, match="expected a 3-D volume, got 2 channels"):
        read_volume(path)
    with pytest.raises(VolumeError, match="a channel 2, it has 2"):
        read_volume(path, 2)
    images, _ = read_images(Case("p", "p", {"a": Image(path, 1), "b": Image(path, 0)}), ("a", "b"))
    np.testing.assert_array_equal(images, array.transpose(3, 0, 1, 2)[::-1])


def test_a_fourth_axis_of_length_one_is_no_axis(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(*SHAPE, 1)
    assert read_volume(save(tmp_path / "v.nii.gz", array, affine_of("RAS"))).data.shape == SHAPE


def codes(path: Path, sform: int, qform: int) -> np.ndarray:
    """The affine that is read from a file whose sform and qform differ, with these codes."""
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), None)
    image.set_sform(affine_of("PIR"), sform)
    image.set_qform(affine_of("RAS"), qform)
    nib.save(image, path)
    return read_volume(path).original_affine


def test_the_sform_counts_then_the_qform_then_the_voxel_sizes(tmp_path: Path) -> None:
    np.testing.assert_allclose(codes(tmp_path / "v.nii", 1, 1), affine_of("PIR"), atol=1e-5)
    np.testing.assert_allclose(codes(tmp_path / "v.nii", 4, 0), affine_of("PIR"), atol=1e-5)
    np.testing.assert_allclose(codes(tmp_path / "v.nii", 0, 1), affine_of("RAS"), atol=1e-5)
    assert read_header(tmp_path / "v.nii").spacing_mm == pytest.approx((1, 2, 3))
    codes(tmp_path / "v.nii", 0, 0)
    assert read_header(tmp_path / "v.nii").spacing_mm == pytest.approx((1, 2, 3))


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_slope_that_is_none(tmp_path: Path, slope: float) -> None:
    array = np.arange(60, dtype=np.int16).reshape(SHAPE)
    path = save(tmp_path / "v.nii", array, affine_of("RAS"))
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, 7], "<f4").tobytes()
    path.write_bytes(content)
    volume = read_volume(path)
    assert volume.data.dtype == np.int16
    np.testing.assert_array_equal(volume.data, array)


def test_files_of_an_image(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("b.dcm", "a.dcm", "._a.dcm"):
        (tmp_path / "folder" / name).write_bytes(b"?")
    assert files_of(tmp_path / "folder") == [tmp_path / "folder/a.dcm", tmp_path / "folder/b.dcm"]
    assert files_of(str(tmp_path / "none.nii.gz")) == [tmp_path / "none.nii.gz"]


def test_the_digest_knows_an_image_by_its_voxels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)
    digest = content_digest(read_volume(save(tmp_path / "a.nii.gz", array, affine_of("RAS"))).data)
    turned = nib.load(tmp_path / "a.nii.gz").as_reoriented([[2, 1], [0, -1], [1, 1]])
    for again in (array.astype(np.float64), np.asfortranarray(array), array.astype(">f4"), np.where(array, array, -0.0)):
        assert content_digest(again) == digest
    assert content_digest(read_volume(save(tmp_path / "b.nii", np.asarray(turned.dataobj), turned.affine)).data) == digest
    other = array.copy()
    other[3, 4, 2] += 1
    for odd in (other, array[::-1], array.reshape(5, 4, 3), array.swapaxes(0, 1)):
        assert content_digest(odd) != digest


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


# --- targets --------------------------------------------------------------------------------------------------------


def test_encoding_of_targets() -> None:
    labels = np.array([0, 1, 2, 4], np.uint8)
    regions = Target(("whole", "core", "enhancing"), ((1, 2, 4), (1, 4), (4,)))
    assert encode_target(labels, regions).tolist() == [0, 0b011, 0b001, 0b111]
    assert encode_target(labels, Target(("core",), ((1, 4),))).tolist() == [0, 1, 0, 1]
    classes = Target(("oedema", "core"), ((2,), (1, 4)), exclusive=True)
    assert encode_target(labels.reshape(2, 2).astype(np.int64), classes).tolist() == [[0, 2], [1, 2]]
    eight = Target(tuple("abcdefgh"), tuple((value,) for value in range(1, 9)))
    assert encode_target(np.arange(1, 9), eight).tolist() == [1, 2, 4, 8, 16, 32, 64, 128]
    for odd, message in ((labels.astype(np.float32), "float32"), (np.array([-1]), "-1"), (np.array([256]), "256")):
        with pytest.raises(ValueError, match=message):
            encode_target(odd, classes)


# --- writing --------------------------------------------------------------------------------------------------------


def test_the_same_volume_is_the_same_bytes(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)
    for name in ("a.nii.gz", "b.nii.gz", "c.nii"):
        write_volume(tmp_path / name, array, LPS)
        image = nib.load(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(image.dataobj), array)
        np.testing.assert_allclose(image.affine, LPS)
        np.testing.assert_allclose(image.get_qform(), LPS, atol=1e-5)
        assert image.header.get_xyzt_units()[0] == "mm"
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz", "c.nii"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.nii.gz"
    write_volume(path, np.ones(SHAPE, bool), LPS)
    before = path.read_bytes()

    def full(self: Path, content: bytes) -> None:
        with open(self, "wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_volume(path, np.zeros(SHAPE, np.uint8), LPS)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int64 voxels are refused"):
        write_volume(tmp_path / "v.nii.gz", np.zeros(SHAPE, np.int64), LPS)
    with pytest.raises(ValueError, match=r"written as .nii or .nii.gz"):
        write_volume(tmp_path / "v.mha", np.zeros(SHAPE, np.uint8), LPS)
