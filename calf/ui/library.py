"""The runs below a folder, by id: what each is, how it stands, and its case rows. The only place that knows where a run lies.

A browser names a run by :attr:`calf.ui.runs.Run.id` and a case by :func:`calf.ui.runs.case_id`, both 12 hexadecimal digits;
:meth:`Library.run` and :meth:`Library.case` look them up and raise :class:`Unknown` for anything else. Opening reads a few small
files a run and no case rows; those are read when they are asked for. A run that cannot be read is listed as ``damaged``, with the
reason in ``error``, and so is one whose case rows turn out to be damaged when they are read. Everything may be called from any
thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calf.metrics.protocol import CASE_COLUMNS
from calf.report import results
from calf.report.reading import DATA_BYTES, UNREADABLE, read_json
from calf.report.results import DAMAGED, RUN_COLUMNS, UNDER_WAY, Gathered
from calf.ui.cache import Cache
from calf.ui.runs import Entry, Run, case_id, encodable, labelled, read_entry, run_id, sentence, signature_of

ROWS_BYTES = 2**28  # of case rows that are kept
THREADS = 4
CASE_KEYS = ("run", "case_id", "dataset", "case", "patient", "class")
VOLUMES = ("reference_volume_mm3", "predicted_volume_mm3")


class Unknown(LookupError):
    """There is no run or case of this id."""


class Library:
    """Every run at or below ``folder``.

    Raises:
        ValueError: it is no folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"{folder} is no folder: expected one that holds runs, such as runs/benchmark")
        self.revision = 0
        self._entries: dict[str, Entry] = {}
        self._rows = Cache(ROWS_BYTES)
        self._lock = threading.Lock()
        self.refresh()

    def refresh(self) -> int:
        """Look for new and changed runs; returns ``revision``, a number that grows whenever something changed."""
        with self._lock:
            found: dict[str, Entry] = {}
            for folder in results.run_folders(self.folder):
                place = os.path.relpath(folder, self.folder)
                known = self._entries.get(run_id(place))
                signature = signature_of(folder)
                # a process may die without a word
                if known is None or known.signature != signature or known.run.state in UNDER_WAY:
                    known = read_entry(folder, place, signature, known)
                found[known.run.id] = known
            found = labelled(found)
            if found != self._entries:
                self._entries = found
                self.revision += 1
            return self.revision

    @property
    def runs(self) -> list[Run]:
        """Sorted by place."""
        return [entry.run for entry in self._entries.values()]

    def run(self, id: str) -> Run:
        """The run of this id; :class:`Unknown` if there is none."""
        return self._entry(id).run

    def chosen(self, ids: Sequence[str]) -> list[Run]:
        """The runs of these ids, in this order, each once; :class:`Unknown` if there is none of an id."""
        return [self.run(id) for id in dict.fromkeys(ids)]

    def settings(self, id: str) -> dict[str, Any]:
        """The keys of its config.yaml (``optim.lr``), but for those that cannot change a number; empty for a damaged run."""
        return self._entry(id).settings

    def case_rows(self, id: str) -> pd.DataFrame:
        """The rows of its cases.csv (``CASE_COLUMNS``), text as categories; not to be changed.

        Raises:
            ValueError: the run is not finished, or its rows cannot be read; then it counts as damaged from now on.
        """
        return self._tables(id)[0]

    def table(self, id: str) -> pd.DataFrame:
        """One row a case and class of a run: ``CASE_KEYS``, ``status`` (that of the voxels), ``VOLUMES``, then a column a metric.

        Values are those of cases.csv, to the last bit; NaN where one is undefined. Not to be changed. Raises as
        :meth:`case_rows`.
        """
        return self._tables(id)[1]

    def cases(self, ids: Iterable[str]) -> pd.DataFrame:
        """The tables of these runs below each other; a run whose rows cannot be read is left out (see its ``error``).

        A metric that a run does not have is NaN. ``CASE_KEYS``, ``status`` and ``VOLUMES`` are there also where no row is.
        """
        runs = [run.id for run in self.chosen(list(ids)) if run.finished]
        with ThreadPoolExecutor(THREADS) as threads:
            tables = [table for table in threads.map(self._table_or_none, runs) if table is not None]
        if not tables:
            return pd.DataFrame(columns=[*CASE_KEYS, "status", *VOLUMES])
        return pd.concat(tables, ignore_index=True)

    def case(self, id: str, runs: Sequence[str]) -> str:
        """The name of the case of this id among those that these runs tested; :class:`Unknown` if there is none."""
        for run in runs:
            table = self._table_or_none(run)
            if table is not None and (found := table["case"][table["case_id"] == id]).size:
                return str(found.iloc[0])
        raise Unknown("there is no such case among those that these runs tested")

    def data(self, id: str) -> dict[str, Any]:
        """What its data.json says: target, labels, preparation, and where the files of the tested cases lie.

        Raises:
            ValueError: it has none that can be read, as runs that are not finished.
        """
        entry = self._entry(id)
        return self._rows.get(("data", id, entry.signature), lambda: _read_data(entry.run), lambda _: _size(entry.run))

    def gathered(self, ids: Iterable[str] | None = None) -> Gathered:
        """These runs (None: all) as :func:`calf.report.results.gather` gives them, for everything that ``calf.report`` can do.

        Rows of cases.csv that cannot be read make a run ``damaged`` here, too.
        """
        chosen = [run.id for run in (self.runs if ids is None else self.chosen(list(ids)))]
        tables = {}
        for id in chosen:
            if self._table_or_none(id) is not None:
                rows = self.case_rows(id)
                text = {name: "str" for name in rows.columns if rows[name].dtype == "category"}
                place = self.run(id).place
                tables[place] = rows.astype(text).set_index(pd.Index([place] * len(rows), name="folder"))
        entries = sorted((self._entries[id] for id in chosen), key=lambda entry: entry.run.place)
        runs = pd.DataFrame([entry.row for entry in entries], columns=list(RUN_COLUMNS)).astype({"seed": "Int64"})
        empty = pd.DataFrame(columns=list(CASE_COLUMNS), index=pd.Index([], name="folder"))
        cases = pd.concat([tables[place] for place in sorted(tables)]) if tables else empty
        return Gathered(self.folder, runs, cases, {entry.run.place: entry.settings for entry in entries if entry.settings})

    def _entry(self, id: str) -> Entry:
        try:
            return self._entries[id]
        except KeyError:
            raise Unknown("there is no run of this id") from None

    def _tables(self, id: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        entry = self._entry(id)
        if not entry.run.finished:
            raise ValueError(f"{entry.run.label} is {entry.run.state} and has no case rows: {entry.run.error or 'not finished'}")
        try:
            return self._rows.get((id, entry.signature), lambda: _read_tables(entry.run), _bytes)
        except UNREADABLE as reason:
            self._damaged(entry, sentence(reason))
            raise ValueError(sentence(reason)) from reason

    def _table_or_none(self, id: str) -> pd.DataFrame | None:
        try:
            return self.table(id)
        except ValueError:
            return None

    def _damaged(self, entry: Entry, error: str) -> None:
        with self._lock:
            if self._entries.get(entry.run.id) == entry:
                run = replace(entry.run, state=DAMAGED, error=error)
                row = entry.row | {"state": DAMAGED, "error": error}
                self._entries = self._entries | {run.id: replace(entry, run=run, row=row)}
                self.revision += 1


def _read_tables(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = results.read_cases(run.folder, categories=True)
    return rows, _wide(run, rows)


def _wide(run: Run, rows: pd.DataFrame) -> pd.DataFrame:
    unit = np.zeros(len(rows), np.int64)
    for key in ("protocol", "dataset", "case", "class"):
        unit = unit * len(rows[key].cat.categories) + rows[key].cat.codes.to_numpy()
    _, first, unit = np.unique(unit, return_index=True, return_inverse=True)
    columns: dict[str, Any] = {}
    for key in ("dataset", "case", "patient", "class", "status"):
        columns[key] = rows[key].cat.categories.to_numpy(object)[rows[key].cat.codes.to_numpy()[first]]
    columns |= {key: rows[key].to_numpy()[first] for key in VOLUMES}
    values, metrics = rows["value"].to_numpy(), rows["metric"].cat.codes.to_numpy()
    for code, metric in enumerate(rows["metric"].cat.categories):
        own = metrics == code
        column = np.full(len(first), np.nan)
        column[unit[own]] = values[own]
        columns[metric] = column
    ids = {"run": run.id, "case_id": [case_id(run.dataset, case) for case in columns["case"]]}
    return pd.DataFrame(ids | columns, copy=False)


def _read_data(run: Run) -> dict[str, Any]:
    if not signature_of(run.folder)[-1]:
        raise ValueError(f"{run.label} has no data.json, which says where the files of its cases lie")
    try:
        content = read_json(run.folder / "data.json", DATA_BYTES)
        if not isinstance(content.get("test_cases"), dict):
            raise ValueError("expected test_cases")
        _check_target(content.get("target"))
    except UNREADABLE as reason:
        raise ValueError(f"data.json of {run.label} cannot be read: {sentence(reason)}") from reason
    return content


def _check_target(target: Any) -> None:
    """ValueError unless it is a target as :class:`calf.data.cases.Target` is written."""
    if not isinstance(target, dict) or not {"names", "labels", "exclusive"} <= set(target):
        raise ValueError("expected a target with names, labels and exclusive")
    names, labels, exclusive = target["names"], target["labels"], target["exclusive"]
    if not isinstance(exclusive, bool):
        raise ValueError("expected exclusive of its target to be true or false")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and encodable(name) == name for name in names):
        raise ValueError("expected names of its target to be a list of texts")
    if len(set(names)) < len(names) or len(names) > (255 if exclusive else 8):
        raise ValueError("expected names of its target to differ, at most 8 of them, or 255 that exclude each other")
    if not isinstance(labels, list) or len(labels) != len(names) or not all(isinstance(values, list) for values in labels):
        raise ValueError("expected a list of label values for each name of its target")
    if not all(type(value) is int and 0 <= value <= 255 for values in labels for value in values):
        raise ValueError("expected label values of its target to be whole numbers of 0 to 255")


def _size(run: Run) -> int:
    return 5 * os.path.getsize(run.folder / "data.json")  # of the objects that are made of it, about


def _bytes(tables: tuple[pd.DataFrame, pd.DataFrame]) -> int:
    rows, table = tables
    return len(rows) * 76 + len(table) * (250 + 8 * table.shape[1])  # about: codes, numbers and text
