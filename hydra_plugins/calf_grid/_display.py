"""What the user sees of a grid: a live picture on a terminal, plain lines elsewhere, and the final table."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hydra_plugins.calf_grid._jobs import Job
from hydra_plugins.calf_grid._worker import read_status

# between two plain lines when nothing has ended
QUIET_SECONDS = 60.0
SHOWN_LOG_LINES = 8
COLOURS = {"finished": "green", "skipped": "cyan", "failed": "red", "stopped": "yellow", "not started": "yellow"}


class Display:
    """Follows `jobs` through the ``status.json`` of their run folders; a context manager while they run."""

    def __init__(self, jobs: list[Job], quiet: bool = False, console: Console | None = None) -> None:
        self.jobs = jobs
        self.quiet = quiet
        # a pipe or file has no width; nothing may be cut off there
        self.console = console or (Console() if _is_terminal() else Console(width=200))
        self.threads = 0
        self.live: Live | None = None
        self.began = time.monotonic()
        self.last_line = self.began
        self.started: dict[int, float] = {}
        self.first_fraction: dict[int, float] = {}
        self.status: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> Display:
        counts = Counter(job.state for job in self.jobs)
        self._say(f"{counts['waiting']} jobs to run, {counts['skipped']} finished before and skipped")
        if self.console.is_terminal and not self.quiet:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self) -> None:
        """Looks at the status of the jobs and shows it."""
        for job in self.jobs:
            if job.state in ("waiting", "running"):
                self._follow(job)
        if self.live is not None:
            self.live.update(self.picture(), refresh=True)
        elif time.monotonic() - self.last_line > QUIET_SECONDS:
            self._say(self.header())

    def ended(self, job: Job) -> None:
        ended = [other for other in self.jobs if other.state in ("finished", "failed")]
        value = "" if job.value is None else f", {job.value:.4f}"
        took = "" if job.seconds is None else f" after {clock(job.seconds)}"
        self._say(f"[{len(ended)}/{self._launched()}] {job.label}: {job.status}{took}{value}")

    def header(self) -> str:
        """One line: how many jobs are done, failed, running, waiting; how long it may still take."""
        counts = Counter(job.state for job in self.jobs)
        left = self.seconds_left()
        parts = [f"{counts[state]} {name}" for state, name in STATES.items() if counts[state]]
        return ", ".join(parts) + ("" if left is None else f"; about {clock(left)} left")

    def picture(self) -> RenderableType:
        """The header and a line for each running job: bar, epoch, validation metric, time."""
        grid = Table.grid(padding=(0, 1))
        for job in self.jobs:
            if job.state == "running":
                status = self.status.get(job.number, {})
                epochs = status.get("epochs") or 0
                bar = ProgressBar(total=1.0, completed=fraction(status), width=24, pulse=not epochs, animation_time=time.monotonic())
                epoch = f"{status.get('epoch', 0)}/{epochs}" if epochs else str(status.get("state", ""))
                metric = next((f"{name} {value:.4f}" for name, value in status.get("val", {}).items()), "")
                grid.add_row(Text(job.label), bar, epoch, metric, clock(time.monotonic() - self.started[job.number]))
        return Group(Text(self.header(), style="bold"), grid)

    def seconds_left(self) -> float | None:
        """From how fast the jobs have gone so far, as many side by side as run now; None before anything is known."""
        now = time.monotonic()
        known = [job.seconds for job in self.jobs if job.seconds is not None and job.state == "finished"]
        rests: list[float | None] = []
        for job in self.jobs:
            if job.state == "running":
                spent = now - self.started[job.number]
                done = fraction(self.status.get(job.number, {}))
                gained = done - self.first_fraction.get(job.number, done)
                rests.append(spent / gained * (1 - done) if gained > 0 else None)
                if gained > 0:
                    known.append(spent / gained)
        if not known:
            return None
        mean = sum(known) / len(known)
        waiting = sum(job.state == "waiting" for job in self.jobs)
        return (sum(mean if rest is None else rest for rest in rests) + waiting * mean) / max(1, len(rests))

    def final(self) -> None:
        """What failed and why, the table of all jobs, and how to look at the results."""
        for job in self.jobs:
            if job.state == "failed":
                lines = read_status(job.plan.folder).get("log", [])[-SHOWN_LOG_LINES:]
                self._print(f"\n{job.label}: {job.status}; {'the end of ' if lines else ''}{short(job.log)}", "bold red")
                for line in lines:
                    self._print(f"    {line}")
        self.console.print()
        self.console.print(self.table())
        for folder in dict.fromkeys(job.grid_folder for job in self.jobs):
            self._print(f"Results: calf report {short(folder)}")

    def table(self) -> Table:
        names = list(self.jobs[0].plan.names)
        table = Table(*names, "seed", "fold", "status", box=None, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column("time", justify="right")
        table.add_column("result", justify="right")
        for job in self.jobs:
            table.add_row(
                *(Text(job.plan.names.get(name, "")) for name in names),
                "" if job.plan.seed is None else str(job.plan.seed),
                "" if job.plan.fold is None else str(job.plan.fold),
                Text(job.status, style=COLOURS.get(job.state, "")),
                "" if job.seconds is None else clock(job.seconds),
                "" if job.value is None else f"{job.value:.4f}",
            )
        return table

    def _follow(self, job: Job) -> None:
        status = read_status(job.plan.folder)
        if not status:
            return
        self.status[job.number] = status
        if job.state == "waiting":
            job.state = "running"
            self.started[job.number] = time.monotonic()
            self._say(f"{job.label}: started, {short(job.log)}")
        if status.get("epochs"):
            self.first_fraction.setdefault(job.number, fraction(status))

    def _launched(self) -> int:
        return sum(job.state != "skipped" for job in self.jobs)

    def _say(self, line: str) -> None:
        self.last_line = time.monotonic()
        if not self.quiet:
            self._print(line)

    def _print(self, line: str, style: str = "") -> None:
        self.console.print(Text(line, style=style), soft_wrap=True)


STATES = {"finished": "done", "failed": "failed", "running": "running", "waiting": "waiting", "skipped": "skipped"}


def _is_terminal() -> bool:
    return Console().is_terminal


def fraction(status: dict[str, Any]) -> float:
    """How much of a run is done, 0 to 1."""
    epochs = status.get("epochs")
    return min(1.0, status.get("epoch", 0) / epochs) if epochs else 0.0


def clock(seconds: float) -> str:
    """83.4 -> "1:23", 3723 -> "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def short(path: Path) -> str:
    """`path` as seen from the working directory, where it is below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
