"""What a report says of a grid that is not whole or not of one kind, and what it refuses."""

from __future__ import annotations

import pytest

from calf.metrics.protocol import CASE_COLUMNS
from calf.report import report
from calf.report.checks import notes
from calf.report.curves import learning
from calf.report.findings import find
from calf.report.results import gather
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
