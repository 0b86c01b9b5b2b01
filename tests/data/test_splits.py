from __future__ import annotations

import json

import pytest

from calf.data.build import open_store, plan_store
from calf.data.patients import Patient, patients_of
from calf.data.prepare import Preparation
from calf.data.splits import (
    FromFile,
    Holdout,
    KFold,
    LeaveOnePatientOut,
    LeaveOneSubsetOut,
    Official,
    Split,
    divide,
    stored_split,
)
from tests.data.toy import ToyLayout

NAMES = [f"p{number:02d}" for number in range(20)]
PATIENTS = [Patient(name) for name in NAMES]
# a third has no lesion, the others ever larger ones, in no order of the names
SICK = [Patient(f"q{n:02d}", volume_mm3=0.0 if n % 3 == 0 else 100.0 * (n * 7 % 30)) for n in range(1, 31)]
FOLDS = [Patient(f"r{n:02d}", subsets=(str(n * 7 % 12),)) for n in range(36)]


def everyone(split: Split) -> list[str]:
    return sorted([*split.train, *split.val, *split.test])


def test_a_holdout_deals_out_every_patient_once():
    split = Holdout(val=0.2, test=0.25, seed=0).assign(PATIENTS, None)
    assert everyone(split) == NAMES
    assert (len(split.train), len(split.val), len(split.test)) == (11, 4, 5)
    assert split != Holdout(val=0.2, test=0.25, seed=1).assign(PATIENTS, None)


@pytest.mark.parametrize("splitter", [KFold(folds=5), LeaveOnePatientOut()])
def test_every_patient_is_tested_in_exactly_one_fold(splitter):
    folds = 5 if isinstance(splitter, KFold) else 20
    splits = [splitter.assign(PATIENTS, fold) for fold in range(folds)]
    assert sorted(patient for split in splits for patient in split.test) == NAMES
    assert all(everyone(split) == NAMES for split in splits)


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


def test_splits_without_stratification_are_those_of_earlier_versions():
    split = Holdout(val=0.2, test=0.25, seed=0).assign(PATIENTS, None)
    assert split.val == ("p03", "p10", "p11", "p16")
    assert split.test == ("p02", "p04", "p06", "p13", "p19")
    split = KFold(folds=5, seed=3).assign(PATIENTS, 1)
    assert split.val == ("p16", "p18")
    assert split.test == ("p04", "p11", "p12", "p15")


def test_splits_that_earlier_versions_have_written_are_found(tmp_path):
    for splitter, fold in ((Holdout(), None), (KFold(), 2), (LeaveOnePatientOut(), 2)):
        stored_split(splitter, PATIENTS, fold, tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["8cc3afd6aef2", "a3eb456ce510", "f84343afac57"]
    stored_split(Holdout(stratify=True), PATIENTS, None, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def bins(patients: list[Patient]) -> dict[str, int]:
    """0 without lesion, 1 ... 4 by quarters of the volume."""
    ranked = sorted((p for p in patients if p.volume_mm3), key=lambda p: p.volume_mm3)
    return {p.id: 0 for p in patients} | {p.id: 1 + 4 * rank // len(ranked) for rank, p in enumerate(ranked)}


def assert_balanced(part: tuple[str, ...], whole: list[str], bin_of: dict[str, int]) -> None:
    for number in range(5):
        expected = sum(bin_of[p] == number for p in whole) * len(part) / len(whole)
        assert abs(sum(bin_of[p] == number for p in part) - expected) <= 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("splitter", "fold"), [(Holdout(0.2, 0.2), None), (KFold(4), 0), (KFold(4), 1), (KFold(4), 2), (KFold(4), 3)]
)
def test_a_stratified_split_has_small_large_and_no_lesions_in_every_part(splitter, fold, seed):
    rule = type(splitter)(**(vars(splitter) | {"seed": seed, "stratify": True}))
    split = rule.assign(SICK, fold)
    assert everyone(split) == sorted(p.id for p in SICK)
    plain = type(splitter)(**(vars(splitter) | {"seed": seed})).assign(SICK, fold)
    assert [len(part) for part in vars(split).values()] == [len(part) for part in vars(plain).values()]
    for part in vars(split).values():
        assert_balanced(part, [p.id for p in SICK], bins(SICK))
    assert split == rule.assign(SICK, fold)


def test_stratified_folds_test_everyone_once_and_seeds_differ():
    tested = [p for fold in range(4) for p in KFold(4, stratify=True).assign(SICK, fold).test]
    assert sorted(tested) == sorted(p.id for p in SICK)
    assert len({Holdout(seed=seed, stratify=True).assign(SICK, None) for seed in range(5)}) == 5


def test_official_folds_are_tested_by_their_numbers():
    for fold in range(12):  # 10 after 9, not after 1
        split = LeaveOneSubsetOut().assign(FOLDS, fold)
        assert split.test == tuple(p.id for p in FOLDS if p.subsets == (str(fold),))
        assert everyone(split) == [p.id for p in FOLDS]
    with pytest.raises(ValueError, match=r"0 \.\.\. 11"):
        LeaveOneSubsetOut().assign(FOLDS, 12)


def official(*subsets: str) -> list[Patient]:
    return [Patient(f"{subset}{n}", subsets=(subset,)) for subset in subsets for n in range(8)]


def test_the_official_split_is_taken_as_it_is():
    split = Official(train=["train"], val=["val"], test=["test"]).assign(official("test", "train", "val"), None)
    assert split.test == tuple(f"test{n}" for n in range(8))
    assert split.val == tuple(f"val{n}" for n in range(8))


def test_where_there_is_no_official_validation_part_a_share_of_the_training_part_validates():
    split = Official(train=["train"], test=["test"], val=0.25).assign(official("test", "train"), None)
    assert [len(part) for part in vars(split).values()] == [6, 2, 8]
    assert all(p.startswith("train") for p in (*split.train, *split.val))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Official(train=["train"], test=["tset"]), "no patient is of the subset tset; this data set has extra, test, train"),
        (Official(train=["train"], test=["test"]), "subsets extra are named nowhere"),
        (Official(train=["train", "extra"], test=["test", "train"]), "in two parts"),
    ],
)
def test_official_splits_that_do_not_fit_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        rule.assign(official("extra", "test", "train"), None)


