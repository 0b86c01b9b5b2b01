"""Volumes as they are read and written."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import calf.data.volumes as volumes
from calf.data.cases import Case, Image, Target
from calf.data.volumes import (
    VolumeError,
    content_digest,
    encode_target,
    files_of,
    read_header,
    read_images,
    read_mask,
    read_volume,
    to_original,
    write_volume,
)
from tests.data.nifti import LPS, ORIENTATIONS, SHAPE, affine_of, save


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


@pytest.mark.parametrize("orientation", ["RAS", "PIR"])
def test_axes_that_are_not_perpendicular_are_refused(tmp_path: Path, orientation: str) -> None:
    # a gantry tilted by 27 degrees: the voxels have 6 mm3, the product of the spacings is 6.7
    affine = affine_of(orientation)
    slice_axis = orientation.index("S") if "S" in orientation else orientation.index("I")
    affine[1, slice_axis] += 1.5
    path = save(tmp_path / "tilted.nii.gz", np.zeros(SHAPE, np.float32), affine)
    with pytest.raises(VolumeError, match=r"tilted.nii.gz: expected perpendicular axes, got two at 6\d.\d degrees"):
        read_header(path)
    affine[1, slice_axis] -= 1.49  # of 3 mm, which moves volumes by 6e-6
    assert read_header(save(path, np.zeros(SHAPE, np.float32), affine)).spacing_mm == pytest.approx((1, 2, 3), rel=1e-4)


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


@pytest.mark.parametrize("slab", [1, 25, 10**6])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_a_mask_is_the_same_by_slabs_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slab: int, dtype: type[np.generic]
) -> None:
    monkeypatch.setattr(volumes, "_SLAB", slab)
    labels = dict.fromkeys((0, 1, 2, 200), "some")
    array = np.random.default_rng(0).choice(list(labels), SHAPE).astype(dtype)
    shaken = array + np.array(9e-4 if array.dtype.kind == "f" else 0, dtype)
    path = save(tmp_path / "mask.nii.gz", shaken, affine_of("PIR"))
    mask = read_mask(path, labels, path, read_header(path))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(to_original(mask, affine_of("PIR")), array)


@pytest.mark.parametrize("slab", [1, 10**6])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_unknown_values_of_all_slabs_are_counted_and_the_least_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slab: int, dtype: type[np.generic]
) -> None:
    monkeypatch.setattr(volumes, "_SLAB", slab)
    array = np.zeros(SHAPE, dtype)
    array[0, 0, :3] = 7  # in three planes
    path = save(tmp_path / "mask.nii.gz", array)
    with pytest.raises(VolumeError, match=r"unexpected label 7 \(3 voxels\); allowed are 0 nothing:"):
        read_mask(path, {0: "nothing"}, path, read_header(path))
    array[:] = np.arange(array.size, 0, -1).reshape(SHAPE) % 30 - 5  # the least come last in each plane
    listed = ", ".join(f"{value} ({np.count_nonzero(array == value)} voxels)" for value in (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5))
    with pytest.raises(VolumeError) as raised:
        read_mask(save(path, array), {0: "nothing"}, path, read_header(path))
    assert f"unexpected label {listed}, ...; allowed" in str(raised.value)


def test_a_fraction_or_nan_in_any_slab_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "_SLAB", 1)
    array = np.full(SHAPE, 9, np.float32)  # which is no label: a fraction is said first
    array[1, 2, -1] = 0.25
    path = save(tmp_path / "mask.nii.gz", array)
    with pytest.raises(VolumeError, match=r"got fractions \(up to 0.25 off\)"):
        read_mask(path, {0: "nothing"}, path, read_header(path))
    array[0, 2, 1] = array[1, 0, 0] = np.nan
    place = tuple(int(at) for at in np.argwhere(np.isnan(read_volume(save(path, array)).data))[0])
    with pytest.raises(VolumeError) as raised:
        read_mask(path, {0: "nothing"}, path, read_header(path))
    assert f"got 2 NaN or infinite ones, the first at {place} (RAS order)" in str(raised.value)


def test_voxels_of_a_mask_on_another_grid_are_not_read(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.nii", np.zeros(SHAPE, np.uint8))
    path.write_bytes(path.read_bytes()[:-1])  # which reading them would say
    image = save(tmp_path / "image.nii", np.zeros((3, 4, 6), np.uint8))
    with pytest.raises(VolumeError, match="expected the shape"):
        read_mask(path, {0: "nothing"}, image, read_header(image))
    with pytest.raises(VolumeError, match="cut short"):
        read_mask(path, {0: "nothing"}, path, read_header(path))
