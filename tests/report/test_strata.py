"""Strata by volume: where their limits come from, that comparisons are of one family, and that few patients are not tested."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from calf.report.findings import find
from calf.report.further import further, volumes
from calf.report.limits import training_limits
from calf.report.resampling import holm
from calf.report.results import gather
from calf.report.statistics import compare
from calf.report.strata import FEW, strata
from tests.report.table import rows

WHERE = ("per_case", "phantom", "tumour")


def study() -> pd.DataFrame:
    """Twenty patients in volumes 1 to 20: the first eight are small; of the small ones calf is better, of the large ones not."""
    rng = np.random.default_rng(0)
    bce = rng.uniform(0.4, 0.6, 20)
    calf = bce + np.where(np.arange(20) < 8, 0.2, 0) + rng.normal(0, 0.01, 20)
    values = {"bce": bce.tolist(), "calf": calf.tolist(), "dice": (bce - 0.1).tolist()}
    return rows(values, volumes=[float(number) for number in range(1, 21)])


def test_each_stratum_is_compared_by_itself_and_holm_is_over_all_of_them():
    cases = study()
    table = strata(cases, "dice", [8.0, 17.0], "bce", num_bootstrap=100)
    assert table["num_tests"].unique().tolist() == [4]  # 2 strata x 2 losses; the third stratum has three patients
    small = cases[cases["reference_volume_mm3"] <= 8]
    alone = compare(small, "dice", "bce", 100).set_index("loss")
    of_small = table[table["stratum"] == 1].set_index("loss")
    for column in ("mean", "difference", "difference_low", "difference_high", "p", "effect"):
        assert of_small.loc["calf", column] == alone.loc["calf", column], column
    assert of_small.loc["calf", "p"] == 2 / 2**8
    tested = table["p"].notna()
    assert table.loc[tested, "p_holm"].tolist() == holm(table.loc[tested, "p"].to_numpy()).tolist()
    assert of_small.loc["calf", "p_holm"] > alone.loc["calf", "p_holm"]  # a larger family
    assert table["significant"].tolist() == (table["p_holm"] <= 0.05).tolist()


def test_fewer_than_six_patients_get_neither_interval_nor_test():
    table = strata(study(), "dice", [5.0, 11.0], "bce", num_bootstrap=100)
    five, six = (table[(table["stratum"] == number) & (table["loss"] == "calf")].iloc[0] for number in (1, 2))
    assert (five["num_paired_patients"], six["num_paired_patients"]) == (5, 6)
    assert five[["low", "high", "difference_low", "difference_high", "p", "p_holm", "effect"]].isna().all()
    assert five["difference"] == pytest.approx(0.2, abs=0.03)
    assert five["note"] == FEW
    assert not five["significant"]
    assert six[["low", "high", "difference_low", "difference_high", "p", "p_holm", "effect"]].notna().all()
    assert six["note"] == ""
    assert six["num_tests"] == 4


def test_repeat_scans_of_few_patients_are_few_patients():
    values = {"bce": [0.5] * 12, "calf": [0.6] * 12}
    cases = rows(values, patients=[f"p{number % 4}" for number in range(12)], volumes=[10.0] * 12)
    table = strata(cases, "dice", [5.0], "bce", num_bootstrap=100)
    assert table["num_cases"].tolist() == [12, 12]
    assert table["p"].isna().all()
    assert table["note"].tolist() == [f"baseline; {FEW}", FEW]


def test_a_stratum_without_the_baseline_is_not_tested():
    values = {"bce": [0.5] * 6 + [np.nan] * 6, "calf": [0.6] * 12}
    cases = rows(values, volumes=[1.0] * 6 + [9.0] * 6)
    cases = cases[~((cases["loss"] == "bce") & (cases["reference_volume_mm3"] > 5))]
    table = strata(cases, "dice", [5.0], "bce", num_bootstrap=100)
    assert table[["stratum", "loss"]].to_numpy().tolist() == [[1, "bce"], [1, "calf"], [2, "calf"]]
    assert table["p"].notna().tolist() == [False, True, False]


# limits


def give(run, volumes_mm3: list[float]) -> None:
    (run / "data.json").write_text(json.dumps({"train_volumes_mm3": {"tumour": volumes_mm3}}))


def test_limits_are_tertiles_of_the_positive_training_volumes(make, runs):
    for loss in ("bce", "calf"):
        for seed in (0, 1):
            give(make(loss, seed), [40.0, 0.0, 10.0, 30.0, 20.0, 0.0])
    found = training_limits(gather(runs), *WHERE)
    assert found.edges_mm3 == (20.0, 30.0)  # of 10, 20, 30, 40, whatever the number of runs
    assert found.said == "tertiles of the 4 training references"
    own = find(runs).blocks[0].strata  # references of 16 and 12 mm3 in cases 001 and 002, and two without
    assert own.loc[own["stratum"] > 0, ["stratum", "up_to_mm3", "num_cases"]].drop_duplicates().to_numpy().tolist() == [
        [1, 20, 2]
    ]
    assert own.loc[own["stratum"] == 0, "num_cases"].tolist() == [2, 2]
    assert set(own["edges_from"]) == {found.said}


def test_folds_are_pooled_once_each(make, runs):
    for seed in (0, 1):
        give(make("calf", seed, fold=0, cases=(0, 2)), [10.0, 20.0, 30.0])
    give(make("calf", 0, fold=1, cases=(2, 4)), [40.0, 50.0, 60.0, 70.0])
    found = training_limits(gather(runs), *WHERE)
    assert found.edges_mm3 == pytest.approx(np.quantile([10, 20, 30, 40, 50, 60, 70], [1 / 3, 2 / 3]))
    assert found.said == "tertiles of the 7 training references, pooled over 2 folds"


def test_one_run_that_holds_them_speaks_for_the_others_of_its_split(make, runs):
    give(make("calf", 0), [10.0, 20.0, 30.0])
    make("bce", 0)
    assert training_limits(gather(runs), *WHERE).edges_mm3 is not None


def test_limits_that_tie_fall_together(make, runs):
    give(make("calf", 0), [10.0, 10.0, 10.0, 10.0, 20.0])
    assert training_limits(gather(runs), *WHERE).edges_mm3 == (10.0,)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ([None, None], "no run holds the volumes of its training cases"),
        ([[10.0, 20.0, 30.0], [10.0, 20.0, 31.0]], "the runs hold different volumes of their training cases"),
        ([[0.0, 20.0, 30.0]] * 2, "2 of 3 training cases have a reference, too few for tertiles"),
        ([[10.0, float("nan"), 30.0]] * 2, "no run holds the volumes of its training cases"),
        (["everything"] * 2, "no run holds the volumes of its training cases"),
    ],
)
def test_where_they_are_not_of_the_training_data_it_is_said(make, runs, written, why):
    for loss, volumes_mm3 in zip(("bce", "calf"), written, strict=True):
        run = make(loss, 0)
        if volumes_mm3 is not None:
            give(run, volumes_mm3)
    found = training_limits(gather(runs), *WHERE)
    assert (found.edges_mm3, found.said) == (None, why)


def test_old_runs_have_the_tertiles_of_the_tested_references_and_say_so(make, runs):
    make("calf", 0)
    block = find(runs).blocks[0]
    assert block.limits == "tertiles of the tested references, since no run holds the volumes of its training cases"
    assert set(block.strata["edges_from"]) == {"tertiles of the tested references"}
    assert f"Limits of the reference volume: {block.limits}." in " ".join(further(block)[0].notes)


def test_different_splits_give_no_limits(make, runs):
    for loss, split in (("bce", "s1"), ("calf", "s2")):
        give(make(loss, 0, split_hash=split), [10.0, 20.0, 30.0])
    found = training_limits(gather(runs), *WHERE)
    assert (found.edges_mm3, found.said) == (None, "the runs were split differently into patients")


def test_a_fold_without_volumes_gives_no_limits(make, runs):
    give(make("calf", 0, fold=0, cases=(0, 2)), [10.0, 20.0, 30.0])
    make("calf", 0, fold=1, cases=(2, 4))
    assert training_limits(gather(runs), *WHERE).said == "no run of fold 1 holds the volumes of its training cases"


def test_the_table_says_what_its_limits_are_and_which_strata_are_too_small(make, runs):
    for loss, tp in (("bce", 2), ("calf", 6)):
        give(make(loss, 0, tp=tp), [11.0, 13.0, 15.0])
    (part,) = [part for part in further(find(runs).blocks[0]) if part.key == "size"]
    assert part.grid is not None
    assert [[cell.text for cell in row[:4]] for row in part.grid.rows] == [
        ["to 0.0123", "unet", "bce", "1"],
        ["to 0.0123", "unet", "calf", "1"],
        ["over 0.0137", "unet", "bce", "1"],
        ["over 0.0137", "unet", "calf", "1"],
    ]
    assert part.grid.breaks == (2,)
    said = " ".join(part.notes)
    assert "Limits of the reference volume: tertiles of the 3 training references." in said
    assert "Nothing is tested within strata." in said
    assert f"Reference to 0.0123; over 0.0137 mL: {FEW}." in said


def test_limits_are_printed_in_millilitres():
    assert [volumes(0, 1500), volumes(1500, 20000), volumes(20000, np.inf), volumes(0, np.inf), volumes(0, 0)] == [
        "to 1.5",
        "1.5 to 20",
        "over 20",
        "all",
        "no reference",
    ]
