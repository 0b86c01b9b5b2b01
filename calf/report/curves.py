"""Figures of training: learning curves, and the branches that conditional losses took."""

from __future__ import annotations

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from calf.page import BRANCH_COLOURS, COLOURS, STYLE
from calf.report.cells import of_data_set
from calf.report.drawing import COLUMNS, Drawn, legend, panels, shades, slug
from calf.report.findings import Block, Findings
from calf.report.grids import heading
from calf.report.training import branch_shares

PANEL = (2.3, 1.75)
LINE = 34  # letters of a title over such a panel


def learning(found: Findings, block: Block) -> Drawn | None:
    """The declared metric on validation data by epoch, mean over seeds and folds, a panel a model."""
    column, history = f"val/{block.metric}", found.history
    if column not in history:
        return None
    here = history["dataset"].map(lambda name: of_data_set(block.dataset, name))
    own = history[here & (history["protocol"] == block.protocol)]
    own = own.dropna(subset=[column])
    if own.empty or own["epoch"].max() == own["epoch"].min():
        return None
    models, colours = sorted(set(own["model"])), shades(block)
    with rc_context(STYLE):
        figure, planes = panels(len(models), width=3.0, height=2.7)
        for plane, model in zip(planes, models, strict=True):
            for loss, curve in own[own["model"] == model].groupby("loss"):
                _curve(plane, curve, column, colours.get(str(loss)))
            plane.set_title(model)
            plane.set_xlabel("epoch")
            plane.xaxis.set_major_locator(MaxNLocator(integer=True))
        planes[0].set_ylabel(f"{heading(block.metric)}, validation")
        legend(figure, planes[-1], colours, bool(set(own["loss"]) - set(colours)))
    caption = f"{heading(block.metric)} on validation data; lines: mean over seeds and folds, bands: their range."
    return Drawn(
        slug(block.protocol, block.dataset, "learning"),
        figure,
        f"{block.dataset}: learning curves",
        f"{block.dataset}: {caption}",
    )


def _curve(plane: Axes, rows: pd.DataFrame, column: str, colour: str | None) -> None:
    of = rows.groupby("epoch")[column].agg(["mean", "min", "max"])
    shown = colour or COLOURS["grey"]
    plane.plot(
        of.index, of["mean"], color=shown, lw=1.6 if colour else 0.8, alpha=1 if colour else 0.5, zorder=3 if colour else 2
    )
    if colour:
        plane.fill_between(of.index, of["min"], of["max"], color=shown, alpha=0.15, lw=0)


def branches(found: Findings) -> list[Drawn]:
    """Shares of the branches over training, a panel a model and loss; a figure a data set, none without such losses."""
    shares = branch_shares(found.gathered)
    drawn = []
    for dataset, own in shares.groupby("dataset", sort=False):
        parts = list(own.groupby(["model", "loss"], sort=True))
        with rc_context(STYLE):
            figure, planes = panels(len(parts), *PANEL)
            known = [*BRANCH_COLOURS, *sorted(set(own["branch"]) - set(BRANCH_COLOURS))]
            taken = [branch for branch in known if own.loc[own["branch"] == branch, "share"].max() > 0]
            for plane, ((model, loss), part) in zip(planes, parts, strict=True):
                _stack(plane, part, taken)
                plane.set_title(fill(f"{model} / {loss}", LINE), size=8)
            for plane in planes[:: min(COLUMNS, len(parts))]:
                plane.set_ylabel("of the choices")
            entries = [planes[0].fill_between([], [], [], color=_colour(branch), label=branch) for branch in taken]
            figure.legend(handles=entries, loc="outside upper left", ncols=6, fontsize=8, handlelength=1)
        told = ", ".join(f"{branch} {100 * _overall(own, branch):.0f} %" for branch in taken)
        caption = f"{dataset}: branches taken over the training (left: its start), pooled over seeds and folds. In all: {told}."
        drawn.append(Drawn(slug(str(dataset), "branches"), figure, f"{dataset}: branches over training: {told}", caption))
    return drawn


def _stack(plane: Axes, part: pd.DataFrame, taken: list[str]) -> None:
    table = part.pivot_table(index="progress", columns="branch", values="share", aggfunc="sum", fill_value=0)
    step = np.diff(table.index).min() if len(table) > 1 else 1.0
    bottom = np.zeros(len(table))
    for branch in taken:
        if branch in table:
            plane.bar(table.index, table[branch], width=step, bottom=bottom, color=_colour(branch), lw=0)
            bottom += table[branch].to_numpy()
    plane.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    plane.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    plane.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def _colour(branch: str) -> str:
    return BRANCH_COLOURS.get(branch, COLOURS["grey"])


def _overall(own: pd.DataFrame, branch: str) -> float:
    """Mean share over the panels' bins."""
    return float(own[own["branch"] == branch]["share"].sum() / own["share"].sum())
