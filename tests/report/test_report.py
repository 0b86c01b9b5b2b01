"""The report on fabricated grids: numbers by hand, what is refused, and what is told."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from calf.metrics.protocol import CASE_COLUMNS
from calf.report import report
from calf.report.checks import check_comparable, notes
from calf.report.curves import learning
from calf.report.findings import find
from calf.report.grids import best, heading
from calf.report.results import gather
from calf.report.summary import SUMMARY_COLUMNS, summarise
from calf.report.tables import markdown, terminal


def row(summary: pd.DataFrame, loss: str, metric: str = "dice", protocol: str = "per_case") -> pd.Series:
    rows = summary[(summary["loss"] == loss) & (summary["metric"] == metric) & (summary["protocol"] == protocol)]
    assert len(rows) == 1
    return rows.iloc[0]


def add(run: Path, metric: str, value: str) -> None:
    """Rows of one more metric, with this value in every case."""
    cases = pd.read_csv(run / "cases.csv", dtype=str, keep_default_na=False)
    pd.concat([cases, cases[cases["metric"] == "dice"].assign(metric=metric, value=value)]).to_csv(run / "cases.csv", index=False)


def text_of(runs: Path) -> str:
    return markdown(find(runs))


def shown(runs: Path) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal(find(runs)))
    return console.export_text()


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
    files += ["ranks.csv", "report.csv", "report.md", "report.tex", "runs.csv", "strata.csv"]
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
    stale = out / "figures" / "of-a-loss-that-is-gone.png"
    stale.touch()
    assert report(grid) == out  # its own files are not taken for runs
    assert (out / "report.md").read_text() == text
    assert not stale.exists()


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


def test_what_is_not_there_is_told(make, runs):
    for seed in (0, 1, 2):
        make("calf", seed)
    make("bce", 0)
    make("bce", 1, state="failed")
    (make("focal", 0) / "cases.csv").unlink()
    text, printed = text_of(runs), shown(runs)
    assert "- per_case / phantom: unet / bce has no finished run of seed 1, seed 2." in text
    assert "| `phantom" not in text
    assert "| phantom/unet/bce/seed-1-0123456789 | failed | 3.0 | MemoryError: out of memory |" in text
    assert "| phantom/unet/focal/seed-0-0123456789 | damaged |  | cases.csv is missing |" in text
    for said in (
        "has no finished run of seed 1, seed 2",
        "failed: phantom/unet/bce/seed-1",
        "damaged: phantom/unet/focal/seed-0",
    ):
        assert said in printed
    rows = {line.split("|")[2].strip(): line for line in text.splitlines() if line.startswith("| unet |")}
    table = text[: text.index("4 cases")]
    assert "| 1 of 2 runs, 1 failed |" in table
    assert "| unet | focal | - | - | - | - | - | - | damaged |" in table  # not dropped
    assert set(rows) == {"bce", "calf", "focal"}


def test_a_run_that_diverged_is_said_to_have(make, runs):
    for loss, last in (("bce", "0.2"), ("calf", "nan")):
        (make(loss, 0) / "history.csv").write_text(f"epoch,train/loss,val/dice\n0,0.5,0.1\n1,{last},0.2\n")
    assert find(runs).blocks[0].rows == {("unet", "bce"): "", ("unet", "calf"): "1 diverged"}


def test_a_loss_that_finds_nothing_is_named(make, runs):
    make("bce", 0)
    make("calf", 0, cases=(1, 2))
    said = [note for note in find(runs).notes if "predicts nothing" in note]
    assert said == ["per_case / phantom / tumour: unet / calf predicts nothing in any case."]


def test_missing_folds_are_named(make, runs):
    for fold in (0, 1):
        make("calf", 0, fold=fold, cases=(2 * fold, 2 * fold + 2))
    make("bce", 0, fold=0, cases=(0, 2))
    assert notes(gather(runs)) == ["per_case / phantom: unet / bce has no finished run of seed 0 fold 1."]


def test_a_grid_that_has_only_failed(make, runs):
    make("calf", 0, state="failed")
    text, found = text_of(runs), find(runs)
    assert "No run has finished yet." in text
    assert "MemoryError" in text
    assert found.summary.empty
    assert tuple(found.gathered.cases.columns) == CASE_COLUMNS
    assert "MemoryError" in shown(runs)


def test_runs_that_did_not_score_the_same_cases(make, runs):
    make("calf", 0)
    make("bce", 0, cases=(0, 2))
    assert notes(gather(runs)) == ["per_case / phantom: unet / bce / 0 lacks 2 of 4 cases: 003, 004."]


REFUSED = {
    "other data": ({"store_key": "k2"}, "differently prepared data", ["k1", "k2"]),
    "other split": ({"split_hash": "other"}, "split differently into patients", ["sNone", "other"]),
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


def test_rows_that_were_trained_otherwise_are_told(make, runs):
    make("calf", 0, settings={"optim": {"lr": 0.1}, "loss": {"gamma": 2}})
    make("bce", 0)
    assert notes(gather(runs)) == ["per_case / phantom / unet: the rows were not all trained alike, they differ in optim.lr."]


def test_names_with_options_and_pipes_stay_in_their_cell(make, runs):
    make("calf[a=1|2]", 0)
    assert "| calf[a=1\\|2] |" in text_of(runs)
    assert "calf[a=1|2]" in shown(runs)  # square brackets are markup to the library that prints


def test_learning_curves_are_of_one_protocol(make, runs):
    for protocol, dice in (("per_case", 0.25), ("paper", 0.75)):
        folder = make(protocol=protocol, mark=f"{protocol:0<10}")
        (folder / "history.csv").write_text(f"epoch,val/dice\n0,{dice}\n1,{dice}\n")
    found = find(runs)
    drawn = {block.protocol: learning(found, block).figure.axes[0].lines[0].get_ydata().tolist() for block in found.blocks}
    assert drawn == {"per_case": [0.25, 0.25], "paper": [0.75, 0.75]}


def test_runs_that_were_scored_differently_are_refused(make):
    def scored(loss, **volumes):
        return make(loss, settings={"protocol": {"_target_": "calf.metrics.protocol.PerCase", "volumes": volumes}}).parents[3]

    runs = scored("bce", tolerance_mm=1.0, surfaces="voxels")
    scored("focal", tolerance_mm=2.0, surfaces="voxels")  # another metric: the tolerance is in its name
    report(runs)
    scored("dice", tolerance_mm=1.0, surfaces="elements")
    with pytest.raises(ValueError, match="scored differently, with several values of") as refused:
        report(runs)
    assert "elements: phantom/unet/dice/seed-0-0123456789" in str(refused.value)
