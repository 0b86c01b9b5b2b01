from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from calf.data.build import PreparationError, open_store, plan_store
from calf.data.geometry import from_slices, resample_mask
from calf.data.prepare import Preparation, cut
from calf.data.restore import CaseCollector, write_mask
from calf.data.store import SliceStore
from calf.data.volumes import Grid, write_volume
from tests.data.toy import PartlyLabelled, ToyLayout


def store_of(tmp_path: Path, target: str = "whole", biased: bool = False, **settings: object) -> tuple[ToyLayout, SliceStore]:
    layout = ToyLayout(tmp_path / "toy", biased=biased)
    plan = plan_store("toy", layout, target, Preparation(**settings), tmp_path / "stores")
    return layout, open_store(plan, workers=1)


def test_a_store_has_the_slices_of_every_case_and_their_areas(tmp_path):
    _, store = store_of(tmp_path)
    # six cases of six slices; two modalities and a mask; the largest slice, 12 x 11, up to multiples of 32
    assert store.shape == (36, 3, 32, 32)
    assert store.cases[1].box == (10, 22, 10, 21)
    areas = store.areas[:, 0].reshape(6, 6)
    assert areas.tolist() == [[0, 30, 30, 30, 0, 0]] * 6
    planes = store.read(np.arange(36))
    assert (planes[:, 2].sum(axis=(1, 2)) == store.areas[:, 0]).all()
    assert store.slice_table["case"].tolist()[5:7] == ["case0", "case1"]
    assert store.case_table().loc["case3"].tolist() == ["patient1", pytest.approx(4.5)]


def test_reading_in_any_order_gives_the_same_slices_as_a_memory_map(tmp_path):
    _, store = store_of(tmp_path)
    indices = np.random.default_rng(0).permutation(36)[:20]
    mapped = np.load(store.folder / "planes.npy", mmap_mode="r")
    assert (store.read(indices) == mapped[indices]).all()
    with pytest.raises(IndexError, match="slice 36 of a store of 36"):
        store.read(np.array([36]))


def expected_mask(layout: ToyLayout, number: int, target: str) -> np.ndarray:
    labels = np.asarray(nib.load(layout.cases()[number].mask).dataobj)
    return {"whole": labels > 0, "classes": labels, "regions": (labels > 0) + 2 * (labels == 2)}[target].astype(np.uint8)


WAYS = {
    "padded": {},
    "cropped": {"crop": "foreground"},
    "finer": {"spacing_mm": (0.5, 0.5, 1.0)},
    "finer and larger": {"spacing_mm": (0.5, 0.5, 1.0), "crop": "foreground", "fit": "resize", "size": (96, 64)},
}


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize(
    ("plane", "target"), [("axial", "whole"), ("axial", "regions"), ("coronal", "classes"), ("sagittal", "classes")]
)
def test_masks_come_back_into_the_grid_of_their_files(tmp_path, plane, target, way):
    layout, store = store_of(tmp_path, target=target, plane=plane, **WAYS[way])
    collector = CaseCollector(store)
    order = np.random.default_rng(0).permutation(len(store))
    masks = store.read(order)[:, -1]
    # as probabilities: one that is certain of the mask's first bit, one that never knows
    channels = np.stack([masks & 1, np.full(masks.shape, 0.4)], axis=1).astype(np.float16)
    done = list(collector.add(order, masks, channels))
    restored = {case.number: case.mask for case in done}
    assert sorted(restored) == list(range(6))
    assert not collector.masks
    assert not collector.probabilities
    for case in done:
        certain, unknowing = case.probabilities
        assert np.array_equal(certain > 0.5, case.mask & 1)
        assert case.probabilities.dtype == np.float16
        if store.cases[case.number].crop == tuple((0, length) for length in store.cases[case.number].shape):
            assert (unknowing == np.float16(0.4)).all()
    for number, case in enumerate(layout.cases()):
        write_mask(tmp_path / "out.nii.gz", restored[number], store.cases[number])
        written, original = nib.load(tmp_path / "out.nii.gz"), nib.load(case.mask)
        assert np.array_equal(np.asarray(written.dataobj), expected_mask(layout, number, target))
        assert np.allclose(written.affine, original.affine)
        # what it is scored against is the file's own mask, in RAS order: x and y run the other way in these files
        assert np.array_equal(store.truth(number), expected_mask(layout, number, target)[::-1, ::-1])
        assert np.array_equal(store.truth(number), restored[number])


