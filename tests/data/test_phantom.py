"""The phantom's files: the same arguments give the same bytes, also to processes at once."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from calf.data.layouts.brats2020 import BraTS2020
from calf.data.phantom import Phantom, generate_patient
from calf.data.volumes import read_case

COARSE: dict[str, Any] = {"patients": 3, "shape": (32, 32, 12), "spacing_mm": (6, 6, 12)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- files ----------------------------------------------------------------------------------------------------------


def test_it_is_a_brats_2020_data_set(default_phantom: Phantom) -> None:
    cases = BraTS2020(default_phantom.folder).cases()
    assert [case.id for case in cases] == [f"BraTS20_Training_{number:03d}" for number in range(1, 25)]
    volumes = read_case(cases[0], default_phantom.modalities, default_phantom.labels)
    assert volumes.images.shape == (4, 64, 64, 24)
    assert volumes.spacing_mm == (3, 3, 6)
    image = nib.load(cases[0].images["t1"].path)
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(image.affine, [[-3, 0, 0, 0], [0, -3, 0, 189], [0, 0, 6, 0], [0, 0, 0, 1]])
    assert nib.load(cases[0].mask).get_data_dtype() == np.uint8
    assert [path.name for path in default_phantom.folder.parent.iterdir() if not path.name.endswith(".lock")] == [
        default_phantom.folder.name
    ]


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (Phantom(tmp_path / name, **COARSE) for name in "ab")
    first.ensure()
    second.ensure()
    assert first.folder.name == second.folder.name
    assert contents(first.folder) == contents(second.folder)
    stamps = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    first.ensure()
    assert stamps == {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}


def test_a_patient_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few, many = Phantom(tmp_path, **COARSE), Phantom(tmp_path, **COARSE | {"patients": 5})
    few.ensure()
    many.ensure()
    assert len(many.cases()) == 5
    again = contents(many.folder)
    shared = {name: content for name, content in contents(few.folder).items() if name.endswith(".nii.gz")}
    assert len(shared) == 15
    assert shared == {name: again[name] for name in shared}


CHANGES: dict[str, Any] = {
    "patients": 2,
    "shape": (33, 32, 12),
    "spacing_mm": (6, 6, 12.5),
    "seed": 1,
    "radius_mm": 20,
    "radius_spread": 0.1,
    "satellite_share": 1.0,
    "low_grade_share": 1.0,
    "noise": 0.0,
    "bias_field": 0.0,
    "annotation_bias_mm": 6,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_makes_another_data_set(name: str) -> None:
    usual = Phantom("x", **COARSE)
    other = replace(usual, **{name: CHANGES[name]})
    assert other.folder != usual.folder
    if name in ("patients", "annotation_bias_mm"):
        return
    changed = False
    for patient in range(3):
        (images, labels), (other_images, other_labels) = (generate_patient(phantom, patient) for phantom in (usual, other))
        changed |= not np.array_equal(images["flair"], other_images["flair"]) or not np.array_equal(labels, other_labels)
    assert changed


def test_numbers_that_mean_the_same_are_the_same_data_set() -> None:
    one = Phantom("x", shape=(64, 64, 24), spacing_mm=(3, 3, 6), radius_mm=20, annotation_bias_mm=0)
    other = Phantom("y", shape=[64, 64, 24], spacing_mm=[3.0, 3.0, 6.0], radius_mm=20.0)  # type: ignore[arg-type]
    assert one.folder.name == other.folder.name


def test_a_builder_that_was_killed_leaves_nothing_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom = Phantom(tmp_path, **COARSE)
    write = Phantom._write

    def dies(self: Phantom, parent: Path, patient: int) -> None:
        write(self, parent, patient)
        if patient == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Phantom, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        phantom.ensure()
    assert not phantom.folder.exists()
    monkeypatch.undo()
    phantom.ensure()
    assert len(phantom.cases()) == 3
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [phantom.folder.name]


def test_processes_at_once_make_one_data_set(tmp_path: Path) -> None:
    phantom = Phantom(tmp_path, **COARSE)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=phantom.ensure) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(phantom.cases()) == 3


def test_a_patient_that_was_deleted_is_missed(tmp_path: Path) -> None:
    phantom = Phantom(tmp_path, **COARSE)
    phantom.cases()
    (phantom.folder / "BraTS20_Training_002").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="holds 2 of 3 patients: delete it"):
        phantom.cases()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (64, 64, 10)}, r"a brain needs at least \(150.0, 180.0, 140.0\)"),
        ({"shape": (64, 64)}, "three voxel counts"),
        ({"patients": 0}, "1 ... 999 patients"),
        ({"seed": -1}, "seed of at least 0"),
        ({"satellite_share": 1.2}, "satellite_share is a share"),
        ({"noise": -0.1}, "noise is at least 0"),
        ({"annotation_bias_mm": float("nan")}, "annotation_bias_mm"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Phantom("x", **arguments)
