from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calf.data.cases import Case
from calf.data.datamodule import SliceData
from calf.data.prepare import Preparation
from calf.data.sampling import RatioFilter
from calf.data.splits import Holdout, LeaveOnePatientOut
from calf.data.store import SliceStore
from calf.data.volumes import read_volume, to_original, write_volume
from calf.inspect.figures import intensity
from calf.inspect.fingerprint import fingerprint, quantiles
from calf.inspect.measure import measure_cases
from calf.inspect.samples import chosen, samples
from tests.data.toy import PartlyLabelled, ToyLayout

VOXEL = 1 * 1.5 * 3
# of a case: a box of 90 voxels, 30 in each of three slices of six; the core in it 12, 6 in each of two
WHOLE, CORE = 90, 12
VOXELS = 3 * (10 + 11) * 12 * 6


def toy(folder: Path, layout: ToyLayout | None = None, **changes: object) -> SliceData:
    arguments = {
        "layout": layout or ToyLayout(folder / "toy"),
        "target": "whole",
        "preparation": Preparation(),
        "split": Holdout(val=0.3, test=0.3),
        "fold": None,
        "seed": 0,
        "batch_size": 4,
        "stores_dir": str(folder / "stores"),
        "workers": 1,
        "name": "toy",
    }
    return SliceData(**(arguments | changes))  # type: ignore[arg-type]


def found_of(data: SliceData) -> dict:
    store = SliceStore(data.store.folder)
    found = fingerprint("toy", data, store, measure_cases(data.plan.cases, store, 2))
    json.dumps(found, allow_nan=False)  # plain, and nothing that JSON does not know
    return found


def test_every_number_of_a_data_set_that_is_known_by_heart(tmp_path):
    found = found_of(toy(tmp_path))
    assert (found["num_cases"], found["num_patients"], found["num_slices"], found["num_unlabelled_slices"]) == (6, 3, 36, 0)
    assert found["empty_share"] == 0.5
    assert found["padding_share"] == pytest.approx(1 - VOXELS / (36 * 32 * 32))
    assert found["background_to_foreground"] == pytest.approx((36 * 1024 - 540) / 540)
    assert found["pixel_mm"]["rows"]["p50"] == 1.5
    assert found["pixel_mm"]["columns"]["p50"] == 1
    assert found["pixel_mm"]["slices"]["p50"] == 3
    own = found["targets"]["whole"]
    assert own["present_in_cases"] == 6
    assert own["volume_mm3"] == dict.fromkeys(("min", "p25", "p50", "p75", "max"), WHOLE * VOXEL)
    assert own["share_of_voxels"] == pytest.approx(540 / VOXELS)
    assert own["share_of_pixels"] == pytest.approx(540 / (36 * 1024))
    assert own["areas"]["empty"] == 18
    assert own["all_slices"] == {"skewness": 0, "kurtosis": -2, "branch": "bce_dice"}
    assert own["components"]["number"] == 6
    assert own["components"]["dice_of_largest"] == 1
    assert own["largest_radius_px"] == 3  # 5 x 6 pixels
    assert own["balanced_weight"]["p50"] == pytest.approx((1024 - 30) / 30)
    assert own["balanced_weight"]["above_1000"] == 0
    assert {part: entry["cases"] for part, entry in found["split"].items()} == {"train": 2, "val": 2, "test": 2}
    assert found["split"]["train"]["targets"]["whole"]["volume_mm3"]["p50"] == WHOLE * VOXEL
    assert sorted(batch["size"] for batch in found["batches"]) == [4, 8, 16, 32, 64]
    case = found["cases"][1]
    assert (case["case"], case["patient"], case["shape"], case["spacing_mm"]) == ("case1", "patient0", [11, 12, 6], [1, 1.5, 3])
    assert case["orientation"] == "LPS"
    assert case["targets"]["whole"]["share"] == pytest.approx(WHOLE / (11 * 12 * 6))
    assert 100 <= case["intensities"]["a"]["min"] < case["intensities"]["a"]["max"] < 500  # of the file, not of the store


def test_volumes_are_in_the_files_voxels_however_slices_are_stored(tmp_path):
    prepared = Preparation(size=(7, 5), fit="resize", spacing_mm=(2.0, 2.0, 2.0))
    found = found_of(toy(tmp_path, preparation=prepared))
    assert found["voxels_as_in_files"] is False
    assert found["targets"]["whole"]["volume_mm3"]["min"] == found["targets"]["whole"]["volume_mm3"]["max"] == WHOLE * VOXEL
    assert found["cases"][0]["targets"]["whole"]["component_voxels"] == [WHOLE]
    assert found["pixel_mm"]["rows"]["p50"] == pytest.approx(12 * 1.5 / 7)
    assert found["pixel_mm"]["slices"]["p50"] == pytest.approx(2)


def test_classes_and_regions_are_measured_one_by_one(tmp_path):
    classes = found_of(toy(tmp_path, target="classes"))["targets"]
    assert classes["rim"]["volume_mm3"]["p50"] == (WHOLE - CORE) * VOXEL
    assert classes["core"]["volume_mm3"]["p50"] == CORE * VOXEL
    found = found_of(toy(tmp_path, target="regions"))
    regions = found["targets"]
    assert regions["whole"]["volume_mm3"]["p50"] == WHOLE * VOXEL
    assert regions["core"]["empty_share"] == pytest.approx(4 / 6)
    assert found["background_to_foreground"] == pytest.approx((36 * 1024 - 540) / 540)  # what overlaps counts once


