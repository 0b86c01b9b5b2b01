"""Ranks of losses and Friedman's test by hand and as published."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from calf.report.ranks import friedman, kendall_tau, rank_distribution, ranks
from tests.report.table import NAN, of, pooled, rows

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