def test_resampling_keeps_the_extent_and_the_volume(tmp_path):
    _, store = store_of(tmp_path, spacing_mm=(2.0, 3.0, 3.0))
    case = store.cases[0]
    assert (case.shape, case.resampled) == ((10, 12, 6), (5, 6, 6))
    assert case.stored_voxel_volume_mm3 == pytest.approx(18.0)
    assert case.voxel_volume_mm3 == pytest.approx(4.5)
    assert not store.unchanged


def test_images_are_resampled_by_the_mean_of_what_a_voxel_covers_halfway(tmp_path):
    _, fine = store_of(tmp_path, normalise="window", window=(0, 510), crop="none")
    _, coarse = store_of(tmp_path, normalise="window", window=(0, 510), spacing_mm=(2.0, 1.5, 3.0))
    before = fine.cases[0].restore(fine.read(fine.cases[0].slices)[:, 0]).astype(float)
    after, case = coarse.read(coarse.cases[0].slices)[:, 0], coarse.cases[0]
    top, bottom, left, right = case.box
    # linear interpolation halfway between two voxels is their mean; columns of a slice run towards lower x
    expected = (before[0::2] + before[1::2]) / 2
    assert np.abs(from_slices(after[:, top:bottom, left:right], "axial") - expected).max() <= 1.5


def test_cropping_leaves_out_what_is_background_in_every_modality(tmp_path):
    layout = ToyLayout(tmp_path / "toy")
    layout.ensure()
    for modality, low in (("a", 3), ("b", 2)):
        path = tmp_path / "toy" / f"case0_{modality}.nii.gz"
        image = nib.load(path)
        data = np.asarray(image.dataobj).copy()
        data[:low], data[8:], data[:, :1], data[..., 5:] = -7, -7, -7, -7
        write_volume(path, data, image.affine)
    plan = plan_store("toy", layout, "whole", Preparation(crop="foreground"), tmp_path / "stores")
    case = open_store(plan, workers=1).cases[0]
    assert case.crop == ((2, 8), (0, 11), (0, 5))  # x and y are turned round
    assert case.resampled == (6, 11, 5)


def test_only_annotated_slices_of_partly_labelled_cases_count(tmp_path):
    layout = PartlyLabelled(tmp_path / "toy")
    for settings in ({}, {"spacing_mm": (1.0, 1.5, 1.5)}):
        store = open_store(plan_store("toy", layout, "core", Preparation(**settings), tmp_path / "stores"), workers=1)
        factor = 2 if settings else 1
        # the mask shows rim or core in slices 1 to 3: slice 1 is annotated, though it holds no core
        assert store.labelled.tolist() == ([False] * factor + [True] * 3 * factor + [False] * 2 * factor) * 6
        assert store.cases[0].annotated.ravel().tolist() == [False, True, True, True, False, False]
    with pytest.raises(PreparationError, match=r"annotated in some axial slices only: take preparation\.plane=axial"):
        open_store(plan_store("toy", layout, "core", Preparation(plane="coronal"), tmp_path / "stores"), workers=1)


def test_resizing_changes_the_volume_a_stored_pixel_stands_for(tmp_path):
    _, store = store_of(tmp_path, fit="resize", size=(24, 20))
    assert store.shape[2:] == (24, 20)
    # 12 x 10 pixels of 1.5 x 1 mm in slices of 3 mm became 24 x 20
    assert store.cases[0].stored_voxel_volume_mm3 == pytest.approx(4.5 / 4)
    assert store.case_table(stored=True).loc["case0", "voxel_volume_mm3"] == pytest.approx(4.5 / 4)
    assert store.case_table().loc["case0", "voxel_volume_mm3"] == pytest.approx(4.5)
    # case 0 divides evenly: four stored pixels for each of its own
    assert store.areas[:6, 0].tolist() == [0, 120, 120, 120, 0, 0]


