from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calf.data.layouts.ms_lesions import MSLesions
from calf.data.volumes import encode_target, read_case
from tests.data.layouts.trees import link, touch

STEPS = "N4_noneck_reduced_winsor_regtoFLAIR"


def names(root: Path) -> dict[str, str]:
    (case,) = MSLesions(root).cases()
    assert case.mask is not None
    return {name: image.path.name for name, image in case.images.items()} | {"mask": case.mask.name}


def test_a_real_patient_in_mni_space(tmp_path: Path, shared: Path) -> None:
    longer = f"_{STEPS}_brain_N4_regtoMNI"
    source = shared / "data/ms_lesions/patient19"
    link(tmp_path / f"MNI/patient19/FLAIR{longer}.nii.gz", source / "FLAIR.nii.gz")
    link(tmp_path / f"MNI/patient19/GOLD_STANDARD{longer.replace('_brain_N4', '')}.nii.gz", source / "GOLD_STANDARD.nii.gz")
    layout = MSLesions(tmp_path)
    (case,) = layout.cases()
    (short,) = MSLesions(source).cases()  # without the steps
    assert [path.name for path in short.files()] == ["FLAIR.nii.gz", "GOLD_STANDARD.nii.gz"]
    assert (case.id, case.patient, list(case.images)) == ("patient19", "patient19", ["flair"])
    volumes = read_case(case, ("flair",), layout.labels)
    assert volumes.images.shape == (1, 182, 218, 182)
    assert volumes.images.min() < 0
    assert encode_target(volumes.mask, layout.targets["lesion"]).sum() == 49769
    assert volumes.images[0][volumes.mask > 0].mean() > volumes.images[0].mean()  # lesions are bright in FLAIR


def test_names_of_each_version(tmp_path: Path) -> None:
    original, registered, mni = (tmp_path / name / "patient01" for name in ("lit", "coregistered", "MNI"))
    for modality in ("FLAIR", "T1W", "T1WKS", "T2W"):
        touch(original / f"patient01_{modality}.nii.gz", original / f"raw/patient01_{modality}.nii.gz")
        touch(original / f"patient01_{modality}_to_FLAIR.txt", registered / f"{modality}_to_FLAIR.txt")
        touch(registered / f"{modality}.nii.gz", registered / f"._{modality}.nii.gz")
    touch(original / "patient01_consensus_gt.nii.gz", original / "patient01_brainmask.nii.gz")
    touch(registered / "consensus_gt.nii.gz", registered / "patient01_brainmask.nii.gz", registered / "brainmask.nii.gz")
    for modality in ("FLAIR", "T1", "T1POST", "T2"):
        touch(mni / f"{modality}_{STEPS}_brain_N4_regtoMNI.nii.gz")
    touch(mni / f"GOLD_STANDARD_{STEPS}_regtoMNI.nii.gz")
    plain = {"flair": "FLAIR", "t1": "T1W", "t1c": "T1WKS", "t2": "T2W", "mask": "consensus_gt"}
    assert names(original) == {name: f"patient01_{text}.nii.gz" for name, text in plain.items()}
    assert names(registered.parent) == {name: f"{text}.nii.gz" for name, text in plain.items()}
    assert {name: text.partition("_N4")[0] for name, text in names(mni.parent).items()} == {
        "flair": "FLAIR", "t1": "T1", "t1c": "T1POST", "t2": "T2", "mask": "GOLD_STANDARD",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"two folders of case patient01: .*point data_root at one of them"):
        MSLesions(tmp_path).cases()


def test_incomplete_and_ambiguous_patients(tmp_path: Path) -> None:
    touch(tmp_path / "patient01/FLAIR.nii.gz", tmp_path / "patient02/consensus_gt.nii.gz")
    image, mask = MSLesions(tmp_path).cases()
    assert (list(image.images), image.mask) == (["flair"], None)
    assert (mask.images, mask.mask) == ({}, tmp_path / "patient02/consensus_gt.nii.gz")
    touch(tmp_path / "patient01/patient01_FLAIR.nii")
    with pytest.raises(ValueError, match=r"one file for flair, got FLAIR.nii.gz and patient01_FLAIR.nii"):
        MSLesions(tmp_path).cases()


def test_other_folders_are_explained(tmp_path: Path) -> None:
    touch(tmp_path / "longitudinal/patient01/study1_FLAIR.nii.gz", tmp_path / "longitudinal/patient01/gt.nii.gz")
    with pytest.raises(ValueError, match=r"no case in .*consensus_gt.*data_root="):
        MSLesions(tmp_path).cases()
    with pytest.raises(ValueError, match="is not a folder"):
        MSLesions(tmp_path / "nowhere").ensure()


def test_the_target_is_the_lesion() -> None:
    assert encode_target(np.arange(2), MSLesions("nowhere").targets["lesion"]).tolist() == [0, 1]
