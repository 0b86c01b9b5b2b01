"""Published numbers from a file, and ours in the same data set, model, loss, metric and class."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calf.metrics.calibration import CALIBRATION_METRICS
from calf.metrics.lesions import LESION_METRICS
from calf.metrics.scores import METRICS, UNRANKED, is_share
from calf.metrics.surface import surface_metrics
from calf.metrics.volumetric import COUNTED_METRICS
from calf.report.findings import Block, Findings, Row, records
from calf.report.results import FINISHED
from calf.report.statistics import compare

KEY = ("dataset", "model", "loss", "metric")
NEEDED = (*KEY, "value", "source", "note")
CLASS = "class"
NSD = re.compile(r"nsd_\d+(\.\d+)?mm")
MEAN_OF = re.compile(r"mean of (\d+) \w+")
KNOWN = (*METRICS, *surface_metrics(1)[:-1], *LESION_METRICS, *COUNTED_METRICS, *CALIBRATION_METRICS)
NOT_RUN, NOT_PUBLISHED, NOT_SCORED, UNDEFINED = "not run", "not published", "metric not scored", "undefined in every case"
MEASURED = ("low", "high", "sd", "seed_sd", "num_scored", "num_cases", "num_patients", "num_seeds")
BESIDE_COLUMNS = (
    "protocol",
    *KEY,
    CLASS,
    "theirs",
    "source",
    "note",
    "our_dataset",
    "our_class",
    "our_loss",
    "ours",
    *MEASURED,
    "difference",
    "state",
)

NAMED = ("protocol", *KEY, CLASS, "source", "note", "our_dataset", "our_class", "our_loss", "state")


@dataclass(frozen=True)
class Published:
    """A number as it was printed. ``class_name`` and ``note`` may be empty; ``value`` keeps the digits that were given."""

    dataset: str
    model: str
    loss: str
    metric: str
    class_name: str
    value: Decimal
    source: str
    note: str


@dataclass(frozen=True)
class Beside:
    """Published numbers with ours beside them.

    ``file``: the name of the file they are from. ``published``: its rows. ``protocols``: those of the runs; one that is ""
    where no run has finished. ``rows``: ``BESIDE_COLUMNS``, for each protocol every published number, in the order of the
    file, then what was run and has no published number, in the metrics of the file. A published number has several rows where
    ours has several classes, and the file names none, several parts
    that were tested apart, or several settings of the loss. ``low`` and ``high``: 95 % interval of ours over patients, as in
    the tables; NaN for batches. ``difference``: ours minus theirs. ``state``: why there is no number, or which runs are
    missing from it, else "". ``stand_in``: for each protocol the data sets of ours that took the place of the published ones,
    since none of those was run.
    """

    file: str
    published: tuple[Published, ...]
    protocols: tuple[str, ...]
    rows: pd.DataFrame
    stand_in: dict[str, tuple[str, ...]]

    def of(self, protocol: str) -> list[dict[str, Any]]:
        """The rows of one protocol."""
        own = self.rows[self.rows["protocol"] == protocol]
        return records(own)


def read_published(path: Path) -> tuple[Published, ...]:
    """The rows of a CSV file with the columns ``dataset, model, loss, metric, value, source, note`` and perhaps ``class``.

    Names are those of the report's tables; values are in its units, shares between 0 and 1. A class ``mean of 8 organs`` is
    the mean over the 8 classes of the data set. Nothing but a header: ().

    Raises:
        ValueError: the file cannot be read, columns are missing, unknown or twice, a cell that is needed is empty, a metric is
            unknown, a value is no number or one the metric cannot have, or a source gives one number twice.
    """
    found: dict[tuple[str, ...], int] = {}
    rows = []
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a mark before the first column
            lines = csv.DictReader(file, strict=True)
            _check_columns(path, lines.fieldnames or [])
            for cells in lines:
                row = _row(f"{path}, line {lines.line_num}", cells)
                key = (row.dataset, row.model, row.loss, row.metric, row.class_name, row.source)
                if (first := found.setdefault(key, lines.line_num)) != lines.line_num:
                    what = f"{row.metric} of {' / '.join(filter(None, [row.dataset, row.model, row.loss, row.class_name]))}"
                    raise ValueError(
                        f"{path}: lines {first} and {lines.line_num} both give {what} from {row.source}. Keep one, or name their "
                        "sources apart."
                    )
                rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as reason:
        raise ValueError(f"{path}: expected published numbers as CSV in UTF-8; it cannot be read: {reason}") from reason
    return tuple(rows)


def _check_columns(path: Path, columns: Iterable[str]) -> None:
    names = [name.strip() for name in columns]
    wanted = f"expected the columns {', '.join(NEEDED)}, and {CLASS} where a number is of one class"
    if missing := [name for name in NEEDED if name not in names]:
        raise ValueError(f"{path}: {wanted}; {', '.join(missing)} missing in {', '.join(names) or 'an empty file'}")
    odd = [name for name in dict.fromkeys(names) if name not in (*NEEDED, CLASS) or names.count(name) > 1]
    if odd:
        raise ValueError(f"{path}: {wanted}, each once; got also {', '.join(map(repr, odd))}. Take it out, or put it into note.")


def _row(where: str, cells: dict[str | Any, str | Any]) -> Published:
    if None in cells or None in cells.values():
        raise ValueError(f"{where}: expected as many cells as the header has; a text that holds a comma needs quotes")
    own = {name.strip(): str(value).strip() for name, value in cells.items()}
    if empty := [name for name in NEEDED if not own[name] and name != "note"]:
        raise ValueError(f"{where}: {', '.join(empty)} empty; a number that was not published has no row")
    metric = own["metric"]
    if metric not in KNOWN and not NSD.fullmatch(metric):
        raise ValueError(f"{where}: expected one of the metrics {', '.join(KNOWN)}, nsd_<tolerance>mm; got {metric}")
    value = _value(where, metric, own["value"])
    texts = {name: own[name] for name in (*KEY, "source", "note")}
    return Published(**texts, class_name=own.get(CLASS, ""), value=value)


def _value(where: str, metric: str, text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite():
        raise ValueError(f"{where}: expected a number for {metric}, got {text!r}")
    if is_share(metric) and not 0 <= value <= 1:
        raise ValueError(f"{where}: {metric} is a share, between 0 and 1; got {text}. Divide per cent by 100.")
    if metric not in UNRANKED and value < 0:
        raise ValueError(f"{where}: expected {metric} of 0 or more, got {text}")
    return value


def set_beside(path: Path, published: tuple[Published, ...], found: Findings) -> Beside:
    """Ours beside every published number; a row for each, whether or not there is one of ours."""
    rows: list[dict[str, Any]] = []
    stand_in = {}
    protocols = tuple(dict.fromkeys(block.protocol for block in found.blocks)) or ("",)
    for protocol in protocols:
        ours = _Ours(found, protocol, {number.metric for number in published})
        theirs = {number.dataset for number in published}
        instead = () if theirs & ours.begun or not theirs else tuple(ours.datasets)
        if instead:
            stand_in[protocol] = instead
        for number in published:
            for dataset in _alike(number.dataset, instead) if instead else ours.places(number.dataset):
                rows += [{"protocol": protocol, **row} for row in _beside(number, dataset, ours, bool(instead))]
        rows += [{"protocol": protocol, **row} for row in ours.left(rows)]
    table = pd.DataFrame([dict.fromkeys(NAMED, "") | row for row in rows], columns=list(BESIDE_COLUMNS))
    return Beside(Path(path).name, published, protocols, table, stand_in)


def _alike(dataset: str, instead: tuple[str, ...]) -> list[str]:
    """Of the data sets that stand in those with the same options, ``[filter.ratio=0.1]``, where there are such; else all."""

    def options(name: str) -> str:
        return name[name.index("[") :] if "[" in name else ""

    return [name for name in instead if options(name) == options(dataset)] or list(instead)


class _Ours:
    """What was run under one protocol."""

    def __init__(self, found: Findings, protocol: str, metrics: set[str]) -> None:
        self.protocol = protocol
        self.blocks = [block for block in found.blocks if block.protocol == protocol]
        self.datasets = list(dict.fromkeys(block.dataset for block in self.blocks))
        runs = found.gathered.runs
        self.runs = runs[runs["protocol"].isin([protocol, ""]) if protocol else runs["state"] != FINISHED]
        self.begun = {*self.datasets, *self.runs["dataset"]} - {""}
        self.lines = {
            (block.dataset, block.name): {metric: _lines(block, metric) for metric in block.metrics if metric in metrics}
            for block in self.blocks
        }

    def places(self, dataset: str) -> list[str]:
        """The data set itself, or the parts of a joined one, which are tested apart and called ``<data set>/<part>``."""
        parts = [name for name in self.datasets if name.startswith(f"{dataset}/")]
        return [dataset] if dataset in self.datasets or not parts else parts

    def of(self, dataset: str, class_name: str, stand_in: bool) -> list[Block]:
        """Classes of a data set: that of this name, all of them where none is named or another data set is stood in for."""
        own = [block for block in self.blocks if block.dataset == dataset]
        named = [block for block in own if block.name == class_name]
        return named or (own if stand_in or not class_name else [])

    def state(self, dataset: str, model: str, loss: str) -> str:
        """How the runs of a row without any number ended."""
        own = self.runs[(self.runs[["dataset", "model", "loss"]] == [dataset, model, loss]).all(axis=1)]
        return ", ".join(dict.fromkeys(own["state"])) or NOT_RUN

    def left(self, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """What was run, in metrics that were published for anything, and is beside no published number."""
        shown = {
            (row["our_dataset"], row["our_class"], row["model"], row["our_loss"], row["metric"])
            for row in rows
            if row["protocol"] == self.protocol and "our_class" in row
        }
        for (dataset, name), of_metric in self.lines.items():
            for metric, lines in of_metric.items():
                for (model, loss), line in lines.items():
                    if (dataset, name, model, loss, metric) not in shown:
                        own = {"our_dataset": dataset, "our_class": name, "our_loss": loss, **_numbers(line)}
                        yield {"model": model, "metric": metric, "state": NOT_PUBLISHED, **own}


def _lines(block: Block, metric: str) -> dict[Row, dict[str, Any]]:
    """For each finished row its numbers in this metric, with the interval that the report gives there, or would give."""
    if not block.per_case:
        return {row: lines[metric] for row, lines in block.scores().items() if metric in lines}
    if lines := block.comparison(metric):
        return lines
    rows = compare(block.cases, metric, None).to_dict("records")
    return {(row["model"], row["loss"]): {str(column): value for column, value in row.items()} for row in rows}


def _numbers(line: dict[str, Any]) -> dict[str, Any]:
    return {"ours": line["mean"], **{name: line.get(name, np.nan) for name in MEASURED}}


def _beside(number: Published, dataset: str, ours: _Ours, stand_in: bool) -> Iterator[dict[str, Any]]:
    theirs = {name: getattr(number, name) for name in (*KEY, "source", "note")}
    theirs |= {CLASS: number.class_name, "theirs": number.value, "our_dataset": dataset, "our_loss": number.loss}
    own = [block for block in ours.blocks if block.dataset == dataset]
    blocks = ours.of(dataset, number.class_name, stand_in)
    rows = _settings(number, own[0].rows) if own else []
    if not rows:
        yield theirs | {"state": ours.state(dataset, number.model, number.loss)}
    elif not blocks and (many := MEAN_OF.fullmatch(number.class_name)) and int(many[1]) == len(own):
        for row in rows:
            yield theirs | {"our_class": f"mean of {len(own)} classes", "our_loss": row[1]} | _mean(number, own, row, ours)
        return
    elif not blocks:
        classes = ", ".join(block.name for block in own)
        yield theirs | {"state": f"no class {number.class_name} in ours ({classes})"}
    for block in blocks:
        for row in rows:
            place = {"our_class": block.name, "our_loss": row[1]}
            yield theirs | place | _own(number, block, row, ours.lines[block.dataset, block.name])


def _mean(number: Published, blocks: list[Block], row: Row, ours: _Ours) -> dict[str, Any]:
    """Over classes, of their means over cases: without interval and SD, since a case need not have every class."""
    of_class = [ours.lines[block.dataset, block.name].get(number.metric, {}).get(row) for block in blocks]
    lines = [line for line in of_class if line is not None]
    if len(lines) < len(blocks):
        return _own(number, blocks[of_class.index(None)], row, {})
    every = {"mean": np.mean([line["mean"] for line in lines]), "num_scored": min(line["num_scored"] for line in lines)}
    same = {name: lines[0][name] for name in ("num_cases", "num_patients", "num_seeds") if name in lines[0]}
    return _own(number, blocks[0], row, {number.metric: {row: every | same}})


def _settings(number: Published, rows: Iterable[Row]) -> list[Row]:
    """The rows of this model and loss: one, or one for each of the settings that its runs were told apart by."""
    of_model = [row for row in rows if row[0] == number.model]
    exact = [row for row in of_model if row[1] == number.loss]
    return exact or [row for row in of_model if row[1].startswith(f"{number.loss} [")]


def _own(number: Published, block: Block, row: Row, lines: dict[str, dict[Row, dict[str, Any]]]) -> dict[str, Any]:
    state = block.rows[row]
    line = lines.get(number.metric, {}).get(row)
    if line is None:
        return {"state": NOT_SCORED if row in block.scores() else state or NOT_RUN}
    if np.isnan(line["mean"]):
        return {**_numbers(line), "state": "; ".join(filter(None, [UNDEFINED, state]))}
    return {**_numbers(line), "difference": line["mean"] - float(number.value), "state": state}
