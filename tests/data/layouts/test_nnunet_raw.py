from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calf.data.layouts.nnunet_raw import NNUNetRaw
from calf.data.volumes import VolumeError, encode_target, read_case
from tests.data.layouts.trees import link, touch, write_mha

V2 = {
    "channel_names": {"0": "T2", "1": "ADC"},
    "labels": {"background": 0, "PZ": 1, "TZ": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
V1 = {
    "name": "PROSTATE",
    "relase": "1.0 04/05/2018",
    "tensorImageSize": "4D",
    "modality": {"0": "T2", "1": "ADC"},
    "labels": {"0": "background", "1": "PZ", "2": "TZ"},
    "numTraining": 1,
    "numTest": 1,
    "training": [{"image": "./imagesTr/prostate_16.nii.gz", "label": "./labelsTr/prostate_16.nii.gz"}],
    "test": ["./imagesTs/prostate_08.nii.gz"],
}
REGIONS = {"background": 0, "whole_tumour": [1, 2, 3], "tumour_core": [2, 3], "enhancing": 3}


def dataset(root: Path, description: dict[str, Any], *names: str, channels: int = 2, ending: str = ".nii.gz") -> NNUNetRaw:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(description))
    for name in names:
        touch(
            *(root / f"imagesTr/{name}_{channel:04d}{ending}" for channel in range(channels)), root / f"labelsTr/{name}{ending}"
        )
    return NNUNetRaw(root)


def real(root: Path, shared: Path, description: dict[str, Any]) -> NNUNetRaw:
    """Two hippocampi, one of them with a floating mask if there is one, as nnU-Net keeps them."""
    source = shared / "data/Task04_Hippocampus"
    for name in ("hippocampus_003", "hippocampus_190"):
        link(root / f"imagesTr/{name}_0000.nii.gz", source / f"imagesTr/{name}.nii.gz")
        link(root / f"labelsTr/{name}.nii.gz", source / f"labelsTr/{name}.nii.gz")
    return dataset(root, description)


@pytest.mark.parametrize(
    "description",
    [
        {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "Anterior": 1, "Posterior": 2}, "file_ending": ".nii.gz"},
        {
            "modality": {"0": "MRI"},
            "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
            "training": [
                {"image": f"./imagesTr/hippocampus_{number}.nii.gz", "label": f"./labelsTr/hippocampus_{number}.nii.gz"}
                for number in ("190", "003")
            ],
        },
    ],
    ids=["version 2", "version 1"],
)
def test_real_hippocampi(tmp_path: Path, shared: Path, description: dict[str, Any]) -> None:
    layout = real(tmp_path / "Dataset004_Hippocampus", shared, description)
    layout.ensure()
    cases = layout.cases()
    assert [case.id for case in cases] == ["hippocampus_003", "hippocampus_190"]
    assert layout.labels == {0: "background", 1: "Anterior", 2: "Posterior"}
    assert layout.modalities == ("mri",)
    assert layout.targets["foreground"].names == ("hippocampus",)
    for case in cases:
        volumes = read_case(case, layout.modalities, layout.labels)
        assert volumes.images.shape[1:] == volumes.mask.shape
        assert np.unique(encode_target(volumes.mask, layout.targets["classes"])).tolist() == [0, 1, 2]


def test_exactly_one_channel_number_is_taken_off(tmp_path: Path) -> None:
    layout = dataset(tmp_path, V2, "case_0000", "case", "b_0001_0000")
    touch(tmp_path / "imagesTr/._case_0000.nii.gz", tmp_path / "labelsTr/._case.nii.gz", tmp_path / "imagesTr/notes_12.nii.gz")
    cases = {case.id: case for case in layout.cases()}
    assert sorted(cases) == ["b_0001_0000", "case", "case_0000"]
    for name, case in cases.items():
        expected = [f"imagesTr/{name}_0000.nii.gz", f"imagesTr/{name}_0001.nii.gz", f"labelsTr/{name}.nii.gz"]
        assert case.files() == [tmp_path / path for path in expected]
        assert list(case.images) == ["t2", "adc"]
        assert (case.patient, case.subset) == (name, "train")


