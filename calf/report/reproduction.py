"""Figures of published numbers beside ours."""

from __future__ import annotations

import math

from matplotlib import rc_context
from matplotlib.axes import Axes

from calf.page import COLOURS, INK, STYLE
from calf.report.beside import Line
from calf.report.drawing import ROW, WIDTH, Drawn, names, panels, slug
from calf.report.findings import Row
from calf.report.grids import heading
from calf.report.published import NOT_PUBLISHED, Beside

PLACE = ("dataset", "class", "our_dataset")


def dots(beside: Beside) -> list[Drawn]:
    """Theirs against ours with its interval, a panel a metric; a figure for each protocol, data set and class that has both."""
    drawn = []
    for protocol in beside.protocols:
        lines = [line for line in beside.of(protocol) if line["state"] != NOT_PUBLISHED]
        groups = dict.fromkeys((*_place(line), line["our_class"]) for line in lines if not math.isnan(line["ours"]))
        for *place, name in groups:
            own = [line for line in lines if _place(line) == tuple(place) and line["our_class"] in (name, "")]
            drawn.append(_figure(protocol, str(name), own, protocol in beside.stand_in))
    return drawn


def _place(line: Line) -> tuple[str, ...]:
    return tuple(line[column] for column in PLACE)


def _figure(protocol: str, name: str, lines: list[Line], stand_in: bool) -> Drawn:
    dataset, class_name, our_dataset = _place(lines[0])
    rows = list(dict.fromkeys(_row(line) for line in lines))
    metrics = list(dict.fromkeys(line["metric"] for line in lines if not math.isnan(line["ours"])))
    theirs = f"published ({dataset}{class_name and f', {class_name}'})"
    where = ", ".join(dict.fromkeys([our_dataset, name]))
    ours = f"ours ({where}; {protocol}){' with 95 % CI' if protocol == 'per_case' else ''}"
    with rc_context(STYLE):
        height = max(1.4, 0.9 + ROW * len(rows))  # the legend needs some of it
        figure, planes = panels(len(metrics), WIDTH if len(metrics) == 1 else 2.6, height)
        for plane, metric in zip(planes, metrics, strict=True):
            for line in lines:
                if line["metric"] == metric:
                    _dots(plane, rows.index(_row(line)), line)
            plane.set_xlabel(heading(metric))
            plane.tick_params(axis="y", length=0)
            plane.locator_params(axis="x", nbins=4)
            plane.grid(axis="x", color=COLOURS["grey"], alpha=0.25, lw=0.5)
        planes[0].set_yticks(range(len(rows)), names(rows))
        planes[0].set_ylim(len(rows) - 0.4, -0.6)
        handles = [planes[0].plot([], [], "o", ms=5, mfc="none", mec=INK, label=theirs)[0]]
        handles += planes[0].plot([], [], "-D", ms=4, color=COLOURS["vermilion"], label=ours)
        figure.legend(handles=handles, loc="outside upper left", fontsize=8)
    caption = (
        f"Circles: {theirs}; diamonds: {ours}. A row without a diamond was not run or not scored; metrics "
        "without any are in the table alone."
    )
    if stand_in:
        caption += " The data sets are not the same: the differences say nothing about reproduction."
    parts = dict.fromkeys(part for part in (our_dataset, name, "published", dataset, class_name) if part)
    return Drawn(slug(protocol, *parts), figure, "published numbers and ours by loss", caption)


def _row(line: Line) -> Row:
    return line["model"], line["our_loss"]


def _dots(plane: Axes, place: int, line: Line) -> None:
    if not math.isnan(line["low"]):
        plane.plot([line["low"], line["high"]], [place, place], color=COLOURS["vermilion"], lw=1.6, solid_capstyle="butt")
    plane.plot(line["ours"], place, "D", ms=4, color=COLOURS["vermilion"])
    plane.plot(float(line["theirs"]), place, "o", ms=5.5, mfc="none", mec=INK)