def test_what_is_scored_against_is_the_reference(tmp_path):
    layout, store = store_of(tmp_path, fit="resize", size=(16, 16), biased=True)
    _, padded = store_of(tmp_path, biased=True)
    for number, case in enumerate(layout.cases()):
        clean = np.asarray(nib.load(case.reference).dataobj)[::-1, ::-1] > 0
        assert np.array_equal(store.truth(number), clean)
        assert np.array_equal(padded.truth(number), clean)


def test_the_reference_is_kept_apart_from_the_training_mask(tmp_path):
    _, store = store_of(tmp_path, biased=True)
    planes = store.read(np.arange(6))
    assert planes[:, 2].sum() == 90
    assert planes[:, 3].sum() == 72


def test_a_second_opening_builds_nothing(tmp_path):
    layout, store = store_of(tmp_path)
    before = (store.folder / "planes.npy").stat().st_mtime_ns
    again = open_store(plan_store("toy", layout, "whole", Preparation(), tmp_path / "stores"))
    assert again.folder == store.folder
    assert (again.folder / "planes.npy").stat().st_mtime_ns == before
    assert not list((tmp_path / "stores").glob("*.parts"))


def test_the_key_follows_content_and_settings_not_place_or_time(tmp_path):
    first, _ = ToyLayout(tmp_path / "one"), ToyLayout(tmp_path / "two")
    keys = {}
    for name in ("one", "two"):
        keys[name] = plan_store("toy", ToyLayout(tmp_path / name), "whole", Preparation(), tmp_path / "stores").key
    assert keys["one"] == keys["two"]
    assert plan_store("toy", first, "whole", Preparation(plane="coronal"), tmp_path / "stores").key != keys["one"]
    assert plan_store("toy", first, "regions", Preparation(), tmp_path / "stores").key != keys["one"]
    mask = tmp_path / "one" / "case0_seg.nii.gz"
    mask.write_bytes(mask.read_bytes() + b"\0")
    assert plan_store("toy", first, "whole", Preparation(), tmp_path / "stores").key != keys["one"]


def test_the_image_whose_grid_the_others_are_brought_to_is_part_of_the_key(tmp_path):
    layout, preparation = ToyLayout(tmp_path / "toy"), Preparation(modalities=("a",), onto="b")
    before = plan_store("toy", layout, "whole", preparation, tmp_path / "stores").key
    image = tmp_path / "toy" / "case0_b.nii.gz"
    image.write_bytes(image.read_bytes() + b"\0")
    assert plan_store("toy", layout, "whole", preparation, tmp_path / "stores").key != before
    alone = Preparation(modalities=("a",))
    assert plan_store("toy", layout, "whole", alone, tmp_path / "stores").key != before


def test_a_bad_case_is_named_and_the_others_are_kept(tmp_path):
    layout = ToyLayout(tmp_path / "toy")
    layout.ensure()
    truncated = tmp_path / "toy" / "case2_a.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:200])
    plan = plan_store("toy", layout, "whole", Preparation(), tmp_path / "stores")
    with pytest.raises(PreparationError, match=r"1 of 6 cases.*\n.*case2: .*case2_a.nii.gz.*\n.*skip_bad_cases=true"):
        open_store(plan, workers=1)
    assert len(list((tmp_path / "stores").glob("toy-*.parts/*.npz"))) == 5
    store = open_store(plan, skip_bad_cases=True, workers=1)
    assert [case.id for case in store.cases] == ["case0", "case1", "case3", "case4", "case5"]
    assert list(store.manifest["skipped"]) == ["case2"]
    with pytest.raises(PreparationError, match="case2"):
        open_store(plan)  # a store that lacks a case is not used unless that is asked for


