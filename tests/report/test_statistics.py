"""Intervals, tests and ranks by hand, against scipy and statsmodels, and on simulated studies whose truth is known."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from calf.metrics.protocol import CASE_COLUMNS
from calf.report.ranks import friedman, kendall_tau, rank_distribution, ranks
from calf.report.resampling import (
    EXACT_UP_TO,
    clustered_interval,
    holm,
    rank_biserial,
    resamples,
    sign_flip_p,
)
from calf.report.statistics import COMPARED, compare, per_unit
from calf.report.strata import strata

Values = Mapping[str, Sequence[float]]
NAN = float("nan")


def rows(
    values: Values,
    *,
    seed: int = 0,
    model: str = "unet",
    metric: str = "dice",
    dataset: str = "set",
    patients: Sequence[str] | None = None,
    first: int = 0,
    fold: str = "",
    volumes: Sequence[float] | None = None,
    status: str = "ok",
) -> pd.DataFrame:
    """Case rows of losses and their values; by default every case is of a patient of its own."""
    tables = []
    for loss, of_cases in values.items():
        cases = [f"c{first + number:04d}" for number in range(len(of_cases))]
        table = pd.DataFrame({"case": cases, "patient": patients or [f"p{case}" for case in cases], "value": of_cases})
        table = table.assign(loss=loss, seed=seed, model=model, metric=metric, dataset=dataset, fold=fold, status=status)
        tables.append(table.assign(reference_volume_mm3=volumes or 1000.0, predicted_volume_mm3=900.0))
    found = pd.concat(tables, ignore_index=True).assign(protocol="per_case", split="s1")
    return found.assign(**{"class": "tumour"})[list(CASE_COLUMNS)]


def pooled(values: Values) -> pd.DataFrame:
    return rows(values, patients=[""] * len(next(iter(values.values()))), status="pooled").assign(protocol="paper")


def of(table: pd.DataFrame, loss: str, model: str = "unet") -> pd.Series:
    found = table[(table["loss"] == loss) & (table["model"] == model)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture
def simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "simulation.py"
    spec = importlib.util.spec_from_file_location("simulation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


# sign flips, Holm, effect


def brute_force(differences: Sequence[float]) -> float:
    """Every pattern of signs, written out."""
    flipped = [
        abs(sum(map(lambda s, d: s * d, signs, differences))) for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return float(np.mean([value >= abs(sum(differences)) - 1e-12 for value in flipped]))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3, 4, 5], 2 / 32),
        ([-1, 2, 3, 4, 5], 4 / 32),  # sums of 13 and more: none and 1 flipped, and their negatives
        ([1, 1, -1, -1, 0], 1),
        ([0.1, 0.2, 0.3, 0, 0], 8 / 32),  # 0.1 + 0.2 is 0.3 but for rounding
        ([0, 0, 0, 0, 0], 1),
        ([2], 1),
    ],
)
def test_exact_sign_flips_by_hand(differences, p):
    assert sign_flip_p(np.array(differences, float)[:, None], 0).tolist() == [p]
    assert brute_force(differences) == p


def test_exact_sign_flips_as_scipy():
    differences = np.random.default_rng(3).normal(0.3, 1, (9, 4))
    for column, p in zip(differences.T, sign_flip_p(differences, 0), strict=True):
        test = scipy.stats.permutation_test(
            (column,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        )
        assert p == pytest.approx(test.pvalue)


def test_drawn_sign_flips_are_near_all_of_them():
    number = EXACT_UP_TO + 1
    differences = np.random.default_rng(1).exponential(size=(number, 3)) - 0.6
    signs = 1 - 2 * (np.arange(2 ** (number - 1))[:, None] >> np.arange(number) & 1)
    everything = (np.abs(signs @ differences) >= np.abs(differences.sum(0)) - 1e-12).mean(0)
    np.testing.assert_allclose(sign_flip_p(differences, 0), everything, atol=0.007)
    assert sign_flip_p(np.ones((60, 1)), 0) == 1 / 50_001


def test_patients_without_a_pair_do_not_count():
    differences = np.array([[1, 2, 3, 4, 5, NAN, NAN], [NAN] * 7]).T
    assert sign_flip_p(differences, 0)[0] == 2 / 32
    assert np.isnan(sign_flip_p(differences, 0)[1])
    assert rank_biserial(differences)[0] == 1
    assert np.isnan(rank_biserial(differences)[1])


def test_holm_by_hand_and_as_statsmodels():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.03, NAN, 0.03])), [0.06, NAN, 0.06])
    p = np.random.default_rng(0).random(40) ** 3
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


def test_rank_biserial_by_hand_and_from_wilcoxons_ranks():
    # ranks of 3, 1, 2 (the 0 is left out): W+ = 5, W- = 1
    assert rank_biserial(np.array([[3.0, -1.0, 2.0, 0.0]]).T) == pytest.approx(4 / 6)
    assert rank_biserial(np.zeros((4, 1))) == 0
    differences = np.round(np.random.default_rng(2).normal(0.2, 1, 25), 1)
    positive = scipy.stats.wilcoxon(differences, alternative="greater").statistic
    used = np.count_nonzero(differences)
    assert rank_biserial(differences[:, None]) == pytest.approx(2 * positive / (used * (used + 1) / 2) - 1)


# the bootstrap


def test_one_case_a_patient_is_the_plain_bootstrap_t():
    values = np.random.default_rng(5).beta(5, 2, 12)
    t = []
    for weights in np.concatenate(list(resamples(12, 500, 7))).astype(int):
        drawn = np.repeat(values, weights)
        t.append((drawn.mean() - values.mean()) / (drawn.std() / np.sqrt(12)))
    upper, lower = np.quantile(t, [0.975, 0.025])
    error = values.std() / np.sqrt(12)
    low, high = clustered_interval(values[:, None], np.arange(12), 500, 7)
    np.testing.assert_allclose(
        [low[0], high[0]], np.clip(values.mean() - np.array([upper, lower]) * error, *np.sort(values)[[0, -1]])
    )


def test_repeating_a_patients_case_makes_no_interval_narrower():
    values = np.random.default_rng(6).beta(5, 2, (20, 1))
    once = clustered_interval(values, np.arange(20), 1000, 0)
    thrice = clustered_interval(np.repeat(values, 3, axis=0), np.repeat(np.arange(20), 3), 1000, 0)
    np.testing.assert_allclose(thrice, once)
    naive = clustered_interval(np.repeat(values, 3, axis=0), np.arange(60), 1000, 0)
    assert (naive[1] - naive[0])[0] < 0.7 * (once[1] - once[0])[0]


def test_an_interval_does_not_depend_on_other_columns_or_on_undefined_cases():
    rng = np.random.default_rng(8)
    patient, values = np.repeat(np.arange(15), 2), rng.beta(5, 2, (30, 2))
    values[28:, 1] = NAN
    both = np.array(clustered_interval(values, patient, 300, 0))
    np.testing.assert_allclose(both[:, 0], np.array(clustered_interval(values[:, :1], patient, 300, 0))[:, 0])
    np.testing.assert_allclose(both[:, 1], np.array(clustered_interval(values[:28, 1:], patient[:28], 300, 0))[:, 0])


def test_intervals_stay_within_the_values():
    same, one, rare = np.full(30, 0.1), np.r_[0.5, [NAN] * 29], np.r_[0.9, np.zeros(29)]
    low, high = clustered_interval(np.stack([same, one, rare], 1), np.arange(30), 500, 0)
    assert (low[0], high[0]) == (0.1, 0.1)
    assert np.isnan([low[1], high[1]]).all()
    assert low[2] == 0
    assert 0.03 < high[2] <= 0.9


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


# ranks


def test_the_two_orders_of_ranking_can_disagree():
    # a is best in four cases of five, and misses the fifth
    cases = rows({"a": [0.81, 0.81, 0.81, 0.81, 0.0], "b": [0.8] * 5})
    table = ranks(cases, "dice")
    assert table["rank"].tolist() == [2, 1]
    assert table["rank_by_case"].tolist() == [1, 2]
    assert table["case_rank"].tolist() == pytest.approx([1.2, 1.8])
    shares = rank_distribution(cases, "dice").pivot(index="loss", columns="rank", values="share")
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    # a is first only where the fifth patient is not drawn: 0.8^5
    assert shares.loc["a", 1] == pytest.approx(0.8**5, abs=0.04)
    assert of(table, "a")["mean_rank"] == pytest.approx(2 - shares.loc["a", 1])


def test_ranks_by_distance_are_turned_round_and_ties_are_shared():
    table = ranks(rows({"a": [3.0, 4.0], "b": [3.0, 4.0], "c": [1.0, 2.0]}, metric="hd95_mm"), "hd95_mm")
    assert table["rank"].tolist() == [2.5, 2.5, 1]
    assert table["mean_rank"].tolist() == [2.5, 2.5, 1]


def test_ranks_use_only_cases_that_all_have():
    table = ranks(rows({"a": [0.1, 0.9, NAN], "b": [0.2, NAN, NAN]}), "dice")
    assert table["rank"].tolist() == [2, 1]
    assert table[["num_cases", "num_left_out"]].to_numpy().tolist() == [[1, 1]] * 2
    assert table["mean_rank"].isna().all()  # one patient cannot be drawn anew


def test_pooled_ranks_and_signed_metrics():
    table = ranks(pooled({"a": [0.1, 0.2], "b": [0.3, 0.4]}), "dice")
    assert table["rank"].tolist() == [2, 1]
    assert table[["mean_rank", "case_rank", "rank_by_case"]].isna().all(axis=None)
    assert rank_distribution(pooled({"a": [0.1, 0.2], "b": [0.3, 0.4]}), "dice").empty
    with pytest.raises(ValueError, match="has a best value"):
        ranks(rows({"a": [0.1]}, metric="volume_difference_ml"), "volume_difference_ml")


def test_kendalls_tau_between_metrics_and_orders():
    dice = rows({"a": [0.9, 0.9, 0.0], "b": [0.7, 0.7, 0.7], "c": [0.5, 0.5, 0.5]})
    distance = rows({"a": [9.0] * 3, "b": [5.0] * 3, "c": [1.0] * 3}, metric="hd95_mm")
    table = kendall_tau(pd.concat([dice, distance]), ["dice", "hd95_mm"]).set_index(["first", "second"])["tau"]
    # dice: b 0.7, a 0.6, c 0.5; distances: c, b, a
    assert table["dice", "hd95_mm"] == pytest.approx(-1 / 3)
    # case by case a and b change places: ranks 1.67, 1.67 (1, 1, 3 and 2, 2, 1), 2.67
    assert table["hd95_mm", "hd95_mm"] == 1
    assert table["dice", "dice"] == pytest.approx(scipy.stats.kendalltau([2, 1, 3], [1.5, 1.5, 3]).statistic)


# Demsar 2006, table 6: C4.5 with m, cf and both tuned, AUC on 14 data sets
DEMSAR = [
    [0.763, 0.768, 0.771, 0.798],
    [0.599, 0.591, 0.590, 0.569],
    [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898],
    [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685],
    [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000],
    [0.940, 0.962, 0.965, 0.962],
    [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975],  # printed alike, ranked 2 and 3
    [0.957, 0.978, 0.946, 0.970],
]


def test_friedman_over_data_sets_as_published():
    names = ("c45", "m", "cf", "m_cf")
    cases = [
        rows({name: [value] for name, value in zip(names, values, strict=True)}, dataset=f"d{number:02d}")
        for number, values in enumerate(DEMSAR)
    ]
    (test,) = friedman(pd.concat(cases), "dice")  # a single patient ranks nothing within a data set
    assert (test.over, test.num_blocks) == ("data sets", 14)
    assert [test.mean_ranks["unet", name].round(3) for name in names] == [3.143, 2.0, 2.893, 1.964]
    assert test.critical_difference == pytest.approx(1.25, abs=0.005)
    without_ties = 12 * 14 / (4 * 5) * ((test.mean_ranks**2).sum() - 4 * 5**2 / 4)
    assert without_ties == pytest.approx(9.28, abs=0.005)  # the published one; ours is corrected for ties
    expected = scipy.stats.friedmanchisquare(*np.array(DEMSAR).T)
    assert test.statistic == pytest.approx(expected.statistic)
    assert test.p == pytest.approx(expected.pvalue)
    assert test.f == pytest.approx(13 * test.statistic / (14 * 3 - test.statistic))
    assert test.p_permutation == pytest.approx(test.p_iman_davenport, abs=0.01)
    # the difference of 1.179 is below 1.25, but only just
    assert 0.05 < test.nemenyi.loc[("unet", "c45"), ("unet", "m_cf")] < 0.1
    z = (3.143 - 1.964) / np.sqrt(4 * 5 / (6 * 14))
    assert test.holm.loc[("unet", "c45"), ("unet", "m_cf")] == pytest.approx(6 * 2 * scipy.stats.norm.sf(z), abs=1e-3)


def test_two_data_sets_that_agree_prove_nothing():
    values = {"a": [0.9], "b": [0.8], "c": [0.7]}
    (test,) = friedman(pd.concat([rows(values, dataset="one"), rows(values, dataset="two")]), "dice")
    assert np.isinf(test.f)
    assert np.isnan(test.p_iman_davenport)  # F of infinity would give 0
    assert test.p_permutation == pytest.approx(1 / 6, abs=0.02)


def test_friedman_over_patients_averages_their_cases():
    patients = ["p0", "p0", "p1", "p2"]
    cases = rows({"a": [0.9, 0.1, 0.5, 0.5], "b": [0.6, 0.6, 0.4, 0.4]}, patients=patients)
    (test,) = friedman(cases, "dice")
    assert (test.over, test.dataset, test.num_blocks) == ("patients", "set", 3)
    assert test.mean_ranks["unet", "a"] == pytest.approx((2 + 1 + 1) / 3)  # p0: 0.5 against 0.6
    assert friedman(pooled({"a": [0.1, 0.2], "b": [0.3, 0.4]}), "dice") == []


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


# simulated studies


@pytest.mark.parametrize("values", ["skewed", "8 % missed", "hard cases missed", "30 % missed"])
def test_intervals_cover_the_mean_of_50_patients(simulation, values):
    assert 0.93 <= simulation.coverage(simulation.COVERAGE[values], 50, 1000)["bootstrap-t"] <= 0.97


@pytest.mark.parametrize("values", ["skewed", "hard cases missed"])
def test_losses_that_are_alike_are_seldom_told_apart(simulation, values):
    found = simulation.errors(values, 50, 300)
    assert found["sign flips"] <= 0.06
    assert found["best, all pairs"] <= 0.06
    assert found["best, its own pairs"] > 0.06  # why the family is all pairs
