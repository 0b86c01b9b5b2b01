"""Options of ECharts for lines and shares along something: a threshold, a probability, a training. As :mod:`calf.ui.charts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from calf.page import BRANCH_COLOURS, COLOURS
from calf.report.grids import heading
from calf.ui.charts import DASHES, FIRST, INK, SECOND, SHADES, SYMBOLS, Option, axis, chart
from calf.ui.measures import Sweep
from calf.ui.reliability import Reliability


def calibration(of: Mapping[str, Reliability]) -> Option:
    """Reliability diagrams: mean probability of each bin against the share of foreground; a line a title."""
    series: list[Option] = [_diagonal("perfect")]
    for place, (title, own) in enumerate(of.items()):
        data = [
            {
                "name": f"{title}: probability {p:.3f}, foreground {share:.3f} of {voxels} voxels",
                "value": [float(p), float(share)],
            }
            for p, share, voxels in zip(own.probability, own.share, own.voxels, strict=True)
            if voxels
        ]
        colour = (FIRST, SECOND)[place % 2]
        series.append(
            {
                "type": "line",
                "name": title,
                "symbol": SYMBOLS[place],
                "symbolSize": 8,
                "lineStyle": {"color": colour, "width": 2},
                "itemStyle": {"color": colour},
                "data": data,
            }
        )
    ends = {"min": 0, "max": 1}
    return chart(series, axis("mean predicted probability", **ends), axis("share of foreground", nameGap=40, **ends))


def branches(shares: pd.DataFrame) -> Option:
    """Shares of the branches over the training of one model and loss, stacked."""
    table = shares.pivot_table(index="progress", columns="branch", values="share", aggfunc="sum", fill_value=0)
    of = {str(branch): table[branch].to_numpy(float).tolist() for branch in table}
    places = [float(place) for place in table.index.to_numpy(float)]
    known = [branch for branch in [*BRANCH_COLOURS, *sorted(set(of) - set(BRANCH_COLOURS))] if branch in of]
    series = [
        {
            "type": "bar",
            "stack": "all",
            "name": branch,
            "barCategoryGap": "0%",
            "itemStyle": {"color": BRANCH_COLOURS.get(branch, COLOURS["grey"])},
            "data": [
                {"name": f"{branch}: {100 * share:.1f} % at {100 * at:.0f} % of the training", "value": share}
                for at, share in zip(places, of[branch], strict=True)
            ],
        }
        for branch in known
        if max(of[branch]) > 0
    ]
    steps = {**axis("of the training"), "type": "category", "data": [f"{100 * at:.0f} %" for at in places]}
    return chart(series, steps, axis("of the choices", min=0, max=1, nameGap=40))


def sweep(of: Sweep, title: str) -> Option:
    """Dice, sensitivity and precision as the threshold moves; points carry ``threshold``, its step of 255."""
    series = []
    for name, shade, dash in (
        ("dice", "blue", "solid"),
        ("sensitivity", "green", "dashed"),
        ("precision", "vermilion", "dotted"),
    ):
        data = [
            {
                "name": f"{title}, threshold {step / 255:.3f}: {heading(name)} {value:.4f}",
                "value": [step / 255, float(value)],
                "threshold": int(step),
            }
            for step, value in zip(of.steps.tolist(), getattr(of, name), strict=True)
            if not np.isnan(value)
        ]
        series.append(
            {
                "type": "line",
                "name": heading(name),
                "symbolSize": 7,
                "showSymbol": False,
                "triggerLineEvent": True,
                "lineStyle": {"color": COLOURS[shade], "type": dash, "width": 2},
                "itemStyle": {"color": COLOURS[shade]},
                "data": data,
            }
        )
    if of.mask_step is not None:
        series[0]["markLine"] = {
            "silent": True,
            "symbol": "none",
            "label": {"formatter": "saved mask", "color": INK, "position": "insideEndTop"},
            "lineStyle": {"color": COLOURS["grey"], "type": "solid"},
            "data": [{"xAxis": of.mask_step / 255}],
        }
    option = chart(series, axis("threshold", min=0, max=1), axis("", min=0, max=1))
    option["tooltip"] = {"trigger": "axis", "confine": True}
    return option


def curves(of: Mapping[str, Sequence[tuple[float, float]]], name: str) -> Option:
    """A line a run over epochs; colours first, then dashes tell them apart."""
    series = [
        {
            "type": "line",
            "name": title,
            "showSymbol": len(points) < 2,
            "symbolSize": 6,
            "lineStyle": {
                "color": COLOURS[SHADES[place % len(SHADES)]],
                "type": DASHES[place // len(SHADES) % len(DASHES)],
                "width": 2,
            },
            "itemStyle": {"color": COLOURS[SHADES[place % len(SHADES)]]},
            "data": [[float(epoch), float(value)] for epoch, value in points],
        }
        for place, (title, points) in enumerate(of.items())
    ]
    option = chart(series, axis("epoch", minInterval=1), axis(name, nameGap=44))
    option["tooltip"] = {"trigger": "axis", "confine": True, "order": "valueDesc"}
    option["grid"]["top"] = 48
    return option


def _diagonal(name: str) -> Option:
    return {
        "type": "line",
        "name": name,
        "symbol": "none",
        "silent": True,
        "data": [[0, 0], [1, 1]],
        "lineStyle": {"color": COLOURS["grey"], "type": "dashed", "width": 1},
        "itemStyle": {"color": COLOURS["grey"]},
    }
