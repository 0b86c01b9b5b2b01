from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calf.data.layouts.msd import MSD
from calf.data.targets import snake_case
from calf.data.volumes import encode_target, read_case
from tests.data.layouts.trees import LPS, touch, write

BRAIN = {
    "name": "BRATS",
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
    "training": [{"image": "./imagesTr/BRATS_002.nii.gz", "label": "./labelsTr/BRATS_002.nii.gz"}],
    "test": ["./imagesTs/BRATS_001.nii.gz"],
}
# folder: name, modalities and labels as in the ten dataset.json
TASKS: dict[str, tuple[str, list[str], list[str]]] = {
    "Task01_BrainTumour": ("BRATS", ["FLAIR", "T1w", "t1gd", "T2w"], ["edema", "non-enhancing tumor", "enhancing tumour"]),
    "Task02_Heart": ("LeftAtrium", ["MRI"], ["left atrium"]),
    "Task03_Liver": ("Liver", ["CT"], ["liver", "cancer"]),
    "Task04_Hippocampus": ("Hippocampus", ["MRI"], ["Anterior", "Posterior"]),
    "Task05_Prostate": ("PROSTATE", ["T2", "ADC"], ["PZ", "TZ"]),
    "Task06_Lung": ("Lung", ["CT"], ["cancer"]),
    "Task07_Pancreas": ("Pancreas", ["CT"], ["pancreas", "cancer"]),
    "Task08_HepaticVessel": ("HepaticVessel", ["CT"], ["Vessel", "Tumour"]),
    "Task09_Spleen": ("Spleen", ["CT"], ["spleen"]),
    "Task10_Colon": ("Colon", ["CT"], ["colon cancer primaries"]),
}


def task(root: Path, description: dict[str, Any], with_test: bool = True) -> MSD:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(description))
    for entry in description.get("training", []):
        touch(root / entry["image"], root / entry["label"])
    if with_test:
        touch(*(root / entry for entry in description.get("test", [])))
    return MSD(root)


def test_the_real_hippocampi_are_listed_and_read(shared: Path) -> None:
    layout = MSD(shared / "data/Task04_Hippocampus")
    layout.ensure()
    cases = layout.cases()
    assert len(cases) == len({case.id for case in cases}) == 199
    assert (cases[0].id, cases[0].patient, cases[0].subset) == ("hippocampus_003", "hippocampus_003", "training")
    assert layout.labels == {0: "background", 1: "Anterior", 2: "Posterior"}
    assert layout.targets["foreground"].names == ("hippocampus",)
    assert layout.targets["classes"].names == ("anterior", "posterior")
    assert layout.targets["posterior"].labels == ((2,),)
    for case in cases[::40]:
        volumes = read_case(case, layout.modalities, layout.labels)
        assert volumes.images.shape[1:] == volumes.mask.shape
        assert np.unique(volumes.mask).tolist() == [0, 1, 2]


@pytest.mark.parametrize("folder", TASKS)
def test_the_ten_tasks(tmp_path: Path, folder: str) -> None:
    name, modalities, classes = TASKS[folder]
    description = {
        "name": name, "relase": "1.0 04/05/2018", "tensorImageSize": "4D" if len(modalities) > 1 else "3D",
        "modality": {str(index): text for index, text in enumerate(modalities)},
        "labels": {str(index): text for index, text in enumerate(["background", *classes])},
        "numTraining": 32, "numTest": 16,  # true of no list here: the lists count
        "training": [{"image": "./imagesTr/x_16.nii.gz", "label": "./labelsTr/x_16.nii.gz"}],
        "test": ["./imagesTs/x_08.nii.gz"],
    }  # fmt: skip
    layout = task(tmp_path / folder, description)
    layout.ensure()
    test, training = layout.cases()
    assert (training.id, training.subset, training.mask) == ("x_16", "training", tmp_path / folder / "labelsTr/x_16.nii.gz")
    assert (test.id, test.subset, test.mask) == ("x_08", "test", None)
    assert list(training.images) == [text.lower() for text in modalities]
    channels = [image.channel for image in training.images.values()]
    assert channels == ([None] if len(modalities) == 1 else list(range(len(modalities))))
    everything = tuple(range(1, len(classes) + 1))
    for value, text in enumerate(classes, start=1):
        assert layout.targets[snake_case(text)].labels == ((value,),)
    (called,) = layout.targets["foreground"].names
    assert layout.targets["foreground"].labels == (everything,)
    # a table row that says liver means the liver, never the liver and its tumours
    same_name = {"Task03_Liver": "liver_foreground", "Task07_Pancreas": "pancreas_foreground"}
    assert called == same_name.get(folder, snake_case(name))


