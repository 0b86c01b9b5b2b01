"""Cases: every case row of the finished runs, to be sorted and narrowed, and opened in Compare. The address holds the view."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from nicegui import events, ui

from calf.ui.pages.case_rows import EMPTY, PAGE_ROWS, PREDICTED, REFERENCE, CaseRows, Pick, Wanted
from calf.ui.server import Explorer

PATH, TITLE = "/cases", "Cases"
TEXT = {"case": "case", "patient": "patient", "run": "run", "class": "target", "status": "status"}
VOLUMES = {REFERENCE: "reference ml", PREDICTED: "predicted ml"}
NOTE = "Numbers are those of cases.csv: metrics to 3 decimals, volumes in ml to 2; the whole number is in the tooltip."
KEYS = (
    ("Tab", "from control to control, into the table and along its cases"),
    ("Down, Up", "the next, the previous case of the table"),
    ("Enter", "open the case in Compare"),
    ("/", "search for a case"),
    ("?", "these keys"),
)
# the row is to be clicked, its link to be reached by keys; titles hold the numbers as cases.csv has them
BODY = """
<q-tr :props="props" class="cursor-pointer" @click="$parent.$emit('open', props.row.href)">
  <q-td v-for="col in props.cols" :key="col.name" :props="props" :title="props.row.whole[col.name]">
    <a v-if="col.name === 'case'" :href="props.row.href" @click.stop
       @keydown.down.prevent="$event.target.closest('tr').nextElementSibling?.querySelector('a')?.focus()"
       @keydown.up.prevent="$event.target.closest('tr').previousElementSibling?.querySelector('a')?.focus()">{{ col.value }}</a>
    <template v-else>{{ col.value }}</template>
  </q-td>
