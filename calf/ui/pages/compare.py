"""Compare: one slice of a case, the truth and what chosen runs made of it side by side.

The address holds the whole view: ``case``, ``runs``, ``name`` (the target), ``plane``, ``modality``, ``overlay``, ``outline``,
``image`` (a panel without overlay), ``index``, ``zoom``, ``x`` and ``y`` (what is in the middle, as shares of the picture),
``low`` and ``high`` (the window), ``threshold``. Without a case or runs some are chosen. What moves is plain JavaScript in the
browser (``static/compare``), which asks :mod:`calf.ui.server` for one picture a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from nicegui import run, ui

from calf.report.montage import FN, FP, TP, TRUTH
from calf.ui.addresses import split_ids
from calf.ui.library import Library, Unknown
from calf.ui.render import COLOUR_MAP, MOST_RUNS, PREDICTION
from calf.ui.runs import Run
from calf.ui.server import Explorer

PATH, TITLE = "/compare", "Compare"
STATIC = Path(__file__).parent / "static"
CHOSEN_RUNS = 6  # that are shown where none was asked for
TEXTS = ("case", "runs", "name", "plane", "modality", "overlay", "outline", "image")
NUMBERS = ("index", "zoom", "x", "y", "low", "high", "threshold")


class Panels(ui.element, component="static/compare.js", esm={"calf-compare": "static/compare"}):
    """What static/compare makes of the address and of what the server says."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self._props["options"] = options


async def build(explorer: Explorer, query: Mapping[str, str]) -> None:
    """The view that the address asks for."""
    found = await run.io_bound(opening, explorer.library, query)
    if found is None:
        ui.label("No finished run yet: what runs make of a case can be compared once one is finished.")
        return
    case, runs = found
    asked = {key: query[key] for key in (*TEXTS, *NUMBERS) if key in query} | {"case": case, "runs": ",".join(runs)}
    ui.add_css((STATIC / "compare.css").read_text())
    Panels({"query": asked, "most": MOST_RUNS, "colours": colours()}).classes("w-full")


def router(explorer: Explorer) -> APIRouter:
    """``GET /api/compare/cases?runs=ID,ID``: ``{"cases": [{"id", "name"}, ...]}``, those that any of the runs tested, by name."""
    routes = APIRouter()

    @routes.get("/compare/cases")
    def cases(runs: Annotated[str, Query(max_length=8000)]) -> Response:
        chosen = explorer.library.chosen(split_ids(runs))
        tables = [table[["case_id", "case"]] for _, table in scored(explorer.library, chosen)]
        both = pd.concat(tables).drop_duplicates("case_id").sort_values("case") if tables else pd.DataFrame()
        return JSONResponse({"cases": [{"id": row.case_id, "name": row.case} for row in both.itertuples()]})

    return routes


def opening(library: Library, query: Mapping[str, str]) -> tuple[str, list[str]] | None:
    """The id of the case and the ids of the runs to begin with; None where there is no finished run.

    Without runs: of each loss the first that tested the case, up to ``CHOSEN_RUNS``; those that kept their masks come first.
    Without a case: the first of the first run.

    Raises:
        Unknown: there is no such case or run, or there are too many runs.
    """
    ids = list(dict.fromkeys(split_ids(query.get("runs", ""))))
    if len(ids) > MOST_RUNS:
        raise Unknown(f"at most {MOST_RUNS} runs can be compared at once, got {len(ids)}")
    case = query.get("case") or None
    chosen = library.chosen(ids)
    if chosen and case:
        library.case(case, ids)
        return case, ids
    if chosen:
        first = next(scored(library, chosen), None)
        if first is None:
            raise Unknown(f"{chosen[0].label} has no case rows yet" + (f": {chosen[0].error}" if chosen[0].error else ""))
        return str(first[1]["case_id"].iloc[0]), ids
    return _proposed(library, case)


def scored(library: Library, runs: Sequence[Run]) -> Iterator[tuple[Run, pd.DataFrame]]:
    """Those of the runs that have case rows, with their tables."""
    for one in runs:
        try:
            table = library.table(one.id)
        except ValueError:
            continue
        if len(table):
            yield one, table


def colours() -> dict[str, str]:
    """Those of :mod:`calf.ui.render`, as CSS has them; ``map``: the steps of the colour map."""
    named = {"truth": TRUTH, "prediction": PREDICTION, "tp": TP, "fp": FP, "fn": FN}
    steps = (COLOUR_MAP[step].tolist() for step in range(0, 256, 51))
    return {name: _css(colour) for name, colour in named.items()} | {"map": ",".join(map(_css, steps))}


def _proposed(library: Library, case: str | None) -> tuple[str, list[str]] | None:
    order = sorted(library.runs, key=lambda one: not (one.finished and (one.folder / "predictions").is_dir()))
    found: dict[str, str] = {}
    for one, table in scored(library, order):
        case = case or str(table["case_id"].iloc[0])
        if one.loss not in found and (table["case_id"] == case).any():
            found[one.loss] = one.id
        if len(found) == CHOSEN_RUNS:
            break
    if case and not found:
        raise Unknown("there is no such case among those that were tested")
    return (case, list(found.values())) if case else None


def _css(colour: Sequence[int]) -> str:
    return f"rgb({', '.join(map(str, colour))})"
