"""Units, comparisons and strata by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from calf.report.statistics import COMPARED, compare, per_unit
from calf.report.strata import strata
from tests.report.table import NAN, of, pooled, rows
from tests.report.test_resampling import brute_force

# per_unit


def test_units_average_seeds_and_pool_folds():
    cases = pd.concat(
        [
            rows({"a": [0.2, 0.4]}, seed=0, fold="0"),
            rows({"a": [0.4, NAN]}, seed=1, fold="0"),
            rows({"a": [0.9]}, seed=0, fold="1", first=2),
            rows({"b": [NAN, 0.5]}, seed=0, fold="0"),
        ]
    )
    table = per_unit(cases.sample(frac=1, random_state=0), "dice")
    assert table.index.names == ["protocol", "dataset", "class", "case", "patient"]
    assert table.columns.tolist() == [("unet", "a"), ("unet", "b")]
    assert table.index.get_level_values("case").tolist() == ["c0000", "c0001", "c0002"]
    np.testing.assert_array_equal(table["unet", "a"], [(0.2 + 0.4) / 2, 0.4, 0.9])
    np.testing.assert_array_equal(table["unet", "b"], [NAN, 0.5, NAN])


def test_a_case_that_is_defined_nowhere_stays_in_the_units():
    assert per_unit(rows({"a": [NAN, 0.5], "b": [NAN, 0.5]}), "dice").shape == (2, 2)


def test_batches_of_folds_are_units_of_their_own():
    cases = pd.concat([pooled({"a": [0.5]}).assign(fold=fold) for fold in ("0", "1")])
    assert len(per_unit(cases, "dice")) == 2


@pytest.mark.parametrize(
    ("cases", "metric", "said"),
    [
        (rows({"a": [0.5]}), "iou", "expected one of the metrics dice, got iou"),
        (rows({"a": [0.5]}).drop(columns="patient"), "dice", "missing: patient"),
        (pd.concat([rows({"a": [0.5]}, fold="0"), rows({"a": [0.5]}, fold="1")]), "dice", "more than one dice"),
        (pd.concat([rows({"a": [0.5]}), rows({"b": [0.5]}, patients=["other"])]), "dice", "more than one patient"),
        (rows({"a": [float("inf")]}), "dice", "is infinite"),
        (rows({"a": [0.5]}).assign(case=None), "dice", "lack a name"),
    ],
)
def test_rows_that_cannot_stand_together(cases, metric, said):
    with pytest.raises(ValueError, match=said):
        per_unit(cases, metric)


# compare


def test_a_comparison_by_hand():
    base = [0.5, 0.5, 0.5, 0.5, 0.5, NAN]
    table = compare(rows({"bce": base, "calf": [0.6, 0.7, 0.4, 0.8, 0.9, NAN]}), "dice", "bce")
    assert tuple(table.columns) == COMPARED
    calf = of(table, "calf")
    assert calf["mean"] == pytest.approx(3.4 / 5)
    assert calf["sd"] == pytest.approx(np.std([0.6, 0.7, 0.4, 0.8, 0.9], ddof=1))
    assert calf[["num_scored", "num_cases", "num_patients", "num_seeds", "num_pairs"]].tolist() == [5, 6, 6, 1, 5]
    assert calf["difference"] == pytest.approx(0.9 / 5)
    # |sums| of 0.1, 0.2, -0.1, 0.3, 0.4 of at least 0.9: none, or one 0.1, flipped so that the sum is 1.1 or 0.9 or 0.7
    assert calf["p"] == calf["p_holm"] == brute_force([0.1, 0.2, -0.1, 0.3, 0.4]) == 6 / 32
    assert calf["effect"] == pytest.approx((15 - 2 * 1.5) / 15)
    assert not calf["significant"]
    assert calf["power_note"] == "N < 50: 5 patients, too few for any of 1 comparison to be significant"
    assert calf["low"] < calf["mean"] < calf["high"]
    bce = of(table, "bce")
    assert (bce["low"], bce["high"], bce["note"]) == (0.5, 0.5, "baseline")
    assert bce[["difference", "p", "p_holm", "effect"]].isna().all()
    assert table["equal_to_best"].tolist() == [False, True]  # of five patients no p can be 0.05
    assert "has 5 patients in common with it, too few" in calf["means_alone"]


def test_seeds_are_averaged_before_the_test_and_their_spread_is_told():
    first = rows({"bce": [0.5] * 8, "calf": [0.9] * 7 + [0.8]}, seed=0)
    second = rows({"bce": [0.5] * 8, "calf": [0.3] * 7 + [0.4]}, seed=1)
    calf = of(compare(pd.concat([first, second]), "dice", "bce"), "calf")
    assert calf["num_patients"] == 8
    assert calf["difference"] == pytest.approx(0.1)
    assert calf["p"] == 2 / 2**8
    means = [(7 * 0.9 + 0.8) / 8, (7 * 0.3 + 0.4) / 8]
    assert calf["seed_sd"] == pytest.approx(np.std(means, ddof=1))
    assert calf["difference_seed_sd"] == pytest.approx(np.std(means, ddof=1))
    # eight patients agree to the digit, two trainings do not: the p is of patients only
    assert "seeds differ more than the interval says" in calf["note"]
    assert "the sign of the difference depends on the seed" in calf["note"]


def test_a_patient_with_many_cases_counts_once():
    patients = ["p0", "p0", "p0", "p1", "p2", "p3", "p4"]
    calf = of(
        compare(rows({"bce": [0.5] * 7, "calf": [0.7, 0.8, 0.9, 0.6, 0.6, 0.6, 0.6]}, patients=patients), "dice", "bce"), "calf"
    )
    assert calf["num_patients"] == 5
    assert calf["p"] == 2 / 32
    assert calf["difference"] == pytest.approx((0.2 + 0.3 + 0.4 + 4 * 0.1) / 7)


def test_misses_count_and_undefined_cases_do_not():
    missed = rows({"bce": [0.8] * 6, "calf": [0.8] * 5 + [0.0]})
    assert of(compare(missed, "dice", "bce"), "calf")["difference"] == pytest.approx(-0.8 / 6)
    undefined = rows({"bce": [0.8] * 6, "calf": [0.8] * 5 + [NAN]})
    calf = of(compare(undefined, "dice", "bce"), "calf")
    assert calf["difference"] == 0
    assert calf["num_pairs"] == 5
    assert "paired in 5 of 6 cases" in calf["note"]


def test_only_common_seeds_are_paired():
    cases = pd.concat([rows({"bce": [0.5] * 6, "calf": [0.6] * 6}, seed=0), rows({"calf": [0.9] * 6}, seed=1)])
    calf = of(compare(cases, "dice", "bce"), "calf")
    assert calf["mean"] == pytest.approx(0.75)
    assert calf["difference"] == pytest.approx(0.1)
    assert "paired on common seeds only (0)" in calf["note"]
    apart = pd.concat([rows({"bce": [0.5] * 6}, seed=0), rows({"calf": [0.9] * 6}, seed=1)])
    calf = of(compare(apart, "dice", "bce"), "calf")
    assert np.isnan(calf[["difference", "p", "p_holm"]].astype(float)).all()
    assert not calf["significant"]
    assert "no case and seed in common" in calf["note"]


def test_holm_is_over_the_models_of_a_table_and_not_over_data_sets():
    rng = np.random.default_rng(0)
    values = {loss: rng.random(10).tolist() for loss in ("bce", "a", "b")}
    cases = [rows(values, model=model, dataset=dataset) for model in ("fpn", "unet") for dataset in ("one", "two")]
    cases[0]["value"] += rng.normal(0, 0.1, 30)
    table = compare(pd.concat(cases), "dice", "bce", num_bootstrap=100)
    assert len(table) == 12
    for _, block in table.groupby("dataset"):
        tested = block[block["p"].notna()]
        assert len(tested) == 4
        np.testing.assert_allclose(tested["p_holm"], multipletests(tested["p"], method="holm")[1])


def test_a_model_without_the_baseline_is_not_tested():
    cases = pd.concat([rows({"bce": [0.5] * 8, "calf": [0.6] * 8}), rows({"calf": [0.1] * 8}, model="fpn")])
    table = compare(cases, "dice", "bce")
    lonely = of(table, "calf", "fpn")
    assert np.isnan(lonely["p"])
    assert lonely["note"] == "no finished run of fpn with the baseline bce"
    assert not lonely["equal_to_best"]
    assert of(table, "calf")["p_holm"] == of(table, "calf")["p"] == 2 / 2**8
    with pytest.raises(ValueError, match="expected one of the losses bce, calf; got bec"):
        compare(cases, "dice", "bec")


@pytest.mark.parametrize(("metric", "best"), [("dice", "high"), ("hd95_mm", "low"), ("volume_difference_ml", None)])
def test_the_best_and_what_is_not_worse(metric, best):
    rng = np.random.default_rng(0)
    middle = 5 + rng.normal(0, 0.1, 12)
    values = {"low": middle - 2, "high": middle + 2, "alike": middle + (1.99 if best == "high" else -1.99)}
    values["alike"] += rng.normal(0, 0.2, 12)
    table = compare(rows({loss: of_loss.tolist() for loss, of_loss in values.items()}, metric=metric), metric, "alike")
    marked = set(table.loc[table["equal_to_best"], "loss"])
    assert marked == ({best, "alike"} if best else set())
    assert of(table, "low" if best == "high" else "high")["significant"]


def test_what_lacks_cases_is_never_the_best():
    cases = pd.concat([rows({"bce": [0.5] * 10, "calf": [0.6] * 10}), rows({"lucky": [0.99] * 3})])
    table = compare(cases, "dice", "bce")
    assert table.loc[table["equal_to_best"], "loss"].tolist() == ["calf"]
    assert "scored in 3 of 10 cases: not compared with the best" in of(table, "lucky")["note"]


def test_batches_get_no_interval_and_no_test():
    table = compare(pooled({"bce": [0.5] * 60, "calf": [0.9] * 60}), "dice", "bce")
    assert table[["low", "high", "difference", "p", "p_holm", "effect"]].isna().all(axis=None)
    assert not table["significant"].any()
    assert table["note"].str.contains("no sample of patients").all()
    assert table.loc[table["equal_to_best"], "loss"].tolist() == ["calf"]


def test_without_a_baseline_nothing_is_tested():
    table = compare(rows({"a": [0.5, 0.6, 0.7], "b": [0.5, 0.6, 0.8]}), "dice", None)
    assert table[["difference", "p"]].isna().all(axis=None)
    assert table["low"].notna().all()
    assert table["equal_to_best"].tolist() == [False, True]


def test_the_same_numbers_whatever_the_order_and_the_company():
    rng = np.random.default_rng(4)
    patients = [f"p{number // 2}" for number in range(60)]
    cases = rows({loss: rng.beta(5, 2, 60).tolist() for loss in ("bce", "a", "b")}, patients=patients)
    table = compare(cases, "dice", "bce", num_bootstrap=500)
    pd.testing.assert_frame_equal(compare(cases.sample(frac=1, random_state=1), "dice", "bce", num_bootstrap=500), table)
    alone = compare(cases[cases["loss"] != "b"], "dice", "bce", num_bootstrap=500)
    same = ["mean", "low", "high", "difference", "difference_low", "difference_high", "p", "effect"]
    np.testing.assert_allclose(of(alone, "a")[same].astype(float), of(table, "a")[same].astype(float))


# strata


def test_strata_by_tertiles_with_empty_references_apart():
    volumes = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 0.0]
    cases = rows({"a": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, NAN]}, volumes=volumes)
    table = strata(cases, "dice", num_bootstrap=100)
    assert table["stratum"].tolist() == [0, 1, 2, 3]
    assert table["num_scored"].tolist() == [0, 2, 2, 2]
    assert table["mean"].tolist()[1:] == pytest.approx([0.15, 0.35, 0.55])
    assert set(table["edges_from"]) == {"tertiles of the tested references"}
    assert table["up_to_mm3"].iloc[1] == table["above_mm3"].iloc[2] == pytest.approx(26 + 2 / 3)


def test_strata_by_given_limits():
    cases = rows({"a": [0.1, 0.2, 0.3], "b": [0.5, 0.6, 0.7]}, volumes=[10.0, 20.0, 30.0])
    table = strata(cases, "dice", [20], num_bootstrap=100)
    assert table[["stratum", "loss", "num_scored"]].to_numpy().tolist() == [[1, "a", 2], [1, "b", 2], [2, "a", 1], [2, "b", 1]]
    assert set(table["edges_from"]) == {"given"}
    assert table["note"].str.contains("one patient: no interval").tolist() == [False, False, True, True]
    pd.testing.assert_frame_equal(strata(cases, "dice", {("set", "tumour"): [20]}, num_bootstrap=100), table)
    with pytest.raises(ValueError, match="ascending"):
        strata(cases, "dice", [20, 10])
    with pytest.raises(ValueError, match="for \\(set, tumour\\) too"):
        strata(cases, "dice", {("other", "tumour"): [20]})
    with pytest.raises(ValueError, match="batches"):
        strata(pooled({"a": [0.5]}), "dice")
