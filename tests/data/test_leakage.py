from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from calf.data.build import open_store
from calf.data.cases import Case, Image
from calf.data.leakage import LeakageError, SamePerson, across, groups_of, groups_within, lines, same_persons
from calf.data.patients import patients_of
from calf.data.prepare import Preparation
from calf.data.splits import KFold, divide
from tests.data.sites import Site, planned


def case(id: str, patient: str | None = None, aliases: tuple[str, ...] = ()) -> Case:
    return Case(id, patient or id, {"t1": Image(Path(f"/{id}.nii"))}, aliases=aliases)


def pairs(**cases: list[Case]) -> list[tuple[str, str]]:
    found = same_persons(cases)
    return [("/".join(pair.first), "/".join(pair.second)) for pair in found]


def test_an_alias_that_is_a_patient_a_case_or_an_alias_elsewhere_is_the_same_person():
    upenn = [
        case("UPENN-GBM-00001_11", "UPENN-GBM-00001", ("BraTS2021_00012", "BraTS-GLI-00777-000")),
        case("UPENN-GBM-00002_11"),
    ]
    assert pairs(upenn=upenn, brats=[case("BraTS2021_00012"), case("BraTS2021_00013")]) == [
        ("upenn/UPENN-GBM-00001", "brats/BraTS2021_00012")
    ]
    gli = [case("BraTS-GLI-00777-000", "BraTS-GLI-00777")]
    assert pairs(upenn=upenn, gli=gli) == [("upenn/UPENN-GBM-00001", "gli/BraTS-GLI-00777")]
    assert pairs(upenn=upenn, other=[case("x9", aliases=("brats2021_00012",))]) == [("upenn/UPENN-GBM-00001", "other/x9")]


def test_a_name_with_a_letter_is_one_person_and_a_bare_number_is_not():
    assert pairs(kits19=[case("case_00001")], kits23=[case("case_00001")]) == [("kits19/case_00001", "kits23/case_00001")]
    assert pairs(spider=[case("12_t1", "12")], picai=[case("12_1000", "12")]) == []
    assert pairs(a=[case("12", aliases=("7",))], b=[case("7")]) == []


def test_repeat_examinations_are_no_duplicates():
    assert pairs(a=[case("x1", "x", ("y",)), case("x2", "x", ("y",))]) == []


def test_equal_files_are_found_before_anything_is_prepared(tmp_path):
    one, two = planned(tmp_path, "one", site="one"), planned(tmp_path, "two", site="two", seed=0)
    found = same_persons({"one": one.cases, "two": two.cases}, {"one": one.digests, "two": two.digests})
    digest = one.digests[str(one.cases[0].images["a"].path)]
    assert str(found[0]) == f"onepatient0 of one and twopatient0 of two: identical images (SHA-256 {digest:.12})"
    assert len(found) == 3
    other = planned(tmp_path, "other", site="other", seed=1)
    assert same_persons({"one": one.cases, "other": other.cases}, {"one": one.digests, "other": other.digests}) == []


def test_equal_voxels_in_unequal_files_are_found_in_the_stores(tmp_path):
    one = open_store(planned(tmp_path, "one", site="one"), workers=1)
    Site(tmp_path / "two").ensure()
    for path in (tmp_path / "two").glob("*.nii.gz"):  # the same bytes, not compressed
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        shutil.copy(path.with_suffix(""), path)
    plan = planned(tmp_path, "two", site="two")
    assert same_persons({"one": planned(tmp_path, "one", site="one").cases, "two": plan.cases}) == []
    two = open_store(plan, workers=1)
    assert len(same_persons({"one": one.cases, "two": two.cases})) == 3
    three = open_store(planned(tmp_path, "three", site="three", seed=5), workers=1)
    assert same_persons({"one": one.cases, "three": three.cases}) == []


def test_what_is_found_is_refused_with_the_first_ten_and_the_number():
    left, right = [case(f"p{n:02d}") for n in range(12)], [case(f"p{n:02d}") for n in range(12)]
    with pytest.raises(LeakageError) as error:
        across({"a": left, "b": right}, "error")
    text = str(error.value)
    assert text.startswith("the same person is there twice in data sets that are joined, 12 times")
    assert "  p00 of a and p00 of b: both are known as p00\n" in text
    assert "p09 of a" in text
    assert "p10 of a" not in text
    assert "and 2 more" in text
    allowed = across({"a": left, "b": right}, "allow")
    assert len(lines(allowed, "allow")) == 12
    assert "different patients, as dataset.duplicates=allow demands: p00 of a and p00 of b" in lines(allowed, "allow")[0]
    with pytest.raises(ValueError, match="one of error, group, allow"):
        across({"a": left}, "ignore")


def test_names_of_one_person_are_gathered_however_they_are_linked():
    a, b, c, d, e = (("", name) for name in "abcde")
    linked = [SamePerson(a, b, ""), SamePerson(c, d, ""), SamePerson(b, d, ""), SamePerson(e, e, "")]
    assert groups_of(linked) == [(a, b, c, d), (e,)]


@pytest.fixture
def twins(tmp_path):
    """Cases 4 and 5, of patient2, are copies of cases 0 and 1, of patient0: as four of the 54 files of MyoSegmenTUM are."""
    Site(tmp_path / "twins", num_cases=8).ensure()
    for old, new in ((0, 4), (1, 5)):
        for modality in "ab":
            shutil.copy(tmp_path / "twins" / f"case{old}_{modality}.nii.gz", tmp_path / "twins" / f"case{new}_{modality}.nii.gz")
    return open_store(planned(tmp_path, "twins", preparation=Preparation(), num_cases=8), workers=1)


def test_copies_within_a_data_set_are_one_patient_in_every_split(twins):
    assert [p.names for p in patients_of(twins)] == [("patient0", "patient2"), ("patient1",), ("patient3",)]
    for fold in range(3):
        split = divide(twins, KFold(3, val=0.3), fold)
        assert any({"patient0", "patient2"} <= set(part) for part in vars(split).values())
        assert sorted([*split.train, *split.val, *split.test]) == [f"patient{n}" for n in range(4)]


def test_copies_within_a_data_set_may_be_refused_or_allowed(twins):
    with pytest.raises(LeakageError, match=r"there twice in this data set, 1 times[\s\S]*patient0 and patient2: identical"):
        groups_within(twins.cases, "error")
    assert len(patients_of(twins, "allow")) == 4
