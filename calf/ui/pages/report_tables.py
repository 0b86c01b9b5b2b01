"""The report's tables of one class of one data set, with its marks, tests and sentences, for the page Runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from nicegui import ui

from calf.metrics.scores import UNRANKED
from calf.report import words
from calf.report.findings import Findings
from calf.report.further import further
from calf.report.grids import Cell, Grid, comparisons, cost, heading, rested_on, scores
from calf.report.volumes import Unreadable
from calf.ui.library import Unknown
from calf.ui.pages.place import Place
from calf.ui.pages.plots import in_thread, note, problem
from calf.ui.server import Explorer

ANY_BASELINE = ""


class Tables:
    """One browser's choice of a table; ``state`` is what stands in the address of it."""

    def __init__(self, explorer: Explorer, query: Mapping[str, str], changed: Any) -> None:
        self.explorer, self.changed, self.analyses = explorer, changed, explorer.analyses
        self.place = Place(explorer.library.runs, query)
        self.metric, self.baseline = query.get("metric", "dice"), query.get("baseline", ANY_BASELINE)

    @property
    def state(self) -> dict[str, str | None]:
        return self.place.state | {"metric": self.metric, "baseline": self.baseline}

    async def build(self) -> None:
        """Controls and tables."""
        if not self.place.all:
            note("No run says yet what it is of.")
            return
        with ui.row().classes("w-full items-end gap-3"):
            self.controls = [
                ui.select(self.place.options, label="data set", value=self.place.chosen, on_change=self._other_place),
                ui.select({}, label="class", on_change=self._other),
                ui.select({}, label="declared metric", on_change=self._other),
                ui.select({}, label="baseline", on_change=self._other),
            ]
        for control in self.controls:
            control.props("dense outlined").classes("min-w-40 max-w-md")
        self.body = ui.column().classes("w-full gap-2")
        await self.show()

    async def show(self) -> None:
        """Compute and draw; what cannot be computed is said."""
        self.body.clear()
        with self.body:
            ui.spinner(size="lg")
        try:
            found = await self._found()
        except (Unknown, Unreadable, ValueError) as reason:
            self.body.clear()
            with self.body:
                problem(str(reason)).classes("whitespace-pre-wrap")
            return
        self.changed()
        self.body.clear()
        with self.body:
            _written(found)

    async def _found(self) -> Findings:
        place = self.place
        runs = place.of(self.explorer.library.runs)
        targets = place.settle(await in_thread(self.analyses.places, runs))
        table = await in_thread(self.analyses.table, runs, *place.target)
        metrics = [name for name in table.metrics if name not in UNRANKED]
        self.metric = self.metric if self.metric in metrics else metrics[0]
        losses = sorted({loss for _, loss in table.members})
        shown: list[tuple[dict[Any, str], Any]] = [
            (targets, place.target),
            ({name: heading(name) for name in metrics}, self.metric),
            ({ANY_BASELINE: "bce, or the first by name"} | {name: name for name in losses}, self.baseline),
        ]
        if self.baseline not in (ANY_BASELINE, *losses):
            raise Unknown(f"baseline: expected one of the finished losses, {', '.join(losses)}")
        for control, (options, value) in zip(self.controls[1:], shown, strict=True):
            control.set_options(options, value=value)
        return await in_thread(self.analyses.findings, runs, place.target, self.metric, self.baseline or None)

    async def _other_place(self, event: Any) -> None:
        self.place.move(event.value)
        self.baseline = ANY_BASELINE
        await self.show()

    async def _other(self, event: Any) -> None:
        chosen = [control.value for control in self.controls[1:]]
        # what the program itself set is no choice of the user's
        if None not in chosen and chosen != [self.place.target, self.metric, self.baseline]:
            self.place.target, self.metric, self.baseline = chosen
            await self.show()


def html(grid: Grid) -> Markup:
    """A table as HTML: the best in bold, everything escaped."""
    head = Markup("").join(
        _cell("th", Markup("{}").format(name), place < grid.num_text) for place, name in enumerate(grid.header)
    )
    rows = [
        Markup("").join(_cell("td", _words(cell), place < grid.num_text) for place, cell in enumerate(row)) for row in grid.rows
    ]
    body = Markup("").join(Markup("<tr>{}</tr>").format(row) for row in rows)
    return Markup(
        '<div style="overflow-x:auto" tabindex="0"><table class="text-sm" style="border-collapse:collapse">'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(head, body)


def draw(grid: Grid) -> None:
    ui.html(str(html(grid)), sanitize=False).classes("w-full")  # escaped by ``html``


def _cell(tag: str, text: Markup, is_text: bool) -> Markup:
    style = (
        f"padding:.2rem .6rem;border-bottom:1px solid #8a8a8a55;white-space:nowrap;text-align:{'left' if is_text else 'right'}"
    )
    return Markup('<{0} style="{1}">{2}</{0}>').format(Markup(tag), style, text)


def _words(cell: Cell) -> Markup:
    return Markup("<b>{}</b>{}" if cell.best else "{}{}").format(cell.text, cell.rest)


def _written(found: Findings) -> None:
    block = found.blocks[0]
    _title(f"{block.dataset}: {block.name} ({block.protocol})")
    note(words.lead(found))
    draw(scores(block, block.main_metrics))
    note(f"{rested_on(block)}. {words.SCORES} {words.marked(block)}")
    if not block.compared.empty:
        draw(comparisons(block))
        for text in words.caveats(block):
            note(text)
    for part in further(block):
        with ui.expansion(part.title).classes("w-full"):
            if part.grid is not None:
                draw(part.grid)
            if part.notes:
                note(" ".join(part.notes))
    with ui.expansion("How to read this").classes("w-full"):
        for text in words.foot(found):
            note(text.replace("`", ""))
    with ui.expansion("Cost").classes("w-full"):
        draw(cost(found))
    if found.notes:
        _title("Notes")
        for text in found.notes:
            note(text)


def _title(text: str) -> None:
    ui.label(text).classes("text-base font-bold").props("role=heading aria-level=2")
