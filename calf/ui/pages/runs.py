"""Runs, the first page: how they stand, as it changes; learning curves and settings of some of them; the report's tables.

In the address: ``view`` (status, curves, settings, tables), ``runs`` (those that were ticked), ``curve`` (a column of
history.csv), and of the tables ``data``, ``protocol``, ``part``, ``class``, ``metric`` and ``baseline``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from nicegui import run, ui

from calf.report.results import FINISHED, UNDER_WAY
from calf.ui.addresses import split_ids
from calf.ui.library import Unknown
from calf.ui.pages.plots import keep_address, note
from calf.ui.pages.report_tables import Tables
from calf.ui.pages.some_runs import Curves, Settings
from calf.ui.runs import Run
from calf.ui.server import Explorer

PATH, TITLE = "/", "Runs"
EVERY_S = 2.0
ROWS_A_PAGE = 25
COLUMNS = ("loss", "model", "dataset", "seed", "fold", "state", "epochs", "metric", "value", "error")
VIEWS = {"status": "Status", "curves": "Learning curves", "settings": "Settings", "tables": "Report tables"}


async def build(explorer: Explorer, query: Mapping[str, str]) -> None:
    """Four views of the runs; the first two follow a grid that is running."""
    view = query.get("view", "status")
    if view not in VIEWS:
        raise Unknown(f"view: expected one of {', '.join(VIEWS)}")
    page = RunsPage(explorer, query)
    page.build(view)
    await ui.context.client.connected()
    await page.open(view)


class RunsPage:
    """What one browser looks at."""

    def __init__(self, explorer: Explorer, query: Mapping[str, str]) -> None:
        self.explorer, self.library = explorer, explorer.library
        self.chosen = [run.id for run in self.library.chosen(split_ids(query.get("runs", "")))]
        self.curves, self.settings = Curves(explorer, query.get("curve", "")), Settings(explorer)
        self.tables = Tables(explorer, query, self._address)
        self.revision = -1

    def build(self, view: str) -> None:
        """The tabs, and what is known at once."""
        with ui.tabs().props("dense no-caps align=left") as self.tabs:
            for name, title in VIEWS.items():
                ui.tab(name, title)
        self.tabs.set_value(view)
        with ui.tab_panels(self.tabs, value=view, animated=False).classes("w-full bg-transparent"):
            with ui.tab_panel("status").classes("p-0"):
                self._status()
            self.panels = {name: ui.tab_panel(name).classes("p-0") for name in VIEWS if name != "status"}
        self._show()
        self.tabs.on_value_change(lambda event: self.open(event.value))
        ui.timer(EVERY_S, self._look)

    async def open(self, view: str) -> None:
        """Fill the panel of a view."""
        self._address()
        if view == "status":
            return
        panel = self.panels[view]
        panel.clear()
        with panel:
            if view == "curves":
                await self.curves.build(self.chosen)
            elif view == "settings":
                await self.settings.build(self.chosen)
            else:
                await self.tables.build()

    def _status(self) -> None:
        columns = [{"name": name, "label": name, "field": name, "align": "left", "sortable": True} for name in COLUMNS]
        self.said = ui.label().classes("text-base").props("role=status")
        self.progress = ui.linear_progress(show_value=False).props("aria-label='epochs done' instant-feedback")
        with ui.row().classes("w-full items-center gap-3"):
            search = ui.input("filter").props("dense outlined clearable").classes("min-w-64")
            note("Tick runs to set their learning curves and settings beside each other.")
        self.table = ui.table(
            columns=columns, rows=[], row_key="id", selection="multiple", pagination=ROWS_A_PAGE, on_select=self._ticked
        )
        self.table.classes("w-full").props("flat dense wrap-cells")
        self.table.bind_filter_from(search, "value", lambda text: text or "")
        self.none = ui.label(f"No run below {self.library.folder} yet: they appear here as they start.")

    def _show(self) -> None:
        self.revision = self.library.revision
        runs = self.library.runs
        self.said.set_text(summary(runs))
        share = progress(runs)
        self.progress.set_value(share or 0)
        self.progress.set_visibility(share is not None)
        self.table.rows = [row(one) for one in runs]
        self.table.selected = [line for line in self.table.rows if line["id"] in self.chosen]
        self.none.set_visibility(not runs)

    async def _look(self) -> None:
        await run.io_bound(self.library.refresh)
        if self.library.revision != self.revision:
            self._show()
            if self.tabs.value == "curves":
                await self.curves.follow(self.chosen)

    def _ticked(self, event: Any) -> None:
        self.chosen = [line["id"] for line in event.selection]
        self._address()

    def _address(self) -> None:
        view = self.tabs.value
        state: dict[str, str | None] = {"view": None if view == "status" else view, "runs": ",".join(self.chosen)}
        if view == "curves":
            state["curve"] = self.curves.column
        keep_address(PATH, state | (self.tables.state if view == "tables" else {}))


def row(one: Run) -> dict[str, Any]:
    """A run as the table shows it."""
    epochs = "" if one.epochs is None else str(one.epochs)
    return {
        **{name: getattr(one, name) for name in ("id", "loss", "model", "dataset", "seed", "fold", "state", "metric", "error")},
        "loss": one.loss or one.place,
        "epochs": epochs if one.epoch is None else f"{one.epoch:.1f} of {epochs or '?'}",
        "value": "" if one.value is None else f"{one.value:.4f}",
    }


def summary(runs: list[Run]) -> str:
    """How many runs are in which state, the finished first."""
    states = Counter(one.state for one in runs)
    order = sorted(states, key=lambda state: (state != FINISHED, state not in UNDER_WAY, state))
    counted = ", ".join(f"{states[state]} {state}" for state in order)
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}" + (f": {counted}" if counted else "")


def progress(runs: list[Run]) -> float | None:
    """Share of the epochs done of the runs that are finished, at work or waiting; None where none is at work or waiting."""
    if not any(one.state in UNDER_WAY for one in runs):
        return None
    done = {one.id: 1.0 for one in runs if one.finished}
    for one in runs:
        if one.state in UNDER_WAY:
            done[one.id] = min((one.epoch or 0.0) / one.epochs, 1.0) if one.epochs else 0.0
    return sum(done.values()) / len(done)