</q-tr>
"""
STYLE = """
.calf-cases a, .calf-picks a { color: inherit; text-decoration: underline; }
.calf-cases a:focus-visible, .calf-picks a:focus-visible { outline: 2px solid #0072b2; outline-offset: 2px; }
.body--dark .calf-cases a:focus-visible, .body--dark .calf-picks a:focus-visible { outline-color: #56b4e9; }
.calf-cases tr:focus-within { background: #56b4e933; }
.calf-cases td { font-variant-numeric: tabular-nums; }
"""


async def build(explorer: Explorer, query: Mapping[str, str]) -> None:
    """The table that the address asks for."""
    rows = await asyncio.to_thread(CaseRows, explorer)
    if rows.all.empty:
        ui.label("No case rows yet: they appear once a run is finished.")
        return
    ui.add_css(STYLE)
    page = _Page(rows, settled(Wanted.of(query), rows))
    page.build()
    await page.show()


def settled(wanted: Wanted, rows: CaseRows) -> Wanted:
    """With what there is in place of what cannot be chosen."""
    choices = rows.choices
    known: dict[str, Any] = {}
    for name in ("loss", "model", "dataset", "modality", "target"):
        known[name] = getattr(wanted, name) if getattr(wanted, name) in getattr(choices, name) else ""
    known["metric"] = wanted.metric if wanted.metric in choices.metric else next(iter(choices.metric), "")
    known["first"] = wanted.first if wanted.first in choices.runs else next(iter(choices.runs))
    known["second"] = wanted.second if wanted.second in choices.runs else rows.beside(known["first"])
    known["empty"] = wanted.empty if wanted.empty in EMPTY else ""
    known["sort"] = wanted.sort if wanted.sort in (*TEXT, *VOLUMES, *choices.metric) else ""
    return replace(wanted, **known)


def shown(rows: CaseRows, found: pd.DataFrame, wanted: Wanted) -> list[dict[str, Any]]:
    """The rows of one page of ``found``, as the table shows them; ``whole`` holds the numbers of cases.csv, unrounded."""
    start = (wanted.page - 1) * wanted.rows
    own = found.iloc[start : start + wanted.rows]
    near = rows.of(own["case_id"])
    page = []
    for place, (_, row) in enumerate(own.iterrows()):
        entry: dict[str, Any] = {key: str(row[key]) for key in TEXT} | {"run": rows.runs[str(row["run"])].label}
        entry["status"] = entry["status"].replace("_", " ")
        whole = {key: f"{key}: {_whole(row[key])}" for key in (*VOLUMES, *rows.metrics)}
        entry |= {key: _rounded(row[key] / 1000, 2) for key in VOLUMES}
        entry |= {key: _rounded(row[key], 3) for key in rows.metrics}
        page.append(entry | {"key": start + place, "whole": whole, "href": rows.link(row, near)})
    return page


class _Page:
    def __init__(self, rows: CaseRows, wanted: Wanted) -> None:
        self.rows, self.wanted = rows, wanted
        self.turn = 0

    def build(self) -> None:
        choices = self.rows.choices
        with ui.row().classes("items-end gap-2 w-full"):
            for name in ("loss", "model", "dataset", "target", "modality"):
                self._select(name, {"": "all"} | {value: value for value in getattr(choices, name)})
            self._select("empty", EMPTY, "reference")
            self._input(ui.number("at least ml", value=self.wanted.least_ml, min=0), "least_ml").classes("w-28")
            self._input(ui.number("at most ml", value=self.wanted.most_ml, min=0), "most_ml").classes("w-20")
            search = self._input(ui.input("case or patient", value=self.wanted.text), "text").classes("w-36")
        with ui.row().classes("items-end gap-2 w-full"):
            self._select("metric", choices.metric)
            self._select("first", choices.runs, "difference of").classes("max-w-60")
            self._select("second", choices.runs, "and").classes("max-w-60")
            self.sort = self._select(
                "sort", {"": "as in the files", **TEXT, **VOLUMES, **{key: key for key in choices.metric}}, "sort by"
            )
            self.way = ui.checkbox("descending", value=self.wanted.descending).props("dense").classes("pb-2")
            self.way.on_value_change(lambda event: self.change(descending=bool(event.value)))
            ui.button("?", on_click=self._keys).props('flat dense aria-label="keys"')
        self.picks = ui.element("ul").classes("calf-picks flex flex-wrap gap-x-6 gap-y-0 w-full text-sm")
        self.table = ui.table(
            columns=self._columns(), rows=[], row_key="key", pagination={"rowsPerPage": self.wanted.rows}
        ).classes("calf-cases w-full")
        self.table.props("flat dense binary-state-sort").props["rows-per-page-options"] = list(PAGE_ROWS)
        self.table.add_slot("body", BODY)
        self.table.on("request", self._request)
        self.table.on("open", lambda event: _open(event.args))
        ui.label(NOTE).classes("text-xs")

        def pressed(event: events.KeyEventArguments) -> None:
            if event.action.keydown and event.key == "?":
                self._keys()
            elif event.action.keydown and event.key == "/":
                search.run_method("focus")

        ui.keyboard(on_key=pressed)

    def _keys(self) -> None:
        with ui.dialog(value=True) as keys, ui.card():
            ui.label("Keys").classes("text-lg")
            for key, what in KEYS:
                ui.label(f"{key}: {what}")
            ui.button("Close", on_click=keys.close)
        keys.on("hide", keys.delete)

    async def change(self, **part: Any) -> None:
        """Show something else, from its first row on."""
        if all(getattr(self.wanted, key) == value for key, value in part.items()):
            return
        self.wanted = replace(self.wanted, **{"page": 1, **part})
        await self.show()

    async def show(self) -> None:
        self.turn += 1
        turn = self.turn
        found, page, picks = await asyncio.to_thread(self._found, self.wanted)
        if turn != self.turn:  # something else was asked for meanwhile
            return
        wanted = self.wanted = replace(self.wanted, page=min(self.wanted.page, max(math.ceil(found / self.wanted.rows), 1)))
        self.sort.value, self.way.value = wanted.sort, wanted.descending
        self.table.props["pagination"] = {
            "page": wanted.page,
            "rowsPerPage": wanted.rows,
            "rowsNumber": found,
            "sortBy": wanted.sort or None,
            "descending": wanted.descending,
        }
        self.table.columns = self._columns()
        self.table.rows = page
        self.table.update()
        self._show_picks(picks)
        query = wanted.query()
        ui.navigate.history.replace(PATH + (f"?{query}" if query else ""))

    def _found(self, wanted: Wanted) -> tuple[int, list[dict[str, Any]], list[Pick]]:
        found = self.rows.chosen(wanted)
        last = max(math.ceil(len(found) / wanted.rows), 1)
        return len(found), shown(self.rows, found, replace(wanted, page=min(wanted.page, last))), self.rows.picks(found, wanted)

    def _show_picks(self, picks: list[Pick]) -> None:
        self.picks.clear()
        with self.picks:
            if not picks:
                ui.label(f"no row has a {self.wanted.metric}")
            for pick in picks:
                with ui.element("li").classes("list-none").tooltip(pick.whole):
                    ui.label(f"{pick.what} {self.wanted.metric}").classes("inline font-bold pr-1")
                    ui.link(pick.text, pick.href)

    def _columns(self) -> list[dict[str, Any]]:
        metrics = sorted(self.rows.metrics, key=lambda name: name != self.wanted.metric)
        numbers = VOLUMES | {name: name for name in metrics}
        columns = [{"name": key, "label": label, "field": key, "align": "left", "sortable": True} for key, label in TEXT.items()]
        return columns + [{"name": key, "label": label, "field": key, "sortable": True} for key, label in numbers.items()]

    def _select(self, name: str, options: Any, label: str | None = None) -> ui.select:
        select = (
            ui.select(options, label=label or name, value=getattr(self.wanted, name))
            .props("dense options-dense")
            .classes("min-w-28")
        )
        select.on_value_change(lambda event: self.change(**{name: event.value}))
        return select

    def _input(self, made: Any, name: str) -> Any:
        made.props("dense debounce=300")
        made.on_value_change(lambda event: self.change(**{name: event.value if name != "text" else event.value or ""}))
        return made

    async def _request(self, event: events.GenericEventArguments) -> None:
        asked = event.args["pagination"]
        text = {key: str(asked[name]) for key, name in (("page", "page"), ("rows", "rowsPerPage")) if asked.get(name)}
        checked = Wanted.of(text)
        sort, way = str(asked.get("sortBy") or ""), bool(asked.get("descending"))
        wanted = replace(self.wanted, sort=sort, descending=way, page=checked.page, rows=checked.rows)
        self.wanted = settled(wanted, self.rows)
        await self.show()


def _open(href: Any) -> None:
    # an address of this page's own: what a browser sends is not trusted
    if isinstance(href, str) and href.startswith("/compare?"):
        ui.navigate.to(href)


def _rounded(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _whole(value: float) -> str:
    return "undefined" if math.isnan(value) else repr(float(value))
