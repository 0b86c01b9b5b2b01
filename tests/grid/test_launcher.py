"""The launcher on a tiny application, with the real Hydra and the real Ray."""

from __future__ import annotations

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from calf.report.results import read_status

HERE = Path(__file__).absolute().parent
ROOT = HERE.parents[1]
MACHINE = {"CPU": 4, "GPU": 2}
DEADLINE_SECONDS = 60
ENDLESS = ("-m", "loss=endless,good", "hydra.launcher.grace_seconds=0.5", "hydra.launcher.jobs_at_once=1")


@dataclass
class Launch:
    """What a command has left behind."""

    code: int
    output: str
    runs: Path

    def folder(self, loss: str) -> Path:
        (folder,) = self.runs.glob(f"*/*/*/{loss}/*/")
        return folder

    def seen(self, loss: str, attempt: int = 0) -> dict[str, Any]:
        """What the job itself saw of its surroundings."""
        content: dict[str, Any] = json.loads((self.folder(loss) / f"seen-{attempt}.json").read_text())
        return content

    def table(self) -> list[list[str]]:
        """The rows of the final table, split at two blanks or more."""
        lines = self.output.split("\ndataset ")[-1].splitlines()[1:]
        return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines if line.startswith("cubes")]


def environment(runs: Path, **extra: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_", "MKL_"))}
    return clean | {"PYTHONPATH": str(ROOT), "TINY_RUNS": str(runs)} | extra


def launch(runs: Path, *arguments: str, **extra: str) -> Launch:
    runs.mkdir(exist_ok=True)
    command = [sys.executable, str(HERE / "app.py"), *arguments]
    done = subprocess.run(
        command, env=environment(runs, **extra), cwd=runs, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS
    )
    return Launch(done.returncode, done.stdout + done.stderr, runs)


SWEEP = (
    "-m",
    "loss=good,killed,broken,worker_killed",
    "model=small,small",
    'note="commas, blanks = {braces}"',
    '+extra={a:[1,2],b:{c:"x, y"}}',
    "++tree.a=7",
    "~tree.b",
    "hydra.launcher.grace_seconds=0.5",
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """Four runs, each asked for twice; three go wrong at their first attempt."""
    return launch(tmp_path_factory.mktemp("grid"), *SWEEP, RAY_OVERRIDE_RESOURCES=json.dumps(MACHINE))


@pytest.fixture(scope="module")
def second(first: Launch) -> Launch:
    """The same command again."""
    return launch(first.runs, *SWEEP)


def test_failures_harm_no_other_job_and_are_told(first: Launch) -> None:
    assert first.code == 1
    assert [(row[2], row[4]) for row in first.table()] == [
        ("good", "finished"),
        ("killed", "failed (signal 9, out of memory?)"),
        ("broken", "failed (exit code 1)"),
        ("worker_killed", "failed (its Ray worker died)"),
    ]
    assert first.output.rstrip().splitlines()[-1].startswith("Results: calf report")


def test_a_failure_shows_the_end_of_its_log(first: Launch) -> None:
    assert "RuntimeError: the loss is not finite" in first.output
    assert "    about to be killed" in first.output
    status = json.loads((first.folder("broken") / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["reason"] == "exit code 1"
    assert "RuntimeError: the loss is not finite" in status["log"]


def test_a_run_asked_for_twice_runs_once(first: Launch) -> None:
    assert len(first.table()) == 4
    assert len(list(first.folder("good").glob("seen-*.json"))) == 1


def test_overrides_reach_the_job_as_they_were_meant(first: Launch) -> None:
    config = first.seen("good")["config"]
    assert config["note"] == "commas, blanks = {braces}"
    assert config["extra"] == {"a": [1, 2], "b": {"c": "x, y"}}
    assert config["tree"] == {"a": 7}
    assert config["choice"] == "good"


def test_a_job_is_a_plain_run_with_its_share_of_the_machine(first: Launch) -> None:
    seen = first.seen("good")
    assert seen["mode"] == "RUN"
    assert "-m" not in seen["argv"]
    assert seen["cwd"] == str(first.runs)
    assert seen["OMP_NUM_THREADS"] == seen["MKL_NUM_THREADS"] == "2"
    assert seen["deaf"] == []
    assert seen["nice"] == os.nice(0)
    assert seen["CUDA_VISIBLE_DEVICES"] in ("0", "1")


def test_the_data_are_prepared_once_before_the_jobs(first: Launch) -> None:
    assert (first.runs / "prepared.txt").read_text() == "cubes 3\n"


def test_the_same_command_runs_only_what_is_missing(second: Launch) -> None:
    assert second.code == 0
    assert [(row[2], row[4]) for row in second.table()] == [
        ("good", "skipped"),
        ("killed", "finished"),
        ("broken", "finished"),
        ("worker_killed", "finished"),
    ]
    assert second.table()[1][-1] == "0.5000"
    assert len(list(second.folder("good").glob("seen-*.json"))) == 1


def test_without_a_gpu_none_is_visible(second: Launch) -> None:
    assert second.seen("killed", attempt=1)["CUDA_VISIBLE_DEVICES"] == ""


def test_a_log_keeps_every_attempt(second: Launch) -> None:
    assert (second.folder("broken") / "log.txt").read_text().count("=== ") == 2


def test_a_finished_grid_starts_nothing(second: Launch) -> None:
    # an address where nobody answers: Ray cannot have been asked
    third = launch(second.runs, *SWEEP, "hydra.launcher.address=127.0.0.1:1")
    assert third.code == 0
    assert {row[4] for row in third.table()} == {"skipped"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("loss=good,cafl",), "good"),
        (("loss=good", "sead=1,2"), "sead"),
        (("loss=good,refused",), "loss=refused: loss refused: expected another one"),
        (("loss=good", "hydra.launcher.gpus=1"), "gpus"),
        (("loss=good", "dataset.name=cubes,spheres"), "the data could not be prepared: spheres are not at hand"),
    ],
)
def test_a_mistake_in_any_job_starts_none(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    mistaken = launch(tmp_path, "-m", *arguments)
    assert mistaken.code == 1
    assert message in mistaken.output
    assert "Traceback" not in mistaken.output
    assert not list(tmp_path.rglob("seen-*.json"))


class Endless:
    """A grid of one job that never ends by itself and of a child of it; both hold the writing end of a FIFO."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        fifo = runs / "fifo"
        os.mkfifo(fifo)
        self.reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        command = [sys.executable, str(HERE / "app.py"), *ENDLESS]
        env = environment(runs, TINY_FIFO=str(fifo))
        with (runs / "output.txt").open("w") as output:
            self.launcher = subprocess.Popen(
                command,
                env=env,
                cwd=runs,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # a shell that runs the tests in the background has them ignore it, and so would the launcher
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def waiting(self) -> Path:
        """The folder of the job that waits for the endless one to end."""
        (config,) = self.runs.rglob("good/*/config.yaml")
        return config.parent

    def read(self) -> bytes:
        """What comes next from the FIFO; empty when everybody who held it is dead."""
        readable, _, _ = select.select([self.reader], [], [], DEADLINE_SECONDS)
        assert readable, "nothing came"
        return os.read(self.reader, 100)

    def close(self) -> None:
        self.launcher.kill()
        self.launcher.wait()
        os.close(self.reader)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Endless]]:
    """Two such grids, started at the same time because most of a start is waiting."""
    grids = [Endless(tmp_path_factory.mktemp("endless")) for _ in range(2)]
    yield grids
    for grid in grids:
        grid.close()


def test_a_stopped_grid_ends_its_jobs_and_says_how_to_go_on(endless: list[Endless]) -> None:
    grid = endless[0]
    assert grid.read() == b"started\n"
    # as a terminal does it: to the launcher and to all of Ray
    os.killpg(grid.launcher.pid, signal.SIGINT)
    assert grid.read() == b""
    assert grid.launcher.wait(DEADLINE_SECONDS) == 128 + signal.SIGINT
    output = (grid.runs / "output.txt").read_text()
    assert "stopped" in output
    assert output.rstrip().endswith(f"app.py {' '.join(ENDLESS)}")
    (status,) = grid.runs.rglob("status.json")
    assert json.loads(status.read_text())["state"] == "stopped"
    assert read_status(grid.waiting) == {"state": "unfinished", "error": "stopped before it began"}


def test_a_killed_launcher_leaves_no_job_behind(endless: list[Endless]) -> None:
    grid = endless[1]
    assert grid.read() == b"started\n"
    assert read_status(grid.waiting)["state"] == "waiting"
    grid.launcher.kill()
    assert grid.read() == b""
    grid.launcher.wait()
    assert read_status(grid.waiting)["error"] == "stopped before it began"


@pytest.mark.skipif(importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None, reason="needs the extra optuna")
def test_a_sweeper_gets_values_and_failures(tmp_path: Path) -> None:
    optuna = (
        "hydra/sweeper=optuna",
        "hydra/sweeper/sampler=random",
        "hydra.sweeper.sampler.seed=1",
        "hydra.sweeper.direction=maximize",
    )
    # all at once: trials that draw the same loss share one run
    amount = ("hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=6", "hydra.sweeper.max_failure_rate=1")
    searched = launch(tmp_path, "-m", *optuna, *amount, "loss=choice(good,broken)", "seed=2")
    assert searched.code == 1
    (result,) = tmp_path.rglob("optimization_results.yaml")
    assert "best_value: 2.75" in result.read_text()
    assert {(row[2], row[4]) for row in searched.table()} == {("good", "finished"), ("broken", "failed (exit code 1)")}


@pytest.mark.skipif(importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None, reason="needs the extra slurm")
def test_slurm_takes_the_same_program(tmp_path: Path) -> None:
    composed = launch(
        tmp_path, "--cfg", "hydra", "-p", "hydra.launcher", "hydra/launcher=submitit_slurm", "hydra.launcher.gres=gpu:1"
    )
    assert composed.code == 0
    assert "gres: gpu:1" in composed.output
    ran = launch(tmp_path, "-m", "hydra/launcher=submitit_local", f"hydra.launcher.submitit_folder={tmp_path}/jobs")
    assert ran.code == 0
    assert (ran.folder("good") / "result.json").exists()
