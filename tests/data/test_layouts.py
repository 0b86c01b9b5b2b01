from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calf.data.cases import Case
from calf.data.layouts.brats2013 import BraTS2013
from calf.data.layouts.brats2020 import BraTS2020
from calf.data.layouts.msd import MSD, snake_case
from calf.data.volumes import VolumeError, encode_target, read_case

TRAINING = "MICCAI_BraTS2020_TrainingData"
VALIDATION = "MICCAI_BraTS2020_ValidationData"


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def brats2020(root: Path, name: str, tokens: str = "t1 t1ce t2 flair seg", suffix: str = ".nii.gz") -> Path:
    folder = root / name
    touch(*(folder / f"{name}_{token}{suffix}" for token in tokens.split()))
    return folder


# --- BraTS 2020 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_brats2020_matches_whole_tokens(tmp_path: Path, suffix: str) -> None:
    folder = brats2020(tmp_path, "BraTS20_Training_001", suffix=suffix)
    touch(folder / f"._BraTS20_Training_001_t1{suffix}", folder / "BraTS20_Training_001_t1_bias.nii.gz")
    (case,) = BraTS2020(tmp_path).cases()
    assert case.id == case.patient == "BraTS20_Training_001"
    assert {modality: image.path.name for modality, image in case.images.items()} == {
        modality: f"BraTS20_Training_001_{modality}{suffix}" for modality in ("t1", "t1ce", "t2", "flair")
    }
    assert case.mask == folder / f"BraTS20_Training_001_seg{suffix}"
    assert case.reference is None


@pytest.mark.parametrize("below", ["", TRAINING, f"archive/BraTS2020_TrainingData/{TRAINING}"])
def test_brats2020_root_may_be_a_wrapper(tmp_path: Path, below: str) -> None:
    for number in (10, 2, 1):
        brats2020(tmp_path / below, f"BraTS20_Training_{number:03d}")
    touch(tmp_path / below / "name_mapping.csv", tmp_path / ".hidden" / "BraTS20_Training_005" / "x")
    brats2020(tmp_path / "phantom-0123456789ab", "BraTS20_Training_099")
    assert [case.id[-3:] for case in BraTS2020(str(tmp_path)).cases()] == ["001", "002", "010"]


def test_brats2020_masks_that_are_misnamed_absent_or_doubled(tmp_path: Path) -> None:
    odd = brats2020(tmp_path / TRAINING, "BraTS20_Training_355", "t1 t1ce t2 flair", ".nii")
    touch(odd / "W39_1998.09.19_Segm.nii")
    brats2020(tmp_path / VALIDATION, "BraTS20_Validation_001", "t1 t1ce t2 flair")
    phantom = brats2020(tmp_path, "BraTS20_Training_001", "t1 t1ce t2 flair seg seg_clean")
    first, second, third = BraTS2020(tmp_path).cases()
    assert first.reference == phantom / "BraTS20_Training_001_seg_clean.nii.gz"
    assert second.mask == odd / "W39_1998.09.19_Segm.nii"
    assert third.id == "BraTS20_Validation_001"
    assert third.mask is None


def test_brats2020_a_case_without_a_modality_is_listed_and_refused_only_when_read(tmp_path: Path) -> None:
    brats2020(tmp_path, "BraTS20_Training_001")
    brats2020(tmp_path, "BraTS20_Training_002", "t1 t2 flair seg")
    (tmp_path / "BraTS20_Training_003").mkdir()
    layout = BraTS2020(tmp_path)
    _, lacking, empty = layout.cases()
    assert tuple(lacking.images) == ("t1", "t2", "flair")
    assert empty.images == {}
    with pytest.raises(VolumeError, match=r"has no t1ce image: expected .*BraTS20_Training_002_t1ce\.nii\.gz"):
        read_case(lacking, ("t1ce",), layout.labels)


def test_brats2020_two_copies_are_refused(tmp_path: Path) -> None:
    for copy in ("a", "b"):
        brats2020(tmp_path / copy, "BraTS20_Training_001")
    with pytest.raises(ValueError, match=r"two folders of case BraTS20_Training_001: .*a.*b"):
        BraTS2020(tmp_path).cases()


