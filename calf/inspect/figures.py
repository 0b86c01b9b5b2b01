"""The plots of the page."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from calf.inspect.remarks import percent
from calf.page import BRANCH_COLOURS, COLOURS, STYLE, Figure, plot

WIDTH = 4.9
LOGARITHMIC = 30  # ratio of ranges that no linear axis shows
DARK = (COLOURS["blue"], COLOURS["vermilion"])  # on which white can be read, and black on the others


def areas(found: dict[str, Any], name: str) -> Figure:
    """Histogram of the areas of the slices that show the target, beside how many do not."""
    target = found["targets"][name]
    shown, counts = np.array(target["areas"]["edges_px"]), target["areas"]["counts"]
    with rc_context(STYLE):
        figure, axes = _axes(2.5)
        axes.stairs(counts, shown, fill=True, color=COLOURS["blue"])
        axes.set_xlabel("area in the slice, stored pixels")
        axes.set_ylabel("slices")
        axes.set_xlim(left=0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    number, empty = sum(counts) + target["areas"]["empty"], target["areas"]["empty"]
    text = f"{name}: areas of the {number - empty} slices that show it; {empty} of {number} ({percent(empty / number)}) do not."
    return plot(figure, f"histogram of slice areas of {name}", text)


def branches(found: dict[str, Any], name: str) -> Figure:
    """How often CALF takes each branch, for each batch size."""
    batches = found["batches"]
    taken = [branch for branch in BRANCH_COLOURS if any(batch["targets"][name]["branches"][branch] for batch in batches)]
    with rc_context(STYLE):
        figure, axes = _axes(0.7 + 0.32 * len(batches))
        start = np.zeros(len(batches))
        for branch in taken:
            shares = np.array([batch["targets"][name]["branches"][branch] for batch in batches])
            axes.barh(range(len(batches)), shares, left=start, color=BRANCH_COLOURS[branch], label=branch, height=0.75)
            for row, share in enumerate(shares):
                if share > 0.09:
                    ink = "white" if BRANCH_COLOURS[branch] in DARK else "black"
                    axes.text(start[row] + share / 2, row, percent(share), ha="center", va="center", color=ink, size=8)
            start += shares
        axes.set_yticks(range(len(batches)), [f"{batch['size']}" for batch in batches])
        axes.invert_yaxis()
        axes.set_ylabel("slices a batch")
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        figure.legend(*axes.get_legend_handles_labels(), ncols=6, loc="outside upper left", handlelength=1, columnspacing=1)
    told = "; ".join(f"{batch['size']}: {_told(batch['targets'][name]['branches'])}" for batch in batches)
    return plot(figure, f"share of batches in each branch by batch size: {told}", f"{name}: share of batches in each branch.")


def _told(shares: dict[str, float]) -> str:
    return ", ".join(f"{branch} {percent(share)}" for branch, share in shares.items() if share)


def volumes(found: dict[str, Any], name: str) -> Figure:
    """Volume of the target in each case that has it, by part of the split."""
    parts = ("train", "val", "test") if found["split"] else (None,)
    with rc_context(STYLE):
        figure, axes = _axes(0.7 + 0.38 * len(parts))
        for row, part in enumerate(parts):
            own = [case["targets"][name]["volume_mm3"] / 1000 for case in found["cases"] if case["part"] == part]
            own = sorted(volume for volume in own if volume > 0)
            # spread by rank, so that equal volumes can be told apart; no chance
            spread = (np.arange(len(own)) * 0.618034) % 1 * 0.5 - 0.25
            axes.plot(own, row + spread, "o", ms=3, color=COLOURS["blue"], alpha=0.7, mew=0)
            if own:
                axes.plot([np.median(own)] * 2, [row - 0.38, row + 0.38], color=COLOURS["orange"], lw=2, zorder=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_yticks(range(len(parts)), [part or "all" for part in parts])
        axes.set_ylim(len(parts) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("volume, ml")
    return plot(
        figure, f"volumes of {name} by part", f"{name}: volume in each case that has it; the line is the median of the part."
    )


def intensity(found: dict[str, Any], modality: str) -> Figure:
    """The range of each case's intensities in its file, cases by their median."""
    levels = [case["intensities"][modality] for case in found["cases"]]
    levels = sorted((level for level in levels if level["p50"] is not None), key=lambda level: float(level["p50"]))
    with rc_context(STYLE):
        figure, axes = _axes(2.3)
        at = np.arange(1, len(levels) + 1)
        thick = float(np.clip(180 / max(len(levels), 1), 0.6, 6))
        for low, high, alpha in (("p0.5", "p99.5", 0.4), ("p5", "p95", 1)):
            axes.vlines(
                at, [level[low] for level in levels], [level[high] for level in levels], COLOURS["sky"], lw=thick, alpha=alpha
            )
        axes.plot(at, [level["p50"] for level in levels], "_", color=COLOURS["vermilion"], ms=max(thick, 3))
        _scale(axes, levels)
        axes.set_xlim(0, len(levels) + 1)
        axes.set_xlabel("cases, by their median")
        axes.set_ylabel("intensity in the file")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    text = f"{modality}: median, 5 % to 95 % (full colour) and 0.5 % to 99.5 % (pale) of each case, without background."
    return plot(figure, f"intensity ranges of {modality} in each case", text)


def _scale(axes: Axes, levels: list[dict[str, Any]]) -> None:
    """Logarithmic where the ranges of the cases are of quite different size; linear around 0 where some reach below it."""
    spans = [level["p99.5"] - level["p0.5"] for level in levels]
    if min(spans, default=0) <= 0 or max(spans) / min(spans) < LOGARITHMIC:
        return
    if min(level["p0.5"] for level in levels) > 0:
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=min(spans))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _axes(height: float) -> tuple[Plot, Axes]:
    figure = Plot(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot(facecolor="none")
