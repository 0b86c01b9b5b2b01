"""Which runs make one row: those that differ in a setting do not, and an attempt in vain is no row of its own."""

from __future__ import annotations

import shutil

import pytest

from calf.report import report
from calf.report.cells import separate
from calf.report.findings import find
from calf.report.results import gather

ADAM = {"optim": {"_target_": "torch.optim.Adam", "lr": 0.001, "betas": [0.9, 0.999]}}
PROTOCOL = {"protocol": {"_target_": "calf.metrics.protocol.PerCase"}}
SGD = {"optim": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}}


def means(runs) -> dict[str, float]:
    summary = find(runs).summary
    return dict(summary.loc[summary["metric"] == "dice", ["loss", "mean"]].itertuples(index=False))


def test_a_sweep_of_a_setting_has_a_row_for_each_value_and_averages_nothing(make, runs):
    for lr, tp in ((0.1, 6), (0.01, 8)):
        for seed in (0, 1):
            make("calf", seed, tp=tp, mark=f"{lr:.8f}", settings={"optim": {"lr": lr}})
    make("bce", 0, tp=4, settings={"optim": {"lr": 0.1}})
    found = means(runs)
    assert found == {
        "bce": pytest.approx(8 / 14 / 2),
        "calf [optim.lr=0.01]": pytest.approx(16 / 18 / 2),
        "calf [optim.lr=0.1]": pytest.approx(12 / 16 / 2),
    }
    assert "per_case / phantom / unet / calf: the runs differ in optim.lr and have rows of their own." in find(runs).notes
    assert set(find(runs).gathered.cases["loss"]) == set(found)


def test_a_seed_trained_otherwise_is_not_averaged_with_the_others(make, runs):
    make("calf", 0)
    make("calf", 1, settings={"loss": {"gamma": 2}})
    assert list(means(runs)) == ["calf [loss.gamma=2]", "calf [loss.gamma=none]"]


def test_a_run_in_vain_is_not_hidden_by_that_of_another_grid(make, runs):
    both = runs.parent / "both"
    for grid, state in (("first", "failed"), ("second", "finished")):
        make("calf", 0, state=state)
        shutil.move(runs, both / grid)
    found = find(both)
    assert not [note for note in found.notes if "earlier attempt" in note]
    assert found.gathered.incomplete["state"].tolist() == ["failed"]


def test_an_optimiser_is_named_by_its_class_alone(make, runs):
    make("calf", 0, settings=ADAM)
    make("calf", 0, settings=SGD, mark="9876543210")
    assert list(means(runs)) == ["calf [optim=Adam]", "calf [optim=SGD]"]
    faster = {"optim": SGD["optim"] | {"lr": 0.2}}
    make("calf", 0, settings=faster, mark="9876543211")
    assert list(means(runs)) == [
        "calf [optim=Adam, optim.lr=0.001]",
        "calf [optim=SGD, optim.lr=0.1]",
        "calf [optim=SGD, optim.lr=0.2]",
    ]


def test_what_no_name_can_hold_is_refused(make, runs):
    make("calf", 0)
    make("calf", 1, settings={"a": 1, "b": 1, "c": 1, "d": 1})
    with pytest.raises(ValueError, match=r"differ in a, b, c, d: more than a name can hold(.|\n)*seed-1(.|\n)*names\.loss"):
        report(runs)


def test_unfinished_runs_of_a_sweep_stand_in_its_rows(make, runs):
    make("calf", 0, settings={"optim": {"lr": 0.1}})
    make("calf", 0, settings={"optim": {"lr": 0.01}}, mark="9876543210")
    make("calf", 0, state="failed", settings={"optim": {"lr": 1.0}} | PROTOCOL, mark="9876543211")
    make("calf", 1, state="failed", settings={"optim": {"lr": 0.1}} | PROTOCOL)
    assert find(runs).blocks[0].rows == {
        ("unet", "calf [optim.lr=0.01]"): "",
        ("unet", "calf [optim.lr=0.1]"): "1 of 2 runs, 1 failed",
        ("unet", "calf [optim.lr=1.0]"): "failed",
    }


def test_an_attempt_that_was_finished_later_is_no_failure_but_is_told(make, runs):
    make("calf", 0)
    make("calf", 0, state="failed", mark="9876543210", settings={"trainer": {"precision": 16}})
    make("bce", 0)
    make("bce", 0, state="failed", mark="9876543210")
    found = find(runs)
    assert found.gathered.incomplete.empty
    assert found.blocks[0].rows == {("unet", "bce"): "", ("unet", "calf"): ""}
    assert found.notes[:2] == (
        "phantom/unet/bce/seed-0-9876543210 was an earlier attempt (failed); phantom/unet/bce/seed-0-0123456789 has finished "
        "since.",
        "phantom/unet/calf/seed-0-9876543210 was an earlier attempt with other settings (trainer.precision=16) (failed); "
        "phantom/unet/calf/seed-0-0123456789 has finished since.",
    )


def test_a_run_at_work_and_another_seed_stay(make, runs):
    make("calf", 0)
    make("calf", 0, state="running", mark="9876543210")
    make("calf", 1, state="failed")
    gathered, told = separate(gather(runs))
    assert gathered.incomplete["state"].tolist() == ["running", "failed"]
    assert told == []