def test_brats2020_targets() -> None:
    layout = BraTS2020("nowhere")
    labels = np.array(sorted(layout.labels), np.uint8)
    codes = {name: encode_target(labels, target).tolist() for name, target in layout.targets.items()}
    assert labels.tolist() == [0, 1, 2, 4]
    assert codes == {
        "whole_tumour": [0, 1, 1, 1],
        "tumour_core": [0, 1, 0, 1],
        "enhancing": [0, 0, 0, 1],
        "regions": [0, 0b011, 0b001, 0b111],
        "classes": [0, 1, 2, 3],
    }
    assert layout.targets["classes"].exclusive
    assert not layout.targets["regions"].exclusive


@pytest.mark.parametrize(
    ("layout", "source"), [(BraTS2020, "med.upenn.edu"), (BraTS2013, "deepmedic"), (MSD, "medicaldecathlon")]
)
def test_a_folder_that_is_missing_or_empty_is_explained(tmp_path: Path, layout: Any, source: str) -> None:
    for root, problem in ((tmp_path, "no case in"), (tmp_path / "nowhere", "is not a folder")):
        with pytest.raises(ValueError, match=problem) as caught:
            layout(root).cases()
        for part in (str(root), source, "data_root=", ".nii.gz"):
            assert part in str(caught.value)
    with pytest.raises(ValueError, match="data_root="):
        layout(tmp_path / "nowhere").ensure()


# --- BraTS 2013 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["data/brats2013_expert", "data/brats2013_expert/train", "data"])
def test_brats2013_lists_the_real_patients(shared: Path, root: str) -> None:
    layout = BraTS2013(shared / root)
    layout.ensure()
    cases = layout.cases()
    expected = ["pat0002", "pat0003", "pat0004", "pat0006"]
    assert [case.patient for case in cases] == (expected if root.endswith("train") else ["pat0001", *expected])
    assert all(path.is_file() for case in cases for path in case.files())


def test_brats2013_reads_a_real_patient(shared: Path) -> None:
    layout = BraTS2013(shared / "data/brats2013_expert")
    volumes = read_case(layout.cases()[0], layout.modalities, layout.labels)
    assert volumes.images.shape == (2, 240, 240, 155)
    assert volumes.spacing_mm == (1, 1, 1)
    assert np.unique(volumes.mask).tolist() == [0, 1, 2, 3, 4]
    whole, core, enhancing = (encode_target(volumes.mask, layout.targets[name]).sum() for name in list(layout.targets)[:3])
    assert whole > core > enhancing > 0
    assert volumes.images[0][volumes.mask > 0].mean() > volumes.images[0].mean() + 1  # tumour is bright in FLAIR


def test_brats2013_groups_examinations_and_lists_what_a_case_has(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / f"train/brats_2013_pat0007_{number}"
        touch(folder / "T1c_subtrMeanDivStd.nii.gz", folder / "OTMultiClass.nii.gz", folder / "brainmask.nii.gz")
    layout = BraTS2013(tmp_path)
    first, second = layout.cases()
    assert (first.patient, second.patient) == ("pat0007", "pat0007")
    assert list(first.images) == ["t1c"]
    with pytest.raises(VolumeError, match=r"no flair image: expected .*Flair_subtrMeanDivStd\.nii\.gz"):
        read_case(first, layout.modalities, layout.labels)
    assert encode_target(np.arange(5), layout.targets["tumour_core"]).tolist() == [0, 1, 0, 1, 1]
    assert encode_target(np.arange(5), layout.targets["classes"]).tolist() == [0, 1, 2, 3, 4]


# --- Medical Segmentation Decathlon ---------------------------------------------------------------------------------

BRAIN = {
    "name": "BRATS",
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
    "training": [{"image": "./imagesTr/BRATS_002.nii.gz", "label": "./labelsTr/BRATS_002.nii.gz"}],
    "test": ["./imagesTs/BRATS_001.nii.gz"],
}


def task(root: Path, description: dict[str, Any], with_test: bool = True) -> MSD:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(description))
    for entry in description.get("training", []):
        touch(root / entry["image"], root / entry["label"])
    if with_test:
        touch(*(root / entry for entry in description.get("test", [])))
    return MSD(root)


