from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calf.data.layouts.brats import BraTS
from calf.data.layouts.brats2018 import BraTS2018
from calf.data.layouts.brats2019 import BraTS2019
from calf.data.layouts.brats2020 import BraTS2020
from calf.data.layouts.brats2021 import BraTS2021
from calf.data.layouts.brats2023 import BraTS2023
from calf.data.layouts.brats2024 import BraTS2024
from calf.data.volumes import VolumeError, encode_target, read_case
from tests.data.layouts.glioma import MODALITIES, case, check_true_size, write_image, write_mask
from tests.data.layouts.trees import LPS, touch

OLD = "_t1 _t1ce _t2 _flair"
NEW = "-t1n -t1c -t2w -t2f"

# a release, the folder that its archive unpacks to, two of its cases, the file endings of images and mask, its labels
RELEASES = {
    "2018": (BraTS2018, "MICCAI_BraTS_2018_Data_Training/HGG", "Brats18_2013_10_1 Brats18_TCIA01_131_1", OLD, "_seg", (1, 2, 4)),
    "2019": (BraTS2019, "MICCAI_BraTS_2019_Data_Training/LGG", "BraTS19_2013_0_1 BraTS19_TMC_30014_1", OLD, "_seg", (1, 2, 4)),
    "2020": (BraTS2020, "MICCAI_BraTS2020_TrainingData", "BraTS20_Training_001 BraTS20_Training_010", OLD, "_seg", (1, 2, 4)),
    "2021": (BraTS2021, "BraTS2021_TrainingSet/UCSF-PDGM", "BraTS2021_00000 BraTS2021_00002", OLD, "_seg", (1, 2, 4)),
    "2023": (BraTS2023, "ASNR-TrainingData", "BraTS-GLI-00000-000 BraTS-GLI-00002-000", NEW, "-seg", (1, 2, 3)),
    "2024": (BraTS2024, "training_data1_v2", "BraTS-GLI-00005-100 BraTS-GLI-00006-101", NEW, "-seg", (1, 2, 3, 4)),
}
Release = tuple[Callable[[Path | str], BraTS], str, str, str, str, tuple[int, ...]]


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> Release:
    return RELEASES[request.param]  # type: ignore[return-value]


# --- every release ----------------------------------------------------------------------------------------------------


def test_a_case_of_true_size_among_everything_that_looks_like_it(tmp_path: Path, release: Release) -> None:
    layout, home, names, images, seg, labels = release
    shape = (182, 218, 182) if layout is BraTS2024 else (240, 240, 155)
    affine = np.diag([-1.0, 1, 1, 1]) if layout is BraTS2024 else LPS
    name, separator = names.split()[0], seg[0]
    folder = tmp_path / home / name
    for ending, value, suffix in zip(images.split(), (100, 200, 300, 400), (".nii", ".nii.gz", ".nii", ".nii"), strict=True):
        write_image(folder / f"{name}{ending}{suffix}", value, shape, affine)
        decoys = (f"._{name}{ending}{suffix}", f"{name}{ending}{separator}bias.nii.gz", f"{name}{ending}_unstripped.nii.gz")
        touch(*(folder / decoy for decoy in decoys))
    write_mask(folder / f"{name}{seg}.nii.gz", labels, shape, affine=affine)
    touch(folder / f"._{name}{seg}.nii.gz", folder / f"{name}{seg}mentation.nii.gz", folder / f"{name}_old{seg}.nii.gz")

    (found,) = layout(tmp_path).cases()
    foreground = check_true_size(layout(tmp_path), found, labels, shape)
    both = {"whole_tumour": 111, "tumour_core": 101, "enhancing": 100, "regions": 111, "classes": 111}
    if layout is BraTS2024:
        both |= {"resection_cavity": 1000, "regions": 1111, "classes": 1111}
    assert foreground == both