def test_with_biased_annotations_the_masks_that_are_learnt_from_are_measured(tmp_path):
    found = found_of(toy(tmp_path, ToyLayout(tmp_path / "toy", biased=True)))
    assert found["targets"]["whole"]["volume_mm3"]["p50"] == WHOLE * VOXEL  # the clean ones have 18 voxels less


def test_shares_are_of_the_slices_that_somebody_annotated(tmp_path):
    found = found_of(toy(tmp_path, PartlyLabelled(tmp_path / "toy")))
    assert found["num_unlabelled_slices"] == 18
    assert found["empty_share"] == 0
    assert found["targets"]["whole"]["areas"]["empty"] == 0
    assert found["cases"][0]["targets"]["whole"]["share"] == pytest.approx(WHOLE / (10 * 12 * 3))
    assert found["split"]["train"]["slices"] == 6
    assert "18 of 36 slices are unlabelled." in [remark["says"] for remark in found["remarks"]]


def test_without_a_split_the_page_says_why_and_batches_are_drawn_from_all_slices(tmp_path):
    found = found_of(toy(tmp_path, split=LeaveOnePatientOut()))
    assert found["split"] is None
    assert "fold" in found["no_split"]
    assert found["simulated_from"] == "all slices, shuffled"
    assert {case["part"] for case in found["cases"]} == {None}
    assert found["batches"][-1]["slices"] == 36


def test_batches_are_drawn_from_what_the_filter_leaves_of_the_training_part(tmp_path):
    found = found_of(toy(tmp_path, filter=RatioFilter(ratio=1.0)))
    assert found["simulated_from"] == "the training part after dataset.filter, shuffled"
    assert found["batches"][-1]["slices"] == 6
    assert found["targets"]["whole"]["training_slices"]["skewness"] is None  # all areas are equal
    assert found["empty_share"] == 0.5


def test_a_modality_a_sample_changes_the_batches_and_no_count(tmp_path):
    found = found_of(toy(tmp_path, samples="modalities"))
    assert (found["num_cases"], found["num_slices"], found["modalities"]) == (6, 36, ["a", "b"])
    assert found["batches"][-1]["slices"] == 2 * 12


def test_intensities_of_several_scales_are_remarked_and_drawn(tmp_path):
    layout = ToyLayout(tmp_path / "toy")
    layout.ensure()
    for name, factor in (("case0", 1000), ("case1", -1000)):
        image = read_volume(layout.root / f"{name}_a.nii.gz")
        changed = to_original(image.data.astype(np.float32) * factor, image.original_affine)
        write_volume(layout.root / f"{name}_a.nii.gz", changed, image.original_affine)
    found = found_of(toy(tmp_path, layout))
    said = [remark["says"] for remark in found["remarks"] if "range of" in remark["says"]]
    assert len(said) == 1
    assert "range of a's intensities" in said[0]
    assert 500 < float(re.search(r"factor of (\d+)", said[0])[1]) < 2000
    assert "1000" in intensity(found, "a").content


class Gaps(ToyLayout):
    """One case without a mask, one that lacks the target, and one whose image is damaged."""

    def cases(self) -> list[Case]:
        first, *others = super().cases()
        return [replace(first, mask=None), *others]


def test_what_is_left_out_and_who_lacks_the_target_is_said(tmp_path):
    layout = Gaps(tmp_path / "toy")
    layout.ensure()
    damaged = layout.root / "case1_b.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    empty, full = layout.root / "case2_seg.nii.gz", layout.root / "case3_seg.nii.gz"
    mask = read_volume(empty)
    write_volume(empty, np.zeros(mask.original_shape, np.uint8), mask.original_affine)
    found = found_of(toy(tmp_path, layout, skip_bad_cases=True))
    assert full.exists()
    assert found["without_mask"] == ["case0"]
    assert list(found["left_out"]) == ["case1"]
    assert "case1_b.nii.gz" in found["left_out"]["case1"]
    assert (found["num_cases"], found["targets"]["whole"]["present_in_cases"]) == (4, 3)
    assert found["targets"]["whole"]["volume_mm3"]["min"] == WHOLE * VOXEL  # of the cases that have it
    assert found["cases"][0]["targets"]["whole"] == {
        "volume_mm3": 0,
        "share": 0,
        "components": 0,
        "component_voxels": [],
        "component_volumes_mm3": [],
        "largest_share": None,
        "largest_radius_px": 0,
    }
    assert "whole is absent from 1 of 4 cases." in [remark["says"] for remark in found["remarks"]]


def test_samples_are_chosen_by_rule(tmp_path):
    data = toy(tmp_path)
    store = SliceStore(data.store.folder)
    measured = measure_cases(data.plan.cases, store, 1)
    # the third case has the smallest target, the fifth the largest
    for number, factor in ((2, 0.5), (4, 2)):
        measured[number] = replace(measured[number], foreground=(measured[number].foreground * factor).astype(int))
    found = chosen(store, measured)
    case_of = {why: store.cases[store.case_of_slice[index]].id for why, index in found.items()}
    assert case_of["smallest target of a case"] == case_of["least that a slice shows"] == "case2"
    assert case_of["largest target of a case"] == "case4"
    assert case_of["empty slice"] == case_of["median target of a case"]
    empty, median = found["empty slice"], found["median target of a case"]
    assert store.areas[empty].sum() == 0 < store.areas[median].sum()
    target = np.flatnonzero((store.areas.sum(axis=1) > 0) & (store.case_of_slice == store.case_of_slice[empty]))
    assert np.abs(target - empty).min() == 1
    assert len(samples(store, measured)) == 5


def test_quantiles_of_nothing_are_nothing():
    assert set(quantiles([]).values()) == {None}
    assert quantiles([1, 2, 3]) == {"min": 1, "p25": 1.5, "p50": 2, "p75": 2.5, "max": 3}
