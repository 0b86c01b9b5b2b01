"""The first page: which runs there are and how they stand, as it changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import run, ui

from calf.ui.runs import Run
from calf.ui.server import Explorer

PATH, TITLE = "/", "Runs"
EVERY_S = 2.0
COLUMNS = ("loss", "model", "dataset", "seed", "fold", "state", "epochs", "metric", "value", "error")


def build(explorer: Explorer, query: Mapping[str, str]) -> None:
    """A table of the runs, which follows a grid that is running."""
    columns = [{"name": name, "label": name, "field": name, "align": "left", "sortable": True} for name in COLUMNS]
    table = ui.table(columns=columns, rows=[], row_key="id").classes("w-full").props("flat dense")
    none = ui.label(f"No run below {explorer.library.folder} yet: they appear here as they start.")
    shown = -1

    def show(revision: int) -> None:
        nonlocal shown
        if revision != shown:
            shown = revision
            table.rows = [row(one) for one in explorer.library.runs]
            none.set_visibility(not table.rows)

    async def look() -> None:
        await run.io_bound(explorer.library.refresh)
        show(explorer.library.revision)

    show(explorer.library.revision)
    ui.timer(EVERY_S, look)


def row(one: Run) -> dict[str, Any]:
    """A run as the table shows it."""
    epochs = "" if one.epochs is None else str(one.epochs)
    return {
        **{name: getattr(one, name) for name in ("id", "loss", "model", "dataset", "seed", "fold", "state", "metric", "error")},
        "loss": one.loss or one.place,
        "epochs": epochs if one.epoch is None else f"{one.epoch:.1f} of {epochs or '?'}",
        "value": "" if one.value is None else f"{one.value:.4f}",
    }
