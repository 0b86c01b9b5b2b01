"""Ranks of losses and Friedman's test by hand and as published."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from calf.report.findings import find
from calf.report.friedman import friedman, friedman_table
from calf.report.latex import latex
from calf.report.rankings import stability
from calf.report.ranks import kendall_tau, rank_distribution, ranks
from calf.report.tables import markdown
from calf.report.units import same_patients
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


def test_friedman_over_patients_uses_cases_that_all_rows_have():
    # b lacks the second case of p0, in which a is bad: on the first alone a is better
    cases = rows({"a": [0.9, 0.1, 0.5], "b": [0.6, NAN, 0.4]}, patients=["p0", "p0", "p1"])
    (test,) = friedman(cases, "dice")
    assert test.mean_ranks["unet", "a"] == 1


# unequal seeds


BAD, GOOD = [0.30, 0.31, 0.32, 0.33], [0.70, 0.71, 0.72, 0.73]  # every loss with one seed, and with another
ONLY_1 = "ranked on common seeds only (1)"


def lucky() -> pd.DataFrame:
    """Three losses that are equal on their common seed; bce lacks the seeds with which the others are bad."""
    return pd.concat(
        [rows({"a": GOOD, "b": GOOD, "bce": GOOD}, seed=1), *(rows({"a": BAD, "b": BAD}, seed=seed) for seed in (0, 2))]
    )


def test_a_lucky_seed_alone_is_ranked_against_that_seed_of_the_others():
    (test,) = friedman(lucky(), "dice")
    assert (test.statistic, test.p, test.note) == (0, 1, ONLY_1)
    assert set(test.mean_ranks) == {2}
    table = ranks(lucky(), "dice", num_bootstrap=50)
    assert table[["rank", "mean_rank", "rank_by_case", "mean_rank_by_case"]].to_numpy().tolist() == [[2] * 4] * 3
    assert table["note"].tolist() == [ONLY_1] * 3
    assert table["num_cases"].tolist() == [4] * 3
    shares = rank_distribution(lucky(), "dice", num_bootstrap=50)
    assert shares.loc[shares["rank"] == 1, "share"].tolist() == [1] * 3
    assert set(shares["note"]) == {ONLY_1}


def test_kendalls_tau_is_of_common_seeds():
    iou = rows({"a": [0.9] * 4, "b": [0.8] * 4, "bce": [0.7] * 4}, metric="iou")
    cases = pd.concat([lucky(), iou.assign(seed=1), iou])
    both = kendall_tau(cases, ["dice", "iou"]).set_index(["first", "second"]).loc[("dice", "iou")]
    assert (np.isnan(both["tau"]), both["note"]) == (True, "all rows tie")  # bce would lead by Dice: -1
    better = {"a": [0.60] * 4, "b": [0.65] * 4, "bce": [0.62] * 4}
    dice = pd.concat([rows(better, seed=1), *(rows({"a": BAD, "b": BAD}, seed=seed) for seed in (0, 2))])
    table = kendall_tau(pd.concat([dice, iou]), ["dice", "iou"]).set_index(["first", "second"])
    # on seed 1: b, bce, a against a, b, bce
    assert table.loc[("dice", "iou"), "tau"] == pytest.approx(-1 / 3)
    assert table.loc[("dice", "iou"), "note"] == ONLY_1


def test_without_a_common_seed_nothing_is_ranked():
    cases = pd.concat([rows({"a": BAD, "b": BAD}, seed=0), rows({"bce": GOOD}, seed=1)])
    why = "no case and seed in which every row has a value: not ranked"
    (test,) = friedman(cases, "dice")
    assert not test.tested
    assert (test.num_blocks, test.note) == (0, why)
    assert friedman_table([test])[["num_rows", "note"]].to_numpy().tolist() == [[3, why]]
    table = ranks(cases, "dice")
    assert table["rank"].isna().all()
    assert set(table["note"]) == {why}
    assert rank_distribution(cases, "dice").empty
    assert set(kendall_tau(cases, ["dice"])["note"]) == {why}


def test_a_fold_that_lacks_a_seed_takes_it_from_the_others_in_that_fold_alone():
    # b has seed 0 of the first fold alone; there a leads with either seed, in the second fold b leads on seed 1
    first, second = {"fold": "0"}, {"fold": "1", "first": 2}
    of_both = [rows({"a": [0.9, 0.9], "b": [0.5, 0.5]}, seed=seed, **first) for seed in (0, 1)]
    cases = pd.concat([*of_both, rows({"a": [0.4, 0.4], "b": [0.5, 0.5]}, seed=1, **second), rows({"a": [0.9] * 2}, **second)])
    (test,) = friedman(cases, "dice")
    assert test.mean_ranks.tolist() == [1.5, 1.5]  # with its other seed a would lead everywhere
    assert test.note == "ranked on 6 of 8 pairs of case and seed, in which every row has a value"
    assert of(ranks(cases, "dice"), "a")["rank"] == 1  # 0.65 against 0.5
    # a fold that all lack takes nothing from anybody
    assert [test.note for test in friedman(cases[(cases["fold"] == "0") | (cases["seed"] == 1)], "dice")] == [""]


def test_pooled_batches_of_folds_are_ranked_on_common_seeds():
    of_seed = [pooled({"a": [value] * 2, "b": [0.5] * 2}).assign(seed=seed) for seed, value in enumerate((0.9, 0.2))]
    cases = pd.concat(table.assign(fold=fold) for fold in "01" for table in of_seed)
    cases = cases[(cases["loss"] == "a") | (cases["seed"] == 1)]
    table = ranks(cases, "dice")
    assert table["rank"].tolist() == [2, 1]  # on seed 1 alone, of both folds; over its seeds a has 0.55
    assert table["num_cases"].tolist() == [4, 4]
    assert set(table["note"]) == {ONLY_1}


# data sets of the same patients


def planes(names: tuple[str, ...]) -> pd.DataFrame:
    values = {"a": [0.9, 0.8, 0.7], "b": [0.8, 0.7, 0.6], "c": [0.7, 0.6, 0.5]}
    return pd.concat([rows(values, dataset=name) for name in names])


def over_data_sets(cases: pd.DataFrame) -> list:
    return [test for test in friedman(cases, "dice") if test.over == "data sets"]


def test_data_sets_of_the_same_patients_are_one_block():
    names = ("set[plane=axial]", "set[plane=coronal]", "set[plane=sagittal]")
    (test,) = over_data_sets(planes(names))
    assert not test.tested
    assert test.num_blocks == 1
    assert test.note == (
        "not tested, as there are fewer than two blocks; "
        "set[plane=axial], set[plane=coronal], set[plane=sagittal] are one block, as they share patients by their names and ids"
    )
    (test,) = over_data_sets(planes((*names, "other")))
    assert test.tested
    assert test.num_blocks == 2
    assert test.note == f"{', '.join(names)} are one block, as they share patients by their names and ids"
    (test,) = over_data_sets(planes(("set", "other")))
    assert (test.num_blocks, test.note) == (2, "")


def test_a_block_of_several_data_sets_is_their_mean():
    one, two = rows({"a": [0.9], "b": [0.5]}, dataset="set[x=1]"), rows({"a": [0.3], "b": [0.6]}, dataset="set[x=2]")
    (test,) = over_data_sets(pd.concat([one, two, rows({"a": [0.4], "b": [0.5]}, dataset="other")]))
    assert test.mean_ranks.tolist() == [1.5, 1.5]  # a leads by 0.6 to 0.55; with three blocks it would not


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (("set[x=1]", "p1"), ("set[x=2]", "p1"), True),
        (("set[x=1]", "p1"), ("set[x=2]", "p2"), False),
        (("set", "p1"), ("set[x=a/b]", "p1"), True),
        (("set", "p1"), ("other", "p1"), False),
        (("brain", "p1"), ("all/brain", "brain:p1"), True),
        (("all[x=1]/brain", "p1"), ("all[x=1]/liver", "p1"), False),
        (("set[x=1]", ""), ("set[x=2]", ""), True),
    ],
)
def test_patients_are_the_same_by_name_of_data_set_and_id(one, other, alike):
    first = same_patients(pd.DataFrame([one, other], columns=["dataset", "patient"]))
    assert (first[one[0]] == first[other[0]]) == alike


def test_sharing_patients_goes_on_through_a_third_data_set():
    table = pd.DataFrame(
        [("s[3]", "p2"), ("s[1]", "p1"), ("s[2]", "p1"), ("s[2]", "p2"), ("t", "p1")], columns=["dataset", "patient"]
    )
    assert same_patients(table) == {"s[1]": "s[1]", "s[2]": "s[1]", "s[3]": "s[1]", "t": "t"}


# the report


def test_the_report_says_which_seeds_and_blocks_counted(make, tmp_path):
    for loss in ("bce", "calf", "dice"):
        for seed in (0, 1) if loss != "bce" else (1,):
            make(loss, seed, tp=6 - seed)
    found = find(tmp_path / "runs")
    for text in (markdown(found), latex(found)):
        assert "Over patients of phantom: tumour: ranked on common seeds only (1)." in text
    drawn = stability(found.blocks[0])
    assert drawn.caption.endswith("Ranked on common seeds only (1).")
    plt.close(drawn.figure)


def test_the_report_says_why_nothing_is_ranked(make, tmp_path):
    for loss, seed in (("bce", 0), ("calf", 1), ("dice", 1)):
        make(loss, seed)
    text = markdown(find(tmp_path / "runs"))
    assert "| patients of phantom: tumour | 0 | 3 | - | - | - | - | - | - |" in text
    assert "Over patients of phantom: tumour: no case and seed in which every row has a value: not ranked." in text