@pytest.mark.parametrize("wrappers", ["", "archive", "archive/data/unpacked"])
@pytest.mark.parametrize("as_text", [False, True])
def test_the_root_may_be_a_wrapper_or_one_case(tmp_path: Path, release: Release, wrappers: str, as_text: bool) -> None:
    layout, _, names, images, seg, _ = release
    first, second = sorted(names.split())
    case(tmp_path / "data" / wrappers / second, f"{images} {seg}", ".nii")
    case(tmp_path / "data" / wrappers / first, f"{images} {seg}")
    case(tmp_path / "data/.hidden" / names.split()[0], images)
    case(tmp_path / "data/phantom-0123456789ab" / names.split()[0], images)
    touch(tmp_path / "data" / wrappers / "survival_info.csv", tmp_path / "data" / wrappers / f"{first}.zip")
    root = tmp_path / "data"
    found = layout(str(root) if as_text else root).cases()
    assert [each.id for each in found] == [first, second]
    assert all(tuple(each.images) == MODALITIES and each.mask and not each.reference for each in found)
    (alone,) = layout(tmp_path / "data" / wrappers / first).cases()
    assert alone == found[0]


def test_compressed_files_are_taken_where_both_are_there(tmp_path: Path, release: Release) -> None:
    layout, home, names, images, seg, _ = release
    for suffix in (".nii", ".nii.gz"):
        case(tmp_path / home / names.split()[0], f"{images} {seg}", suffix)
    (found,) = layout(tmp_path).cases()
    assert all(path.name.endswith(".nii.gz") for path in found.files())


def test_what_a_case_lacks_is_said_when_it_is_read(tmp_path: Path, release: Release) -> None:
    layout, home, names, images, seg, _ = release
    first, second = sorted(names.split())
    case(tmp_path / home / first, f"{images.split()[0]} {images.split()[2]} {seg}")
    case(tmp_path / home / second, seg)
    lacking, only_mask = layout(tmp_path).cases()
    assert tuple(lacking.images) == ("t1", "t2")
    assert only_mask.images == {}
    assert only_mask.mask is not None
    for found, hint in ((lacking, "it has t1 "), (only_mask, "no image at all")):
        with pytest.raises(VolumeError, match=rf"case {found.id} has no t1ce image: .*{hint}"):
            read_case(found, ("t1ce",), layout(tmp_path).labels)


def test_two_copies_are_refused(tmp_path: Path, release: Release) -> None:
    layout, _, names, images, _, _ = release
    for copy in ("a", "b/HGG"):
        case(tmp_path / copy / names.split()[0], images)
    with pytest.raises(ValueError, match=rf"two folders of case {names.split()[0]}: .*a.*b"):
        layout(tmp_path).cases()


def test_labels_of_another_year_are_refused(tmp_path: Path, release: Release) -> None:
    layout, home, names, images, seg, labels = release
    name = names.split()[0]
    write_image(tmp_path / home / name / f"{name}{images.split()[0]}.nii.gz", 7)
    odd = next(value for value in (3, 4, 5) if value not in labels)
    write_mask(tmp_path / home / name / f"{name}{seg}.nii.gz", (odd, 1), dtype=np.float32)
    (found,) = layout(tmp_path).cases()
    with pytest.raises(VolumeError, match=rf"unexpected label {odd} \(1 voxels\)"):
        read_case(found, ("t1",), layout(tmp_path).labels)


def test_a_folder_that_is_missing_or_empty_is_explained(tmp_path: Path, release: Release) -> None:
    layout, _, names, _, _, _ = release
    touch(tmp_path / f"{names.split()[0]}.tar")
    for root, problem in ((tmp_path, "no case in"), (tmp_path / "nowhere", "is not a folder")):
        with pytest.raises(ValueError, match=problem) as caught:
            layout(root).cases()
        for part in (str(root), "https://", "data_root=", ".nii.gz"):
            assert part in str(caught.value)
    with pytest.raises(ValueError, match="data_root="):
        layout(tmp_path / "nowhere").ensure()


