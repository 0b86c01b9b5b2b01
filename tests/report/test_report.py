"""The report on fabricated grids: numbers by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calf.metrics.protocol import CASE_COLUMNS
from calf.report import report
from calf.report.checks import check_comparable, notes
from calf.report.findings import find
from calf.report.grids import best, heading
from calf.report.results import gather
from calf.report.summary import SUMMARY_COLUMNS, summarise
from tests.report.shown import add, row, text_of


@pytest.fixture
def grid(make, runs) -> Path:
    """Two losses x two seeds. Of the four cases one is found in part, one missed, one falsely found, one rightly empty."""
    for seed, (calf, bce) in enumerate([(6, 2), (8, 5)]):
        make("calf", seed, tp=calf)
        make("bce", seed, tp=bce)
    return runs


def test_two_losses_and_two_seeds(grid):
    summary = summarise(gather(grid).cases)
    assert tuple(summary.columns) == SUMMARY_COLUMNS
    assert summary["loss"].tolist() == ["bce"] * 7 + ["calf"] * 7
    calf = row(summary, "calf")
    # case 001: 2 tp / (tp + 2 + 8) = 12/16 and 16/18; case 002 is missed by both seeds; 003 and 004 are undefined
    partly = (12 / 16 + 16 / 18) / 2
    assert calf["mean"] == pytest.approx(partly / 2)
    assert calf["sd"] == pytest.approx(partly / np.sqrt(2))
    assert calf["seed_sd"] == pytest.approx((16 / 18 - 12 / 16) / 2 / np.sqrt(2))
    assert calf[["num_scored", "num_cases", "num_patients", "num_seeds", "num_runs", "num_scorings"]].tolist() == [
        2,
        4,
        4,
        2,
        2,
        8,
    ]
    assert calf[["missed", "false_positive", "true_negative"]].tolist() == [2, 2, 2]
    mae = row(summary, "calf", "mae")
    assert mae["mean"] == pytest.approx(np.mean([(2 + 2 + 2 + 0) / 400, 6 / 200, 7 / 200, 0]))
    assert mae["num_scored"] == 4


def test_files_and_terminal(grid, capsys):
    out = report(grid)
    assert out == grid / "report"
    files = ["agreement.csv", "brats.csv", "cases.csv", "challengeR", "comparisons.csv", "figures", "friedman.csv", "index.html"]
    files += ["ranks.csv", "report.csv", "report.json", "report.md", "report.tex", "runs.csv", "strata.csv"]
    assert sorted(path.name for path in out.iterdir()) == files
    ranked = pd.read_csv(out / "ranks.csv").set_index("loss")["rank"].to_dict()
    assert ranked == {"bce": 2, "calf": 1}
    friedman = pd.read_csv(out / "friedman.csv")
    assert friedman[["over", "num_blocks", "first", "second"]].to_numpy().tolist() == [
        ["patients", 2, "unet / bce", "unet / calf"]
    ]
    made = pd.read_csv(out / "runs.csv")
    assert made[["loss", "seed", "state", "commit"]].to_numpy().tolist() == [
        [loss, seed, "finished", "c0ffee"] for loss in ("bce", "calf") for seed in (0, 1)
    ]
    assert "Commit c0ffee (4) of 4 runs." in (out / "report.md").read_text()
    for name in ("report.md", "report.tex", "index.html"):
        assert "Friedman's test of Dice" in (out / name).read_text().replace("&#39;", "'")
    text = (out / "report.md").read_text()
    cases, summary = pd.read_csv(out / "cases.csv", dtype={"case": str}), pd.read_csv(out / "report.csv")
    assert tuple(cases.columns) == CASE_COLUMNS
    assert len(cases) == 4 * 4 * 7
    assert row(summary, "calf")["mean"] == pytest.approx(0.409722222)
    compared = pd.read_csv(out / "comparisons.csv")
    assert set(compared["metric"]) == {"dice", "specificity", "sensitivity", "precision", "mae"}
    assert compared.loc[(compared["metric"] == "dice") & (compared["loss"] == "calf"), "difference"].item() > 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert "0.410" in printed
    assert "±.579" in printed
    assert report(grid) == out  # its own files are not taken for runs
    assert (out / "report.md").read_text() == text


def test_what_the_tables_say(grid):
    text = text_of(grid)
    assert "Baseline: bce." in text
    assert "| unet | calf | **0.410** ± 0.579 |" in text
    assert "| 2/2/2 of 8 |" in text
    assert "4 cases, 4 patients, 2 seeds; Dice, sensitivity, precision defined in 2 cases." in text
    assert "| unet | bce | 0.250 " in text  # two patients: nothing can be said to be equal or worse
    assert "only the best mean is marked, since unet / bce has 2 patients in common with it, too few for any" in text
    for said in (
        "The unit is the case",
        "counted as a true negative",
        "specificity near 1 and MAE near 0",
        "| 1.50 M | 2.0 | 100 (process) | 3 |",
        "N < 50: 2 patients, too few for any of 1 comparison to be significant",
    ):
        assert said in text
    assert "Incomplete" not in text


def test_out_can_be_elsewhere(make, runs, tmp_path):
    make("calf", 0, state="failed")
    assert report(runs, tmp_path / "tables") == tmp_path / "tables"
    assert not (runs / "report").exists()
    assert "MemoryError" in (tmp_path / "tables" / "index.html").read_text()


def test_best_is_bold_also_where_low_is_best_and_nowhere_when_alike(make, runs):
    for tp, seed in ((6, 0), (8, 1)):
        make("calf", seed, tp=tp)
    text = text_of(runs)
    assert "**" not in text  # a loss alone is not the best of anything
    make("calf", 0, tp=2, mark="9876543210", settings={"optim": {"lr": 1.0}})
    make("calf", 1, tp=5, mark="9876543210", settings={"optim": {"lr": 1.0}})
    block = find(runs).blocks[0]
    assert block.baseline == "calf [optim.lr=0.001]"
    marked = best(dataclasses.replace(block, baseline=None))
    assert {metric: len(rows) for metric, rows in marked.items()} == {
        **dict.fromkeys(["dice", "iou", "sensitivity", "precision", "mae", "accuracy"], 1)
    }
    assert {rows.pop() for rows in marked.values()} == {("unet", "calf [optim.lr=0.001]")}


def test_bold_is_the_best_mean_alone_where_no_difference_can_be_significant(grid):
    assert best(find(grid).blocks[0])["dice"] == {("unet", "calf")}


def test_a_signed_error_has_no_best(make, runs):
    for loss, value in (("bce", "1.0"), ("calf", "3.0")):
        add(make(loss, 0), "volume_difference_ml", value)
    assert "volume_difference_ml" not in best(find(runs).blocks[0])
    with pytest.raises(ValueError, match="--metric: volume_difference_ml has no best value"):
        find(runs, metric="volume_difference_ml")


def test_the_baseline_is_bce_or_the_first_or_the_one_that_was_asked_for(make, runs):
    make("calf", 0)
    assert find(runs).blocks[0].baseline is None
    assert "Nothing is tested" in text_of(runs)
    make("dice", 0)
    assert find(runs).blocks[0].baseline == "calf"
    make("bce", 0)
    assert find(runs).blocks[0].baseline == "bce"
    assert find(runs, "dice").blocks[0].baseline == "dice"
    with pytest.raises(ValueError, match="--baseline: expected one of the finished losses, bce, calf, dice; got focal"):
        find(runs, "focal")
    with pytest.raises(ValueError, match=r"--metric: expected one that the runs have, dice, iou, .*; got nsd_2mm"):
        find(runs, metric="nsd_2mm")


def test_the_declared_metric_comes_first_and_the_charters_five_always(make, runs):
    for loss in ("bce", "calf"):
        run = make(loss, 0)
        for metric in ("lesion_f1", "hd95_mm", "nsd_2mm"):
            add(run, metric, "0.5")
    block = find(runs, metric="lesion_f1").blocks[0]
    assert block.main_metrics == ["lesion_f1", "dice", "nsd_2mm", "hd95_mm", "sensitivity", "specificity", "precision", "mae"]
    assert [heading(metric) for metric in block.main_metrics[:4]] == ["lesion F1", "Dice", "NSD, 2 mm", "HD95, mm"]
    text = text_of(runs)
    assert "| Dice | NSD, 2 mm | HD95, mm | sensitivity |" in text
    assert "### Supplementary: overlap and volume\n\n| model | loss | IoU | accuracy |" in text
    assert "### Supplementary: lesions\n\n| model | loss | lesion F1 |" in text


def test_statuses_are_those_of_dice(make, runs):
    run = make("calf", 0)
    cases = pd.read_csv(run / "cases.csv", dtype=str, keep_default_na=False)
    lesions = cases[cases["metric"] == "dice"].assign(metric="lesion_f1", status="true_negative", value="")
    pd.concat([lesions, cases]).to_csv(run / "cases.csv", index=False)
    calf = row(summarise(gather(runs).cases), "calf")
    assert calf[["missed", "false_positive", "true_negative"]].tolist() == [1, 1, 1]


def test_a_single_seed_has_no_seed_sd_and_a_single_case_no_sd(make, runs):
    make("calf", 0, cases=(0, 1))
    calf = row(summarise(gather(runs).cases), "calf")
    assert calf["mean"] == pytest.approx(12 / 16)
    assert np.isnan(calf["sd"])
    assert np.isnan(calf["seed_sd"])
    assert "| unet | calf | 0.750 | 0.750 |" in text_of(runs)


def test_folds_pool_their_cases(make, runs):
    make("calf", 0, fold=0, cases=(0, 1), tp=6)
    make("calf", 0, fold=1, cases=(1, 4))
    gathered = gather(runs)
    check_comparable(gathered)
    calf = row(summarise(gathered.cases), "calf")
    assert calf["mean"] == pytest.approx((12 / 16 + 0) / 2)
    assert calf[["num_cases", "num_seeds", "num_runs", "num_scorings"]].tolist() == [4, 1, 2, 4]
    assert notes(gathered) == []


def test_batches_of_different_folds_are_different(make, runs):
    for fold in range(3):
        make("calf", 0, fold=fold, protocol="paper", tp=2 * fold)
    calf = row(summarise(gather(runs).cases), "calf", protocol="paper")
    assert calf[["num_cases", "num_patients", "num_runs"]].tolist() == [3, 0, 3]
    assert calf["sd"] > 0


def test_protocols_have_tables_of_their_own(make, runs):
    make("calf", 0, tp=6)
    make("calf", 0, protocol="paper", tp=6, mark="9876543210")
    text, summary = text_of(runs), find(runs).summary
    assert row(summary, "calf")["mean"] == pytest.approx((12 / 16 + 0) / 2)
    pooled = np.array([6, 2 + 7, 2 + 5 + 1])
    assert row(summary, "calf", protocol="paper")["mean"] == pytest.approx(
        2 * pooled[0] / (2 * pooled[0] + pooled[1] + pooled[2])
    )
    assert text.index("## phantom: tumour (`per_case`)") < text.index("## phantom: tumour (`paper`)")
    assert "of no image and no patient" in text
    assert "A score whose denominator is empty" in text
