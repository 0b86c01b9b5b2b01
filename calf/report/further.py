"""The tables of a block beyond scores and comparisons: sizes of lesions, the BraTS rule, agreement of rankings, other metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from calf.metrics.scores import UNRANKED
from calf.report import words
from calf.report.findings import Block, records
from calf.report.grids import NOTHING, Cell, Grid, difference, heading, interval, number, rested_on, scores
from calf.report.ranks import LEAST_ROWS, ORDERS
from calf.report.strata import FEW

GROUPS = {
    "Overlap and volume": ("iou", "accuracy", "balanced_accuracy", "relative_volume_error", "volume_difference_ml"),
    "Surfaces": ("hd95_mm", "hd_mm", "assd_mm"),
    "Lesions": ("lesion_sensitivity", "lesion_precision", "lesion_f1", "false_positive_lesions"),
    "Calibration": ("ece", "ace", "brier"),
}


@dataclass(frozen=True)
class Part:
    """``grid``: None where there is nothing but ``notes``, sentences for under it. ``key``: names it in labels.

    ``supplementary``: for readers of the report alone; the others are for a manuscript, too.
    """

    key: str
    title: str
    grid: Grid | None
    notes: Sequence[str]
    supplementary: bool = False


def further(block: Block) -> list[Part]:
    """Every further table that there is something to say in."""
    parts = [*_sizes(block), *_brats(block), *_agreement(block), *_supplementary(block)]
    return [part for part in parts if part.grid is not None or part.notes]


def volumes(low_mm3: float, high_mm3: float) -> str:
    """The limits of a stratum in mL, as tables and figures print them."""
    low, high = low_mm3 / 1000, high_mm3 / 1000
    if high == 0:
        return "no reference"
    if low == 0:
        return "all" if math.isinf(high) else f"to {high:.3g}"
    return f"over {low:.3g}" if math.isinf(high) else f"{low:.3g} to {high:.3g}"


def _sizes(block: Block) -> list[Part]:
    """By volume of the reference: mean and difference to the baseline of every row in every stratum that has a value."""
    own = block.strata
    own = own[own.groupby("stratum")["num_scored"].transform("sum") > 0] if not own.empty else own
    if own.empty or own.loc[own["stratum"] > 0, "stratum"].nunique() < 2:
        return []
    metric = block.metric
    header = ["reference, mL", "model", "loss", "cases", "patients", f"{heading(metric)} [95 % CI]"]
    header += [f"difference to {block.baseline} [95 % CI]", "p", "p, Holm", "effect"] if block.baseline else []
    rows: list[list[Cell]] = []
    breaks = []
    for _, within in own.groupby("stratum", sort=True):
        size = volumes(within["above_mm3"].iloc[0], within["up_to_mm3"].iloc[0])
        lines: dict[tuple[str, str], dict[str, Any]] = {(line["model"], line["loss"]): line for line in records(within)}
        breaks.append(len(rows))
        for row in block.rows:
            line = lines.get(row)
            cells = [Cell(size), *map(Cell, row)]
            rows.append([*cells, *(_of_stratum(line, block, row) if line else [Cell(NOTHING)] * (len(header) - 3))])
    notes = [f"Limits of the reference volume: {block.limits}."]
    if block.baseline:
        tested = own[own["num_tests"] > 0]
        notes.append(words.strata(block.baseline, int(tested["num_tests"].max()) if len(tested) else 0))
    notes += [*_few(own), *_remarks(own)]
    return [Part("size", f"{heading(metric)} by size of the target", Grid(header, rows, 3, tuple(breaks[1:])), notes)]


def _of_stratum(line: dict[str, Any], block: Block, row: tuple[str, str]) -> list[Cell]:
    metric = block.metric
    mean = Cell(number(line["mean"], metric), interval(line["low"], line["high"], metric))
    cells = [Cell(str(line["num_scored"])), Cell(str(line["num_scored_patients"])), mean]
    return [*cells, *(difference(line, metric, row[1] == block.baseline) if block.baseline else [])]


def _few(own: pd.DataFrame) -> list[str]:
    """Strata with rows that have neither interval nor test, for want of patients."""
    few = own[own["note"].str.contains(FEW, regex=False)]
    places = [volumes(low, high) for low, high in few[["above_mm3", "up_to_mm3"]].drop_duplicates().itertuples(index=False)]
    return [f"Reference {'; '.join(places)} mL: {FEW}."] if places else []


def _remarks(own: pd.DataFrame) -> list[str]:
    """What else is said of rows, once whatever the number of their strata, and where no p can be small enough."""
    of: dict[str, list[str]] = {}
    for line in records(own):
        for note in line["note"].split("; "):
            of.setdefault(note, []).append(f"{line['model']} / {line['loss']}")
    told = {note: ", ".join(dict.fromkeys(rows)) for note, rows in of.items() if note not in ("", "baseline", FEW)}
    said = [f"In at least one stratum, {rows}: {note}." for note, rows in told.items()]
    weak = own.loc[own["power_note"].str.contains("too few"), "power_note"]
    return [*said, *(f"{note}." for note in sorted(set(weak)))]


def _brats(block: Block) -> list[Part]:
    """Under the rule of BraTS for empty masks; nothing but a sentence where no case is concerned."""
    if not block.per_case:
        return []
    if block.brats is None:
        return [Part("brats", "Empty masks as BraTS scores them", None, [words.NO_EMPTY_REFERENCE])]
    own = block.brats
    notes = [words.BRATS, f"{rested_on(own)}. {words.marked(own)}"]
    return [Part("brats", "Empty masks as BraTS scores them", scores(own, own.metrics), notes)]


def _agreement(block: Block) -> list[Part]:
    """Kendall's tau of the rankings by each pair of main metrics, and of the two orders of averaging and ranking."""
    metrics = [metric for metric in block.main_metrics if metric not in UNRANKED]
    taus = {
        (line["first"], line["second"], line["second_order"]): line
        for line in records(block.agreement)
        if line["first"] in metrics and line["second"] in metrics
    }
    if not taus:
        return []
    num_rows = max(line["num_rows"] for line in taus.values())
    if num_rows < LEAST_ROWS:
        return [Part("agreement", "Agreement of rankings", None, [words.too_few_rows(num_rows)])]
    header = ["ranking by", *map(heading, metrics), *([words.OTHER_ORDER] if block.per_case else [])]
    rows = []
    for place, metric in enumerate(metrics):
        given = [taus.get((other, metric, ORDERS[0])) or taus.get((metric, other, ORDERS[0])) for other in metrics[:place]]
        cells = [Cell(heading(metric)), *map(_tau, given), *[Cell("")] * (len(metrics) - place)]
        rows.append([*cells, *([_tau(taus.get((metric, metric, ORDERS[1])))] if block.per_case else [])])
    notes = [words.agreement(num_rows, block.per_case), *_extremes(block, metrics, taus), *_undefined(taus)]
    return [Part("agreement", "Agreement of rankings: Kendall's tau", Grid(header, rows, 1), notes)]


