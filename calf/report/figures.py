"""Figures of one table: distributions over cases, differences to the baseline, sensitivity against precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot

from calf.metrics.scores import LOWER_IS_BETTER
from calf.page import COLOURS, INK, STYLE
from calf.report.drawing import MANY, ROW, Drawn, axes, legend, names, ordered, panels, shades, slug, spread
from calf.report.findings import Block
from calf.report.further import volumes
from calf.report.grids import heading
from calf.report.rankings import stability
from calf.report.statistics import per_unit
from calf.report.units import arrange, rows_of

MARKERS = "osD^vP*X"
AXES = ("precision", "sensitivity")


def of_block(block: Block) -> list[Drawn]:
    """All figures of one table that can be drawn of it."""
    if not block.per_case or not ordered(block):
        return []
    drawn = [distributions(block), differences(block), stability(block), by_size(block), sensitivity_precision(block)]
    return [figure for figure in drawn if figure is not None]


def distributions(block: Block) -> Drawn:
    """Every case of every row as a point, with the mean and its interval."""
    rows, table = ordered(block), block.comparison(block.metric)
    values = per_unit(block.cases, block.metric)
    with rc_context(STYLE):
        figure, plane = axes(0.6 + ROW * len(rows))
        for place, row in enumerate(rows):
            own = values[row].dropna().to_numpy()
            _points(plane, own, place, len(rows) * len(own), INK if row[1] == block.baseline else COLOURS["sky"])
            _interval(plane, place, table.get(row), ("mean", "low", "high"), filled=True)
        _rows_axis(plane, names(rows))
        plane.set_xlabel(heading(block.metric))
    caption = f"{heading(block.metric)} of every case (mean over seeds), with mean and 95 % CI."
    return _drawn(block, "distributions", figure, f"{heading(block.metric)} of cases by loss", caption)


def differences(block: Block) -> Drawn | None:
    """Paired differences to the baseline of the same model; None where nothing was tested."""
    if block.baseline is None:
        return None
    table = block.comparison(block.metric)
    rows = [row for row in ordered(block) if row in table and not math.isnan(table[row]["p"])]
    if not rows:
        return None
    (scores,) = arrange(rows_of(block.cases, block.metric))
    place_of = {row: place for place, row in enumerate(scores.rows)}
    first, second = (np.array([place_of[row] for row in of]) for of in (rows, [(model, block.baseline) for model, _ in rows]))
    paired = scores.differences(first, second)
    better = "left" if block.metric in LOWER_IS_BETTER else "right"
    with rc_context(STYLE):
        figure, plane = axes(0.6 + ROW * len(rows))
        plane.axvline(0, color=INK, lw=0.6)
        for place, row in enumerate(rows):
            own = paired[~np.isnan(paired[:, place]), place]
            _points(plane, own, place, len(rows) * len(own), COLOURS["sky"])
            parts = ("difference", "difference_low", "difference_high")
            filled = bool(table[row]["significant"]) and not table[row]["seeds_disagree"]
            _interval(plane, place, table[row], parts, filled=filled)
        _rows_axis(plane, names(rows))
        plane.set_xlabel(f"{heading(block.metric)} minus that of {block.baseline} ({better}: better)")
    caption = (
        f"{heading(block.metric)} of every case minus that of {block.baseline} with the same network, over common seeds; mean "
        "with 95 % CI, filled where the difference is significant (Holm, 0.05) and has the same sign with every seed."
    )
    rest = [row for row in ordered(block) if row not in rows and row[1] != block.baseline]
    caption += f" Not tested, and not drawn: {', '.join(names(rest))}." if rest else ""
    return _drawn(block, "differences", figure, f"paired differences to {block.baseline}", caption)


def by_size(block: Block) -> Drawn | None:
    """Mean of each loss in cases of similar reference volume, a panel a model; None where there is one stratum."""
    own = block.strata
    own = own[(own["stratum"] > 0) & own["mean"].notna()] if not own.empty else own
    if own.empty or own["stratum"].nunique() < 2:
        return None
    models, colours, rows = sorted(set(own["model"])), shades(block), ordered(block)
    limits = own.drop_duplicates("stratum").sort_values("stratum")
    sizes = [volumes(*pair) for pair in limits[["above_mm3", "up_to_mm3"]].itertuples(index=False)]
    with rc_context(STYLE):
        figure, planes = panels(len(models), width=3.3, height=2.7)
        for plane, model in zip(planes, models, strict=True):
            losses = [loss for of, loss in rows if of == model]
            for place, loss in enumerate(losses):
                of = own[(own["model"] == model) & (own["loss"] == loss)]
                shift = (place / max(len(losses) - 1, 1) - 0.5) * 0.4
                _curve(plane, of, shift, colours.get(loss))
            plane.set_xticks(limits["stratum"], sizes, size=8)
            plane.set_xlim(0.6, limits["stratum"].max() + 0.4)
            plane.set_title(model)
            plane.set_xlabel("reference volume, mL")
        planes[0].set_ylabel(heading(block.metric))
        legend(figure, planes[-1], colours, bool({loss for _, loss in rows} - set(colours)))
    counts = ", ".join(str(number) for number in own.groupby("stratum")["num_cases"].max())
    caption = f"{heading(block.metric)} by size of the target, mean with 95 % CI ({counts} cases). Limits: {block.limits}."
    return _drawn(block, "size", figure, f"{heading(block.metric)} by reference volume", caption)


def _curve(plane: Axes, of: pd.DataFrame, shift: float, colour: str | None) -> None:
    place, shown = of["stratum"] + shift, colour or COLOURS["grey"]
    faint = 1.0 if colour else 0.5
    plane.plot(place, of["mean"], "-o", ms=3.5 if colour else 2, mew=0, lw=1.2 if colour else 0.6, color=shown, alpha=faint)
    if colour:
        plane.vlines(place, of["low"], of["high"], color=shown, lw=1)


def sensitivity_precision(block: Block) -> Drawn | None:
    """Mean sensitivity against mean precision of every row, over lines of equal Dice."""
    of = {row: [lines.get(name, {}).get("mean", math.nan) for name in AXES] for row, lines in block.scores().items()}
    means = {row: pair for row, pair in of.items() if not any(map(math.isnan, pair))}
    if not means:
        return None
    colours, models = shades(block), sorted({model for model, _ in means})
    with rc_context(STYLE):
        figure, plane = axes(3.6)
        least = max(0.0, math.floor((min(map(min, means.values())) - 0.05) * 10) / 10)
        _equal_dice(plane, least)
        for (model, loss), point in sorted(means.items(), key=lambda entry: entry[0][1] in colours):
            marker, colour = MARKERS[models.index(model) % len(MARKERS)], colours.get(loss, COLOURS["grey"])
            plane.plot(*point, marker, ms=6, color=colour, mew=0, alpha=0.9, clip_on=False)
        plane.set(xlim=(least, 1), ylim=(least, 1), xlabel="precision", ylabel="sensitivity", aspect="equal")
        shown = [("s", COLOURS["grey"], "other losses")] if {loss for _, loss in means} - set(colours) else []
        entries = [("s", colour, loss) for loss, colour in colours.items()] + shown
        if len(models) > 1:
            entries += [(MARKERS[place % len(MARKERS)], "none", model) for place, model in enumerate(models)]
        _legend(plane, entries)
    return _drawn(
        block,
        "sensitivity-precision",
        figure,
        "mean sensitivity against mean precision by loss",
        "Mean sensitivity against mean precision; dotted: equal Dice of a case with such values.",
    )


def _equal_dice(plane: Axes, least: float) -> None:
    precision = np.linspace(0.01, 1, 400)
    for dice in np.arange(0.1, 1, 0.1):
        with np.errstate(divide="ignore"):
            sensitivity = dice * precision / (2 * precision - dice)
        inside = (sensitivity > 0) & (sensitivity <= 1)
        plane.plot(precision[inside], sensitivity[inside], ":", color=COLOURS["grey"], lw=0.7)
        at = dice / (2 - dice)  # where sensitivity is 1
        if at > least:
            plane.text(at, 1.005, f"{dice:.1f}", color=COLOURS["grey"], size=7, ha="center", va="bottom")


def _legend(plane: Axes, entries: list[tuple[str, str, str]]) -> None:
    handles = []
    for marker, colour, name in entries:
        edge = INK if colour == "none" else colour
        handles += plane.plot([], [], marker, ms=6, markerfacecolor=colour, markeredgecolor=edge, label=name)
    plane.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8, handlelength=1)


def _points(plane: Axes, values: np.ndarray, place: int, total: int, colour: str) -> None:
    plane.plot(
        values, place + spread(len(values)), "o", ms=2.6, color=colour, alpha=0.7, mew=0, rasterized=total > MANY, zorder=2
    )


def _interval(plane: Axes, place: int, line: dict[str, Any] | None, parts: tuple[str, str, str], filled: bool) -> None:
    if line is None:
        return
    mean, low, high = (line[part] for part in parts)
    colour = COLOURS["vermilion"]
    plane.plot([low, high], [place, place], color=colour, lw=1.6, zorder=3, solid_capstyle="butt")
    plane.plot(mean, place, "D", ms=4, mfc=colour if filled else "white", mec=colour, mew=1, zorder=4)


def _rows_axis(plane: Axes, labels: list[str]) -> None:
    plane.set_yticks(range(len(labels)), labels)
    plane.set_ylim(len(labels) - 0.4, -0.6)
    plane.tick_params(axis="y", length=0)
    plane.grid(axis="x", color=COLOURS["grey"], alpha=0.25, lw=0.5)
    plane.set_axisbelow(True)


def _drawn(block: Block, kind: str, figure: Plot, alt: str, caption: str) -> Drawn:
    where = f"{block.dataset}, {block.name}"
    return Drawn(slug(block.protocol, block.dataset, block.name, kind), figure, f"{where}: {alt}", f"{where}: {caption}")
