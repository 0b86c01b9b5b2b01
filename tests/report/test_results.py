"""Gathering run folders: every one of them is accounted for, whatever happened to it."""

from __future__ import annotations

import datetime
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from calf.metrics.protocol import CASE_COLUMNS
from calf.report.results import gather
from tests.report.shown import add

TESTED = ("001", "002", "003", "004")


def only(runs: Path) -> pd.Series:
    gathered = gather(runs)
    assert len(gathered.runs) == 1
    return gathered.runs.iloc[0]


def test_finished_runs_are_read_whole(make, runs):
    make("calf", 0)
    make("bce", 1, fold=2, cases=(2, 4))
    gathered = gather(runs)
    assert gathered.runs["folder"].tolist() == [
        "phantom/unet/bce/seed-1-fold-2-0123456789",
        "phantom/unet/calf/seed-0-0123456789",
    ]
    assert gathered.runs["state"].tolist() == ["finished", "finished"]
    assert gathered.runs["fold"].tolist() == ["2", ""]
    assert gathered.runs["value"].tolist() == [0.5, 0.5]
    assert gathered.incomplete.empty
    assert tuple(gathered.cases.columns) == CASE_COLUMNS
    assert len(gathered.cases) == (4 + 2) * 7
    assert sorted(gathered.cases["case"].unique()) == ["001", "002", "003", "004"]  # not numbers
    dice = gathered.cases[gathered.cases["metric"] == "dice"].set_index(["loss", "case"])["value"]
    assert dice["calf", "001"] == pytest.approx(12 / 16)
    assert pd.isna(dice["calf", "003"])


def test_settings_leave_out_what_cannot_change_a_number(make, runs):
    make("calf", 0, settings={"runs_dir": "elsewhere", "trainer": {"max_epochs": 2, "enable_progress_bar": False}})
    settings = gather(runs).settings["phantom/unet/calf/seed-0-0123456789"]
    assert settings["trainer.max_epochs"] == 2
    assert not {"runs_dir", "names.loss", "trainer.enable_progress_bar"} & set(settings)


def test_one_run_and_a_folder_inside_are_read_too(make, runs):
    run = make("calf", 0)
    assert only(run)["folder"] == "."
    assert only(run.parent)["state"] == "finished"


def test_what_is_no_run_is_passed_over(make, runs):
    run = make("calf", 0)
    for inside in (run / "wandb" / "files", runs / "wandb" / "files", runs / ".hydra", run / "predictions"):
        inside.mkdir(parents=True)
        (inside / "config.yaml").write_text("a: 1\n")
    assert only(runs)["loss"] == "calf"


@pytest.mark.parametrize("place", ["", "nowhere"])
def test_no_run_at_all(tmp_path, place):
    with pytest.raises(ValueError, match=r"no run at or below .*expected folders with a config\.yaml(.|\n)*train first"):
        gather(tmp_path / place)


def test_unfinished_runs_are_listed(make, runs):
    make("a", state="failed")
    make("b", state="running")
    (make("c", state="running") / "status.json").unlink()
    (make("d", state="running") / "status.json").write_text("{")
    done = make("e")
    (done / "result.json").unlink()  # killed between the status and the result
    gathered = gather(runs)
    assert gathered.runs["state"].tolist() == ["failed", "running", "unfinished", "unfinished", "unfinished"]
    assert gathered.runs["loss"].tolist() == list("abcde")
    assert gathered.runs["error"].tolist()[:3] == ["MemoryError: out of memory", "", "stopped before it began"]
    assert gathered.runs["epoch"].tolist()[:2] == [3.0, 3.0]
    assert len(gathered.incomplete) == 5
    assert gathered.cases.empty


def status(run: Path, **content: object) -> None:
    (run / "status.json").write_text(json.dumps({"state": "running", "epoch": 2.32, "epochs": 4} | content))


