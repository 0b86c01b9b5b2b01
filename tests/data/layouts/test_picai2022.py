from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calf.data.layouts.picai2022 import PICAI2022
from calf.data.volumes import VolumeError, encode_target, read_case
from tests.data.layouts.trees import touch, write, write_mha

MASKS = "picai_labels/csPCa_lesion_delineations"
SETS = ("human_expert/original", "human_expert/resampled", "human_expert/Pooch25", "AI/Bosma22a")


def study(root: Path, name: str, modalities: str = "t2w adc hbv sag cor") -> None:
    touch(*(root / name.partition("_")[0] / f"{name}_{modality}.mha" for modality in modalities.split()))


def masks(root: Path, below: str = MASKS, **names: str) -> None:
    for folder in SETS:
        (root / below / folder).mkdir(parents=True, exist_ok=True)
    for folder, listed in names.items():
        path = next(path for path in SETS if path.endswith(folder))
        touch(*(root / below / path / f"{name}.nii.gz" for name in listed.split()))


def subsets(layout: PICAI2022) -> dict[str, str | None]:
    return {case.id: case.subset for case in layout.cases()}


def test_studies_of_a_patient_stay_together(tmp_path: Path) -> None:
    for name in ("10131_1000132", "10131_1000133", "10000_1000000"):
        study(tmp_path / "images", name)
    touch(tmp_path / "images/10000/._10000_1000000_t2w.mha", tmp_path / "images/10000/10000_1000000_t2w_old.mha")
    masks(tmp_path, resampled="10000_1000000 10131_1000133 10999_1000999", original="10131_1000132")
    first, second, third = PICAI2022(tmp_path).cases()
    assert [(case.id, case.patient) for case in (first, second, third)] == [
        ("10000_1000000", "10000"), ("10131_1000132", "10131"), ("10131_1000133", "10131"),
    ]  # fmt: skip
    assert {name: image.path.name for name, image in first.images.items()} == {
        name: f"10000_1000000_{name}.mha" for name in ("t2w", "adc", "hbv")
    }
    assert first.mask == tmp_path / MASKS / "human_expert/resampled/10000_1000000.nii.gz"
    assert second.mask is None  # in its own grid alone
    assert third.mask is not None


def test_sets_of_masks_and_their_values(tmp_path: Path) -> None:
    for name in ("10000_1000000", "10001_1000001", "10002_1000002"):
        study(tmp_path, name)
    every = "10000_1000000 10001_1000001 10002_1000002"
    masks(
        tmp_path,
        "picai_labels-main/csPCa_lesion_delineations",
        resampled="10000_1000000",
        Pooch25="10001_1000001",
        Bosma22a=every,
    )

    def chosen(*names: str) -> list[str | None]:
        return [case.mask and case.mask.parent.name for case in PICAI2022(tmp_path, names).cases()]

    assert chosen("human_expert") == ["resampled", None, None]
    assert chosen("human_expert", "Pooch25") == ["resampled", "Pooch25", None]
    assert chosen("human_expert", "Pooch25", "Bosma22a") == ["resampled", "Pooch25", "Bosma22a"]
    assert chosen("Bosma22a", "human_expert") == ["Bosma22a"] * 3
    assert list(PICAI2022(tmp_path).labels) == [0, 2, 3, 4, 5]
    assert list(PICAI2022(tmp_path, ["Bosma22a"]).labels) == [0, 1]
    assert list(PICAI2022(tmp_path, ["human_expert", "Pooch25"]).labels) == [0, 1, 2, 3, 4, 5]
    for odd in (["original"], []):
        with pytest.raises(ValueError, match=r"lists some of human_expert, Pooch25, Bosma22a; got"):
            PICAI2022(tmp_path, odd)


