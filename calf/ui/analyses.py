"""What the Analysis page computes: one table of cases, by rows of a report, and what is drawn of it. Knows no browser.

A row is a model and loss, as in a report: runs that differ in a setting have rows of their own
(:func:`calf.report.cells.separate`). Values are those of cases.csv; a row's value of a case is the mean over its runs that have
one, as in :func:`calf.report.statistics.per_unit`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calf.metrics.scores import LOWER_IS_BETTER, UNRANKED
from calf.report.cells import separate
from calf.report.findings import Block, Findings, Row, find_in
from calf.report.results import Gathered
from calf.report.statistics import compare
from calf.report.training import branch_shares
from calf.ui.cache import Cache
from calf.ui.library import CASE_KEYS, VOLUMES, Library, Unknown
from calf.ui.runs import Run, signature_of

KEPT_BYTES = 2**28
PER_CASE = "per_case"
NOT_METRICS = frozenset({*CASE_KEYS, "status", *VOLUMES})


@dataclass(frozen=True)
class Table:
    """The cases of one class of one data set, of finished runs of one protocol.

    Attributes:
        protocol, dataset, name: of the case rows; ``name`` is the class.
        cases: rows of :meth:`calf.ui.library.Library.cases`, with the columns ``model`` and ``loss`` of the row they belong to
            and ``unit``: the case, in a pooled protocol the batch of a fold. What is averaged over runs, paired and counted is
            units; the ids of cases are for links alone.
        members: for each row the ids of its runs; in the order of the report's tables.
        told: what a reader must know of the names of the rows.
    """

    protocol: str
    dataset: str
    name: str
    cases: pd.DataFrame
    members: dict[Row, tuple[str, ...]]
    told: tuple[str, ...]

    @property
    def per_case(self) -> bool:
        """Whether a unit is a case, which can be looked at, and not a batch of slices."""
        return self.protocol == PER_CASE

    @property
    def metrics(self) -> list[str]:
        """Those that a run has, in the order of cases.csv."""
        own = [str(name) for name in self.cases.columns if name not in NOT_METRICS and name not in ("model", "loss", "unit")]
        return [name for name in own if self.cases[name].notna().any()]

    def values(self, runs: Sequence[str], column: str) -> pd.Series:
        """By unit the mean over these runs of a metric or volume, those undefined left out."""
        own = self.cases[self.cases["run"].isin(list(runs))]
        return own.groupby("unit", sort=True)[column].mean().dropna()

    def means(self, metric: str) -> dict[Row, float]:
        """By row the mean over its units, each averaged over its runs first, as the report has it; rows without one left out."""
        if metric not in self.metrics:
            return {}
        of_case = self.cases.groupby(["model", "loss", "unit"])[metric].mean()
        found = of_case.groupby(level=[0, 1]).mean().to_dict()
        return {row: float(found[row]) for row in self.members if not math.isnan(found[row])}

    def ranked(self, metric: str) -> list[Row]:
        """Rows with a mean, the best first; of a metric without a best value the lowest."""
        means, sign = self.means(metric), 1 if metric in LOWER_IS_BETTER | UNRANKED else -1
        return sorted(means, key=lambda row: (sign * means[row], row))

    def shown(self, unit: str, *sides: Sequence[str]) -> tuple[str, list[str]]:
        """The case id of a unit and the runs that tested it, one of each side in turn; of what is no unit "" and none."""
        own = self.cases[self.cases["unit"] == unit]
        known = set(own["run"])
        tested = [[id for id in side if id in known] for side in sides]
        runs = dict.fromkeys(id for ids in zip_longest(*tested) for id in ids if id is not None)
        return "" if own.empty else str(own["case_id"].iloc[0]), list(runs)

    def title(self, row: Row) -> str:
        """The loss alone where there is one model."""
        return row[1] if len({model for model, _ in self.members}) == 1 else f"{row[0]} / {row[1]}"


@dataclass(frozen=True)
class Pair:
    """Two sets of runs unit by unit: ``first`` and ``second``, by unit, of those where both have a value."""

    first: pd.Series
    second: pd.Series
    num_units: int

    @property
    def difference(self) -> pd.Series:
        """Second minus first."""
        return self.second - self.first

    def better(self, metric: str) -> tuple[int, int]:
        """In how many units the first is better, and the second; ties count for neither."""
        sign = -1 if metric in LOWER_IS_BETTER else 1
        signed = sign * self.difference
        return int((signed < 0).sum()), int((signed > 0).sum())


class Analyses:
    """Computes what pages show, and keeps it until a file of the runs concerned changes. Everything belongs in a thread."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._kept = Cache(KEPT_BYTES)

    def kept(self, what: tuple[Any, ...], runs: Sequence[str], make: Any) -> Any:
        """What ``make`` gives, kept under ``what`` and the state of these runs."""
        key = (what, self._state(runs))
        return self._kept.get(key, make, lambda made: 2**20 + _bytes(made))

    def places(self, runs: Sequence[str]) -> list[tuple[str, str]]:
        """(data set, class) of the rows of these runs, sorted."""
        cases = self.library.cases(runs)
        own = cases[["dataset", "class"]].drop_duplicates()
        return sorted(zip(own["dataset"].astype(str), own["class"].astype(str), strict=True))

    def table(self, runs: Sequence[str], dataset: str, name: str) -> Table:
        """The table of these runs, which are of one data set and protocol.

        Raises:
            ValueError: runs differ in more settings than a row's name can hold.
            Unknown: none of them is finished, or has this data set and class.
        """
        table: Table = self.kept(("table", dataset, name), runs, lambda: self._table(runs, dataset, name))
        return table

    def intervals(self, table: Table, metric: str) -> pd.DataFrame:
        """By row ``mean``, ``low`` and ``high`` as the report has them."""
        runs = [id for own in table.members.values() for id in own]
        what = "intervals", table.dataset, table.name, metric

        def made() -> Intervals:
            found = compare(self.rows(table, metric), metric, None, all_pairs=False)
            return Intervals(found.set_index(["model", "loss"])[["mean", "low", "high"]])

        intervals: Intervals = self.kept(what, runs, made)
        return intervals.rows

    def findings(self, runs: Sequence[str], target: tuple[str, str], metric: str, baseline: str | None) -> Findings:
        """What the report says of one data set and class, without the case rows that it was found in: those are large.

        Raises as :func:`calf.report.findings.find_in`.
        """

        def made() -> Findings:
            return _without_cases(find_in(self.library.gathered(runs), baseline, metric, target))

        found: Findings = self.kept(("findings", target, metric, baseline), runs, made)
        return found

    def rows(self, table: Table, metric: str) -> pd.DataFrame:
        """The rows of cases.csv of this table and metric, under the names that their runs have in it."""
        parts = []
        for (model, loss), ids in table.members.items():
            for id in ids:
                own = self.library.case_rows(id)
                chosen = own[(own["metric"] == metric) & (own["class"] == table.name) & (own["dataset"] == table.dataset)]
                parts.append(chosen.astype({"case": str, "patient": str, "status": str}).assign(model=model, loss=loss))
        text = dict.fromkeys(("protocol", "dataset", "split", "fold", "class", "metric"), str)
        return pd.concat(parts, ignore_index=True).astype(text)

    def branches(self, runs: Sequence[str]) -> pd.DataFrame:
        """What :func:`calf.report.training.branch_shares` gives of these runs; those still running are in it."""
        chosen = self.library.gathered(runs)
        with contextlib.suppress(ValueError):
            chosen, _ = separate(chosen)
        return branch_shares(chosen)

    def _state(self, runs: Sequence[str]) -> tuple[Any, ...]:
        """Changes where the results of one of these runs do; while a run is at work it has none."""
        return tuple((run.id, run.state, signature_of(run.folder) if run.finished else ()) for run in self.library.chosen(runs))

    def _table(self, runs: Sequence[str], dataset: str, name: str) -> Table:
        finished = [run for run in self.library.chosen(runs) if run.finished]
        cases = self.library.cases([run.id for run in finished])
        cases = cases[(cases["dataset"] == dataset) & (cases["class"] == name)]
        tested = set(cases["run"])
        finished = [run for run in finished if run.id in tested]
        if not finished:
            raise Unknown("none of the chosen runs has finished, or none of them tested this class of this data set")
        rows, told = members(self.library, finished)
        row_of = {id: row for row, ids in rows.items() for id in ids}
        fold_of = {run.id: f"{run.fold}/" if run.protocol != PER_CASE else "" for run in finished}
        of = cases["run"].map(row_of)
        assert not of.isna().any(), "a run has rows and no place in the table"
        cases = cases.assign(model=of.str[0], loss=of.str[1], unit=cases["run"].map(fold_of) + cases["case"].astype(str))
        return Table(finished[0].protocol, dataset, name, cases, rows, tuple(told))


