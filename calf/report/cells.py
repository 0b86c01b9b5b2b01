"""Which row of a table a run belongs to: runs that differ in a setting get rows of their own, under a name that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from calf.report.results import DAMAGED, FINISHED, UNDER_WAY, Gathered

NAMED = ["dataset", "model", "loss"]
CELL = ["protocol", *NAMED]
# Settings that say on what a run was computed or where its input lies: told where they differ, and no row of their own.
MACHINE = (
    "compile",
    "channels_last",
    "dataset.split.path",
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy")),
)
CLASS = "._target_"
MOST = 3  # differing settings that a name can hold
Settings = dict[str, Any]


def separate(gathered: Gathered) -> tuple[Gathered, list[str]]:
    """The same runs with one name a row of the tables, and what a reader must be told of it.

    Finished runs of one cell (protocol, data set, model, loss) that differ in settings other than seed, fold and ``MACHINE``
    are told apart by their loss's name: ``dice [optim.lr=0.01]``. Unfinished runs of such a cell are named likewise. A run
    that did not finish, and whose seed and fold is finished under the same name, is an earlier attempt: it is taken out, and
    told. The index of ``cases`` becomes a plain one.

    Raises:
        ValueError: runs of a cell differ in more settings than a name can hold.
    """
    runs, cases, told = gathered.runs.copy(), gathered.cases.copy(), []
    for key, cell in gathered.finished.groupby(CELL, sort=False):
        swept = _swept([gathered.settings[folder] for folder in cell["folder"]], cell)
        if not swept:
            continue
        if len(swept) > MOST:
            raise ValueError(
                f"runs of {label(key)} differ in {', '.join(swept)}: more than a name can hold, and they cannot be averaged:\n"
                + "".join(f"  {folder}\n" for folder in cell["folder"])
                + "Report folders that hold one kind each, or give each kind a name of its own (names.loss=...)."
            )
        of_cell = (gathered.runs[CELL] == list(key)).all(axis=1) & (gathered.runs["state"] != DAMAGED)
        for row in runs.index[of_cell]:
            folder = runs.loc[row, "folder"]
            runs.loc[row, "loss"] = name = f"{runs.loc[row, 'loss']} [{_values(gathered.settings[folder], swept)}]"
            cases.loc[cases.index == folder, "loss"] = name
        told.append(f"{label(key)}: the runs differ in {', '.join(swept)} and have rows of their own.")
    kept, earlier = _without_earlier_attempts(replace(gathered, runs=runs))
    return replace(gathered, runs=kept, cases=cases.reset_index(drop=True)), told + earlier


def differing(settings: Sequence[Settings], runs: pd.DataFrame) -> list[str]:
    """Keys whose values differ among these runs, but for those whose value is each run's own seed or fold."""
    own = [[str(seed) for seed in runs["seed"]], list(runs["fold"])]
    found = []
    for key in sorted(set().union(*settings)):
        values = [setting.get(key) for setting in settings]
        if any(value != values[0] for value in values) and ["" if value is None else str(value) for value in values] not in own:
            found.append(key)
    return found


def of_data_set(tested: str, trained: str) -> bool:
    """Whether rows of the data set ``tested`` are of runs on ``trained``: itself, or a part of it that is tested apart.

    >>> of_data_set("gliomas/brats", "gliomas"), of_data_set("gliomas2", "gliomas"), of_data_set("gliomas", "")
    (True, False, False)
    """
    return tested == trained or tested.startswith(f"{trained}/")


def label(key: tuple[Any, ...]) -> str:
    """Names of a cell or a block in one line."""
    return " / ".join(str(part) for part in key if part != "")


def _swept(settings: Sequence[Settings], runs: pd.DataFrame) -> list[str]:
    """The differing settings that tell rows apart; those of an optimiser, say, only where runs of one class differ in them."""
    keys = [key for key in differing(settings, runs) if key not in MACHINE]
    classes = [key for key in keys if key.endswith(CLASS)]

    def told_by_class(key: str) -> bool:
        above = [name for name in classes if key.startswith(name.removesuffix(CLASS) + ".") and key != name]
        kinds: dict[tuple[Any, ...], set[str]] = {}
        for own in settings:
            kinds.setdefault(tuple(own.get(name) for name in above), set()).add(repr(own.get(key)))
        return bool(above) and all(len(values) == 1 for values in kinds.values())

    return [key for key in keys if not told_by_class(key)]


def _values(settings: Settings, keys: Sequence[str]) -> str:
    """``optim.lr=0.01``; of a class its name alone, ``optim=SGD``."""
    shown = {key: _text(settings.get(key)) for key in keys}
    return ", ".join(
        f"{key.removesuffix(CLASS)}={value.rpartition('.')[2] if key.endswith(CLASS) else value}" for key, value in shown.items()
    )


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def _without_earlier_attempts(gathered: Gathered) -> tuple[pd.DataFrame, list[str]]:
    """The runs without those that were begun in vain and finished later; one sentence a run that is left out."""
    which = [*NAMED, "seed", "fold"]

    def of(row: Mapping[Any, Any]) -> tuple[Any, ...]:
        # runs/<name>/<dataset>/<model>/<loss>/<run>: an attempt of another grid was another question
        return (*Path(gathered.folder, row["folder"]).parts[:-4], *(row[column] for column in which))

    done = {of(row): row["folder"] for row in gathered.finished.to_dict("records")}
    keep, told = [], []
    for run in gathered.runs.to_dict("records"):
        later = done.get(of(run))
        vain = later is not None and run["state"] not in (FINISHED, DAMAGED, *UNDER_WAY)
        keep.append(not vain)
        if later is not None and vain:
            own, others = (gathered.settings[folder] for folder in (run["folder"], later))
            other = [f"{key}={_text(own.get(key))}" for key in sorted({*own, *others}) if own.get(key) != others.get(key)]
            how = f" with other settings ({', '.join(other[:MOST])}{', ...' if len(other) > MOST else ''})" if other else ""
            told.append(f"{run['folder']} was an earlier attempt{how} ({run['state']}); {later} has finished since.")
    return gathered.runs[keep], told
