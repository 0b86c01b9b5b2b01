"""The report on fabricated grids: numbers by hand, what is refused, and what is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calf.metrics.protocol import CASE_COLUMNS
from calf.report import report
from calf.report.checks import check_comparable, notes
from calf.report.results import gather
from calf.report.summary import SUMMARY_COLUMNS, summarise


def row(summary: pd.DataFrame, loss: str, metric: str = "dice", protocol: str = "per_case") -> pd.Series:
    rows = summary[(summary["loss"] == loss) & (summary["metric"] == metric) & (summary["protocol"] == protocol)]
    assert len(rows) == 1
    return rows.iloc[0]


def read(out: Path) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    return (out / "report.md").read_text(), pd.read_csv(out / "report.csv"), pd.read_csv(out / "cases.csv", dtype={"case": str})


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
    assert sorted(path.name for path in out.iterdir()) == ["cases.csv", "report.csv", "report.md"]
    text, summary, cases = read(out)
    assert tuple(cases.columns) == CASE_COLUMNS
    assert len(cases) == 4 * 4 * 7
    assert row(summary, "calf")["mean"] == pytest.approx(0.409722222)
    assert "| unet | calf | **0.4097** ± 0.5794 |" in text
    assert "| 2/8 | 2/8 | 2/8 |" in text
    assert "4 cases, 4 patients, 2 seeds; dice, iou, sensitivity, precision defined in 2 cases." in text
    for said in (
        "The unit is the case",
        "counted as a true negative",
        "specificity near 1 and MAE near 0",
        "| 1.50 M | 2.0 | 100 (process) | 3 |",
    ):
        assert said in text
    assert "Incomplete" not in text
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert "0.4097" in shown
    assert "±.579" in shown
    assert report(grid) == out  # its own files are not taken for runs
    assert read(out)[0] == text


def test_out_can_be_elsewhere(grid, tmp_path):
    assert report(grid, tmp_path / "tables") == tmp_path / "tables"
    assert not (grid / "report").exists()
    assert "0.4097" in (tmp_path / "tables" / "report.md").read_text()


def test_best_is_bold_also_where_low_is_best_and_nowhere_when_alike(grid):
    bce, calf = [line for line in (report(grid) / "report.md").read_text().splitlines() if line.startswith("| unet |")]
    bold = [[cell.strip().startswith("**") for cell in line.split("|")[3:10]] for line in (bce, calf)]
    # dice, iou, sensitivity, specificity (the same), precision, mae (lower), accuracy
    assert bold == [[False] * 7, [True, True, True, False, True, True, True]]


def test_a_single_seed_has_no_seed_sd_and_a_single_case_no_sd(make, runs):
    make("calf", 0, cases=(0, 1))
    calf = row(summarise(gather(runs).cases), "calf")
    assert calf["mean"] == pytest.approx(12 / 16)
    assert np.isnan(calf["sd"])
    assert np.isnan(calf["seed_sd"])
    assert "| unet | calf | 0.7500 | 0.6000 |" in (report(runs) / "report.md").read_text()


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
    text, summary, _ = read(report(runs))
    assert row(summary, "calf")["mean"] == pytest.approx((12 / 16 + 0) / 2)
    pooled = np.array([6, 2 + 7, 2 + 5 + 1])
    assert row(summary, "calf", protocol="paper")["mean"] == pytest.approx(
        2 * pooled[0] / (2 * pooled[0] + pooled[1] + pooled[2])
    )
    assert text.index("## phantom: tumour (`per_case`)") < text.index("## phantom: tumour (`paper`)")
    assert "of no image and no patient" in text
    assert "A score whose denominator is empty" in text


def test_metrics_of_later_days_are_summed_up_too(make, runs):
    run = make("calf", 0)
    cases = pd.read_csv(run / "cases.csv", dtype=str, keep_default_na=False)
    distance = cases[cases["metric"] == "dice"].assign(metric="hd95_mm", value="3.0")
    pd.concat([cases, distance]).to_csv(run / "cases.csv", index=False)
    summary = summarise(gather(runs).cases)
    assert summary["metric"].tolist()[-2:] == ["accuracy", "hd95_mm"]
    assert row(summary, "calf", "hd95_mm")["mean"] == 3
    assert "| accuracy | hd95_mm | missed |" in (report(runs) / "report.md").read_text()


def test_what_is_not_there_is_told(make, runs, capsys):
    for seed in (0, 1, 2):
        make("calf", seed)
    make("bce", 0)
    make("bce", 1, state="failed")
    (make("focal", 0) / "cases.csv").unlink()
    text, summary, _ = read(report(runs))
    shown = capsys.readouterr().out
    assert set(summary["loss"]) == {"bce", "calf"}
    assert "- per_case / phantom: unet / bce has no finished run of seed 1, seed 2." in text
    assert "| `phantom/unet/bce/seed-1-0123456789` | failed | 3.0 | MemoryError: out of memory |" in text
    assert "| `phantom/unet/focal/seed-0-0123456789` | damaged |  | cases.csv is missing |" in text
    for said in (
        "has no finished run of seed 1, seed 2",
        "failed: phantom/unet/bce/seed-1",
        "damaged: phantom/unet/focal/seed-0",
    ):
        assert said in shown


def test_missing_folds_are_named(make, runs):
    for fold in (0, 1):
        make("calf", 0, fold=fold, cases=(2 * fold, 2 * fold + 2))
    make("bce", 0, fold=0, cases=(0, 2))
    assert notes(gather(runs)) == ["per_case / phantom: unet / bce has no finished run of seed 0 fold 1."]


def test_a_grid_that_has_only_failed(make, runs, capsys):
    make("calf", 0, state="failed")
    text, summary, cases = read(report(runs))
    assert "No run has finished yet." in text
    assert "MemoryError" in text
    assert summary.empty
    assert tuple(cases.columns) == CASE_COLUMNS
    assert "MemoryError" in capsys.readouterr().out


def test_runs_that_did_not_score_the_same_cases(make, runs):
    make("calf", 0)
    make("bce", 0, cases=(0, 2))
    assert notes(gather(runs)) == ["per_case / phantom: unet / bce / 0 lacks 2 of 4 cases: 003, 004."]


REFUSED = {
    "other data": ({"store_key": "k2"}, "differently prepared data", ["k1", "k2"]),
    "other split": ({"split_hash": "other"}, "split differently into patients", ["sNone", "other"]),
    "other setting": ({"settings": {"optim": {"lr": 0.01}}}, r"differ in optim\.lr", ["0.001", "0.01"]),
    "an option more": ({"settings": {"loss": {"gamma": 2}}}, r"differ in loss\.gamma", ["None", "2"]),
}


@pytest.mark.parametrize(("change", "why", "values"), REFUSED.values(), ids=REFUSED)
def test_runs_of_one_cell_that_differ_are_refused(make, runs, change, why, values):
    make("calf", 0)
    make("calf", 1, **change)
    make("bce", 0)
    with pytest.raises(ValueError, match=f"runs of per_case / phantom / unet / calf .*{why}") as refusal:
        report(runs)
    for seed, value in enumerate(values):
        assert f"phantom/unet/calf/seed-{seed}-0123456789: {value}" in str(refusal.value)
    assert not (runs / "report").exists()


def test_one_seed_twice_is_refused(make, runs):
    make("calf", 0)
    make("calf", 0, mark="9876543210")
    with pytest.raises(ValueError, match=r"same seed and fold(.|\n)*seed-0-0123456789(.|\n)*seed-0-9876543210"):
        report(runs)


def test_other_data_for_another_model_and_another_machine_are_told(make, runs):
    make("calf", 0, settings={"trainer": {"accelerator": "cpu"}})
    make("calf", 1, settings={"trainer": {"accelerator": "gpu"}}, commit="other")
    make("bce", 0, store_key="k2")
    make("bce", 1, store_key="k2")
    assert notes(gather(runs)) == [
        "per_case / phantom: the rows are of differently prepared data; compare them with care.",
        "per_case / phantom: the runs were made by 2 versions of the code.",
        "per_case / phantom / unet / calf: the runs differ in trainer.accelerator.",
    ]


def test_losses_of_different_splits_are_told(make, runs):
    make("calf", 0)
    make("bce", 0, split_hash="other")
    assert notes(gather(runs)) == ["per_case / phantom: the rows are of different splits into patients; they cannot be compared."]


def test_names_with_options_and_pipes_stay_in_their_cell(make, runs, capsys):
    make("calf[a=1|2]", 0)
    assert "| calf[a=1\\|2] |" in (report(runs) / "report.md").read_text()
    assert "calf[a=1|2]" in capsys.readouterr().out  # square brackets are markup to the library that prints
