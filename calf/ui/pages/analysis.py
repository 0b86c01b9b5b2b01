"""Analysis: the cases of one class of one data set, seen through plots; a point is a case, and opens Compare.

In the address: ``data`` and ``protocol``, ``part`` (the data set of the rows, where parts were tested apart), ``class``,
``metric``, ``runs`` (only these), ``models`` and ``losses`` (only these, as JSON lists), and ``a`` and ``b``, the ids of the runs
of the two sides that are set against each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from calf.report.findings import Row
from calf.report.grids import heading
from calf.report.volumes import Unreadable
from calf.ui.addresses import split_ids
from calf.ui.analyses import Table
from calf.ui.library import Unknown
from calf.ui.pages import analysis_cards as cards
from calf.ui.pages.place import Place
from calf.ui.pages.plots import in_thread, keep_address, problem
from calf.ui.server import Explorer

PATH, TITLE = "/analysis", "Analysis"
MANY_ROWS = 40  # from which on one model is shown at first
BASELINE = "bce"


async def build(explorer: Explorer, query: Mapping[str, str]) -> None:
    """Controls, and below them the plots, which are drawn as soon as their numbers are there."""
    view = View(explorer, query)
    if not view.place.all:
        ui.label("No run says yet what it is of. See Runs for how they stand.")
        return
    view.controls()
    await ui.context.client.connected()
    await view.open()


class View:
    """One browser's choice, and what is drawn of it."""

    def __init__(self, explorer: Explorer, query: Mapping[str, str]) -> None:
        library = explorer.library
        self.explorer, self.analyses = explorer, explorer.analyses
        asked = library.chosen(split_ids(query.get("runs", "")))
        self.asked = {run.id for run in asked}
        self.place = Place(asked or library.runs, query)
        self.metric = query.get("metric", "dice")
        self.models, self.losses = _names(query.get("models")), _names(query.get("losses"))
        self.sides = [tuple(run.id for run in library.chosen(split_ids(query.get(key, "")))) for key in ("a", "b")]
        self.table: Table | None = None
        self.drawn = 0  # how often; what belongs to an older drawing stops

    @property
    def rows(self) -> list[Row]:
        """Those that are shown."""
        assert self.table is not None
        chosen = [row for row in self.table.members if not self.models or row[0] in self.models]
        return [row for row in chosen if not self.losses or row[1] in self.losses]

    def runs(self) -> list[str]:
        """Of the chosen data set and protocol, whatever their state."""
        return [id for id in self.place.of(self.explorer.library.runs) if not self.asked or id in self.asked]

    def controls(self) -> None:
        with ui.row().classes("w-full items-end gap-3"):
            options, chosen = self.place.options, self.place.chosen
            self.place_control = ui.select(options, label="data set", value=chosen, on_change=self._other_place)
            self.target_control = ui.select([], label="class", on_change=self._other_target)
            self.metric_control = ui.select([], label="metric", on_change=self._other_metric)
            self.models_control = ui.select([], label="networks (none: all)", multiple=True, on_change=self._other_rows)
            self.losses_control = ui.select([], label="losses (none: all)", multiple=True, on_change=self._other_rows)
            for control in (self.models_control, self.losses_control):
                control.props("use-chips clearable")
            if self.asked:
                ui.link(f"only {len(self.asked)} chosen runs: show all", PATH)
        with ui.row().classes("w-full items-end gap-3"):
            self.side_controls = [ui.select({}, label=label, on_change=self._other_sides) for label in ("A", "B")]
        for control in (self.place_control, self.target_control, self.metric_control, self.models_control):
            control.props("dense outlined").classes("min-w-40 max-w-md")
        for control in (self.losses_control, *self.side_controls):
            control.props("dense outlined").classes("min-w-64")
        self.body = ui.element("div").classes("w-full grid gap-4 grid-cols-1 lg:grid-cols-2 items-start")
        with self.body:
            ui.spinner(size="lg")

    async def open(self) -> None:
        """Read the rows of the chosen data set and class, set the controls to what there is, and draw."""
        try:
            await self._read()
        except (Unknown, Unreadable, ValueError) as reason:
            self.table = None
            self.body.clear()
            with self.body:
                problem(str(reason))
            return
        await self.draw()

    async def _read(self) -> None:
        runs = self.runs()
        targets = self.place.settle(await in_thread(self.analyses.places, runs))
        self.table = await in_thread(self.analyses.table, runs, *self.place.target)
        metrics = self.table.metrics
        if self.metric not in metrics:
            self.metric = "dice" if "dice" in metrics else metrics[0]
        models = list(dict.fromkeys(model for model, _ in self.table.members))
        self.models = [name for name in self.models if name in models]
        losses = sorted({loss for _, loss in self.table.members})
        self.losses = [name for name in self.losses if name in losses]
        if len(self.rows) > MANY_ROWS and not self.models:
            self.models = models[:1]
        self._choose_sides()
        self._show_choice(targets, metrics, models, losses)

    def _choose_sides(self) -> None:
        """The baseline and the best of the other rows that are shown, where the address says nothing else."""
        assert self.table is not None
        known = {id for own in self.table.members.values() for id in own}
        self.sides = [tuple(id for id in side if id in known) for side in self.sides]
        shown = [row for row in self.table.ranked(self.metric) if row in self.rows] or self.rows
        first = next((row for row in shown if row[1] == BASELINE), shown[-1])
        second = next((row for row in shown if row != first), first)
        for place, row in enumerate((first, second)):
            self.sides[place] = self.sides[place] or self.table.members[row]

    def _show_choice(
        self, targets: Mapping[tuple[str, str], str], metrics: Sequence[str], models: Sequence[str], losses: Sequence[str]
    ) -> None:
        self.target_control.set_options(dict(targets), value=self.place.target)
        self.metric_control.set_options({name: heading(name) for name in metrics}, value=self.metric)
        self.models_control.set_options(list(models), value=self.models)
        self.losses_control.set_options(list(losses), value=self.losses)
        for control, side in zip(self.side_controls, self.sides, strict=True):
            control.set_options(self._side_options(), value=side)

    def _side_options(self) -> dict[tuple[str, ...], str]:
        """Every row, and below them every run of rows that have several."""
        assert self.table is not None
        of_row = {ids: self.table.title(row) for row, ids in self.table.members.items()}
        rows = {ids: f"{title} (mean of {len(ids)} runs)" if len(ids) > 1 else title for ids, title in of_row.items()}
        single = {(id,): self.explorer.library.run(id).label for ids in of_row if len(ids) > 1 for id in ids}
        given = {side: " and ".join(self.explorer.library.run(id).label for id in side) for side in self.sides}
        return given | rows | single

    def side_title(self, place: int) -> str:
        return self._side_options()[self.sides[place]]

    async def draw(self) -> None:
        """Everything anew."""
        if self.table is None:
            return
        self.drawn += 1
        self._address()
        self.body.clear()
        with self.body:
            await cards.all_cards(self)

    def _address(self) -> None:
        library = self.explorer.library
        state = self.place.state | {
            "metric": self.metric,
            "runs": ",".join(run.id for run in library.runs if run.id in self.asked),
            "models": json.dumps(self.models) if self.models else None,
            "losses": json.dumps(self.losses) if self.losses else None,
            "a": ",".join(self.sides[0]),
            "b": ",".join(self.sides[1]),
        }
        keep_address(PATH, state)

    # what the program itself set is no choice of the user's, and what was cleared is none either

    async def _other_place(self, event: Any) -> None:
        self.place.move(event.value)
        self.models, self.losses, self.sides = [], [], [(), ()]
        await self.open()

    async def _other_target(self, event: Any) -> None:
        if event.value not in (None, self.place.target):
            self.place.target = event.value
            await self.open()

    async def _other_metric(self, event: Any) -> None:
        if event.value not in (None, self.metric):
            self.metric = event.value
            await self.draw()

    async def _other_rows(self, event: Any) -> None:
        chosen = list(self.models_control.value or []), list(self.losses_control.value or [])
        if chosen != (self.models, self.losses):
            self.models, self.losses = chosen
            await self.draw()

    async def _other_sides(self, event: Any) -> None:
        chosen = [control.value for control in self.side_controls]
        if None not in chosen and chosen != self.sides:
            self.sides = chosen
            await self.draw()


def _names(text: str | None) -> list[str]:
    """A JSON list of names; nothing else is taken."""
    try:
        found = json.loads(text or "[]")
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise Unknown('models and losses in the address are lists of names, such as ["unet"]')
    return found