def test_a_year_takes_no_case_of_another(tmp_path: Path) -> None:
    for _, home, names, images, seg, _ in RELEASES.values():
        case(tmp_path / home / names.split()[0], f"{images} {seg}")
    for name in ("BraTS-MEN-00004-000", "BraTS-MET-00001-000", "BraTS-PED-00002-000", "BraTS18_Training_1", "BraTS2021_1"):
        case(tmp_path / "others" / name, NEW)
    listed = {year: {found.id for found in layout(tmp_path).cases()} for year, (layout, *_) in RELEASES.items()}
    adult = {"BraTS-GLI-00000-000", "BraTS-GLI-00005-100"}  # 2023 and 2024 share the form of their names
    own = {year: {names.split()[0]} for year, (_, _, names, *_) in RELEASES.items()}
    assert listed == own | {"2023": adult, "2024": adult}


# --- single years -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "name"), [(BraTS2018, "Brats18_CBICA_AAB_1"), (BraTS2019, "BraTS19_CBICA_AAB_1")])
def test_2018_and_2019_tell_the_grade_by_the_folder(tmp_path: Path, layout: type[BraTS], name: str) -> None:
    for place, other in (("Training/HGG", "AAB"), ("Training/LGG", "AAC"), ("Validation", "AAM")):
        case(tmp_path / place / name.replace("AAB", other), OLD)
    assert [(found.id[-5:-2], found.subset) for found in layout(tmp_path).cases()] == [
        ("AAB", "HGG"),
        ("AAC", "LGG"),
        ("AAM", None),
    ]


def test_2020_masks_that_are_misnamed_absent_or_doubled(tmp_path: Path) -> None:
    odd = case(tmp_path / "training/BraTS20_Training_355", OLD, ".nii")
    touch(odd / "W39_1998.09.19_Segm.nii", odd / "._W39_1998.09.19_Segm.nii")
    case(tmp_path / "validation/BraTS20_Validation_001", OLD)
    clean = case(tmp_path / "training/BraTS20_Training_001", f"{OLD} _seg _seg_clean")
    touch(case(tmp_path / "training/BraTS20_Training_002", OLD) / "W39_1998.09.19_Segm.nii")
    first, second, misnamed, validation = BraTS2020(tmp_path).cases()
    assert first.reference == clean / "BraTS20_Training_001_seg_clean.nii.gz"
    assert second.mask is None
    assert misnamed.mask == odd / "W39_1998.09.19_Segm.nii"
    assert (validation.id, validation.mask) == ("BraTS20_Validation_001", None)


def test_2020_a_mask_of_the_right_name_goes_before_the_misnamed_one(tmp_path: Path) -> None:
    odd = case(tmp_path / "BraTS20_Training_355", f"{OLD} _seg", ".nii")
    touch(odd / "W39_1998.09.19_Segm.nii")
    (found,) = BraTS2020(tmp_path).cases()
    assert found.mask == odd / "BraTS20_Training_355_seg.nii"


def test_2021_knows_the_patients_that_have_two_cases(tmp_path: Path) -> None:
    for number in (557, 626, 627, 639, 758):
        case(tmp_path / f"BraTS2021_{number:05d}", OLD)
    assert [found.patient[-5:] for found in BraTS2021(tmp_path).cases()] == ["00639", "00626", "00627", "00639", "00626"]


@pytest.mark.parametrize("layout", [BraTS2023, BraTS2024])
def test_time_points_are_of_one_patient(tmp_path: Path, layout: type[BraTS]) -> None:
    for name in ("BraTS-GLI-00088-001", "BraTS-GLI-00088-000", "BraTS-GLI-00089-100"):
        case(tmp_path / name, NEW)
    assert [(found.id, found.patient) for found in layout(tmp_path).cases()] == [
        ("BraTS-GLI-00088-000", "BraTS-GLI-00088"),
        ("BraTS-GLI-00088-001", "BraTS-GLI-00088"),
        ("BraTS-GLI-00089-100", "BraTS-GLI-00089"),
    ]


def test_2023_has_the_patients_of_sub_saharan_africa(tmp_path: Path) -> None:
    case(tmp_path / "BraTS-SSA-00002-000", f"{NEW} -seg")
    (found,) = BraTS2023(tmp_path).cases()
    assert (found.patient, tuple(found.images)) == ("BraTS-SSA-00002", MODALITIES)


