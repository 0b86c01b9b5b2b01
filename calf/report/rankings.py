"""Figures of ranks: how stable they are within a table, and how they differ over data sets."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib import rc_context

from calf.page import COLOURS, INK, STYLE
from calf.report.drawing import ROW, Drawn, axes, names, ordered, slug
from calf.report.findings import Block, Findings
from calf.report.friedman import Friedman
from calf.report.grids import heading, p_value
from calf.report.ranks import rank_distribution

WRITTEN = 14  # rows from which on shares are shades alone


def stability(block: Block) -> Drawn | None:
    """How often each row has each rank when patients are drawn anew; None where that cannot be said."""
    of = rank_distribution(block.cases, block.metric)
    if of.empty or of["rank"].max() < 2:
        return None
    table = of.pivot(index=["model", "loss"], columns="rank", values="share")
    mean_rank = (table * table.columns.to_numpy()).sum(axis=1)
    rows = sorted((row for row in ordered(block) if row in table.index), key=lambda row: mean_rank.to_dict()[row])
    with rc_context(STYLE):
        figure, plane = axes(0.6 + ROW * len(rows))
        shares = table.reindex(pd.MultiIndex.from_tuples(rows)).to_numpy(float)
        for place, own in enumerate(shares):
            for rank, share in enumerate(own, start=1):
                if share > 0:
                    plane.barh(place, 0.94, left=rank - 0.47, height=0.86, color=COLOURS["blue"], alpha=0.08 + 0.92 * share, lw=0)
                if share >= 0.1 and len(rows) <= WRITTEN:
                    ink = "white" if share > 0.45 else INK
                    plane.text(rank, place, f"{100 * share:.0f}", ha="center", va="center", size=7, color=ink)
        plane.set_yticks(range(len(rows)), names(rows))
        plane.set_ylim(len(rows) - 0.4, -0.6)
        plane.set_xlim(0.4, len(rows) + 0.6)
        plane.tick_params(axis="y", length=0)
        plane.set_xticks(range(1, len(rows) + 1, math.ceil(len(rows) / WRITTEN)))
        plane.set_xlabel(f"rank by mean {heading(block.metric)}")
    where = f"{block.dataset}, {block.name}"
    caption = f"{where}: how often each rank is taken when patients are drawn anew (1,000 bootstrap samples), in per cent."
    caption += _sentence(str(of["note"].iloc[0]))
    name = slug(block.protocol, block.dataset, block.name, "ranks")
    return Drawn(name, figure, f"{where}: stability of ranks", caption)


def critical_differences(found: Findings) -> list[Drawn]:
    """A diagram of mean ranks a protocol that has several data sets."""
    return [_diagram(test, found.metric) for test in found.friedman if test.over == "data sets" and test.tested]


def _diagram(test: Friedman, metric: str) -> Drawn:
    from scikit_posthocs import critical_difference_diagram

    rows = list(test.mean_ranks.index)
    labels = names([(str(model), str(loss)) for model, loss in rows])
    ranks, p = test.mean_ranks.set_axis(labels), test.nemenyi.set_axis(labels, axis=0).set_axis(labels, axis=1)
    with rc_context(STYLE):
        figure, plane = axes(0.9 + 0.13 * len(rows), width=6.4)
        plane.spines["top"].set_visible(True)
        critical_difference_diagram(
            ranks,
            p,
            ax=plane,
            label_props={"size": 8},
            marker_props={"color": INK, "s": 14},
            elbow_props={"color": INK, "linewidth": 0.7},
            crossbar_props={"color": COLOURS["vermilion"], "linewidth": 2.4},
        )
    caption = (
        f"{test.protocol}: mean ranks by {heading(metric)} over {test.num_blocks} data sets, 1 the best. Joined: not different "
        f"at 0.05 (Nemenyi, critical difference {test.critical_difference:.2f}). Friedman, ranks shuffled within data sets: "
        f"p {_is(test.p_permutation)}; Iman-Davenport: p {_is(test.p_iman_davenport)}.{_sentence(test.note)}"
    )
    return Drawn(slug(test.protocol, "critical-differences"), figure, f"{test.protocol}: mean ranks over data sets", caption)


def _sentence(note: str) -> str:
    return f" {note[0].upper()}{note[1:]}." if note else ""


def _is(value: float) -> str:
    text = p_value(value)
    return "is not defined" if text == "-" else text if text.startswith("<") else f"= {text}"