def test_targets() -> None:
    experts, mixed = PICAI2022("nowhere"), PICAI2022("nowhere", ["human_expert", "Bosma22a"])
    values = np.arange(6)
    assert encode_target(values, experts.targets["cancer"]).tolist() == [0, 0, 1, 1, 1, 1]
    assert encode_target(values, experts.targets["grades"]).tolist() == [0, 0, 1, 2, 3, 4]
    assert experts.targets["grades"].exclusive
    assert encode_target(values, mixed.targets["cancer"]).tolist() == [0, 1, 1, 1, 1, 1]
    assert "grades" not in mixed.targets  # 1 stands for any grade


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
def test_masks_of_every_type_are_read_on_the_grid_of_t2(tmp_path: Path, dtype: type) -> None:
    image = np.arange(3 * 6 * 6, dtype=np.int16).reshape(3, 6, 6)  # (Z, Y, X)
    write_mha(tmp_path / "10000/10000_1000000_t2w.mha", image, (0.5, 0.5, 3.0))
    write_mha(tmp_path / "10000/10000_1000000_adc.mha", image[:, ::3, ::3], (1.5, 1.5, 3.0))
    masks(tmp_path)
    mask = np.zeros((6, 6, 3), dtype)
    mask[2, 3, 1], mask[4, 4, 2] = 3, 5
    affine = np.diag([-0.5, -0.5, 3.0, 1.0])
    affine[:3, 3] = 1e-4  # a qform's rounding
    write(tmp_path / MASKS / "human_expert/resampled/10000_1000000.nii.gz", mask, affine)
    layout = PICAI2022(tmp_path)
    (case,) = layout.cases()
    volumes = read_case(case, ("t2w",), layout.labels)
    assert np.array_equal(volumes.images[0], image.transpose()[::-1, ::-1])
    assert np.array_equal(volumes.mask, mask[::-1, ::-1].astype(np.uint8))
    with pytest.raises(VolumeError, match="expected the shape"):
        read_case(case, ("t2w", "adc"), layout.labels)  # on a grid of its own: preparation.onto is for that


def test_grade_1_is_refused_from_the_experts(tmp_path: Path) -> None:
    write_mha(tmp_path / "10000/10000_1000000_t2w.mha", np.ones((2, 2, 2), np.int16))
    masks(tmp_path)
    write(
        tmp_path / MASKS / "human_expert/resampled/10000_1000000.nii.gz", np.ones((2, 2, 2), np.uint16), np.diag([-1.0, -1, 1, 1])
    )
    layout = PICAI2022(tmp_path)
    with pytest.raises(VolumeError, match="unexpected label 1"):
        read_case(layout.cases()[0], ("t2w",), layout.labels)


def test_the_archive_is_the_fold(tmp_path: Path) -> None:
    masks(tmp_path)
    study(tmp_path / "picai_public_images_fold0", "10000_1000000")
    study(tmp_path / "images/fold3/picai_public_images_fold3", "10001_1000001")
    study(tmp_path / "images", "10002_1000002", "t2w")
    assert subsets(PICAI2022(tmp_path)) == {"10000_1000000": "0", "10001_1000001": "3", "10002_1000002": None}


def test_folds_of_a_file(tmp_path: Path) -> None:
    masks(tmp_path)
    for name in ("10000_1000000", "10001_1000001", "10002_1000002"):
        study(tmp_path / "picai_public_images_fold4", name)
    path = tmp_path / "splits.json"
    path.write_text(json.dumps([{"train": ["10001_1000001"], "val": ["10000_1000000"]}, {"train": [], "val": ["10001_1000001"]}]))
    layout = PICAI2022(tmp_path, splits=path)
    assert subsets(layout) == {"10000_1000000": "0", "10001_1000001": "1", "10002_1000002": None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"train": [], "val": ["10000_1"]}, {"train": [], "val": ["10000_2"]}], "patient 10000 validates in the folds 0 and 1"),
        ({"train": []}, "expected JSON with a list"),
        ([{"train": []}], "expected JSON with a list"),
        ([{"train": [], "val": ["20000_1000000"]}], "names none of the 1 studies in .*, such as 10000_1000000"),
    ],
)
def test_folds_that_make_no_sense(tmp_path: Path, content: Any, message: str) -> None:
    masks(tmp_path)
    study(tmp_path, "10000_1000000")
    (tmp_path / "splits.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        PICAI2022(tmp_path, splits=tmp_path / "splits.json").cases()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    study(tmp_path / "images", "10000_1000000")
    with pytest.raises(ValueError, match=r"one folder csPCa_lesion_delineations in it, got none.*git clone"):
        PICAI2022(tmp_path).cases()
    (tmp_path / MASKS / "human_expert/original").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"human_expert/resampled: no such folder of masks"):
        PICAI2022(tmp_path).ensure()
    masks(tmp_path)
    masks(tmp_path, "copy/csPCa_lesion_delineations")
    with pytest.raises(ValueError, match="one folder csPCa_lesion_delineations"):
        PICAI2022(tmp_path).ensure()
    masks(tmp_path / "alone")
    with pytest.raises(ValueError, match=r"no case in .*zenodo.*data_root="):
        PICAI2022(tmp_path / "alone").cases()
    with pytest.raises(ValueError, match="is not a folder"):
        PICAI2022(tmp_path / "nowhere").ensure()
