"""Which rows are marked, which are tested against each other, and what seeds are averaged over."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from matplotlib.colors import to_hex

from calf.report.figures import differences
from calf.report.findings import find
from calf.report.friedman import friedman, friedman_table
from calf.report.grids import best, comparisons
from calf.report.marks import ALONE, ELSEWHERE
from calf.report.ranks import ranks
from calf.report.resampling import EXACT_UP_TO, holm, least_p, max_t_p, sign_flip_p
from calf.report.statistics import compare
from calf.report.summary import summarise
from calf.report.words import marked
from tests.report.table import NAN, of, pooled, rows


def with_one_worse(number: int, losses: int) -> pd.DataFrame:
    """``losses`` that are alike but for noise, and ``bad``, which is worse by ten times the noise."""
    rng = np.random.default_rng(0)
    values = {f"l{place:02d}": 0.8 + rng.normal(0, 0.01, number) for place in range(losses - 1)} | {
        "bad": 0.7 + rng.normal(0, 0.01, number)
    }
    return rows({loss: of_loss.tolist() for loss, of_loss in values.items()})


@pytest.mark.parametrize(("patients", "losses"), [(10, 9), (20, 72)])
def test_what_is_clearly_worse_is_not_marked_however_large_the_table(patients, losses):
    table = compare(with_one_worse(patients, losses), "dice", "l00", num_bootstrap=50)
    assert not of(table, "bad")["equal_to_best"]
    assert table["equal_to_best"].sum() > losses / 2
    pairs = losses * (losses - 1) / 2
    assert pairs * least_p(np.array(patients)) > 0.05  # by Holm over all pairs nothing could differ


def test_max_t_by_hand():
    differences = np.array([[1.0, 2, 3, 4, -1, NAN], [2, -1, 1, 2, 0, 3], [NAN] * 6]).T
    columns = np.nan_to_num(differences[:, :2]) / np.sqrt(np.nansum(differences[:, :2] ** 2, axis=0))
    signs = np.array(list(itertools.product((1, -1), repeat=6)))
    own, drawn = np.abs(columns.sum(0)), np.abs(signs @ columns)
    order = np.argsort(-own)
    first = (drawn.max(1) >= own[order[0]] - 1e-9).mean()
    second = max(first, (drawn[:, order[1]] >= own[order[1]] - 1e-9).mean())
    p = max_t_p(differences, 0)
    assert p[order].tolist() == [first, second]
    assert np.isnan(p[2])


@pytest.mark.parametrize("number", [9, EXACT_UP_TO + 4])
def test_max_t_is_no_better_than_single_tests_and_no_worse_than_holm_of_the_same(number):
    differences = np.random.default_rng(0).normal([0, 0.2, 0.5, 0.9], 1, (number, 4))
    alone, together = sign_flip_p(differences, 0, 10_000), max_t_p(differences, 0)
    assert (together >= alone - 1e-12).all()
    assert (together <= holm(alone) + 0.01).all()
    assert max_t_p(differences[:, :1], 0) == pytest.approx(alone[:1])
    assert max_t_p(np.repeat(differences[:, -1:], 2000, axis=1), 0) == pytest.approx(np.full(2000, alone[-1]))


def test_where_rows_have_nothing_in_common_with_the_best_mean_nothing_is_marked():
    same = [0.5 + 0.01 * number for number in range(12)]
    both = rows({"bce": same, "a": [value + 0.001 * (-1) ** place for place, value in enumerate(same)]}, seed=0)
    table = compare(pd.concat([both, rows({"best": [0.9] * 12}, seed=1)]), "dice", "bce", num_bootstrap=50)
    assert not table["equal_to_best"].any()
    why = "nothing is marked, since unet / a, unet / bce has no case and seed in common with the best mean"
    assert table["means_alone"].eq(why).all()


def test_the_power_note_counts_the_patients_that_are_paired():
    base = rows({"bce": [0.5] * 5 + [NAN] * 55, "calf": [0.6] * 60})
    assert of(compare(base, "dice", "bce", num_bootstrap=50), "calf")["power_note"] == (
        "5 paired patients, too few for any of 1 comparison to be significant"
    )


# splits


def on(cases: pd.DataFrame, what: str) -> pd.DataFrame:
    return cases.assign(made_on=what)


@pytest.mark.parametrize(
    ("other", "said"),
    [("k1/s2", "another split into patients than the baseline"), ("k2/s1", "differently prepared data than the baseline")],
)
def test_rows_of_another_split_or_other_data_are_not_tested(other, said):
    rng = np.random.default_rng(0)
    base = {loss: (0.5 + rng.normal(0, 0.01, 12)).tolist() for loss in ("bce", "a", "b")}
    cases = pd.concat([on(rows(base), "k1/s1"), on(rows({"lucky": [0.9] * 12}), other)])
    table = compare(cases, "dice", "bce", num_bootstrap=50)
    lucky = of(table, "lucky")
    assert lucky[["difference", "difference_low", "p", "p_holm", "effect"]].isna().all()
    assert f"{said}: not tested" in lucky["note"]
    assert ELSEWHERE in lucky["note"]
    assert not lucky["equal_to_best"]
    assert table["equal_to_best"].any()
    assert of(table, "a")["p_holm"] <= 2 * max(of(table, "a")["p"], of(table, "b")["p"])  # a family of two
    ranked = ranks(cases, "dice", num_bootstrap=20).set_index("loss")
    assert np.isnan(ranked.loc["lucky", "rank"])
    assert ranked.loc[["a", "b", "bce"], "rank"].sum() == 6
    assert [len(test.mean_ranks) for test in friedman(cases, "dice")] == [3]


def test_of_two_rows_of_two_splits_neither_is_the_best():
    table = compare(pd.concat([on(rows({"a": [0.5] * 8}), "k/1"), on(rows({"bce": [0.9] * 8}), "k/2")]), "dice", "bce", 50)
    assert not table["equal_to_best"].any()
    assert table["note"].str.contains(ALONE, regex=False).sum() == 1


def test_rows_with_the_same_folds_are_comparable_where_one_lacks_some():
    folds = [on(rows({"bce": [0.5] * 8, "a": [0.6] * 8}, fold=str(fold), first=8 * fold), f"k/{fold}") for fold in (0, 1)]
    folds[1] = folds[1][folds[1]["loss"] == "bce"]
    one = of(compare(pd.concat(folds), "dice", "bce", num_bootstrap=50), "a")
    assert one["p"] == 2 / 2**8
    assert "scored in 8 of 16 cases: not compared with the best" in one["note"]


def test_runs_of_another_split_are_neither_tested_nor_best(make, runs):
    make("calf", 0, tp=8, split_hash="other")
    for loss, tp in (("bce", 2), ("dice", 5)):
        make(loss, 0, tp=tp)
    block = find(runs).blocks[0]
    line = block.comparison("dice")["unet", "calf"]
    assert np.isnan(line["p"])
    assert "another split into patients than the baseline: not tested" in line["note"]
    assert best(block)["dice"] == {("unet", "dice")}
    assert best(block)["iou"] == {("unet", "dice")}  # a supplementary table
    assert "since made on another split or other prepared data than most rows: unet / calf (Dice" in marked(block)


# fewer cases


def test_a_row_of_fewer_cases_is_not_the_best_of_a_table_that_is_not_tested(make, runs):
    make("calf", 0, tp=8, cases=(0, 1))  # one easy case
    for loss in ("bce", "dice"):
        make(loss, 0, tp=5 if loss == "bce" else 6)
    block = find(runs).blocks[0]
    assert block.scores()["unet", "calf"]["iou"]["mean"] > block.scores()["unet", "dice"]["iou"]["mean"]
    assert best(block)["iou"] == {("unet", "dice")}
    assert "Neither the best nor equal to it, since scored in fewer cases than others: unet / calf (Dice, IoU" in marked(block)


# seeds


def test_an_unfinished_fold_is_no_difference_between_seeds():
    easy, hard = [0.9, 0.9, 0.9], [0.1, 0.1, 0.1]
    both = [rows({"a": values}, seed=0, fold=fold, first=first) for values, fold, first in ((easy, "0", 0), (hard, "1", 3))]
    cases = pd.concat([*both, rows({"a": easy}, seed=1, fold="0")])
    assert summarise(cases)["seed_sd"].tolist() == [0]
    apart = pd.concat([both[0], rows({"a": hard}, seed=1, fold="1", first=3)])
    table = compare(apart, "dice", None, num_bootstrap=50)
    assert np.isnan(table["seed_sd"].item())
    assert "no case was scored by every seed: no SD over seeds" in table["note"].item()
    assert "seeds differ" not in table["note"].item()


def test_the_sign_of_a_difference_is_that_over_common_cases():
    # seed 0 finished the fold in which both are alike; seed 1 both folds, where calf is better in the other
    base, calf = [0.5] * 6, [0.6] * 6
    first = rows({"bce": base, "calf": calf}, seed=0, fold="0")
    rest = rows({"bce": [0.9] * 6, "calf": [0.1] * 6}, seed=1, fold="1", first=6)
    table = of(compare(pd.concat([first, first.assign(seed=1), rest]), "dice", "bce", num_bootstrap=50), "calf")
    assert table["difference_seed_sd"] == 0
    assert not table["seeds_disagree"]


def test_the_figure_draws_the_pairs_of_the_table_and_no_significance_that_depends_on_the_seed(make, runs):
    for seed, tp in enumerate((2, 8)):
        make("bce", seed, tp=4)
        make("calf", seed, tp=tp)
    make("dice", 0, tp=8)  # one seed: paired with the first alone
    make("lonely", 5)
    block = find(runs).blocks[0]
    table = block.comparison("dice")
    assert table["unet", "calf"]["seeds_disagree"]
    block.compared["significant"] = True
    drawn = differences(block)
    plane = drawn.figure.axes[0]
    assert [tick.get_text() for tick in plane.get_yticklabels()] == ["dice", "calf"]
    points = [line.get_xdata() for line in plane.lines if line.get_marker() == "o"]
    assert np.mean(points[0]) == pytest.approx(table["unet", "dice"]["difference"])
    filled = [to_hex(line.get_markerfacecolor()) != "#ffffff" for line in plane.lines if line.get_marker() == "D"]
    assert filled == [True, False]
    assert "Not tested, and not drawn: lonely." in drawn.caption
    cells = {row[1].text: row for row in comparisons(block).rows}
    assert cells["calf"][5].rest == " (sign depends on the seed)"
    assert cells["dice"][5].rest == ""


# Friedman


def test_pairs_of_mean_ranks_as_scikit_posthocs():
    rng = np.random.default_rng(0)
    values = {loss: rng.normal(0.1 * place, 0.2, 15) for place, loss in enumerate("abcd")}
    (test,) = friedman(rows({loss: of_loss.tolist() for loss, of_loss in values.items()}), "dice")
    blocks = -np.stack(list(values.values()), axis=1)
    np.testing.assert_allclose(test.nemenyi, scikit_posthocs.posthoc_nemenyi_friedman(blocks), atol=1e-9)
    np.testing.assert_allclose(test.holm, scikit_posthocs.posthoc_siegel_friedman(blocks, p_adjust="holm"), atol=1e-9)
    table = friedman_table([test])
    assert len(table) == 6
    assert table["p_holm"].tolist() == test.holm.to_numpy()[np.triu_indices(4, 1)].tolist()
    assert set(table["p_iman_davenport"]) == {test.p_iman_davenport}
    assert friedman_table(friedman(pooled({"a": [0.1], "b": [0.2]}), "dice")).empty