def test_channels_of_a_4d_file_are_read_in_their_order(tmp_path: Path) -> None:
    layout = task(tmp_path, BRAIN, with_test=False)
    image = np.arange(4 * 5 * 3 * 4, dtype=np.float32).reshape(4, 5, 3, 4)
    mask = np.zeros((4, 5, 3), np.float32)  # two labels of the real task 4 are floating
    mask[1:3, 1, 1] = 3
    write(tmp_path / "imagesTr/BRATS_002.nii.gz", image, LPS)
    write(tmp_path / "labelsTr/BRATS_002.nii.gz", mask, LPS)
    touch(tmp_path / "imagesTr/._BRATS_002.nii.gz")
    (case,) = layout.cases()
    assert layout.modalities == ("flair", "t1w", "t1gd", "t2w")
    volumes = read_case(case, ("t2w", "flair"), layout.labels)
    assert np.array_equal(volumes.images, np.moveaxis(image, -1, 0)[[3, 0], ::-1, ::-1])
    assert np.array_equal(volumes.mask, mask[::-1, ::-1].astype(np.uint8))


def test_targets(tmp_path: Path) -> None:
    layout = task(tmp_path, BRAIN)
    assert set(layout.targets) == {"foreground", "classes", "edema", "non_enhancing_tumor", "enhancing_tumour"}
    assert layout.targets["foreground"].names == ("brats",)
    assert encode_target(np.arange(4), layout.targets["foreground"]).tolist() == [0, 1, 1, 1]
    assert encode_target(np.arange(4), layout.targets["classes"]).tolist() == [0, 1, 2, 3]


def test_the_test_images_may_be_absent_or_described(tmp_path: Path) -> None:
    assert [case.id for case in task(tmp_path / "a", BRAIN, with_test=False).cases()] == ["BRATS_002"]
    layout = task(tmp_path / "b", BRAIN)
    (tmp_path / "b/dataset.json").write_text(json.dumps(BRAIN | {"test": [{"image": "./imagesTs/BRATS_001.nii.gz"}]}))
    assert [case.id for case in layout.cases()] == ["BRATS_001", "BRATS_002"]


def test_entries_of_macos_companions_and_unlisted_images_are_passed_by(tmp_path: Path) -> None:
    odd = {"image": "./imagesTr/._BRATS_002.nii.gz", "label": "./labelsTr/._BRATS_002.nii.gz"}
    layout = task(tmp_path, BRAIN | {"training": [*BRAIN["training"], odd]}, with_test=False)
    touch(tmp_path / "imagesTr/BRATS_118.nii.gz")
    assert [case.id for case in layout.cases()] == ["BRATS_002"]


def test_listed_files_that_are_missing_are_named(tmp_path: Path) -> None:
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
        ({"labels": {"0": "background", "1": "foreground", "2": "cyst"}}, "rename it"),
        ({"labels": {"0": "background"}}, "at least one other label value"),
        ({"labels": {"0": "background", "300": "cyst"}}, "in 0 ... 255"),
        ({"labels": {"background": 0, "PZ": 1}}, "expected labels such as"),
    ],
)
def test_descriptions_that_make_no_sense(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    layout = task(tmp_path, BRAIN | change, with_test=False)
    with pytest.raises(ValueError, match=message):
        _ = layout.targets, layout.cases()


def test_many_classes_have_no_target_of_all(tmp_path: Path) -> None:
    labels = {"0": "background"} | {str(value): f"organ {value}" for value in range(1, 10)}
    targets = task(tmp_path, BRAIN | {"labels": labels}).targets
    assert "classes" not in targets
    assert targets["foreground"].labels == (tuple(range(1, 10)),)
    assert targets["organ_9"].labels == ((9,),)


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    task(tmp_path / "Task01_BrainTumour", BRAIN)
    with pytest.raises(ValueError, match="data_root should name one of its folders: Task01_BrainTumour"):
        MSD(tmp_path).ensure()
    with pytest.raises(ValueError, match=r"nowhere is not a folder: expected .*medicaldecathlon.*data_root="):
        MSD(tmp_path / "nowhere").ensure()
    task(tmp_path / "v2", {"channel_names": {"0": "T2"}, "labels": {"background": 0, "PZ": 1}})
    with pytest.raises(ValueError, match=r"modality, training missing .*dataset=nnunet_raw"):
        MSD(tmp_path / "v2").ensure()
    (tmp_path / "v2/dataset.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset\.json: expected JSON"):
        MSD(tmp_path / "v2").ensure()


def test_snake_case() -> None:
    names = {"Non-enhancing tumor": "non_enhancing_tumor", "HepaticVessel": "hepatic_vessel", "BRATS": "brats", "T1w": "t1w"}
    assert {name: snake_case(name) for name in names} == names