def test_a_killed_run_says_when_it_was_last_heard_of(make, runs):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here, now = socket.gethostname(), datetime.datetime.now(datetime.UTC)
    before = "2026-01-02T03:04:05+00:00"
    status(make("a", state="running"), pid=gone.pid, host=here, updated=before)
    status(make("b", state="running"), pid=os.getpid(), host=here, updated=before)
    status(make("c", state="running"), pid=gone.pid, host="elsewhere", updated=before, epoch=4.0)
    status(make("d", state="running"), pid=gone.pid, host="elsewhere", updated=now.isoformat())
    status(make("e", state="running"), state="finished", updated=before)
    status(make("f", state="running"), state="waiting", pid=gone.pid, host=here)
    status(make("g", state="running"), state="waiting", pid=os.getpid(), host=here)
    found = gather(runs).runs
    assert found["state"].tolist() == ["killed", "running", "killed", "running", "unfinished", "unfinished", "waiting"]
    assert found["error"].tolist() == [
        f"killed or stopped: last heard of at {before} in epoch 3 of 4",
        "",
        f"killed or stopped: last heard of at {before} in epoch 4 of 4",
        "",
        f"stopped before its result was written: last heard of at {before} in epoch 3 of 4",
        "stopped before it began",
        "",
    ]


def test_runs_without_a_result_know_their_protocol(make, runs):
    paper = {"_target_": "calf.metrics.protocol.Paper", "batch_size": 16, "shuffle_seed": 1}
    make("a", state="failed", settings={"protocol": {"_target_": "calf.metrics.protocol.PerCase"}})
    make("b", state="failed", settings={"protocol": paper})
    make("c", state="failed", settings={"protocol": {"_target_": "of.my.own"}})
    assert gather(runs).runs["protocol"].tolist() == ["per_case", "paper_batch16", ""]


def damage_cut_in_a_row(run: Path) -> None:
    text = (run / "cases.csv").read_text()
    (run / "cases.csv").write_text(text[: len(text) * 2 // 3])


def damage_cut_within_the_last_number(run: Path) -> None:
    (run / "cases.csv").write_text((run / "cases.csv").read_text()[:-2])


def damage_cut_after_a_row(run: Path) -> None:
    lines = (run / "cases.csv").read_text().splitlines(keepends=True)
    (run / "cases.csv").write_text("".join(lines[:-1]))


def damage_case_twice(run: Path) -> None:
    lines = (run / "cases.csv").read_text().splitlines(keepends=True)
    (run / "cases.csv").write_text("".join([*lines, *lines[1:8]]))


def damage_column(run: Path) -> None:
    (run / "cases.csv").write_text((run / "cases.csv").read_text().replace(",status,", ",state,", 1))


def damage_value(run: Path) -> None:
    (run / "cases.csv").write_text((run / "cases.csv").read_text().replace(",0.75,", ",O.75,", 1))


def damage_status(run: Path) -> None:
    (run / "cases.csv").write_text((run / "cases.csv").read_text().replace(",missed,", ",mist,", 1))


def without_case(run: Path, case: str) -> None:
    lines = (run / "cases.csv").read_text().splitlines(keepends=True)
    (run / "cases.csv").write_text("".join(line for line in lines if f",{case}," not in line))


def list_tested(run: Path, parts: dict[str, str | None]) -> None:
    (run / "data.json").write_text(json.dumps({"test_cases": {case: {"dataset": part} for case, part in parts.items()}}))


def damage_case_lost(run: Path) -> None:
    list_tested(run, dict.fromkeys(TESTED))
    without_case(run, "002")


def damage_case_of_another(run: Path) -> None:
    list_tested(run, dict.fromkeys(TESTED[:3]))


def damage_case_of_another_part(run: Path) -> None:
    list_tested(run, dict.fromkeys(TESTED, "part"))


def damage_tested(run: Path) -> None:
    (run / "data.json").write_text('{"test_cases": {"001": "a case"}}')


def damage_data(run: Path) -> None:
    (run / "data.json").write_text('{"test_cases": ')


def change(column: str, value: object, metric: str = "", status: str = "") -> Callable[[Path], None]:
    """Another value in this column of cases.csv, in the rows of a metric and a status, or in all."""

    def damage(run: Path) -> None:
        cases = pd.read_csv(run / "cases.csv", dtype=str, keep_default_na=False)
        where = cases["metric"].str.contains(metric) & cases["status"].str.contains(status)
        assert where.any()
        cases.loc[where, column] = str(value)
        cases.to_csv(run / "cases.csv", index=False)

    return damage


def damage_protocol(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"protocol": "paper"}))


