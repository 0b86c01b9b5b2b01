"""What a report says of a grid that is not whole or not of one kind, and what it refuses."""

from __future__ import annotations

import pytest

from calf.metrics.protocol import CASE_COLUMNS
from calf.report import report
from calf.report.checks import notes
from calf.report.curves import learning
from calf.report.findings import find
from calf.report.latex import latex
from calf.report.results import gather
from calf.report.statistics import compare
from calf.report.tables import markdown
from calf.report.training import branch_shares
from tests.report.shown import shown, text_of


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


DAMAGED = {
    "a value more": ("history.csv", "epoch,train/loss\n0,0.5\n1,nan\n2,0.1,7\n", "Expected 2 fields in line 4, saw 3"),
    "a value more in every row": ("history.csv", "epoch,train/loss\n0,1,0.5\n", "more values than its first line has names"),
    "text": ("history.csv", "epoch,train/loss\n0,much\n", "expected numbers"),
    "no epoch": ("history.csv", "epoch,train/loss\n,0.5\n", "expected epoch to be a number from 0 on"),
    "cut off": ("history.csv", "epoch,train/loss\n0,0.5\n1,0.", "was cut off"),
    "other columns": ("history.csv", "step,loss\n0,0.5\n", "expected the columns epoch"),
    "no text": ("history.csv", b"epoch\n\xff\n", "no UTF-8 text"),
    "branches": ("branches.csv", "batch,branch\n0,ln\n1,ln,2\n", "Expected 2 fields in line 3, saw 3"),
}


@pytest.mark.parametrize(("name", "content", "why"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_of_training_is_told(make, runs, name, content, why):
    for loss in ("bce", "calf"):
        (make(loss, 0) / "history.csv").write_text("epoch,train/loss\n0,0.5\n")
    path = runs / "phantom" / "unet" / "calf" / "seed-0-0123456789" / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = find(runs)
    (note,) = (note for note in found.notes if name in note)
    assert note.startswith("phantom/unet/calf/seed-0-0123456789: ")
    assert why in note
    assert f"- {note}" in markdown(found)
    mark = "1 with an unreadable history" if name == "history.csv" else ""
    assert found.blocks[0].rows == {("unet", "bce"): "", ("unet", "calf"): mark}
    assert mark in latex(found)
    assert branch_shares(found.gathered).empty


def test_a_run_that_stopped_before_a_record_was_written_is_not_told_as_damaged(make, runs):
    make("bce", 0)
    for seed, content in enumerate(("", "epoch,train/loss\n")):
        (make("calf", seed) / "history.csv").write_text(content)
    assert not [note for note in find(runs).notes if "history" in note]


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


def test_folds_that_nobody_has_begun_are_named(make, runs):
    split = {"dataset": {"split": {"folds": 5}}}
    for fold in (0, 1):
        make("calf", 0, fold=fold, cases=(2 * fold, 2 * fold + 2), settings=split)
    make("calf", 0, fold=2, state="failed", settings=split)
    assert notes(gather(runs)) == [
        "per_case / phantom: unet / calf has no finished run of seed 0 fold 2.",
        "per_case / phantom: no run has fold 3, 4 of 5 folds; their cases are in no row.",
    ]


def test_a_split_of_very_many_folds_is_no_trap(make, runs):
    make("calf", 0, fold=0, settings={"dataset": {"split": {"folds": 10**15}}})
    make("calf", 1, settings={"dataset": {"split": {"folds": 5}}})  # was not run by folds
    (note,) = (note for note in notes(gather(runs)) if "in no row" in note)
    assert note.startswith("per_case / phantom: no run has fold 1, 2, 3, 4, 5, ... of 1000000000000000 folds")


def test_a_reference_that_is_not_the_same_in_all_runs_is_named(make, runs):
    make("calf", 0)
    path = make("bce", 0) / "cases.csv"
    assert ",16.0," in path.read_text()
    path.write_text(path.read_text().replace(",16.0,", ",16.01,"))  # of case 001, by rounding
    assert notes(gather(runs)) == []
    path.write_text(path.read_text().replace(",16.01,", ",32.0,"))
    assert notes(gather(runs)) == [
        "per_case / phantom / tumour: the reference volume of 1 case differs between runs: 001 (16 to 32 mm3)."
    ]


def test_batches_of_different_folds_are_of_different_volumes(make, runs):
    for fold in (0, 1):
        make("calf", 0, fold=fold, cases=(2 * fold, 2 * fold + 2), protocol="paper")
    assert notes(gather(runs)) == []


def test_seeds_that_lack_cases_are_counted_in_pairs(make, runs):
    for loss, cases in (("bce", (0, 4)), ("calf", (0, 1))):
        make(loss, 0)
        make(loss, 1, cases=cases)
    compared = compare(gather(runs).cases, "dice", "bce", num_bootstrap=100)
    (note,) = compared.loc[compared["loss"] == "calf", "note"]
    assert "compared in 3 of 4 pairs of case and seed" in note
    assert "common seeds" not in note  # which are all of them


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
