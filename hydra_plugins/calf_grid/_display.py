"""What the user sees of a grid: a live picture on a terminal, plain lines elsewhere, and the final table."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hydra_plugins.calf_grid._jobs import Job

# without a terminal: at least one line in this time
LINE_SECONDS = 60.0
LOG_LINES = 8
COUNTED = {"finished": "done", "failed": "failed", "running": "running", "waiting": "waiting", "skipped": "skipped"}
COLOURS = {"finished": "green", "skipped": "cyan", "failed": "red", "stopped": "yellow", "not started": "yellow"}


class Display:
    """Shows `jobs`, and changes nothing about them; a context manager while they run."""

    def __init__(self, jobs: list[Job], quiet: bool = False, console: Console | None = None) -> None:
        self.jobs = jobs
        self.quiet = quiet
        self.console = console or Console()
        if not self.console.is_terminal:
            # a pipe or a file has no width; nothing may be cut off or broken there
            self.console = Console(file=self.console.file, width=250)
        self.labels = labels(jobs)
        self.live: Live | None = None
        self.last_line = time.monotonic()

    def __enter__(self) -> Display:
        if self.console.is_terminal and not self.quiet:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, line: str) -> None:
        self.last_line = time.monotonic()
        if not self.quiet:
            self._print(line)

    def begun(self, job: Job) -> None:
        self.say(f"{self.labels[job.number]}: started, {short(job.log)}")

    def ended(self, job: Job) -> None:
        num_ended = sum(other.state in ("finished", "failed") for other in self.jobs)
        num_launched = sum(other.state != "skipped" for other in self.jobs)
        value = "" if job.value is None else f", {job.value:.4f}"
        took = "" if job.seconds is None else f" after {clock(job.seconds)}"
        self.say(f"[{num_ended}/{num_launched}] {self.labels[job.number]}: {job.status}{took}{value}")

    def update(self) -> None:
        """Draws the picture anew, or says how things stand when nothing was said for a while."""
        if self.live is not None:
            self.live.update(self.picture(time.monotonic()), refresh=True)
        elif time.monotonic() - self.last_line > LINE_SECONDS:
            self.say(self.header(time.monotonic()))

    def header(self, now: float) -> str:
        """How many jobs are done, failed, running, waiting, skipped, and how long it may still take."""
        counts = Counter(job.state for job in self.jobs)
        left = seconds_left(self.jobs, now)
        parts = [f"{counts[state]} {name}" for state, name in COUNTED.items() if counts[state]]
        return ", ".join(parts) + ("" if left is None else f"; about {clock(left)} left")

    def picture(self, now: float) -> RenderableType:
        """The header and a line for each running job: bar, epoch, validation metric, time."""
        rows = Table.grid(padding=(0, 1))
        for job in self.jobs:
            if job.state == "running" and job.started is not None:
                epochs = job.progress.get("epochs")
                bar = ProgressBar(total=1.0, completed=job.fraction, width=24, pulse=not epochs, animation_time=now)
                epoch = f"{int(job.progress.get('epoch', 0))}/{epochs}" if epochs else str(job.progress.get("state", ""))
                metric = next((f"{name} {value:.4f}" for name, value in job.progress.get("val", {}).items()), "")
                rows.add_row(Text(self.labels[job.number]), bar, epoch, metric, clock(now - job.started))
        return Group(Text(self.header(now), style="bold"), rows)

    def final(self) -> None:
        """What failed and why, the table of all jobs, and how to look at the results."""
        for job in self.jobs:
            if job.state == "failed":
                lines = job.progress.get("log", [])[-LOG_LINES:]
                where = ("the end of " if lines else "") + short(job.log)
                self._print(f"\n{self.labels[job.number]}: {job.status}; {where}", "bold red")
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

    def _print(self, line: str, style: str = "") -> None:
        self.console.print(Text(line, style=style), soft_wrap=True)


def labels(jobs: list[Job]) -> dict[int, str]:
    """A name for each job by its number: only what differs between the jobs, everything for a single one."""
    differ = [len(set(column)) > 1 for column in zip(*(job.parts for job in jobs), strict=True)]
    if not any(differ):
        differ = [True] * len(differ)
    return {job.number: " ".join(part for part, told in zip(job.parts, differ, strict=True) if told and part) for job in jobs}


def seconds_left(jobs: list[Job], now: float) -> float | None:
    """From how fast the jobs have gone so far, with as many side by side as run now; None before anything is known.

    A continued job counts by what it has gained since it was started.
    """
    known = [job.seconds for job in jobs if job.state == "finished" and job.seconds is not None]
    rests: list[float | None] = []
    for job in jobs:
        if job.state == "running" and job.started is not None:
            spent = now - job.started
            gained = job.fraction - (job.fraction if job.first_fraction is None else job.first_fraction)
            rests.append(spent / gained * (1 - job.fraction) if gained > 0 else None)
            known += [spent / gained] if gained > 0 else []
    if not known:
        return None
    mean = sum(known) / len(known)
    num_waiting = sum(job.state == "waiting" for job in jobs)
    return (sum(mean if rest is None else rest for rest in rests) + num_waiting * mean) / max(1, len(rests))


def clock(seconds: float) -> str:
    """83.4 -> "1:23", 3723 -> "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def short(path: Path) -> str:
    """`path` as seen from the working directory, where it is below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
