from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calf.data.layouts.brats2013 import BraTS2013
from calf.data.volumes import VolumeError, encode_target, read_case
from tests.data.layouts.trees import touch


@pytest.mark.parametrize("root", ["data/brats2013_expert", "data/brats2013_expert/train", "data"])
def test_it_lists_the_real_patients(shared: Path, root: str) -> None:
    layout = BraTS2013(shared / root)
    layout.ensure()
    cases = layout.cases()
    expected = ["pat0002", "pat0003", "pat0004", "pat0006"]
    assert [case.patient for case in cases] == (expected if root.endswith("train") else ["pat0001", *expected])
    assert all(path.is_file() for case in cases for path in case.files())


def test_it_reads_a_real_patient(shared: Path) -> None:
    layout = BraTS2013(shared / "data/brats2013_expert")
    volumes = read_case(layout.cases()[0], layout.modalities, layout.labels)
    assert volumes.images.shape == (2, 240, 240, 155)
    assert volumes.spacing_mm == (1, 1, 1)
    assert np.unique(volumes.mask).tolist() == [0, 1, 2, 3, 4]
    whole, core, enhancing = (encode_target(volumes.mask, layout.targets[name]).sum() for name in list(layout.targets)[:3])
    assert whole > core > enhancing > 0
    assert volumes.images[0][volumes.mask > 0].mean() > volumes.images[0].mean() + 1  # tumour is bright in FLAIR


def test_it_groups_examinations_and_lists_what_a_case_has(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / f"train/brats_2013_pat0007_{number}"
        touch(folder / "T1c_subtrMeanDivStd.nii.gz", folder / "OTMultiClass.nii.gz", folder / "brainmask.nii.gz")
    layout = BraTS2013(tmp_path)
    first, second = layout.cases()
    assert (first.patient, second.patient) == ("pat0007", "pat0007")
    assert list(first.images) == ["t1c"]
    with pytest.raises(VolumeError, match="no flair image: "):
        read_case(first, layout.modalities, layout.labels)
    assert encode_target(np.arange(5), layout.targets["tumour_core"]).tolist() == [0, 1, 0, 1, 1]
    assert encode_target(np.arange(5), layout.targets["classes"]).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("below", "problem"), [("", "no case in"), ("nowhere", "is not a folder")])
def test_a_folder_that_is_missing_or_empty_is_explained(tmp_path: Path, below: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        BraTS2013(tmp_path / below).cases()
    for part in (str(tmp_path / below), "deepmedic", "data_root=", ".nii.gz"):
        assert part in str(caught.value)
