from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calf.data.layouts.spider import Spider
from calf.data.volumes import VolumeError, encode_target, read_case
from tests.data.layouts.trees import touch, write_mha

STEMS = ("1_t1", "1_t2", "10_t2", "2_t2", "2_t2_SPACE")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("images", "masks"):
        touch(*(tmp_path / folder / f"{stem}.mha" for stem in STEMS))
    touch(tmp_path / "images/._1_t1.mha", tmp_path / "images/overview.mha", tmp_path / "radiological_gradings.csv")
    return tmp_path


def test_each_series_is_a_case_of_its_patient(root: Path) -> None:
    cases = Spider(root).cases()
    assert [(case.id, case.patient) for case in cases] == [
        ("10_t2", "10"), ("1_t1", "1"), ("1_t2", "1"), ("2_t2", "2"), ("2_t2_SPACE", "2"),
    ]  # fmt: skip
    for case in cases:
        assert case.files() == [root / f"images/{case.id}.mha", root / f"masks/{case.id}.mha"]
        assert case.subset is None


def test_series_are_chosen_by_their_whole_name(root: Path) -> None:
    assert [case.id for case in Spider(root, ["t2"]).cases()] == ["10_t2", "1_t2", "2_t2"]
    assert [case.id for case in Spider(root, ("t2_SPACE", "t1")).cases()] == ["1_t1", "2_t2_SPACE"]
    for odd in (["T2"], []):
        with pytest.raises(ValueError, match=r"takes some of t1, t2, t2_SPACE; got"):
            Spider(root, odd)


@pytest.mark.parametrize(("separator", "suffix"), [(",", ""), (";", ".mha")])
def test_official_subsets(root: Path, separator: str, suffix: str) -> None:
    rows = [
        ["new_file_name", "subset", "sex"],
        *([f"{stem}{suffix}", "validation" if stem[:2] == "2_" else "training", "F "] for stem in STEMS[1:]),
    ]
    (root / "overview.csv").write_text("\n".join(separator.join(row) for row in rows))
    subsets = {case.id: case.subset for case in Spider(root).cases()}
    assert subsets == {"1_t1": None, "1_t2": "training", "10_t2": "training", "2_t2": "validation", "2_t2_SPACE": "validation"}
    (root / "overview.csv").write_text("file,part\n1_t1,training\n")
    with pytest.raises(ValueError, match="expected the columns new_file_name and subset, got 'file,part'"):
        Spider(root).cases()


def test_targets_over_all_label_values() -> None:
    layout = Spider("nowhere")
    assert set(layout.labels) == {0, 100, *range(1, 26), *range(201, 226)}
    values = np.array([0, 1, 25, 100, 201, 225], np.uint8)
    codes = {name: encode_target(values, target).tolist() for name, target in layout.targets.items()}
    assert codes == {
        "vertebrae": [0, 1, 1, 0, 0, 0],
        "canal": [0, 0, 0, 1, 0, 0],
        "discs": [0, 0, 0, 0, 1, 1],
        "classes": [0, 1, 1, 2, 3, 3],
    }
    assert layout.targets["classes"].exclusive


def test_files_of_the_true_kind_are_read(tmp_path: Path) -> None:
    mask = np.zeros((6, 7, 4), np.int16)  # (Z, Y, X): 4 sagittal slices
    mask[1, 2:4, 1], mask[3, 2, 2], mask[4, 5, 3] = 5, 100, 203
    write_mha(tmp_path / "masks/3_t2.mha", mask, (3.3, 0.6, 0.6))
    write_mha(tmp_path / "images/3_t2.mha", mask.astype(np.uint16) + 9, (3.3, 0.6, 0.6))
    layout = Spider(tmp_path)
    (case,) = layout.cases()
    volumes = read_case(case, layout.modalities, layout.labels)
    expected = mask.transpose()[::-1, ::-1]  # ITK's world runs to the left and the back
    assert np.array_equal(volumes.mask, expected)
    assert np.array_equal(volumes.images[0], expected.astype(np.float32) + 9)
    assert encode_target(volumes.mask, layout.targets["discs"]).sum() == 1


@pytest.mark.parametrize("value", [26, 101, 226, -1])
def test_other_values_are_refused(tmp_path: Path, value: Any) -> None:
    for folder in ("images", "masks"):
        write_mha(tmp_path / folder / "3_t1.mha", np.full((3, 3, 3), value, np.int16))
    layout = Spider(tmp_path)
    with pytest.raises(VolumeError, match=f"unexpected label {value}"):
        read_case(layout.cases()[0], layout.modalities, layout.labels)


def test_halves_of_pairs_are_listed(root: Path) -> None:
    (root / "masks/1_t1.mha").unlink()
    (root / "images/2_t2.mha").unlink()
    cases = {case.id: case for case in Spider(root).cases()}
    assert len(cases) == 5
    assert cases["1_t1"].mask is None
    assert cases["2_t2"].images == {}


def test_other_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no case in .*zenodo.*data_root="):
        Spider(tmp_path).cases()
    with pytest.raises(ValueError, match="is not a folder"):
        Spider(tmp_path / "nowhere").ensure()