@dataclass(frozen=True)
class Intervals:
    """Kept by :class:`Analyses`."""

    rows: pd.DataFrame


def members(library: Library, finished: Sequence[Run]) -> tuple[dict[Row, tuple[str, ...]], list[str]]:
    """For each model and loss the ids of its runs, sorted by names, and what is to be said of the names."""
    names = ("folder", "state", "dataset", "model", "loss", "seed", "fold", "protocol")
    lines = [[run.place, *(getattr(run, name) for name in names[1:])] for run in finished]
    settings = {run.place: library.settings(run.id) for run in finished}
    nothing = pd.DataFrame({"loss": []}, index=pd.Index([], name="folder"))
    named, told = separate(Gathered(library.folder, pd.DataFrame(lines, columns=list(names)), nothing, settings))
    ids = {run.place: run.id for run in finished}  # a place that is no UTF-8 is not the one that the id was made of
    rows: dict[Row, list[str]] = {}
    for run in named.runs.sort_values(["model", "loss", "seed", "fold"], kind="stable").to_dict("records"):
        rows.setdefault((str(run["model"]), str(run["loss"])), []).append(ids[run["folder"]])
    return {row: tuple(own) for row, own in rows.items()}, told


def pair(table: Table, first: Sequence[str], second: Sequence[str], metric: str) -> Pair:
    """Two sets of runs in the units where both have a value; ``num_units``: all that either of them tested."""
    one, two = table.values(first, metric), table.values(second, metric)
    common = one.index.intersection(two.index)
    either = table.cases[table.cases["run"].isin([*first, *second])]["unit"].nunique()
    return Pair(one[common], two[common], int(either))