def damage_bytes(run: Path) -> None:
    (run / "cases.csv").write_bytes(b"\x93NUMPY\xff\x00")


def damage_empty(run: Path) -> None:
    (run / "cases.csv").write_text("")


def damage_no_rows(run: Path) -> None:
    (run / "cases.csv").write_text((run / "cases.csv").read_text().splitlines(keepends=True)[0])


def damage_missing(run: Path) -> None:
    (run / "cases.csv").unlink()


def damage_result(run: Path) -> None:
    (run / "result.json").write_text('{"names": ')


def damage_result_list(run: Path) -> None:
    (run / "result.json").write_text("[]")


def damage_result_keys(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    del result["store_key"]
    (run / "result.json").write_text(json.dumps(result))


def damage_result_names(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"names": None}))


def damage_config(run: Path) -> None:
    (run / "config.yaml").write_text("names: [")


def damage_config_empty(run: Path) -> None:
    (run / "config.yaml").write_text("")


DAMAGES = {
    damage_cut_in_a_row: "cases.csv",
    damage_cut_within_the_last_number: "cut off in the middle",
    damage_cut_after_a_row: "27 rows of phantom where cases x classes x metrics are 28",
    damage_case_twice: "scores case 001 more than once",
    damage_column: "expected the columns protocol, .* got .*state",
    damage_value: "cases.csv cannot be read: .*O.75",
    damage_status: "expected a status of .* got 'mist'",
    damage_case_lost: "scores 3 cases where data.json lists 4 as tested; they differ in 002$",
    damage_case_of_another: "scores 4 cases where data.json lists 3 as tested; they differ in 004$",
    damage_case_of_another_part: "they differ in 001, 002, 003, 004$",
    damage_tested: "data.json: expected test_cases to be an object of objects",
    damage_data: "data.json is no JSON",
    damage_protocol: "expected protocol to be paper as in result.json, got per_case$",
    damage_bytes: "cases.csv cannot be read",
    damage_empty: "cases.csv cannot be read",
    damage_no_rows: "no row",
    damage_missing: "cases.csv is missing",
    damage_result: "result.json is no JSON",
    damage_result_list: "expected an object, got list",
    damage_result_keys: "result.json lacks store_key",
    damage_result_names: "expected names and primary",
    damage_config: "config.yaml",
    damage_config_empty: "config.yaml: expected the configuration of a run",
}


@pytest.mark.parametrize(("damage", "why"), DAMAGES.items(), ids=[damage.__name__ for damage in DAMAGES])
def test_a_damaged_run_is_named_and_the_others_are_read(make, runs, damage, why):
    damage(make("bce", 0))
    make("calf", 0)
    gathered = gather(runs)
    assert gathered.runs["state"].tolist() == ["damaged", "finished"]
    assert gathered.incomplete["folder"].tolist() == ["phantom/unet/bce/seed-0-0123456789"]
    assert re.search(why, gathered.incomplete["error"].iloc[0])
    assert set(gathered.cases["loss"]) == {"calf"}


