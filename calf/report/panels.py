"""Qualitative panels: a case's image, its truth, and what each loss made of it; which cases are shown is a rule, no choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from calf.metrics.scores import LOWER_IS_BETTER
from calf.page import Figure, picture
from calf.report.cells import of_data_set
from calf.report.drawing import ordered, slug
from calf.report.findings import Block, Findings
from calf.report.grids import heading, number
from calf.report.montage import Shown, Strip, montage, slice_shown
from calf.report.volumes import Unreadable, read_scan

MOST = 6  # losses in a panel: the baseline and the best


@dataclass(frozen=True)
class Panel:
    """A picture under the name of its file, with what it shows in words and the text under it."""

    name: str
    image: Image.Image
    alt: str
    caption: str

    def embedded(self) -> Figure:
        """For the page."""
        return picture(self.image, self.alt, self.caption)

    def write(self, folder: Path) -> None:
        """As ``<name>.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.image.save(folder / f"{self.name}.png", optimize=True)


def chosen(values: pd.DataFrame, lower_is_better: bool = False) -> dict[str, str]:
    """The cases to show, each with why, from values (cases x losses).

    Of the cases in which every loss has a value: that with the best mean over losses, that whose mean is nearest the median
    of the means, that with the worst mean, and that with the largest range between losses. The first by name where several
    are; one that is chosen twice is shown once, with both reasons. Empty where there is no such case.

    >>> table = pd.DataFrame({"a": [0.9, 0.5, 0.1], "b": [0.9, 0.7, 0.6]}, index=["x", "y", "z"])
    >>> chosen(table)
    {'x': 'best', 'y': 'median', 'z': 'worst, most disputed'}
    """
    defined = values.dropna().sort_index()
    if defined.empty:
        return {}
    mean, span = defined.mean(axis=1), defined.max(axis=1) - defined.min(axis=1)
    sign = -1 if lower_is_better else 1
    picks = [("best", (sign * mean).idxmax()), ("median", (mean - mean.median()).abs().idxmin())]
    picks += [("worst", (sign * mean).idxmin())] + ([("most disputed", span.idxmax())] if values.shape[1] > 1 else [])
    reasons: dict[str, list[str]] = {}
    for reason, case in picks:
        reasons.setdefault(str(case), []).append(reason)
    return {case: ", ".join(found) for case, found in reasons.items()}


def panels(found: Findings, block: Block) -> tuple[list[Panel], list[str]]:
    """One panel a model, and what could not be shown, with why. A pooled protocol has no cases, hence no panels."""
    drawn, missing = [], []
    if not block.per_case:
        return [], []
    rows = ordered(block)
    for model in dict.fromkeys(model for model, _ in rows):
        losses = [loss for own, loss in rows if own == model]
        shown = sorted(losses[:MOST], key=losses.index)
        if block.baseline in losses and block.baseline not in shown:
            shown = [*shown[:-1], block.baseline]
        strips, told = _strips(found, block, model, losses, shown)
        missing += [f"{block.dataset} / {block.name} / {model}: {text}" for text in told]
        if not strips:
            continue
        which = ", ".join(f"{strip.case}, slice {slice_shown(strip.scan, strip.predictions)} ({strip.why})" for strip in strips)
        of = (
            ""
            if len(shown) == len(losses)
            else f" Of {len(losses)} losses {block.baseline or 'the first'} and the best are shown."
        )
        seeds = sorted({seed for strip in strips for seed in strip.seeds})
        caption = (
            f"{block.dataset}, {block.name}, {model}: {which}. By the mean {heading(block.metric)} over losses; most disputed: "
            f"the largest range between losses.{of} Above each prediction its {heading(block.metric)}, of seed "
            f"{', '.join(map(str, seeds))}. Found green, false positive orange-red, missed blue. Slice with the largest target "
            "area, patient's right on the left."
        )
        alt = f"{block.dataset}: truth and predictions of {model} for {which}"
        drawn.append(Panel(slug(block.protocol, block.dataset, block.name, model, "panel"), montage(strips, shown), alt, caption))
    return drawn, missing


def _strips(
    found: Findings, block: Block, model: str, losses: Sequence[str], shown: Sequence[str]
) -> tuple[list[Strip], list[str]]:
    rows = block.cases[(block.cases["model"] == model) & (block.cases["metric"] == block.metric)]
    values = rows.pivot_table(index="case", columns="loss", values="value", aggfunc="mean", dropna=False)
    reasons = chosen(values[list(losses)], block.metric in LOWER_IS_BETTER)
    strips, told = [], [] if reasons else ["no case has a value for every loss, so none is shown"]
    for case, why in reasons.items():
        try:
            strips.append(_strip(found, block, rows[rows["case"] == case], case, why, shown))
        except Unreadable as reason:
            told.append(f"case {case} ({why}) is not shown: {reason}")
    return strips, told


def _strip(found: Findings, block: Block, rows: pd.DataFrame, case: str, why: str, losses: Sequence[str]) -> Strip:
    first: dict[str, dict[str, Any]] = {}
    for row in rows.sort_values("seed", kind="stable").to_dict("records"):
        first.setdefault(str(row["loss"]), {str(column): value for column, value in row.items()})
    runs = {loss: _folder(found, block, first[loss]) for loss in losses}
    scan = read_scan(runs.values(), case, block.name, first[losses[0]]["reference_volume_mm3"])
    predictions = []
    for loss in losses:
        line, path = first[loss], runs[loss] / "predictions" / f"{case}.nii.gz"
        try:
            predictions.append(Shown(number(line["value"], block.metric), scan.prediction(path, line["predicted_volume_mm3"])))
        except Unreadable as reason:
            predictions.append(Shown(str(reason), None))
    if all(shown.mask is None for shown in predictions):
        raise Unreadable(f"its predictions are {predictions[0].text}")
    return Strip(case, why, scan, tuple(predictions), tuple(sorted({int(first[loss]["seed"]) for loss in losses})))


def _folder(found: Findings, block: Block, line: dict[str, Any]) -> Path:
    """The run folder that a case row is of."""
    for run in found.gathered.finished.to_dict("records"):
        same = all(run[key] == line[key] for key in ("protocol", "model", "loss", "fold", "seed"))
        if same and of_data_set(block.dataset, run["dataset"]):
            return found.gathered.folder / run["folder"]
    raise AssertionError(f"no run of {line}")
