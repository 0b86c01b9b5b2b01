"""Learning curves and differing settings of some runs beside each other, for the page Runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from nicegui import ui

from calf.report.cells import differing
from calf.report.grids import NOTHING, Cell, Grid, heading
from calf.report.results import ALIVE
from calf.report.training import histories
from calf.ui import curves
from calf.ui.pages.plots import in_thread, note, plot, replace
from calf.ui.pages.report_tables import draw
from calf.ui.runs import Run
from calf.ui.server import Explorer

MOST_CURVES = 18  # that colours and dashes tell apart
MOST_SETTINGS = 8
NONE_TICKED = 6
NO_CURVE = frozenset({"epoch", "step", "dataset", "model", "loss", "seed", "fold", "folder"})


class Curves:
    """A column of history.csv by epoch, a line a run; runs at work grow as they write it."""

    def __init__(self, explorer: Explorer, column: str) -> None:
        self.explorer, self.column = explorer, column

    async def build(self, ticked: Sequence[str]) -> None:
        history = await in_thread(self._history, ticked)
        columns = _columns(history)
        if self.column not in columns:
            self.column = next((name for name in ("val/dice", "train/loss") if name in columns), columns[0] if columns else "")
        self.control = ui.select({}, label="curve", on_change=self._other).props("dense outlined").classes("min-w-48")
        self.chart = plot("curves", curves.curves({}, ""), "learning curves", 420)
        self.said = note("")
        self.ticked = ticked
        self._show(history)

    async def follow(self, ticked: Sequence[str]) -> None:
        """Read again what is drawn."""
        self._show(await in_thread(self._history, ticked))

    async def _other(self, event: Any) -> None:
        if event.value not in (None, self.column):
            self.column = event.value
            await self.follow(self.ticked)

    def _history(self, ticked: Sequence[str]) -> pd.DataFrame:
        runs = shown_runs(self.explorer.library.runs, ticked, MOST_CURVES)
        return histories(self.explorer.library.gathered([one.id for one in runs]))

    def _show(self, history: pd.DataFrame) -> None:
        columns = _columns(history)
        self.control.set_options({name: name for name in columns}, value=self.column if self.column in columns else None)
        of = lines(self.explorer.library.runs, history, self.column)
        part, _, metric = self.column.partition("/")
        replace(self.chart, curves.curves(of, f"{heading(metric)}, {part}" if metric else self.column))
        self.chart.props["aria-label"] = f"{self.column} by epoch of {', '.join(of)}"
        which = "Ticked in Status." if self.ticked else "Nothing is ticked in Status: runs at work first, then the best."
        more = len(set(self.ticked)) - MOST_CURVES
        cut = f" {more} more are ticked than can be told apart." if more > 0 else ""
        self.said.set_text(f"{which}{cut}" if of else "None of these runs has finished an epoch yet.")


class Settings:
    """In which settings runs differ."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer

    async def build(self, ticked: Sequence[str]) -> None:
        library = self.explorer.library
        runs = shown_runs(library.runs, ticked, MOST_SETTINGS)
        if not ticked:
            note("Nothing is ticked in Status: runs at work first, then the best.")
        settings = {one.id: library.settings(one.id) for one in runs}
        unread = [one.label for one in runs if not settings[one.id]]
        runs = [one for one in runs if settings[one.id]]
        if unread:
            note(f"The settings of {', '.join(unread)} cannot be read.")
        if len(runs) < 2:
            note("It takes two runs to differ: tick them in Status.")
            return
        grid, num_same = differences(runs, settings)
        if grid.rows:
            draw(grid)
        said = "They differ in nothing but seed and fold" if not grid.rows else "Seed and fold are left out"
        more = len(set(ticked)) - MOST_SETTINGS
        note(f"{said}; {num_same} settings are the same." + (f" {more} more runs are ticked than fit." if more > 0 else ""))


def shown_runs(runs: Sequence[Run], ticked: Sequence[str], most: int) -> list[Run]:
    """The ticked ones; where none is, runs at work and then the best of the first of the data sets, a few."""
    if ticked:
        return [one for one in runs if one.id in set(ticked)][:most]
    known = [one for one in runs if one.dataset]
    order = sorted(known, key=lambda one: (one.state not in ALIVE, -math.inf if one.value is None else -one.value))
    return [one for one in order if one.dataset == order[0].dataset][: min(NONE_TICKED, most)]


def lines(runs: Sequence[Run], history: pd.DataFrame, column: str) -> dict[str, list[tuple[float, float]]]:
    """By label of a run its points (epoch, value), those that are finite numbers; runs without one are left out."""
    if column not in history:
        return {}
    labels = {one.place: one.label for one in runs}
    found: dict[str, list[tuple[float, float]]] = {}
    for folder, own in history.groupby("folder", sort=False):
        values = zip(own["epoch"].tolist(), pd.to_numeric(own[column], errors="coerce").tolist(), strict=True)
        points = [(float(epoch), float(value)) for epoch, value in values if math.isfinite(value)]
        if points:
            found[labels.get(str(folder), str(folder))] = points
    return found


def differences(runs: Sequence[Run], settings: dict[str, dict[str, Any]]) -> tuple[Grid, int]:
    """Settings that differ, a row each and a column a run, and how many are the same."""
    own = [settings[one.id] for one in runs]
    table = pd.DataFrame({"seed": [one.seed for one in runs], "fold": [one.fold for one in runs]})
    keys = differing(own, table)
    rows = [[Cell(key), *(Cell(NOTHING if key not in one else str(one[key])) for one in own)] for key in keys]
    return Grid(["setting", *(one.label for one in runs)], rows, num_text=1 + len(runs)), len(set().union(*own)) - len(keys)


def _columns(history: pd.DataFrame) -> list[str]:
    return [str(name) for name in history.columns if name not in NO_CURVE and history[name].notna().any()]