def test_an_interrupted_build_goes_on_with_the_parts_that_are_there(tmp_path):
    layout = ToyLayout(tmp_path / "toy")
    layout.ensure()
    broken = tmp_path / "toy" / "case5_b.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    with pytest.raises(PreparationError):
        open_store(plan_store("toy", layout, "whole", Preparation(), tmp_path / "stores"), workers=1)
    broken.write_bytes(whole)
    store = open_store(plan_store("toy", layout, "whole", Preparation(), tmp_path / "stores"), workers=2)
    _, undisturbed = store_of(tmp_path / "other")
    assert store.key == undisturbed.key
    assert (store.folder / "planes.npy").read_bytes() == (undisturbed.folder / "planes.npy").read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"plane": "oblique"}, "axial"),
        ({"fit": "crop"}, "pad, resize"),
        ({"normalise": "none"}, "volume_percentile"),
        ({"percentiles": (99, 1)}, "rising"),
        ({"size": (8, 8)}, "do not fit"),
        ({"modalities": ("a", "c")}, r"\['c'\].*a, b"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        store_of(tmp_path, **settings)


def test_an_unknown_target_names_those_there_are(tmp_path):
    with pytest.raises(ValueError, match="whole, classes, regions"):
        store_of(tmp_path, target="tumour")


def test_slice_minmax_uses_the_whole_range_of_each_slice(tmp_path):
    _, store = store_of(tmp_path, normalise="slice_minmax", size=(12, 11))
    images = store.read(store.slices_of({"patient0"}))[:, :2]
    assert (images.max(axis=(2, 3)) == 255).all()


def test_the_manifest_names_the_digest_of_every_file(tmp_path):
    _, store = store_of(tmp_path)
    manifest = json.loads((store.folder / "manifest.json").read_text())
    assert set(manifest["sha256"]["case0"]) == {"case0_a.nii.gz", "case0_b.nii.gz", "case0_seg.nii.gz"}


FULL = """
import resource, signal, sys
from pathlib import Path
from calf.data.build import open_store, plan_store
from calf.data.prepare import Preparation, cut
from tests.data.toy import ToyLayout

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
plan = plan_store("toy", ToyLayout(Path(sys.argv[1]) / "toy"), "whole", Preparation(), Path(sys.argv[1]) / "stores")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
open_store(plan, workers=1)
"""


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path):
    layout, small = store_of(tmp_path, target="classes")
    # 36 slices of 3 planes of 32 x 32 are 110 kB: the parts of the cases fit in 50 kB files, the store does not
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path), "50000"], capture_output=True, text=True, check=False)
    assert "no room on the disk of" in done.stderr
    assert "choose another place with stores_dir=..." in done.stderr.replace("\n", " ")
    assert not list((tmp_path / "stores").glob("*.building"))
    assert len(list((tmp_path / "stores").glob("toy-*.parts/*.npz"))) == 6
    assert SliceStore(small.folder).read(np.arange(36)).sum() > 0
    again = open_store(plan_store("toy", layout, "whole", Preparation(), tmp_path / "stores"), workers=1)
    assert len(again) == 36


@pytest.mark.parametrize(
    "way", [{"spacing_mm": (2.0, 3.0, 3.0)}, {"fit": "resize", "size": (24, 20)}, {"spacing_mm": (4.0, 6.0, 3.0)}]
)
def test_masks_do_not_move_against_their_images(tmp_path, way):
    """With half as many voxels each centre lies on a border, where nearest neighbour would always take the same side."""
    rng, shifts = np.random.default_rng(0), []
    for _ in range(30):
        begin, length = rng.integers(4, 20, 2), rng.integers(6, 20, 2)
        mask = np.zeros((40, 48, 2), np.uint8)
        mask[begin[0] : begin[0] + length[0], begin[1] : begin[1] + length[1]] = 1
        grid = Grid(mask.shape, np.eye(4), (1.0, 1.5, 3.0), mask.shape, np.eye(4), 1)
        preparation = Preparation(normalise="window", window=(0, 1), **way)
        slices = cut(mask[None].astype(np.float32), [mask], grid, preparation)
        size = preparation.size or slices.images.shape[-2:]
        image, coarse = slices.planes(size, preparation.fit)[0].astype(float)
        for axis in (0, 1):
            shifts.append(centre(coarse, axis) - centre(image, axis))
    assert abs(np.mean(shifts)) < 0.06


def centre(weights: np.ndarray, axis: int) -> float:
    along = weights.sum(axis=1 - axis)
    return float((along * np.arange(len(along))).sum() / along.sum())


def test_a_single_voxel_survives_on_a_finer_grid_and_comes_back():
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[1, 2, 3], mask[0, 0, 0] = 1, 2
    fine = resample_mask(mask, (6, 8, 15))
    assert (np.bincount(fine.ravel())[1:] == 12).all()
    assert np.array_equal(resample_mask(fine, mask.shape), mask)
