"""Gathering run folders: every one of them is accounted for, whatever happened to it."""

from __future__ import annotations

import datetime
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from calf.metrics.protocol import CASE_COLUMNS
from calf.report.results import gather


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
    found = gather(runs).runs
    assert found["state"].tolist() == ["killed", "running", "killed", "running", "unfinished"]
    assert found["error"].tolist() == [
        f"killed or stopped: last heard of at {before} in epoch 3 of 4",
        "",
        f"killed or stopped: last heard of at {before} in epoch 4 of 4",
        "",
        f"stopped before its result was written: last heard of at {before} in epoch 3 of 4",
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


def test_a_value_that_is_undefined_is_none(make, runs):
    run = make("calf", 0)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"primary": {"metric": "dice", "value": float("nan")}}))
    assert only(runs)["state"] == "finished"
    assert pd.isna(only(runs)["value"])