def test_msd_lists_and_reads_the_real_hippocampi(shared: Path) -> None:
    layout = MSD(shared / "data/Task04_Hippocampus")
    layout.ensure()
    cases = layout.cases()
    assert len(cases) == len({case.id for case in cases}) == 199
    assert cases[0].id == cases[0].patient == "hippocampus_003"
    assert layout.labels == {0: "background", 1: "Anterior", 2: "Posterior"}
    assert layout.targets["foreground"].names == ("hippocampus",)
    assert layout.targets["classes"].names == ("anterior", "posterior")
    assert layout.targets["posterior"].labels == ((2,),)
    for case in cases[::40]:
        volumes = read_case(case, layout.modalities, layout.labels)
        assert volumes.images.shape[1:] == volumes.mask.shape
        assert np.unique(volumes.mask).tolist() == [0, 1, 2]


def test_msd_channels_names_and_targets(tmp_path: Path) -> None:
    layout = task(tmp_path, BRAIN)
    touch(tmp_path / "imagesTr/._BRATS_002.nii.gz")
    first, second = layout.cases()
    assert layout.modalities == ("flair", "t1w", "t1gd", "t2w")
    assert [image.channel for image in second.images.values()] == [0, 1, 2, 3]
    assert {image.path for image in second.images.values()} == {tmp_path / "imagesTr/BRATS_002.nii.gz"}
    assert (first.id, first.mask) == ("BRATS_001", None)
    assert set(layout.targets) == {"foreground", "classes", "edema", "non_enhancing_tumor", "enhancing_tumour"}
    assert layout.targets["foreground"].names == ("brats",)
    assert encode_target(np.arange(4), layout.targets["foreground"]).tolist() == [0, 1, 1, 1]
    assert encode_target(np.arange(4), layout.targets["classes"]).tolist() == [0, 1, 2, 3]


def test_msd_without_the_test_images_is_fine(tmp_path: Path) -> None:
    assert [case.id for case in task(tmp_path, BRAIN, with_test=False).cases()] == ["BRATS_002"]


def test_msd_names_listed_files_that_are_missing(tmp_path: Path) -> None:
    entries = [{"image": f"./imagesTr/a_{n:03d}.nii.gz", "label": f"./labelsTr/a_{n:03d}.nii.gz"} for n in range(30)]
    layout = task(tmp_path, BRAIN | {"training": entries})
    (tmp_path / "labelsTr/a_007.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"1 files that dataset.json lists are not in .*: labelsTr/a_007.nii.gz\. .*decathlon"):
        layout.cases()
    shutil.rmtree(tmp_path / "imagesTr")
    with pytest.raises(ValueError, match="31 files") as caught:
        layout.cases()
    assert str(caught.value).count("a_0") == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": []}, "no case in"),
        ({"training": BRAIN["training"] * 2}, "lists 1 images twice: BRATS_002"),
        ({"labels": {"0": "background", "1": "Cyst", "2": "cyst"}}, "distinct names"),
        ({"labels": {"0": "background"}}, "distinct names"),
    ],
)
def test_msd_descriptions_that_make_no_sense(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    layout = task(tmp_path, BRAIN | change, with_test=False)
    with pytest.raises(ValueError, match=message):
        _ = layout.targets, layout.cases()


def test_msd_says_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    task(tmp_path / "Task01_BrainTumour", BRAIN)
    with pytest.raises(ValueError, match="data_root should name one of its folders: Task01_BrainTumour"):
        MSD(tmp_path).ensure()
    task(tmp_path / "v2", {"channel_names": {"0": "T2"}, "labels": {"background": 0, "PZ": 1}})
    with pytest.raises(ValueError, match=r"modality, training missing .*nnU-Net"):
        MSD(tmp_path / "v2").ensure()
    (tmp_path / "v2/dataset.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset\.json: expected JSON"):
        MSD(tmp_path / "v2").ensure()


def test_snake_case() -> None:
    names = {"Non-enhancing tumor": "non_enhancing_tumor", "HepaticVessel": "hepatic_vessel", "BRATS": "brats", "T1w": "t1w"}
    assert {name: snake_case(name) for name in names} == names


def test_layouts_list_files_without_reading_them(tmp_path: Path) -> None:
    """Every file of these trees is empty: nothing but names was looked at."""
    brats2020(tmp_path / "2020", "BraTS20_Training_001")
    cases: list[Case] = BraTS2020(tmp_path / "2020").cases() + task(tmp_path / "msd", BRAIN).cases()
    assert all(path.stat().st_size == 0 for case in cases for path in case.files())
