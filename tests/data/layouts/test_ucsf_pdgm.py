from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calf.data.layouts.ucsf_pdgm import UCSFPDGM
from calf.data.volumes import VolumeError, read_case
from tests.data.layouts.glioma import MODALITIES, case, check_true_size, write_image, write_mask
from tests.data.layouts.trees import touch

IMAGES = "_T1 _T1c _T2 _FLAIR"
OTHERS = (
    "_T1_bias _T1c_bias _T2_bias _FLAIR_bias _SWI _SWI_bias _DWI _DWI_bias _ADC _ASL _DTI_eddy_FA _DTI_eddy_MD _DTI_eddy_noreg "
    "_brain_segmentation _brain_parenchyma_segmentation"
)
MASK = "_tumor_segmentation"


def exam(root: Path, number: str, endings: str = f"{IMAGES} {OTHERS} {MASK}") -> Path:
    name = f"UCSF-PDGM-{number}"
    return case(root / f"{name}_nifti", endings, name=name)


@pytest.mark.parametrize("package", ["", "UCSF-PDGM-v5", "PKG-UCSF-PDGM-v3-20230111/UCSF-PDGM-v3"])
def test_whole_names_are_matched(tmp_path: Path, package: str) -> None:
    folder = exam(tmp_path / package, "0004")
    touch(folder / "._UCSF-PDGM-0004_T1.nii.gz", folder / "UCSF-PDGM-0004_DTI_eddy.bval")
    (found,) = UCSFPDGM(tmp_path).cases()
    assert (found.id, found.patient, found.subset, found.aliases) == ("UCSF-PDGM-0004", "UCSF-PDGM-0004", None, ())
    assert {modality: image.path.name for modality, image in found.images.items()} == {
        modality: f"UCSF-PDGM-0004{ending}.nii.gz" for modality, ending in zip(MODALITIES, IMAGES.split(), strict=True)
    }
    assert found.mask == folder / "UCSF-PDGM-0004_tumor_segmentation.nii.gz"


def test_decoys_do_not_stand_in_for_what_is_missing(tmp_path: Path) -> None:
    exam(tmp_path, "0004", f"_T1c _T2 {OTHERS}")
    exam(tmp_path, "0005", MASK)
    layout = UCSFPDGM(tmp_path)
    lacking, only_mask = layout.cases()
    assert tuple(lacking.images) == ("t1ce", "t2")
    assert lacking.mask is None
    assert only_mask.images == {}
    with pytest.raises(VolumeError, match="case UCSF-PDGM-0005 has no t1 image: it has no image at all"):
        read_case(only_mask, ("t1",), layout.labels)


def test_follow_ups_belong_to_their_patient_in_every_version(tmp_path: Path) -> None:
    numbers = ["0391", "0391_FU016d", "0396", "0396_FU175d", "0433_FU007d", "0004"]
    old = ["0289", "0175", "0181", "0138", "0278", "0315"]
    for number in numbers:
        exam(tmp_path / "UCSF-PDGM-v5", number)
    for number in old:
        exam(tmp_path / "UCSF-PDGM-v1", number)
    new = {found.id[10:]: found.patient[10:] for found in UCSFPDGM(tmp_path / "UCSF-PDGM-v5").cases()}
    assert new == {number: number[:4] for number in sorted(numbers)}
    assert list(new) == sorted(numbers)
    assert {found.id[10:]: found.patient[10:] for found in UCSFPDGM(tmp_path / "UCSF-PDGM-v1").cases()} == dict(
        zip(old, ["0391", "0396", "0409", "0429", "0431", "0433"], strict=True)
    )


def test_a_case_of_true_size(tmp_path: Path) -> None:
    folder = exam(tmp_path, "0004", OTHERS)
    for ending, value in zip(IMAGES.split(), (100, 200, 300, 400), strict=True):
        write_image(folder / f"UCSF-PDGM-0004{ending}.nii.gz", value, (240, 240, 155))
    write_mask(folder / f"UCSF-PDGM-0004{MASK}.nii.gz", (1, 2, 4), (240, 240, 155), np.float32)
    layout = UCSFPDGM(tmp_path)
    assert check_true_size(layout, layout.cases()[0], (1, 2, 4)) == {
        "whole_tumour": 111,
        "tumour_core": 101,
        "enhancing": 100,
        "regions": 111,
        "classes": 111,
    }


def test_enhancing_tumour_is_4_and_a_mask_with_3_is_refused(tmp_path: Path) -> None:
    folder = exam(tmp_path, "0004", OTHERS)
    write_image(folder / "UCSF-PDGM-0004_T1.nii.gz", 5)
    write_mask(folder / f"UCSF-PDGM-0004{MASK}.nii.gz", (3, 1))
    layout = UCSFPDGM(tmp_path)
    with pytest.raises(VolumeError, match="unexpected label 3"):
        read_case(layout.cases()[0], ("t1",), layout.labels)


METADATA = (
    "\ufeffID,Sex,MGMT status,EOR,BraTS21 ID,BraTS21 Segmentation Cohort\r\n"
    "UCSF-PDGM-004,M,unknown,STR,BraTS2021_00097,Training\r\n"
    'UCSF-PDGM-005,F,unknown,"STR, later GTR",,\r\n'
    "UCSF-PDGM-433,M,unknown,GTR,BraTS2021_00626,Training\r\n"
)


@pytest.mark.parametrize(("follow_up", "row"), [("0433_FU007d", "0433_FU007d"), ("0315", "315"), ("0433_FU007d", "315")])
@pytest.mark.parametrize("beside", [True, False])
def test_the_metadata_give_the_names_in_brats_2021(tmp_path: Path, follow_up: str, row: str, beside: bool) -> None:
    root = tmp_path / "UCSF-PDGM-v5"
    for number in ("0004", "0005", "0433", follow_up):
        exam(root, number)
    table = (tmp_path if beside else root) / "UCSF-PDGM-metadata_v5.csv"
    table.write_bytes(f"{METADATA}UCSF-PDGM-{row},M,unknown,GTR,BraTS2021_00758,Training\r\n".encode())
    both = {"BraTS2021_00626", "BraTS2021_00758"}
    expected = {"0004": {"BraTS2021_00097"}, "0005": set(), "0433": both, follow_up: both | {f"UCSF-PDGM-{follow_up}"}}
    assert {found.id[10:]: set(found.aliases) for found in UCSFPDGM(root).cases()} == expected


def test_two_versions_under_one_root_are_refused(tmp_path: Path) -> None:
    for version in ("v3", "v5"):
        exam(tmp_path / f"UCSF-PDGM-{version}", "0004")
    with pytest.raises(ValueError, match=r"two folders of case UCSF-PDGM-0004_nifti: .*v3.*v5"):
        UCSFPDGM(tmp_path).cases()


def test_a_folder_that_is_missing_or_empty_is_explained(tmp_path: Path) -> None:
    touch(tmp_path / "UCSF-PDGM-metadata_v5.csv")
    for root, problem in ((tmp_path, "no case in"), (tmp_path / "nowhere", "is not a folder")):
        with pytest.raises(ValueError, match=problem) as caught:
            UCSFPDGM(root).cases()
        for part in (str(root), "tcia.bdgf-8v37", "data_root=", ".nii.gz"):
            assert part in str(caught.value)
