from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from calf.data.build import PreparationError, open_store, plan_store
from calf.data.prepare import Preparation
from calf.data.restore import write_mask
from calf.data.store import SliceStore
from tests.data.toy import ToyLayout


def store_of(tmp_path: Path, target: str = "whole", biased: bool = False, **settings: object) -> tuple[ToyLayout, SliceStore]:
    layout = ToyLayout(tmp_path / "toy", biased=biased)
    plan = plan_store("toy", layout, target, Preparation(**settings), tmp_path / "stores")
    return layout, open_store(plan, workers=1)


def test_a_store_has_the_slices_of_every_case_and_their_areas(tmp_path):
    _, store = store_of(tmp_path)
    # six cases of six slices; two modalities and a mask; the largest slice, 12 x 11, up to multiples of 32
    assert store.shape == (36, 3, 32, 32)
    assert store.cases[1].box == [10, 22, 10, 21]
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


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("target", ["whole", "classes", "regions"])
def test_masks_come_back_into_the_grid_of_their_files(tmp_path, plane, target):
    layout, store = store_of(tmp_path, target=target, plane=plane)
    for number, case in enumerate(layout.cases()):
        stored = store.cases[number]
        masks = store.read(np.arange(stored.first, stored.first + stored.grid[0]))[:, -1]
        restored = nib.load(write_mask(tmp_path / "out", masks, store, number))
        original = nib.load(case.mask)
        labels = np.asarray(original.dataobj)
        expected = {"whole": labels > 0, "classes": labels, "regions": (labels > 0) + 2 * (labels == 2)}[target]
        assert np.array_equal(np.asarray(restored.dataobj), expected)
        assert np.allclose(restored.affine, original.affine)


def test_resizing_changes_the_volume_a_stored_pixel_stands_for(tmp_path):
    _, store = store_of(tmp_path, fit="resize", size=(24, 20))
    assert store.shape[2:] == (24, 20)
    # 12 x 10 pixels of 1.5 x 1 mm in slices of 3 mm became 24 x 20
    assert store.cases[0].stored_voxel_volume_mm3 == pytest.approx(4.5 / 4)
    assert store.case_table(stored=True).loc["case0", "voxel_volume_mm3"] == pytest.approx(4.5 / 4)
    assert store.case_table().loc["case0", "voxel_volume_mm3"] == pytest.approx(4.5)
    # case 0 divides evenly: four stored pixels for each of its own
    assert store.areas[:6, 0].tolist() == [0, 120, 120, 120, 0, 0]


def test_the_truth_of_resized_slices_is_kept_in_its_own_grid(tmp_path):
    _, store = store_of(tmp_path, fit="resize", size=(16, 16), biased=True)
    _, padded = store_of(tmp_path, biased=True)
    truth, planes = store.read_truth(np.arange(36)), padded.read(np.arange(36))
    for index, (rows, columns) in enumerate(store.grids):
        top, bottom, left, right = padded.boxes[index]
        assert np.array_equal(truth[index, :rows, :columns], planes[index, -1, top:bottom, left:right])
        assert truth[index].sum() == planes[index, -1].sum()
    with pytest.raises(ValueError, match="no other truth"):
        padded.read_truth(np.arange(1))


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


def test_a_bad_case_is_named_and_the_others_are_kept(tmp_path):
    layout = ToyLayout(tmp_path / "toy")
    layout.ensure()
    truncated = tmp_path / "toy" / "case2_a.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:200])
    plan = plan_store("toy", layout, "whole", Preparation(), tmp_path / "stores")
    with pytest.raises(PreparationError, match=r"1 of 6 cases.*\n.*case2: .*case2_a.nii.gz.*\n.*skip_bad_cases=true"):
        open_store(plan, workers=1)
    assert len(list((tmp_path / "stores").glob("toy-*.parts/*.npy"))) == 5
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
