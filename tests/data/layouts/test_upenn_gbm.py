from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calf.data.layouts.upenn_gbm import UPennGBM
from calf.data.volumes import VolumeError, read_case
from tests.data.layouts.glioma import MODALITIES, case, check_true_size, write_image, write_mask
from tests.data.layouts.trees import touch

PACKAGE = "PKG - UPENN-GBM-NIfTI/UPENN-GBM/NIfTI-files"
IMAGES = "_T1 _T1GD _T2 _FLAIR"


def scan(number: int, examination: int = 11) -> str:
    return f"UPENN-GBM-{number:05d}_{examination}"


def mask(home: Path, name: str, kind: str) -> Path:
    if kind == "manual":
        return home / f"images_segm/{name}_segm.nii.gz"
    return home / f"automated_segm/{name}_automated_approx_segm.nii.gz"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """1: automatic mask; 2: both; 3: both, and a follow-up; 4: a follow-up alone."""
    home = tmp_path / PACKAGE
    for name in (scan(1), scan(2), scan(3), scan(3, 21), scan(4, 21)):
        case(home / "images_structural" / name, IMAGES)
        case(home / "images_structural_unstripped" / name, " ".join(f"{ending}_unstripped" for ending in IMAGES.split()))
        case(home / "images_DTI/images_DTI" / name, "_DTI_AD _DTI_FA _DTI_RD _DTI_TR")
        case(home / "images_DSC" / name, "_DSC _DSC_ap-rCBV _DSC_PH _DSC_PSR")
    touch(*(mask(home, scan(number), "automatic") for number in (1, 2, 3)))
    touch(*(mask(home, scan(number), "manual") for number in (2, 3)))
    touch(
        home / f"images_segm/._{scan(1)}_segm.nii.gz", home / "images_segm/.DS_Store", home / f"images_segm/{scan(1)}_T1.nii.gz"
    )
    return home


@pytest.mark.parametrize(
    ("masks", "kinds"),
    [
        ("manual", (None, "manual", "manual", None, None)),
        ("automatic", ("automatic", "automatic", "automatic", None, None)),
        ("manual_then_automatic", ("automatic", "manual", "manual", None, None)),
    ],
)
def test_examinations_and_their_masks(home: Path, tmp_path: Path, masks: str, kinds: tuple[str | None, ...]) -> None:
    cases = UPennGBM(tmp_path, masks=masks).cases()
    assert [found.id for found in cases] == [scan(1), scan(2), scan(3), scan(3, 21), scan(4, 21)]
    assert [found.patient[-5:] for found in cases] == ["00001", "00002", "00003", "00003", "00004"]
    assert tuple(found.subset for found in cases) == kinds
    assert [found.mask for found in cases] == [
        mask(home, found.id, kind) if kind else None for found, kind in zip(cases, kinds, strict=True)
    ]
    for found in cases:
        expected = {
            modality: home / f"images_structural/{found.id}/{found.id}{ending}.nii.gz"
            for modality, ending in zip(MODALITIES, IMAGES.split(), strict=True)
        }
        assert {modality: image.path for modality, image in found.images.items()} == expected


def test_the_default_takes_the_experts_mask_where_there_is_one(home: Path) -> None:
    assert UPennGBM(home).cases() == UPennGBM(home, masks="manual_then_automatic").cases()
    assert UPennGBM(home / "images_structural").cases() == UPennGBM(home).cases()


def test_a_case_of_true_size(tmp_path: Path) -> None:
    home, name = tmp_path / "NIfTI-files", scan(2)
    for ending, value in zip(IMAGES.split(), (100, 200, 300, 400), strict=True):
        write_image(home / f"images_structural/{name}/{name}{ending}.nii.gz", value, (240, 240, 155))
    write_mask(mask(home, name, "manual"), (1, 2, 4), (240, 240, 155), np.float32)
    write_mask(mask(home, name, "automatic"), (2, 4, 1), (240, 240, 155))
    expected = {"whole_tumour": 111, "regions": 111, "classes": 111}
    layout = UPennGBM(tmp_path)
    found = check_true_size(layout, layout.cases()[0], (1, 2, 4))
    assert found == expected | {"tumour_core": 101, "enhancing": 100}  # of the automatic one: 110 and 10


def test_a_mask_without_images_is_listed_and_named_when_read(home: Path) -> None:
    touch(mask(home, scan(9), "manual"), mask(home, scan(8), "automatic"))
    layout = UPennGBM(home)
    orphans = [found for found in layout.cases() if not found.images]
    assert [(found.id, found.patient, found.subset) for found in orphans] == [
        (scan(8), "UPENN-GBM-00008", "automatic"),
        (scan(9), "UPENN-GBM-00009", "manual"),
    ]
    with pytest.raises(VolumeError, match=rf"case {scan(8)} has no t1 image: it has no image at all"):
        read_case(orphans[0], ("t1",), layout.labels)


@pytest.mark.parametrize(("masks", "missing"), [("manual", "images_segm"), ("manual_then_automatic", "automated_segm")])
def test_masks_that_were_asked_for_and_are_not_there_are_missed(home: Path, masks: str, missing: str) -> None:
    for path in sorted((home / missing).iterdir()):
        path.unlink()
    touch(home / missing / f"{scan(1)}.txt")
    with pytest.raises(ValueError, match=rf"no (manual|automatic) mask: expected .*{missing}.*dataset\.layout\.masks="):
        UPennGBM(home, masks=masks).cases()
    other = "automatic" if masks == "manual" else "manual"
    assert len(UPennGBM(home, masks=other).cases()) == 5


def test_compressed_masks_are_taken_where_both_are_there(home: Path) -> None:
    touch(mask(home, scan(2), "manual").with_suffix(""))
    assert UPennGBM(home).cases()[1].mask == mask(home, scan(2), "manual")


def test_two_packages_are_refused(home: Path, tmp_path: Path) -> None:
    case(tmp_path / "copy/images_structural" / scan(1), IMAGES)
    with pytest.raises(ValueError, match=r"two folders of case images_structural: .*point data_root at one of them"):
        UPennGBM(tmp_path).cases()


def test_tcias_table_gives_the_names_in_brats_2021(home: Path) -> None:
    (home / "BraTS2021_MappingToTCIA.csv").write_text(
        "Data Collection,Site ID,PatientID on TCIA Radiology Portal,BraTS2021 ID\n"
        f"UPENN-GBM,1,{scan(3)},BraTS2021_00045\nUPENN-GBM_Additional,1,new-not-previously-in-TCIA,BraTS2021_00046\n"
    )
    by_id = {found.id: found.aliases for found in UPennGBM(home).cases()}
    assert by_id[scan(1)] == (scan(1),)
    assert by_id[scan(3)] == ("BraTS2021_00045", scan(3))
    assert by_id[scan(3, 21)] == ("BraTS2021_00045", scan(3, 21))


def test_an_unknown_choice_of_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset\.layout\.masks is manual, .*got 'best'"):
        UPennGBM(tmp_path, masks="best")


def test_a_folder_that_is_missing_or_empty_is_explained(tmp_path: Path) -> None:
    for root, problem in ((tmp_path, "no case in"), (tmp_path / "nowhere", "is not a folder")):
        with pytest.raises(ValueError, match=problem) as caught:
            UPennGBM(root).cases()
        for part in (str(root), "TCIA.709X-DN49", "data_root=", "images_structural/"):
            assert part in str(caught.value)