def confusion_ml(table: Table) -> pd.DataFrame:
    """By row the mean over its cases and runs of the volumes ``found``, ``missed`` and ``false_positive`` in mL.

    Found is the sensitivity times the reference volume, 0 where there is no reference; missed is the rest of the reference,
    false positive the rest of the prediction. Every case counts, whatever its status.
    """
    cases = table.cases
    reference, predicted = (cases[column].to_numpy(np.float64) / 1000 for column in VOLUMES)
    found = np.where(reference > 0, cases["sensitivity"].to_numpy(np.float64), 0.0) * reference
    # a difference of two volumes that are equal is a rounding error
    volumes = {"found": found, "missed": np.maximum(reference - found, 0), "false_positive": np.maximum(predicted - found, 0)}
    return cases[["model", "loss"]].assign(**volumes).groupby(["model", "loss"], sort=True).mean()


def sensitivity_precision(table: Table) -> dict[Row, tuple[float, float]]:
    """By row the report's mean precision and mean sensitivity; rows that lack one of them are left out."""
    precision, sensitivity = table.means("precision"), table.means("sensitivity")
    return {row: (precision[row], sensitivity[row]) for row in precision if row in sensitivity}


def equal_dice(dice: float) -> NDArray[np.float64]:
    """(N, 2): precision and sensitivity of a case with this Dice, for 0 < ``dice`` < 1."""
    precision = np.linspace(dice / (2 - dice), 1, 60)
    return np.stack([precision, dice * precision / (2 * precision - dice)], axis=1)


def protocols(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(data set, protocol) of the runs that say what they are, those with most finished runs first."""
    finished: dict[tuple[str, str], int] = {}
    for run in runs:
        if run.dataset:
            finished[run.dataset, run.protocol] = finished.get((run.dataset, run.protocol), 0) + run.finished
    return sorted(finished, key=lambda place: (-finished[place], place))


def _without_cases(found: Findings) -> Findings:
    def emptied(block: Block) -> Block:
        brats = block.brats and replace(block.brats, cases=_no_rows(block.brats.cases))
        return replace(block, cases=_no_rows(block.cases), brats=brats)

    gathered = replace(found.gathered, cases=_no_rows(found.gathered.cases))
    return replace(found, gathered=gathered, blocks=tuple(map(emptied, found.blocks)))


def _no_rows(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(columns=list(table.columns))  # a slice of it would keep all of it


def _bytes(value: Any) -> int:
    """Of the tables in it, about."""
    if isinstance(value, pd.DataFrame):
        return int(value.memory_usage(deep=False).sum()) * 2
    if isinstance(value, tuple):
        return sum(map(_bytes, value))
    return sum(map(_bytes, vars(value).values())) if is_dataclass(value) else 0