# --- what labels mean -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "enhancing"), [(BraTS2018, 4), (BraTS2019, 4), (BraTS2020, 4), (BraTS2021, 4), (BraTS2023, 3)]
)
def test_targets(layout: type[BraTS], enhancing: int) -> None:
    known = layout("nowhere")
    labels = np.array(sorted(known.labels), np.uint8)
    assert labels.tolist() == [0, 1, 2, enhancing]
    assert known.labels[enhancing] == "enhancing tumour"
    assert {name: encode_target(labels, target).tolist() for name, target in known.targets.items()} == {
        "whole_tumour": [0, 1, 1, 1],
        "tumour_core": [0, 1, 0, 1],
        "enhancing": [0, 0, 0, 1],
        "regions": [0, 0b011, 0b001, 0b111],
        "classes": [0, 1, 2, 3],
    }
    assert known.targets["classes"].names == ("necrotic_core", "oedema", "enhancing")
    assert known.targets["classes"].exclusive
    assert not known.targets["regions"].exclusive


def test_2024_the_resection_cavity_is_no_tumour() -> None:
    known = BraTS2024("nowhere")
    labels = np.array(sorted(known.labels), np.uint8)
    assert known.labels[4] == "resection cavity"
    assert {name: encode_target(labels, target).tolist() for name, target in known.targets.items()} == {
        "whole_tumour": [0, 1, 1, 1, 0],
        "tumour_core": [0, 1, 0, 1, 0],
        "enhancing": [0, 0, 0, 1, 0],
        "resection_cavity": [0, 0, 0, 0, 1],
        "regions": [0, 0b0011, 0b0001, 0b0111, 0b1000],
        "classes": [0, 1, 2, 3, 4],
    }
    assert known.targets["regions"].names == ("whole_tumour", "tumour_core", "enhancing", "resection_cavity")
    assert BraTS2023("nowhere").targets["regions"].names == ("whole_tumour", "tumour_core", "enhancing")


# --- real volumes -----------------------------------------------------------------------------------------------------


def test_real_volumes_in_the_layout_of_2021(shared: Path, tmp_path: Path) -> None:
    """One with all labels, one that does not enhance and of which FLAIR alone is at hand; both hold negative intensities."""
    source = shared / "data/tcga_lgg_bratstoolkit"
    if not source.is_dir():
        pytest.skip(f"no TCGA-LGG volumes at {source}")
    tokens = {"t1": "t1_bet", "t1ce": "t1c_bet", "t2": "t2_bet", "flair": "fla_bet", "seg": "fusion_mav"}
    for number, name in enumerate(("OtherEXampleFromTCIA", "TCGA-DU-7294")):
        folder = tmp_path / f"BraTS2021_{number:05d}"
        folder.mkdir()
        for token, there in tokens.items():
            if (source / name / f"{name}_{there}.nii.gz").is_file():
                (folder / f"{folder.name}_{token}.nii.gz").symlink_to(source / name / f"{name}_{there}.nii.gz")
    layout = BraTS2021(tmp_path)
    complete, low_grade = layout.cases()
    volumes = read_case(complete, layout.modalities, layout.labels)
    assert volumes.images.shape == (4, 240, 240, 155)
    assert volumes.images.min(axis=(1, 2, 3)).tolist() == [-52, -3, -136, -45]
    assert volumes.images.max(axis=(1, 2, 3)).tolist() == [759, 1098, 1593, 663]
    assert np.unique(volumes.mask).tolist() == [0, 1, 2, 4]
    core = encode_target(volumes.mask, layout.targets["tumour_core"])
    np.testing.assert_array_equal(core, np.isin(volumes.mask, (1, 4)))

    assert tuple(low_grade.images) == ("flair",)
    volumes = read_case(low_grade, ("flair",), layout.labels)
    assert volumes.images.min() == -54
    assert np.unique(volumes.mask).tolist() == [0, 1, 2]
    assert not encode_target(volumes.mask, layout.targets["enhancing"]).any()
    assert encode_target(volumes.mask, layout.targets["regions"]).max() == 0b011