DISAGREEING = {
    "dataset": ("other", "expected dataset to be phantom as in result.json, or its parts, got other$"),
    "split": ("other", "expected split to be sNone as in result.json, got other$"),
    "fold": (3, "expected fold to be '' as in result.json, got 3$"),
    "seed": (5, "expected seed to be 0 as in result.json, got 5$"),
    "model": ("other", "expected model to be unet as in result.json, got other$"),
    "loss": ("x" * 10**6, "expected loss to be bce as in result.json, got x{80}$"),
}
IMPOSSIBLE = {
    "undefined overlap": (change("value", "", "dice", "ok"), "dice of case 001, whose status is ok, to be defined; got nan"),
    "undefined miss": (change("value", "nan", "iou", "missed"), "iou of case 002, whose status is missed, to be defined"),
    "share above 1": (change("value", 1.5, "specificity"), "a share, from 0 to 1; got 1.5"),
    "share below 0": (change("value", -0.1, "mae"), "a share, from 0 to 1; got -0.1"),
    "infinite": (change("value", "inf", "dice", "ok"), "a finite number; got inf"),
    "negative volume": (change("reference_volume_mm3", -1), "expected volumes of case 001 from 0 mm3 on"),
}


@pytest.mark.parametrize(("column", "value", "why"), [(column, *found) for column, found in DISAGREEING.items()])
@pytest.mark.parametrize("status", ["", "missed"], ids=["all rows", "some rows"])
def test_rows_of_another_run_are_damage(make, runs, column, value, why, status):
    change(column, value, status=status)(make("bce", 0))
    run = only(runs)
    assert run["state"] == "damaged"
    assert re.search(why if not status else "as in result.json", run["error"])


@pytest.mark.parametrize(("damage", "why"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_values_are_damage(make, runs, damage, why):
    damage(make("bce", 0))
    run = only(runs)
    assert run["state"] == "damaged"
    assert why in run["error"]


@pytest.mark.parametrize(
    ("metric", "value", "state"),
    [
        ("specificity", "", "finished"),  # no negative voxel
        ("balanced_accuracy", "", "finished"),
        ("hd95_mm", "", "damaged"),
        ("hd95_mm", "-1", "damaged"),
        ("nsd_2mm", "1.5", "damaged"),
        ("brier", "-1e-17", "finished"),  # by rounding
        ("relative_volume_error", "6.5", "finished"),
        ("volume_difference_ml", "-109.7", "finished"),
        ("false_positive_lesions", "22", "finished"),
        ("of_my_own", "", "finished"),
    ],
)
def test_what_a_metric_may_be(make, runs, metric, value, state):
    run = make("bce", 0)
    add(run, metric, value) if metric != "specificity" else change("value", value, metric)(run)
    assert only(runs)["state"] == state


def test_parts_of_joined_data_are_named_below_the_whole(make, runs):
    run = make("calf", 0)
    cases = pd.read_csv(run / "cases.csv", dtype=str, keep_default_na=False)
    part = cases["case"].map({"001": "a", "002": "a", "003": "b", "004": "b"})
    cases.assign(dataset="phantom/" + part).to_csv(run / "cases.csv", index=False)
    list_tested(run, dict(zip(cases["case"], part, strict=True)))
    assert only(runs)["state"] == "finished"
    cases.assign(dataset=("phantom/" + part).where(part == "a", "phantom")).to_csv(run / "cases.csv", index=False)
    assert only(runs)["state"] == "damaged"


def test_batches_are_no_cases_and_old_runs_list_none(make, runs):
    listed = make("calf", 0, protocol="paper")
    list_tested(listed, {"001": None})
    (make("bce", 0) / "data.json").write_text("{}")
    assert gather(runs).runs["state"].tolist() == ["finished", "finished"]


def test_a_value_that_is_undefined_is_none(make, runs):
    run = make("calf", 0)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"primary": {"metric": "dice", "value": float("nan")}}))
    assert only(runs)["state"] == "finished"
    assert pd.isna(only(runs)["value"])
