"""The plots of the Analysis page, a card each; those that read voxels are :mod:`calf.ui.pages.voxel_cards`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from nicegui import ui

from calf.metrics.scores import UNRANKED, is_share
from calf.report.findings import Row
from calf.report.grids import heading, number, signed
from calf.report.volumes import Unreadable
from calf.ui import analyses, charts, curves
from calf.ui.addresses import compare_address
from calf.ui.analyses import Table
from calf.ui.library import VOLUMES, Unknown
from calf.ui.pages import voxel_cards
from calf.ui.pages.plots import card, in_thread, note, plot, problem, replace
from calf.ui.render import MOST_RUNS

if TYPE_CHECKING:
    from calf.ui.pages.analysis import View

MOST_BARS = 40
MOST_LINKS = 8
ROW_PX = 24


async def all_cards(view: View) -> None:
    """Every card of the page, in the order in which they are read; stops where something else is drawn meanwhile."""
    table = view.table
    assert table is not None
    if not view.rows:
        problem("No model has one of the chosen losses: choose others above.")
        return
    for told in table.told:
        note(told).classes("col-span-full")
    drawing = view.drawn
    columns = [ui.column().classes("w-full min-w-0 gap-4") for _ in range(2)]
    for title, build in CARDS.items():
        if build is not voxel_cards.threshold or table.per_case:
            with columns[build not in LEFT]:
                await _tried(title, build, view, table)
        if view.drawn != drawing:
            return


async def _tried(title: str, build: Callable[[View, Table], Awaitable[None]], view: View, table: Table) -> None:
    """A card; what it cannot show is said in it, and the others are drawn all the same."""
    drawing = view.drawn
    shown = card(title)
    try:
        with shown:
            await build(view, table)
    except (Unknown, Unreadable, ValueError) as reason:
        if drawing == view.drawn:
            with shown:
                problem(str(reason))
    except RuntimeError:
        if drawing == view.drawn:
            raise  # else its card is gone, since something else was chosen meanwhile


def _shown(view: View, table: Table) -> list[Row]:
    """The rows that are shown, the best first."""
    return [row for row in table.ranked(view.metric) if row in view.rows]


def _opener(table: Table, *sides: Sequence[str]) -> Callable[[Any], None]:
    """Opens Compare for a point, where it is a case that these runs tested and not something that a browser made up."""

    def click(data: Any) -> None:
        case, tested = table.shown(str(data.get("unit")), *sides)
        if table.per_case and tested:
            ui.navigate.to(compare_address(case, tested, table.name))

    return click


async def _distribution(view: View, table: Table) -> None:
    rows, metric = _shown(view, table), view.metric
    intervals = await in_thread(view.analyses.intervals, table, metric)
    titles = [table.title(row) for row in rows]
    points = {title: table.values(table.members[row], metric) for title, row in zip(titles, rows, strict=True)}
    lines = intervals.loc[rows].set_axis(titles, axis=0)
    option = charts.distribution(points, lines, metric)

    def click(data: Any) -> None:
        if "unit" in data:
            _opener(table, table.members[rows[int(data["row"])]])(data)

    alt = f"{heading(metric)} of every case by loss, with mean and 95 % CI: " + ", ".join(
        f"{title} {number(mean, metric)}" for title, mean in zip(titles, lines["mean"].tolist(), strict=True)
    )
    plot("distribution", option, alt, max(320, 90 + ROW_PX * len(rows)), click)
    seeds = "mean over seeds; " if any(len(table.members[row]) > 1 for row in rows) else ""
    unit = "case" if table.per_case else "unit"
    most = max((len(table.members[row]) for row in rows), default=0)
    note(f"A point is a {unit} ({seeds}undefined ones left out). {_click(table, most)}")


async def _paired(view: View, table: Table) -> None:
    first, second = view.sides
    metric, titles = view.metric, (view.side_title(0), view.side_title(1))
    found = analyses.pair(table, first, second, metric)
    option = charts.paired(found.first, found.second, titles, metric, bounded=is_share(metric))
    num, units = len(found.first), "cases" if table.per_case else "units"
    if not num:
        problem(f"{heading(metric)} is defined for A and B in none of the {units}.")
        return
    alt = f"{heading(metric)} of {num} {units}: {titles[0]} against {titles[1]}"
    plot("pair", option, alt, click=_opener(table, first, second))
    said = f"{num} of {found.num_units} {units} have a value in both. "
    if metric not in UNRANKED:
        better = found.better(metric)
        said += f"A is better in {better[0]}, B in {better[1]}. "
    mean = float(found.difference.mean())
    note(
        f"{said}Mean of B minus A: {signed(mean, metric)}; whether that is more than chance, say the tables in Runs. "
        f"{_click(table, len({*first, *second}))}"
    )
    if table.per_case:
        _links(view, table, found)


def _links(view: View, table: Table, found: analyses.Pair) -> None:
    """The cases that differ most, for who has no mouse."""
    differences = found.difference
    order = differences.abs().sort_values(ascending=False, kind="stable").index[:MOST_LINKS]
    with ui.row().classes("gap-x-4 gap-y-1 items-baseline"):
        note("Largest differences:")
        for unit in order:
            case, tested = table.shown(str(unit), *view.sides)
            text = f"{unit} ({signed(float(differences[unit]), view.metric)})"
            ui.link(text, compare_address(case, tested, table.name))


async def _size(view: View, table: Table) -> None:
    metric, of = view.metric, {}
    sides = {f"{'AB'[place]}: {view.side_title(place)}": side for place, side in enumerate(view.sides)}
    for title, side in sides.items():
        values = pd.DataFrame({"volume_ml": table.values(side, VOLUMES[0]) / 1000, "value": table.values(side, metric)}).dropna()
        of[title] = values[values["volume_ml"] > 0]
    if not any(len(values) for values in of.values()):
        problem(f"No case with a reference has a value of {heading(metric)}.")
        return
    alt = f"reference volume against {heading(metric)}"
    plot("size", charts.by_size(of, metric), alt, click=_opener(table, *view.sides))
    note(f"Cases without a reference are not in it. {_click(table, len({*view.sides[0], *view.sides[1]}))}")


async def _sensitivity_precision(view: View, table: Table) -> None:
    points = {table.title(row): point for row, point in analyses.sensitivity_precision(table).items() if row in view.rows}
    if not points:
        problem("These runs have no sensitivity or no precision.")
        return
    lines = {dice / 10: analyses.equal_dice(dice / 10) for dice in range(1, 10)}
    alt = "mean sensitivity against mean precision: " + "; ".join(
        f"{title} {point[1]:.3f} and {point[0]:.3f}" for title, point in points.items()
    )
    plot("sensitivity-precision", charts.sensitivity_precision(points, lines), alt)
    note("Means as in the report's tables. Dotted: equal Dice of a case with such values.")


async def _volumes(view: View, table: Table) -> None:
    confusion = await in_thread(analyses.confusion_ml, table)
    rows = _shown(view, table)[:MOST_BARS]
    parts = {
        part.replace("_", " "): {table.title(row): float(confusion[part].to_dict()[row]) for row in rows}
        for part in ("found", "missed", "false_positive")
    }
    colours = charts.FOUND, charts.MISSED, charts.FALSE_POSITIVE
    alt = "mean volumes found, missed and false positive in mL by loss"
    plot("volumes", charts.bars(parts, colours, "mL a case", 4), alt, max(320, 90 + ROW_PX * len(rows)))
    note("Means over all cases, also those without a reference, from sensitivity and volumes in cases.csv." + _cut(view))


async def _calibration(view: View, table: Table) -> None:
    own = table.means("ece")
    rows = [row for row in table.ranked("ece") if row in view.rows][:MOST_BARS]
    if rows:
        values = {"ECE": {table.title(row): own[row] for row in rows}}
        alt = "expected calibration error by loss: " + ", ".join(f"{title} {value:.4f}" for title, value in values["ECE"].items())
        plot("ece", charts.bars(values, [charts.FIRST], "ECE", 6), alt, max(160, 70 + ROW_PX * len(rows)))
        note(
            "Mean over cases of the expected calibration error in cases.csv; 0 is best. Most voxels are background." + _cut(view)
        )
    else:
        note("cases.csv of these runs has no calibration error.")
    if table.per_case:
        await voxel_cards.reliability_diagram(view, table)


async def _branches(view: View, table: Table) -> None:
    shares = await in_thread(view.analyses.branches, view.runs())
    of = {
        (str(row[0]), str(row[1])): part
        for row, part in shares.groupby(["model", "loss"], sort=True)
        if not view.models or row[0] in view.models
    }
    if not of:
        note("None of these runs kept a trace of branches: CALF and its like write branches.csv as they train.")
        return
    titles = {row: " / ".join(row) for row in of}
    first = next(iter(of))
    chosen = ui.select(titles, label="runs of", value=first).props("dense outlined").classes("min-w-64")
    chart = plot("branches", curves.branches(of[first]), f"branches over training of {titles[first]}")

    def other() -> None:
        chart.props["aria-label"] = f"branches over training of {titles[chosen.value]}"
        replace(chart, curves.branches(of[chosen.value]))

    chosen.on_value_change(other)
    note("Pooled over seeds and folds, in equal parts of the training; as in the report.")


def _click(table: Table, num_runs: int) -> str:
    if not table.per_case:
        return "A unit is a batch of slices, which has no picture."
    cut = f" Of {num_runs} runs Compare shows {MOST_RUNS} at most." if num_runs > MOST_RUNS else ""
    return f"Click a point to compare its case.{cut}"


def _cut(view: View) -> str:
    more = len(view.rows) - MOST_BARS
    return f" {more} more rows are not drawn." if more > 0 else ""


CARDS: dict[str, Callable[[View, Table], Awaitable[None]]] = {
    "Distribution over cases": _distribution,
    "A against B, case by case": _paired,
    "Size of the target": _size,
    "Sensitivity against precision": _sensitivity_precision,
    "Volumes found, missed and false positive": _volumes,
    "Calibration": _calibration,
    "Threshold": voxel_cards.threshold,
    "Branches of CALF over the training": _branches,
}
LEFT = (_distribution, _volumes, voxel_cards.threshold, _branches)  # where the longest ones are; the others stand beside them
