"""The plots of the Analysis page, a card each; those that read voxels are :mod:`calf.ui.pages.voxel_cards`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
from nicegui import ui

from calf.metrics.scores import UNRANKED
from calf.report.findings import Row
from calf.report.grids import heading, number, signed
from calf.report.volumes import Unreadable
from calf.ui import analyses, charts, curves
from calf.ui.analyses import Table
from calf.ui.library import VOLUMES, Unknown
from calf.ui.pages import voxel_cards
from calf.ui.pages.plots import card, compare_address, in_thread, note, plot, problem

if TYPE_CHECKING:
    from calf.ui.pages.analysis import View

MOST_BARS = 40
MOST_LINKS = 8
ROW_PX = 24
BOUNDED = frozenset({"dice", "iou", "sensitivity", "specificity", "precision", "accuracy", "balanced_accuracy", "lesion_f1"})


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


def _open(table: Table, runs: list[str], case: str) -> None:
    """Compare, where the case is one that these runs tested and not something that a browser made up."""
    if tested := table.tested(case, runs):
        ui.navigate.to(compare_address(case, tested, table.name))


async def _distribution(view: View, table: Table) -> None:
    rows, metric = _shown(view, table), view.metric
    intervals = await in_thread(view.analyses.intervals, table, metric)
    titles = [table.title(row) for row in rows]
    points = {title: table.values(table.members[row], metric) for title, row in zip(titles, rows, strict=True)}
    lines = intervals.loc[rows].set_axis(titles, axis=0)
    option = charts.distribution(points, lines, metric, table.names())

    def click(data: Any) -> None:
        if table.per_case and "case" in data:
            _open(table, list(table.members[rows[int(data["row"])]]), str(data["case"]))

    alt = f"{heading(metric)} of every case by loss, with mean and 95 % CI: " + ", ".join(
        f"{title} {number(mean, metric)}" for title, mean in zip(titles, lines["mean"].tolist(), strict=True)
    )
    plot("distribution", option, alt, max(320, 90 + ROW_PX * len(rows)), click)
    seeds = "mean over seeds; " if any(len(table.members[row]) > 1 for row in rows) else ""
    note(f"A point is a case ({seeds}undefined ones left out). {_click(table)}")


async def _paired(view: View, table: Table) -> None:
    first, second = view.sides
    metric, titles = view.metric, (view.side_title(0), view.side_title(1))
    found = analyses.pair(table, first, second, metric)
    option = charts.paired(found.first, found.second, titles, metric, table.names(), bounded=metric in BOUNDED)
    runs = [*first, *second]

    def click(data: Any) -> None:
        if table.per_case and "case" in data:
            _open(table, runs, str(data["case"]))

    num = len(found.first)
    if not num:
        problem(f"{heading(metric)} is defined for A and B in no common case.")
        return
    plot("pair", option, f"{heading(metric)} of {num} cases: {titles[0]} against {titles[1]}", click=click)
    said = f"{num} of {found.num_cases} cases have a value in both. "
    if metric not in UNRANKED:
        better = found.better(metric)
        said += f"A is better in {better[0]}, B in {better[1]}. "
    mean = float(found.difference.mean())
    note(f"{said}Mean of B minus A: {signed(mean, metric)}; whether that is more than chance, say the tables in Runs.")
    if table.per_case:
        _links(table, found, runs, metric)


def _links(table: Table, found: analyses.Pair, runs: list[str], metric: str) -> None:
    """The cases that differ most, for who has no mouse."""
    names, differences = table.names(), found.difference
    order = differences.abs().sort_values(ascending=False, kind="stable").index[:MOST_LINKS]
    with ui.row().classes("gap-x-4 gap-y-1 items-baseline"):
        note("Largest differences:")
        for id in order:
            text = f"{names[id]} ({signed(float(differences[id]), metric)})"
            ui.link(text, compare_address(id, table.tested(id, runs), table.name))


async def _size(view: View, table: Table) -> None:
    metric, of = view.metric, {}
    sides = {f"{'AB'[place]}: {view.side_title(place)}": side for place, side in enumerate(view.sides)}
    for title, side in sides.items():
        values = pd.DataFrame({"volume_ml": table.values(side, VOLUMES[0]) / 1000, "value": table.values(side, metric)}).dropna()
        of[title] = values[values["volume_ml"] > 0]
    if not any(len(values) for values in of.values()):
        problem(f"No case with a reference has a value of {heading(metric)}.")
        return
    places = list(sides.values())

    def click(data: Any) -> None:
        if table.per_case and "case" in data:
            _open(table, [*places[0], *places[-1]], str(data["case"]))

    plot("size", charts.by_size(of, metric, table.names()), f"reference volume against {heading(metric)}", click=click)
    note(f"Cases without a reference are not in it. {_click(table)}")


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
        chart.options.clear()
        chart.options.update(curves.branches(of[chosen.value]))
        chart.update()

    chosen.on_value_change(other)
    note("Pooled over seeds and folds, in equal parts of the training; as in the report.")


def _click(table: Table) -> str:
    return "Click a point to compare its case." if table.per_case else "A unit is a batch of slices, which has no picture."


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