def _tau(line: dict[str, Any] | None) -> Cell:
    return Cell(NOTHING if line is None or math.isnan(line["tau"]) else f"{line['tau']:.2f}")


def _extremes(block: Block, metrics: list[str], taus: dict[tuple[str, str, str], dict[str, Any]]) -> list[str]:
    """With which metric the ranking by the declared one agrees least, and how far the order of averaging matters to it."""
    others = {}
    for metric in metrics:
        line = taus.get((block.metric, metric, ORDERS[0])) or taus.get((metric, block.metric, ORDERS[0]))
        if metric != block.metric and line is not None and not math.isnan(line["tau"]):
            others[metric] = line["tau"]
    said, declared = [], heading(block.metric)
    if others:
        least = min(others, key=lambda metric: others[metric])
        said.append(f"The ranking by {declared} agrees least with that by {heading(least)} (tau {others[least]:.2f}).")
    order = taus.get((block.metric, block.metric, ORDERS[1]))
    if order is not None and not math.isnan(order["tau"]):
        said.append(f"Ranking {declared} within each case first gives tau {order['tau']:.2f} to the ranking of means.")
    return said


def _undefined(taus: dict[tuple[str, str, str], dict[str, Any]]) -> list[str]:
    """Why some are not given, or rest on less than all cases."""
    why: dict[str, list[str]] = {}
    for (first, second, _), line in taus.items():
        if line["note"]:
            pair = heading(first) if first == second else f"{heading(first)} and {heading(second)}"
            why.setdefault(line["note"], []).append(pair)
    return [f"{', '.join(dict.fromkeys(pairs))}: {note}." for note, pairs in why.items()]


def _supplementary(block: Block) -> list[Part]:
    """The metrics that are not in the main table, by what they are about; those of no group come last."""
    rest = [metric for metric in block.metrics if metric not in block.main_metrics]
    grouped = {title: [metric for metric in known if metric in rest] for title, known in GROUPS.items()}
    grouped["Other metrics"] = [metric for metric in rest if not any(metric in known for known in GROUPS.values())]
    parts = []
    for title, metrics in grouped.items():
        if not metrics:
            continue
        notes = [words.SIGNED] if set(metrics) & UNRANKED else []
        grid = scores(replace(block, compared=block.compared.iloc[:0]), metrics)
        parts.append(Part(title.split()[0].lower(), f"Supplementary: {title.lower()}", grid, notes, supplementary=True))
    return [*parts[:-1], replace(parts[-1], notes=[*parts[-1].notes, words.SUPPLEMENTARY])] if parts else []
