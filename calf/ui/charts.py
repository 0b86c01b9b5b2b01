"""Options of ECharts for what the pages draw: data in, a dictionary out; no browser and no function in JavaScript.

Charts are drawn as SVG, and what is in ``INK`` has the colour of the page's text, in light and in dark. A point that can be
clicked carries ``unit``, the name of its case (:class:`calf.ui.analyses.Table`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from calf.page import COLOURS
from calf.report.grids import heading, number

INK = "currentColor"
FIRST, SECOND = COLOURS["blue"], COLOURS["vermilion"]
SHADES = ("blue", "vermilion", "green", "orange", "purple", "sky")  # as calf.report.drawing, which loads matplotlib
SYMBOLS = ("circle", "rect", "triangle", "diamond", "pin", "arrow")
DASHES = ("solid", "dashed", "dotted")
FOUND, MISSED, FALSE_POSITIVE = COLOURS["green"], COLOURS["blue"], COLOURS["vermilion"]  # as the panels of a report
LOG_FROM = 10  # times as large as the least
Option = dict[str, Any]


def chart(series: Sequence[Option], x: Option, y: Option | list[Option], legend: bool = True, **more: Any) -> Option:
    """The parts that all charts share."""
    return {
        "animation": False,
        "textStyle": {"color": INK, "fontFamily": "inherit"},
        "grid": {
            "left": 36 if isinstance(y, dict) and y["name"] else 8,
            "right": 24,
            "top": 36 if legend else 16,
            "bottom": 28,
            "containLabel": True,
        },
        "tooltip": {"trigger": "item", "formatter": "{b}", "confine": True},
        "legend": {"show": legend, "top": 0, "type": "scroll", "textStyle": {"color": INK}},
        "xAxis": x,
        "yAxis": y,
        "series": list(series),
        **more,
    }


def axis(name: str, **more: Any) -> Option:
    """A value axis with its name beside it."""
    return {
        "type": "value",
        "name": name,
        "nameLocation": "middle",
        "nameGap": 28,
        "scale": True,
        "nameTextStyle": {"color": INK},
        "axisLabel": {"color": INK, "hideOverlap": True},
        "axisLine": {"show": True, "onZero": False, "lineStyle": {"color": COLOURS["grey"]}},
        "splitLine": {"lineStyle": {"color": COLOURS["grey"], "opacity": 0.25}},
        **more,
    }


def distribution(points: Mapping[str, pd.Series], intervals: pd.DataFrame, metric: str) -> Option:
    """Every case of every row as a point, with the row's mean and 95 % interval.

    Args:
        points: by title of a row, in order, the values by unit.
        intervals: ``mean``, ``low`` and ``high``, one line a title, in the same order.
    """
    shown = heading(metric)
    cases, means, bars = [], [], []
    for place, (title, values) in enumerate(points.items()):
        for offset, (unit, value) in zip(_offsets(len(values)), values.items(), strict=True):
            text = f"{unit}, {title}: {shown} {exact(value)}"
            cases.append({"name": text, "value": [float(value), place + float(offset)], "unit": str(unit), "row": place})
        mean, low, high = (float(intervals[part].to_dict()[title]) for part in ("mean", "low", "high"))
        if np.isnan(mean):
            continue
        text = f"{title}: mean {number(mean, metric)}"
        if not np.isnan(low):
            text += f", 95 % CI {number(low, metric)} to {number(high, metric)}"
            bars.append([{"coord": [low, place]}, {"coord": [high, place]}])
        means.append({"name": text, "value": [mean, place]})
    size = 6 if len(cases) < 2000 else 4
    series = [
        {
            "type": "scatter",
            "name": "case",
            "symbolSize": size,
            "itemStyle": {"color": COLOURS["sky"], "opacity": 0.75},
            "data": cases,
        },
        {
            "type": "scatter",
            "name": "mean with 95 % CI",
            "symbol": "diamond",
            "symbolSize": 10,
            "itemStyle": {"color": COLOURS["vermilion"]},
            "data": means,
            "z": 4,
            "markLine": {
                "silent": True,
                "symbol": "none",
                "lineStyle": {"color": COLOURS["vermilion"], "width": 2, "type": "solid"},
                "data": bars,
            },
        },
    ]
    last = len(points) - 0.5
    places = {"type": "value", "min": -0.5, "max": last, "inverse": True, "show": False}
    titles = {
        **axis(""),
        "type": "category",
        "data": list(points),
        "inverse": True,
        "position": "left",
        "axisTick": {"show": False},
        "splitLine": {"show": False},
        "axisLabel": {"color": INK, "interval": 0, "width": 170, "overflow": "break"},
    }
    return chart(series, axis(shown), [places, titles])


def paired(first: pd.Series, second: pd.Series, titles: tuple[str, str], metric: str, bounded: bool) -> Option:
    """A point a case, over the line where both are equal; both axes are the same, and end at 0 and 1
    where the metric does (``bounded``)."""
    data = [
        {
            "name": f"{unit}: {titles[0]} {exact(one)}, {titles[1]} {exact(two)}",
            "value": [float(one), float(two)],
            "unit": str(unit),
        }
        for (unit, one), two in zip(first.items(), second, strict=True)
    ]
    ends = _ends([*first, *second], bounded)
    equal = {
        "type": "line",
        "name": "equal",
        "symbol": "none",
        "silent": True,
        "data": [[ends["min"], ends["min"]], [ends["max"], ends["max"]]],
        "lineStyle": {"color": COLOURS["grey"], "type": "dashed", "width": 1},
        "itemStyle": {"color": COLOURS["grey"]},
    }
    cases = {
        "type": "scatter",
        "name": "case",
        "symbolSize": 9,
        "itemStyle": {"color": FIRST, "opacity": 0.8},
        "data": data,
        "cursor": "pointer",
    }
    x, y = (axis(f"{heading(metric)}, {title}", **ends) for title in titles)
    return chart([cases, equal], x, {**y, "nameGap": 40})


def by_size(of: Mapping[str, pd.DataFrame], metric: str) -> Option:
    """A point a case: reference volume in mL, on a logarithmic scale where they differ much, against a metric;
    a colour and shape a title.

    ``of``: by title a table by unit with ``volume_ml`` (above 0) and ``value``.
    """
    series = []
    for place, (title, table) in enumerate(of.items()):
        data = [
            {
                "name": f"{unit}, {title}: {volume:.4g} mL, {heading(metric)} {exact(value)}",
                "value": [float(volume), float(value)],
                "unit": str(unit),
                "row": place,
            }
            for unit, volume, value in table[["volume_ml", "value"]].itertuples()
        ]
        series.append(
            {
                "type": "scatter",
                "name": title,
                "symbol": SYMBOLS[place],
                "symbolSize": 8,
                "itemStyle": {"color": (FIRST, SECOND)[place % 2], "opacity": 0.75},
                "data": data,
            }
        )
    sizes = [volume for table in of.values() for volume in table["volume_ml"]]
    kind = "log" if max(sizes) > LOG_FROM * min(sizes) else "value"
    return chart(series, axis("reference volume, mL", type=kind), axis(heading(metric), nameGap=48))


def sensitivity_precision(points: Mapping[str, tuple[float, float]], lines: Mapping[float, Any]) -> Option:
    """A point a row, over lines of equal Dice; ``lines``: by Dice their points (precision, sensitivity)."""
    iso = [
        {
            "type": "line",
            "name": f"Dice {dice:.1f}",
            "showSymbol": False,
            "silent": True,
            "smooth": False,
            "data": np.asarray(line).tolist(),
            "lineStyle": {"color": COLOURS["grey"], "type": "dotted", "width": 1},
            "endLabel": {"show": True, "formatter": f"{dice:.1f}", "color": COLOURS["grey"], "fontSize": 10},
        }
        for dice, line in lines.items()
    ]
    many = len(points) > len(SHADES) * len(SYMBOLS)
    series = [
        {
            "type": "scatter",
            "name": title,
            "symbolSize": 11,
            "symbol": SYMBOLS[0] if many else SYMBOLS[place // len(SHADES)],
            "itemStyle": {"color": COLOURS["blue"] if many else COLOURS[SHADES[place % len(SHADES)]]},
            "data": [
                {
                    "name": f"{title}: precision {point[0]:.4f}, sensitivity {point[1]:.4f}",
                    "value": [float(axis) for axis in point],
                }
            ],
        }
        for place, (title, point) in enumerate(points.items())
    ]
    ends = {"min": 0, "max": 1}
    option = chart([*iso, *series], axis("precision", **ends), axis("sensitivity", nameGap=40, **ends))
    option["legend"]["data"] = list(points)
    option["legend"]["show"] = not many
    return option


def bars(values: Mapping[str, Mapping[str, float]], colours: Sequence[str], name: str, digits: int) -> Option:
    """A horizontal bar a title, made of one part a name of ``values``, each a number a title."""
    titles = list(next(iter(values.values())))
    series = [
        {
            "type": "bar",
            "stack": "all",
            "name": part,
            "itemStyle": {"color": colour},
            "data": [
                {"name": f"{title}: {part} {value:.{digits}f}", "value": None if np.isnan(value) else float(value)}
                for title, value in own.items()
            ],
        }
        for (part, own), colour in zip(values.items(), colours, strict=True)
    ]
    places = {
        **axis(""),
        "type": "category",
        "data": titles,
        "inverse": True,
        "axisTick": {"show": False},
        "splitLine": {"show": False},
        "axisLabel": {"color": INK, "interval": 0, "width": 170, "overflow": "break"},
    }
    return chart(series, axis(name, scale=False), places, legend=len(values) > 1)


def exact(value: float) -> str:
    """All digits that tell the number from others."""
    return repr(float(value))


def _ends(values: Sequence[float], bounded: bool) -> dict[str, float]:
    """Round limits of an axis that hold these values."""
    low, high = (float(min(values)), float(max(values))) if values else (0.0, 1.0)
    step = 10.0 ** np.floor(np.log10(max(high - low, 1e-6)))
    low, high = round(float(np.floor(low / step) * step), 9), round(float(np.ceil(high / step) * step), 9)
    if bounded:
        low, high = max(low, 0.0), min(high, 1.0)
    return {"min": low, "max": high if high > low else low + float(step)}


def _offsets(num: int) -> Sequence[float]:
    """That keep equal points apart, the same every time; within a quarter of a row."""
    return list((np.arange(num) * 0.618034 % 1 - 0.5) * 0.5)
