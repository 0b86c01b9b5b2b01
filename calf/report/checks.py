"""Which runs may stand in one average, and what a reader of the tables must be told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from calf.report.results import Gathered

CELL = ["protocol", "dataset", "model", "loss"]
# Settings that say on what a run was computed or where its input lies: told where they differ, not refused.
MACHINE = (
    "compile",
    "channels_last",
    "dataset.split.path",
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy")),
)
SHOWN = 5


def check_comparable(gathered: Gathered) -> None:
    """ValueError, naming folders, where the finished runs of one cell of a table may not be averaged.

    They differ in the prepared data, in the split (of the same fold), or in a setting other than seed, fold and what
    cannot change a number; or two of them are the same seed and fold.
    """
    for key, runs in gathered.finished.groupby(CELL, sort=False):
        cell = _label(key)
        if runs["store_key"].nunique(dropna=False) > 1:
            raise _not_one(cell, "were made from differently prepared data", runs["folder"], runs["store_key"])
        for _, of_fold in runs.groupby("fold", sort=False):
            if of_fold["split_hash"].nunique(dropna=False) > 1:
                raise _not_one(cell, "were split differently into patients", of_fold["folder"], of_fold["split_hash"])
        for setting, values in _differing(gathered, runs).items():
            if setting not in MACHINE:
                raise _not_one(cell, f"differ in {setting}", runs["folder"], values)
        again = runs[runs.duplicated(["seed", "fold"], keep=False)]
        if not again.empty:
            raise _not_one(cell, "have the same seed and fold", again["folder"], again["fingerprint"])


def notes(gathered: Gathered) -> list[str]:
    """Sentences for the foot of the tables: missing seeds, cells scored on other cases, other data, machines or code."""
    found = []
    for key, runs in gathered.finished.groupby(["protocol", "dataset"], sort=False):
        where = _label(key)
        stopped = gathered.incomplete[gathered.incomplete["dataset"] == runs["dataset"].iloc[0]]
        found += _missing_seeds(where, runs, pd.concat([runs, stopped]))
        if runs["store_key"].nunique() > 1:
            found.append(f"{where}: the rows are of differently prepared data; compare them with care.")
        elif runs.groupby("fold")["split_hash"].nunique().max() > 1:
            found.append(f"{where}: the rows are of different splits into patients; they cannot be compared.")
        resized = sorted({grid for grid in runs["scored_on"].dropna() if grid != "original grid"})
        if resized:
            found.append(f"{where}: scored on {', '.join(resized)}, not on the voxels of the patients' own files.")
        if (num_commits := runs["commit"].nunique(dropna=False)) > 1:
            found.append(f"{where}: the runs were made by {num_commits} versions of the code.")
    for key, runs in gathered.finished.groupby(CELL, sort=False):
        if machine := [setting for setting in _differing(gathered, runs) if setting in MACHINE]:
            found.append(f"{_label(key)}: the runs differ in {', '.join(machine)}.")
    return found + _uneven_cases(gathered.cases)


def _missing_seeds(where: str, finished: pd.DataFrame, begun: pd.DataFrame) -> list[str]:
    """Seeds (and folds) that were begun for some model and loss, and are not finished for another."""
    wanted = set(zip(begun["seed"], begun["fold"], strict=True))
    found = []
    for key, runs in finished.groupby(["model", "loss"], sort=False):
        missing = sorted(wanted - set(zip(runs["seed"], runs["fold"], strict=True)))
        named = [f"seed {seed}" + (f" fold {fold}" if fold else "") for seed, fold in missing]
        found += [f"{where}: {_label(key)} has no finished run of {', '.join(named)}."] if named else []
    return found


def _uneven_cases(cases: pd.DataFrame) -> list[str]:
    """Runs of one data set and fold that did not score all the cases that others did."""
    found = []
    for key, rows in cases.groupby(["protocol", "dataset", "fold"], sort=False):
        everything = set(rows["case"])
        for run, scored in rows.groupby(["model", "loss", "seed"], sort=False):
            if absent := sorted(everything - set(scored["case"])):
                named = ", ".join(absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
                found.append(f"{_label(key)}: {_label(run)} lacks {len(absent)} of {len(everything)} cases: {named}.")
    return found


def _not_one(cell: str, why: str, folders: pd.Series, values: Iterable[Any]) -> ValueError:
    listed = "".join(f"  {folder}: {value}\n" for folder, value in zip(folders, values, strict=True))
    return ValueError(
        f"runs of {cell} {why} and cannot be averaged:\n{listed}"
        "Report folders that hold one kind each, or give each kind a name of its own (names.loss=...)."
    )


def _differing(gathered: Gathered, runs: pd.DataFrame) -> dict[str, list[Any]]:
    """Settings that differ among runs, with the value each has; those that are each run's own seed or fold are left out."""
    settings = [gathered.settings[folder] for folder in runs["folder"]]
    own = [[str(seed) for seed in runs["seed"]], list(runs["fold"])]
    differing = {}
    for key in sorted(set().union(*settings)):
        values = [setting.get(key) for setting in settings]
        if any(value != values[0] for value in values) and ["" if value is None else str(value) for value in values] not in own:
            differing[key] = values
    return differing


def _label(key: tuple[Any, ...]) -> str:
    return " / ".join(str(part) for part in key if part != "")
