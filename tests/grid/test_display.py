from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from hydra_plugins.calf_grid._display import Display, clock, labels, seconds_left
from hydra_plugins.calf_grid._jobs import Job


@dataclass
class Plan:
    folder: Path
    names: dict[str, str]
    seed: int | None = 0
    fold: int | None = None
    finished: bool = False
    value: float | None = None


def job(number: int, loss: str, root: Path = Path("runs"), state: str = "waiting", **fields: object) -> Job:
    names = {"dataset": "cubes", "model": "unet", "loss": loss}
    plan = Plan(root / "grid" / "cubes" / "unet" / loss / "seed-0", names)
    made = Job(number, [], [], OmegaConf.create({}), "", plan, "", state)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def shown(display: Display) -> str:
    assert isinstance(display.console.file, io.StringIO)
    return display.console.file.getvalue()


def display(jobs: list[Job], terminal: bool = False, quiet: bool = False) -> Display:
    return Display(jobs, quiet, Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None))


def test_a_running_job_has_a_bar_an_epoch_a_metric_and_its_time() -> None:
    progress = {"state": "running", "epoch": 3.5, "epochs": 10, "val": {"val/dice": 0.71234}}
    jobs = [
        job(0, "calf[scope=dataset]", state="running", started=100.0, progress=progress),
        job(1, "bce"),
        job(2, "dice", state="failed"),
    ]
    told = display(jobs, terminal=True)
    told.console.print(told.picture(now=183.0))
    header, line = shown(told).splitlines()
    assert header.strip() == "1 failed, 1 running, 1 waiting"
    assert line.startswith("calf[scope=dataset] ━")
    assert line.split()[-4:] == ["3/10", "val/dice", "0.7123", "1:23"]


def test_the_time_left_is_of_the_speed_so_far() -> None:
    done = job(0, "bce", state="finished", seconds=100.0)
    # continued at 50 %, and 25 % more in 50 s: 200 s for a whole run, 50 s for what is left
    half = job(1, "calf", state="running", started=0.0, progress={"epoch": 6, "epochs": 8}, first_fraction=0.5)
    assert seconds_left([job(2, "dice")], now=0.0) is None
    assert seconds_left([half], now=50.0) == pytest.approx(50.0)
    assert seconds_left([done, half, job(2, "dice")], now=50.0) == pytest.approx(50.0 + 150.0)
    assert seconds_left([done, job(2, "dice"), job(3, "focal")], now=50.0) == pytest.approx(200.0)


def test_a_job_is_seen_to_run_by_its_status_file(tmp_path: Path) -> None:
    seen = job(0, "bce", tmp_path)
    assert not seen.follow()
    assert seen.state == "waiting"
    seen.folder.mkdir(parents=True)
    (seen.folder / "status.json").write_text(json.dumps({"state": "running", "epoch": 2, "epochs": 8}))
    assert seen.follow()
    assert not seen.follow()
    assert (seen.state, seen.fraction, seen.first_fraction) == ("running", 0.25, 0.25)


def test_labels_tell_what_differs() -> None:
    assert labels([job(0, "bce"), job(1, "calf")]) == {0: "bce", 1: "calf"}
    assert labels([job(0, "bce")]) == {0: "cubes unet bce seed 0"}


def test_the_table_has_every_job_and_the_failure_its_log() -> None:
    failed = job(1, "calf", state="failed", reason="signal 9", progress={"log": ["line [1]", "[red]line 2"]})
    told = display([job(0, "bce", state="finished", seconds=3723.0, value=0.81239), failed])
    told.final()
    lines = [line.strip() for line in shown(told).splitlines()]
    assert lines[1] == "calf: failed (signal 9); the end of runs/grid/cubes/unet/calf/seed-0/log.txt"
    assert lines[2:4] == ["line [1]", "[red]line 2"]
    assert lines[6].split() == ["cubes", "unet", "bce", "0", "finished", "1:02:03", "0.8124"]
    assert lines[7].startswith("cubes    unet   calf  0           failed (signal 9)")
    assert lines[-1] == "Results: calf report runs/grid"


def test_without_a_terminal_nothing_is_cut() -> None:
    told = display([job(0, "a_loss_of_many_words" * 8, state="finished")])
    told.final()
    assert "a_loss_of_many_words" * 8 in shown(told)


def test_quiet_shows_no_progress_but_the_table() -> None:
    told = display([job(0, "bce", state="finished")], terminal=True, quiet=True)
    with told:
        told.begun(told.jobs[0])
        told.update()
        told.ended(told.jobs[0])
    assert shown(told) == ""
    told.final()
    assert "finished" in shown(told)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (83.4, "1:23"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