def test_test_images_with_and_without_masks(tmp_path: Path) -> None:
    layout = dataset(tmp_path, V2, "a")
    for name in ("b", "c"):
        touch(*(tmp_path / f"imagesTs/{name}_{channel:04d}.nii.gz" for channel in (0, 1)))
    touch(tmp_path / "labelsTs/c.nii.gz")
    a, b, c = layout.cases()
    assert (a.subset, b.subset, c.subset) == ("train", "test", "test")
    assert (b.mask, c.mask) == (None, tmp_path / "labelsTs/c.nii.gz")
    touch(*(tmp_path / f"imagesTs/a_{channel:04d}.nii.gz" for channel in (0, 1)))
    with pytest.raises(ValueError, match="1 cases are in imagesTr and imagesTs: a"):
        layout.cases()


def test_halves_of_pairs_are_listed_and_refused_when_read(tmp_path: Path) -> None:
    layout = dataset(tmp_path, V2, "a", "b", "c")
    (tmp_path / "labelsTr/a.nii.gz").unlink()
    (tmp_path / "imagesTr/b_0001.nii.gz").unlink()
    for channel in (0, 1):
        (tmp_path / f"imagesTr/c_000{channel}.nii.gz").unlink()
    a, b, c = layout.cases()
    assert (a.mask, list(b.images), c.images) == (None, ["t2"], {})
    with pytest.raises(VolumeError, match="case b has no adc image"):
        read_case(b, ("adc",), layout.labels)
    with pytest.raises(VolumeError, match="case c has no t2 image"):
        read_case(c, ("t2",), layout.labels)


def test_a_channel_without_a_name_is_refused(tmp_path: Path) -> None:
    layout = dataset(tmp_path, V2, "a", channels=3)
    with pytest.raises(ValueError, match=r"a_0002\.nii\.gz: expected the channels of dataset\.json, 0 to 1 \(t2, adc\), got 2"):
        layout.cases()


def test_channels_of_one_name_get_their_number(tmp_path: Path) -> None:
    names = {"0": "CT", "1": "noNorm", "2": "CT", "10": "x"}
    layout = dataset(tmp_path, V2 | {"channel_names": {"0": "CT", "1": "no Norm", "2": "CT"}}, "a", channels=3)
    assert layout.modalities == ("ct_0", "no_norm", "ct_2")
    with pytest.raises(ValueError, match="numbered from 0"):
        _ = dataset(tmp_path, V2 | {"channel_names": names}).modalities


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_other_endings(tmp_path: Path, ending: str) -> None:
    layout = dataset(tmp_path, V2 | {"file_ending": ending})
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for name, array in (("imagesTr/a_0000", image), ("imagesTr/a_0001", image + 1), ("labelsTr/a", (image % 3).astype(np.uint8))):
        write_mha(tmp_path / f"{name}{ending}", array)
    touch(tmp_path / "imagesTr/b_0000.nii.gz", tmp_path / "labelsTr/b.nii.gz")  # of another ending
    (case,) = layout.cases()
    volumes = read_case(case, layout.modalities, layout.labels)
    assert np.array_equal(volumes.mask, (image % 3).transpose()[::-1, ::-1])
    assert np.array_equal(volumes.images[1], volumes.images[0] + 1)
    with pytest.raises(ValueError, match=r"file_ending is \.png; expected volumes"):
        dataset(tmp_path, V2 | {"file_ending": ".png"}).cases()


def test_explicit_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAIN_DATA", str(tmp_path / "elsewhere"))
    entries = {
        "x": {"images": ["$BRAIN_DATA/x-t2.nii.gz", "../near/x-adc.nii.gz"], "label": str(tmp_path / "elsewhere/x-seg.nii.gz")},
    }
    layout = dataset(tmp_path / "Dataset226_Brain", V2 | {"dataset": entries})
    with pytest.raises(ValueError, match=r"3 files that dataset\.json lists are not there: .*x-t2\.nii\.gz"):
        layout.cases()
    touch(tmp_path / "elsewhere/x-t2.nii.gz", tmp_path / "near/x-adc.nii.gz", tmp_path / "elsewhere/x-seg.nii.gz")
    (case,) = layout.cases()
    assert [path.resolve() for path in case.files()] == [
        tmp_path / "elsewhere/x-t2.nii.gz", tmp_path / "near/x-adc.nii.gz", tmp_path / "elsewhere/x-seg.nii.gz",
    ]  # fmt: skip
    assert case.id == "x"