def test_a_subset_may_be_left_out_by_name():
    split = Official(train=["train"], test=["test"], unused=["extra"]).assign(official("extra", "test", "train"), None)
    assert not any(p.startswith("extra") for p in everyone(split))


@pytest.mark.parametrize("val", [0, 1, 0.0, 1.0, "val"])
def test_an_official_validation_part_is_a_list_or_a_share(val):
    with pytest.raises(ValueError, match=r"split\.val is a list of subsets, or a share"):
        Official(train=["train"], test=["test"], val=val)


@pytest.mark.parametrize("subsets", [(), ("train", "test")])
@pytest.mark.parametrize("rule", [Official(["train"], ["test"]), LeaveOneSubsetOut()])
def test_a_patient_in_no_or_several_official_parts_is_refused(rule, subsets):
    with pytest.raises(ValueError, match="patient odd is in"):
        rule.assign([*official("test", "train"), Patient("odd", subsets=subsets)], 0 if rule == LeaveOneSubsetOut() else None)


TWINS = [*PATIENTS, Patient("p05b = x7", names=("p05b", "x7"))]


@pytest.mark.parametrize("fold", range(5))
def test_all_names_of_a_person_are_in_one_part(tmp_path, fold):
    split = stored_split(KFold(5), TWINS, fold, tmp_path)
    assert everyone(split) == sorted([*NAMES, "p05b", "x7"])
    assert any({"p05b", "x7"} <= set(part) for part in vars(split).values())
    assert stored_split(KFold(5), TWINS, fold, tmp_path) == split


def test_a_file_that_parts_a_person_is_refused_but_may_leave_a_copy_out(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"train": ["p01", "p05b"], "val": ["p02"], "test": ["x7"]}))
    with pytest.raises(ValueError, match="the same person is in two parts of the split: p05b in train, x7 in test"):
        stored_split(FromFile(str(path)), TWINS, None, tmp_path)
    path.write_text(json.dumps({"train": ["p01"], "val": ["p02"], "test": ["x7"]}))
    assert stored_split(FromFile(str(path)), TWINS, None, tmp_path).test == ("x7",)


def test_volumes_of_patients_are_those_of_their_files(tmp_path):
    # a box of 5 x 6 x 3 voxels of 4.5 mm3 in every case; resized slices have other pixels of another size
    layout = ToyLayout(tmp_path / "toy")
    for number, preparation in enumerate([Preparation(), Preparation(size=(24, 22), fit="resize")]):
        plan = plan_store(f"toy{number}", layout, ("whole", "regions")[number], preparation, tmp_path / "stores")
        patients = patients_of(open_store(plan, workers=1))
        assert [patient.id for patient in patients] == ["patient0", "patient1", "patient2"]
        for patient in patients:
            assert patient.volume_mm3 == pytest.approx(5 * 6 * 3 * 4.5, rel=0.1 if number else 1e-9)


def test_a_store_is_divided_by_patient_and_remembers_it(tmp_path):
    store = open_store(plan_store("toy", ToyLayout(tmp_path / "toy"), "whole", Preparation(), tmp_path / "stores"), workers=1)
    split = divide(store, LeaveOnePatientOut(), 1)
    assert split == Split(("patient0",), ("patient2",), ("patient1",))
    assert len(list((store.folder / "splits").iterdir())) == 1
