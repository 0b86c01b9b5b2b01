"""Which rows of which runs the page of cases shows: chosen, in order, and the few that are worth a look. Knows no NiceGUI."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd

from calf.metrics.scores import LOWER_IS_BETTER, UNRANKED
from calf.ui.addresses import compare_address
from calf.ui.library import CASE_KEYS, VOLUMES, Library
from calf.ui.runs import Run
from calf.ui.server import Explorer

REFERENCE, PREDICTED = VOLUMES
EMPTY = {"": "all", "no": "reference not empty", "only": "reference empty"}
COMPARED = 6  # runs that a row opens side by side
PAGE_ROWS = (25, 50, 100)
_BYTES_A_ROW = 400
_NO_METRIC = {*CASE_KEYS, "status", *VOLUMES}


@dataclass(frozen=True)
class Wanted:
    """What the page shows; stands in its address. Text that is "" and numbers that are None choose nothing.

    Attributes:
        loss, model, dataset, modality: of the run; the modality is one of those that it was trained on.
        target: the class of cases.csv.
        metric: that the quick picks go by.
        text: what the case or the patient has to contain.
        least_ml, most_ml: volume of the reference, both ends included.
        empty: one of ``EMPTY``.
        sort: a column of :meth:`calf.ui.library.Library.table`, or ``run``.
        first, second: ids of the runs whose largest difference is looked for.
    """

    loss: str = ""
    model: str = ""
    dataset: str = ""
    modality: str = ""
    target: str = ""
    metric: str = ""
    text: str = ""
    least_ml: float | None = None
    most_ml: float | None = None
    empty: str = ""
    sort: str = ""
    descending: bool = False
    page: int = 1
    rows: int = PAGE_ROWS[0]
    first: str = ""
    second: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wanted:
        """From an address; what makes no sense counts as not given."""
        given: dict[str, Any] = {}
        for field in fields(cls):
            text = query.get(field.name, "")
            if field.name in ("least_ml", "most_ml"):
                given[field.name] = _number(text)
            elif field.name == "descending":
                given["descending"] = text == "1"
            elif field.name in ("page", "rows"):
                number = _number(text)
                given[field.name] = field.default if number is None else min(max(int(number), 1), 10**6)
            else:
                given[field.name] = text
        wanted = cls(**given)
        return replace(wanted, rows=wanted.rows if wanted.rows in PAGE_ROWS else PAGE_ROWS[0])

    def query(self) -> str:
        """What stands in the address: everything that is not as at first."""
        told = {field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name) != field.default}
        return urlencode({key: "1" if value is True else value for key, value in told.items() if value is not None})


@dataclass(frozen=True)
class Pick:
    """A row that is worth a look: ``what`` it is, its ``text``, the ``whole`` numbers, and where Compare shows it."""

    what: str
    text: str
    whole: str
    href: str


@dataclass(frozen=True)
class Choices:
    """What can be chosen from, each sorted; ``runs``: labels by id."""

    loss: list[str]
    model: list[str]
    dataset: list[str]
    modality: list[str]
    target: list[str]
    metric: list[str]
    runs: dict[str, str]


class CaseRows:
    """The rows of the runs of a library that are finished now."""

    def __init__(self, explorer: Explorer) -> None:
        library = explorer.library
        revision = library.refresh()
        self.runs = {run.id: run for run in library.runs if run.finished}
        self.modalities = {id: trained_on(library, id) for id in self.runs}
        self.all = explorer.cases.cache.get(
            ("case rows", revision), lambda: library.cases(list(self.runs)), lambda table: _BYTES_A_ROW * len(table)
        )
        self.metrics = [str(name) for name in self.all.columns if name not in _NO_METRIC]
        self.order = {
            run.id: place for place, run in enumerate(sorted(self.runs.values(), key=lambda run: (run.label, run.place)))
        }

    @cached_property
    def choices(self) -> Choices:
        """Of all rows, not of those that are shown, so that a choice can be changed."""
        runs = self.runs.values()
        return Choices(
            sorted({run.loss for run in runs}),
            sorted({run.model for run in runs}),
            sorted({run.dataset for run in runs}),
            sorted({name for names in self.modalities.values() for name in names}),
            sorted(map(str, self.all["class"].unique())),
            self.metrics,
            {id: f"{self.runs[id].label} ({self.runs[id].dataset})" for id in self.order},
        )

    def chosen(self, wanted: Wanted) -> pd.DataFrame:
        """The rows that are asked for, in that order; rows without a value come last, whichever way."""
        ids = [id for id, run in self.runs.items() if _fits(run, self.modalities[id], wanted)]
        rows = self.all if len(ids) == len(self.runs) else self.all[self.all["run"].isin(ids)]
        keep = np.ones(len(rows), bool)
        if wanted.target:
            keep &= (rows["class"] == wanted.target).to_numpy()
        if wanted.empty:
            keep &= (rows[REFERENCE] == 0).to_numpy() == (wanted.empty == "only")
        if wanted.least_ml is not None:
            keep &= (rows[REFERENCE] >= wanted.least_ml * 1000).to_numpy()
        if wanted.most_ml is not None:
            keep &= (rows[REFERENCE] <= wanted.most_ml * 1000).to_numpy()
        if wanted.text:
            keep &= (_contains(rows["case"], wanted.text) | _contains(rows["patient"], wanted.text)).to_numpy()
        rows = rows if keep.all() else rows[keep]
        if wanted.sort not in rows.columns:
            return rows
        key = rows["run"].map(self.order) if wanted.sort == "run" else rows[wanted.sort]
        return rows.loc[key.sort_values(ascending=not wanted.descending, kind="stable", na_position="last").index]

    def picks(self, rows: pd.DataFrame, wanted: Wanted) -> list[Pick]:
        """Best, worst and median row of the metric, and the case in which two runs differ most; of equals the first."""
        metric = wanted.metric
        if metric not in self.metrics:
            return []
        found = rows[rows[metric].notna()].sort_values(metric, ascending=metric in LOWER_IS_BETTER, kind="stable")
        if found.empty:
            return []
        names = ("highest", "lowest") if metric in UNRANKED else ("best", "worst")
        # the last of the worst would depend on the order of rows that are equal
        worst = found[found[metric] == found[metric].iloc[-1]]
        told = ((names[0], found.iloc[0]), ("median", found.iloc[(len(found) - 1) // 2]), (names[1], worst.iloc[0]))
        picks = [self._pick(what, row, metric) for what, row in told]
        gap = self.widest(wanted)
        return picks if gap is None else [*picks, gap]

    def widest(self, wanted: Wanted) -> Pick | None:
        """The case and target in which ``first`` and ``second`` differ most in the metric; None where they have none in
        common."""
        # runs that are named are not narrowed by what they are
        rows = self.chosen(replace(wanted, loss="", model="", dataset="", modality="", sort=""))
        pair = [rows.loc[rows["run"] == id, ["case_id", "case", "class", wanted.metric]] for id in (wanted.first, wanted.second)]
        if wanted.first == wanted.second:
            return None
        both = pair[0].merge(pair[1], on=["case_id", "case", "class"])
        one, other = both[f"{wanted.metric}_x"], both[f"{wanted.metric}_y"]
        gaps = (one - other).abs()
        if not gaps.notna().any():
            return None
        place = int(np.nanargmax(gaps.to_numpy()))
        values = float(one.iloc[place]), float(other.iloc[place])
        told = both.iloc[place]
        return Pick(
            "largest difference in",
            f"{told['case']}, {told['class']}: {values[0]:.3f} and {values[1]:.3f}",
            f"{wanted.metric}: {values[0]!r} and {values[1]!r}",
            compare_address(str(told["case_id"]), [wanted.first, wanted.second], str(told["class"])),
        )

    def of(self, cases: Iterable[str]) -> pd.DataFrame:
        """All rows of the cases of these ids."""
        return self.all[self.all["case_id"].isin(list(cases))]

    def link(self, row: pd.Series, rows: pd.DataFrame) -> str:
        """Compare, of this row's run and then others among ``rows`` that tested the case: one of each loss and model.

        The others are there also where the table is narrowed to one loss.
        """
        own = str(row["run"])
        found = {(self.runs[own].loss, self.runs[own].model): own}
        for id in rows.loc[(rows["case_id"] == row["case_id"]) & (rows["class"] == row["class"]), "run"].unique():
            found.setdefault((self.runs[id].loss, self.runs[id].model), id)
        return compare_address(str(row["case_id"]), list(found.values())[:COMPARED], str(row["class"]))

    def beside(self, id: str) -> str:
        """A run to compare this one with: of the same cases, if there is one, and of another loss."""
        run = self.runs[id]

        def unlike(other_id: str) -> tuple[bool, ...]:
            other = self.runs[other_id]
            same = other.dataset == run.dataset, other.fold == run.fold, other.loss != run.loss, other.model == run.model
            return other_id == id, *(not one for one in same), other.seed != run.seed

        return min(self.order, key=unlike)

    def _pick(self, what: str, row: pd.Series, metric: str) -> Pick:
        value = float(row[metric])
        text = f"{row['case']}, {row['class']}: {value:.3f} ({self.runs[str(row['run'])].label})"
        return Pick(what, text, f"{metric}: {value!r}", self.link(row, self.of([row["case_id"]])))


def trained_on(library: Library, id: str) -> tuple[str, ...]:
    """The modalities that a run was trained on, as its configuration says; none where it does not."""
    found = [value for key, value in library.settings(id).items() if key.endswith("preparation.modalities")]
    return tuple(dict.fromkeys(str(name) for names in found if isinstance(names, (list, tuple)) for name in names))


def _fits(run: Run, modalities: Sequence[str], wanted: Wanted) -> bool:
    asked = (wanted.loss, run.loss), (wanted.model, run.model), (wanted.dataset, run.dataset)
    return all(name in ("", own) for name, own in asked) and (not wanted.modality or wanted.modality in modalities)


def _contains(column: pd.Series, text: str) -> pd.Series:
    known = {value: text.casefold() in str(value).casefold() for value in column.unique()}
    return column.map(known).astype(bool)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
