from __future__ import annotations

import json

import pytest

from calf.data.splits import FromFile, Holdout, KFold, LeaveOnePatientOut, Split, stored_split

PATIENTS = [f"p{number:02d}" for number in range(20)]


def everyone(split: Split) -> list[str]:
    return sorted([*split.train, *split.val, *split.test])


def test_a_holdout_deals_out_every_patient_once():
    split = Holdout(val=0.2, test=0.25, seed=0).assign(PATIENTS, None)
    assert everyone(split) == PATIENTS
    assert (len(split.train), len(split.val), len(split.test)) == (11, 4, 5)
    assert split != Holdout(val=0.2, test=0.25, seed=1).assign(PATIENTS, None)


@pytest.mark.parametrize("splitter", [KFold(folds=5), LeaveOnePatientOut()])
def test_every_patient_is_tested_in_exactly_one_fold(splitter):
    folds = 5 if isinstance(splitter, KFold) else 20
    splits = [splitter.assign(PATIENTS, fold) for fold in range(folds)]
    assert sorted(patient for split in splits for patient in split.test) == PATIENTS
    assert all(everyone(split) == PATIENTS for split in splits)


@pytest.mark.parametrize("fold", [None, 5, -1])
def test_a_fold_that_is_not_there_names_those_there_are(fold):
    with pytest.raises(ValueError, match=r"0 \.\.\. 4"):
        KFold(folds=5).assign(PATIENTS, fold)


def test_a_patient_in_two_parts_is_refused(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["p00", "p01"], "val": ["p02"], "test": ["p01"]}))
    with pytest.raises(ValueError, match="patient p01 is in two parts of the split, train and test"):
        FromFile(str(path)).assign(PATIENTS, None)


@pytest.mark.parametrize("content", ['{"train": []}', "no json", '{"train": ["p00"], "val": ["p01"], "test": []}'])
def test_a_split_file_that_cannot_serve_is_refused(tmp_path, content):
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="split"):
        FromFile(str(path)).assign(PATIENTS, None)


def test_a_split_file_with_strangers_names_them(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["p00"], "val": ["p02"], "test": ["x1"]}))
    with pytest.raises(ValueError, match="does not have: x1"):
        FromFile(str(path)).assign(PATIENTS, None)


def test_a_split_is_written_once_and_read_ever_after(tmp_path):
    first = stored_split(Holdout(), PATIENTS, None, tmp_path)
    (path,) = tmp_path.glob("*.json")
    moved = {"train": first.test, "val": first.val, "test": first.train}
    path.write_text(json.dumps(moved))
    assert stored_split(Holdout(), PATIENTS, None, tmp_path).test == first.train
    assert stored_split(Holdout(seed=1), PATIENTS, None, tmp_path).test != first.train


def test_a_fold_with_a_holdout_is_refused():
    with pytest.raises(ValueError, match="single holdout"):
        Holdout().assign(PATIENTS, 0)