def test_version_1_takes_the_cases_that_it_lists(tmp_path: Path) -> None:
    layout = dataset(tmp_path, V1, "prostate_16", "unlisted")
    touch(tmp_path / "imagesTs/prostate_08_0000.nii.gz", tmp_path / "imagesTs/prostate_08_0001.nii.gz")
    test, training = layout.cases()
    assert (training.id, training.subset, list(training.images)) == ("prostate_16", "train", ["t2", "adc"])
    assert (test.id, test.subset, test.mask) == ("prostate_08", "test", None)
    assert layout.targets["foreground"].names == ("prostate",)
    (tmp_path / "labelsTr/prostate_16.nii.gz").unlink()
    with pytest.raises(
        ValueError, match=r"1 files that .* are not there: imagesTr/prostate_16_0000\.nii\.gz or labelsTr/prostate_16"
    ):
        layout.cases()
    with pytest.raises(ValueError, match="lists 1 cases twice: prostate_16"):
        dataset(tmp_path, V1 | {"training": V1["training"] * 2}, "prostate_16").cases()


def test_regions_overlap(tmp_path: Path) -> None:
    layout = dataset(tmp_path / "Dataset043_BraTS", V2 | {"labels": REGIONS, "regions_class_order": [1, 2, 3]})
    assert layout.labels == {0: "background", 1: "in whole_tumour", 2: "in whole_tumour, tumour_core", 3: "enhancing"}
    codes = {name: encode_target(np.arange(4), target).tolist() for name, target in layout.targets.items()}
    assert codes == {
        "whole_tumour": [0, 1, 1, 1],
        "tumour_core": [0, 0, 1, 1],
        "enhancing": [0, 0, 0, 1],
        "foreground": [0, 1, 1, 1],
        "regions": [0, 0b001, 0b011, 0b111],
    }
    assert not any(target.exclusive for target in layout.targets.values())
    assert layout.targets["foreground"].names == ("bra_ts",)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "tumour": 1, "ignore": 2}, r"has the label ignore \(value 2\).*not supported"),
        (REGIONS | {"ignore": 4}, r"has the label ignore \(value 4\)"),
        ({"PZ": 1, "TZ": 2}, "value 0 for the background alone"),
        ({"background": 0, "all": [0, 1]}, "value 0 for the background alone"),
        ({"background": 0, "a": 1, "b": 1}, "values that differ"),
        ({"background": 0, "a": []}, "values that differ"),
        ({"background": 0, "a-b": 1, "A b": 2}, "distinct names"),
        ({"background": 0, "a-b": [1, 2], "A b": 2}, "distinct names"),
        ({"background": 0, "regions": [1, 2], "b": 2}, "not regions, foreground"),
        ({"background": 0}, "at least one other label value"),
        ({"0": "background", "1": "tumour"}, "expected labels such as"),
        ({"background": 0, "a": 300}, "in 0 ... 255"),
        ([0, 1], "labels as an object"),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataset(tmp_path, V2 | {"labels": labels}, "a").ensure()


def test_many_labels_have_no_target_of_all(tmp_path: Path) -> None:
    labels = {"background": 0} | {f"organ_{value}": value for value in range(1, 118)}
    targets = dataset(tmp_path, V2 | {"labels": labels}).targets
    assert "classes" not in targets
    assert targets["organ_117"].labels == ((117,),)


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    dataset(tmp_path / "Dataset005_Prostate", V2, "a")
    with pytest.raises(ValueError, match="data_root should name one of its folders: Dataset005_Prostate"):
        NNUNetRaw(tmp_path).ensure()
    with pytest.raises(ValueError, match="is not a folder"):
        NNUNetRaw(tmp_path / "nowhere").ensure()
    with pytest.raises(ValueError, match=r"channel_names, labels and file_ending .*training missing"):
        dataset(tmp_path / "odd", {"modality": {"0": "T2"}, "labels": {"0": "background", "1": "PZ"}}).ensure()
    (tmp_path / "odd/dataset.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset\.json: expected JSON"):
        NNUNetRaw(tmp_path / "odd").ensure()
    shutil.rmtree(tmp_path / "Dataset005_Prostate/imagesTr")
    shutil.rmtree(tmp_path / "Dataset005_Prostate/labelsTr")
    with pytest.raises(ValueError, match=r"no case in .*imagesTr.*data_root="):
        NNUNetRaw(tmp_path / "Dataset005_Prostate").cases()
