"""Which runs may stand in one average, and what a reader of the tables must be told."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import pandas as pd

from calf.report.cells import CELL, MACHINE, differing, label
from calf.report.results import Gathered
from calf.report.strata import differing_volumes

MAPS = "dataset.distance_maps"  # where a loss gets its maps from, which are the same
FOLDS = "dataset.split.folds"
TOLERANCE = "protocol.volumes.tolerance_mm"
SHOWN = 5


def check_comparable(gathered: Gathered) -> None:
    """ValueError, naming folders, where the finished runs of one cell of a table may not be averaged.

    They differ in the prepared data or in the split (of the same fold), or two of them are the same seed and fold. Those that
    differ in settings must be of cells of their own by now (:func:`calf.report.cells.separate`). ValueError also where runs of
    one table were scored differently.
    """
    for key, runs in gathered.finished.groupby(["protocol", "dataset"], sort=False):
        _check_scoring(label(key), runs["folder"], gathered)
    for key, runs in gathered.finished.groupby(CELL, sort=False):
        cell = label(key)
        if runs["store_key"].nunique(dropna=False) > 1:
            raise _not_one(cell, "were made from differently prepared data", runs["folder"], runs["store_key"])
        for _, of_fold in runs.groupby("fold", sort=False):
            if of_fold["split_hash"].nunique(dropna=False) > 1:
                raise _not_one(cell, "were split differently into patients", of_fold["folder"], of_fold["split_hash"])
        again = runs[runs.duplicated(["seed", "fold"], keep=False)]
        if not again.empty:
            raise _not_one(cell, "have the same seed and fold", again["folder"], again["fingerprint"])


def _check_scoring(where: str, folders: pd.Series, gathered: Gathered) -> None:
    """Metrics of one name must be one metric; NSD has its tolerance in its name, and runs without a setting lack its metrics."""
    settings = {folder: gathered.settings[folder] for folder in folders}
    for key in dict.fromkeys(key for setting in settings.values() for key in setting if key.startswith("protocol.")):
        found = {folder: setting[key] for folder, setting in settings.items() if key in setting}
        if key != TOLERANCE and len({str(value) for value in found.values()}) > 1:
            listed = "".join(f"  {value}: {_first(found, value)}\n" for value in dict.fromkeys(found.values()))
            raise ValueError(
                f"runs of {where} were scored differently, with several values of {key}, and cannot stand in one table:\n{listed}"
                "Report folders that were scored alike, or give the data set of one kind a name of its own (names.dataset=...)."
            )


def _first(found: dict[Any, Any], value: Any) -> str:
    """The first folders with this value."""
    folders = [str(folder) for folder, own in found.items() if own == value]
    return ", ".join(folders[:SHOWN]) + (f" and {len(folders) - SHOWN} more" if len(folders) > SHOWN else "")


def notes(gathered: Gathered) -> list[str]:
    """Sentences for the foot of the tables: missing seeds and folds, other cases, data, machines or code."""
    found = []
    for key, runs in gathered.finished.groupby(["protocol", "dataset"], sort=False):
        where = label(key)
        stopped = gathered.incomplete[gathered.incomplete["dataset"] == runs["dataset"].iloc[0]]
        begun = pd.concat([runs, stopped])
        found += _missing_seeds(where, runs, begun) + _missing_folds(where, begun, gathered)
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
        settings = [gathered.settings[folder] for folder in runs["folder"]]
        if machine := [setting for setting in differing(settings, runs) if setting in MACHINE]:
            found.append(f"{label(key)}: the runs differ in {', '.join(machine)}.")
    found += _other_training(gathered) + _uneven_cases(gathered.cases) + _uneven_metrics(gathered.cases)
    return found + _uneven_volumes(gathered.cases)


def _other_training(gathered: Gathered) -> list[str]:
    """Tables whose rows differ in how they were trained, beyond model, loss, seed and fold."""
    found = []
    for key, runs in gathered.finished.groupby(["protocol", "dataset", "model"], sort=False):
        settings = [gathered.settings[folder] for folder in runs["folder"]]
        other = [setting for setting in differing(settings, runs) if not setting.startswith("loss.") and setting not in MACHINE]
        if other := [setting for setting in other if setting != MAPS]:
            named = ", ".join(other[:SHOWN]) + (", ..." if len(other) > SHOWN else "")
            found.append(f"{label(key)}: the rows were not all trained alike, they differ in {named}.")
    return found


def _missing_seeds(where: str, finished: pd.DataFrame, begun: pd.DataFrame) -> list[str]:
    """Seeds (and folds) that were begun for some model and loss, and are not finished for another."""
    wanted = set(zip(begun["seed"], begun["fold"], strict=True))
    found = []
    for key, runs in finished.groupby(["model", "loss"], sort=False):
        missing = sorted(wanted - set(zip(runs["seed"], runs["fold"], strict=True)))
        named = [f"seed {seed}" + (f" fold {fold}" if fold else "") for seed, fold in missing]
        found += [f"{where}: {label(key)} has no finished run of {', '.join(named)}."] if named else []
    return found


def _missing_folds(where: str, begun: pd.DataFrame, gathered: Gathered) -> list[str]:
    """Folds of the split that no run was begun for, so that their cases are in no row."""
    runs = begun[begun["fold"] != ""]
    folds = [gathered.settings[folder].get(FOLDS) for folder in runs["folder"]]
    number, present = max((given for given in folds if isinstance(given, int)), default=0), set(runs["fold"])
    missing = list(islice((str(fold) for fold in range(number) if str(fold) not in present), SHOWN + 1))
    named = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
    return [f"{where}: no run has fold {named} of {number} folds; their cases are in no row."] if missing else []


def _uneven_cases(cases: pd.DataFrame) -> list[str]:
    """Runs of one data set and fold that did not score all the cases that others did."""
    found = []
    for key, rows in cases.groupby(["protocol", "dataset", "fold"], sort=False):
        everything = set(rows["case"])
        for run, scored in rows.groupby(["model", "loss", "seed"], sort=False):
            if absent := sorted(everything - set(scored["case"])):
                named = ", ".join(absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
                found.append(f"{label(key)}: {label(run)} lacks {len(absent)} of {len(everything)} cases: {named}.")
    return found


def _uneven_metrics(cases: pd.DataFrame) -> list[str]:
    """Runs that were not scored by all the metrics of others, whose means then rest on fewer seeds."""
    found = []
    for key, rows in cases.groupby(["protocol", "dataset"], sort=False):
        everything, lacking = list(dict.fromkeys(rows["metric"])), dict[tuple[str, ...], list[str]]()
        for run, scored in rows.groupby(["model", "loss", "seed", "fold"], sort=False)["metric"]:
            if absent := tuple(metric for metric in everything if metric not in set(scored.unique())):
                lacking.setdefault(absent, []).append(label(run))
        for absent, runs in lacking.items():
            which, metrics = (", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "") for names in (runs, absent))
            found.append(f"{label(key)}: {len(runs)} runs have no {metrics}, which others have: {which}.")
    return found


def _uneven_volumes(cases: pd.DataFrame) -> list[str]:
    """Cases whose reference is larger in one run than in another: not the same masks."""
    found = []
    for key, odd in differing_volumes(cases).groupby(["protocol", "dataset", "class"], sort=False):
        cases_of = [f"{row.case} ({row.least:.6g} to {row.most:.6g} mm3)" for row in odd.head(SHOWN).itertuples()]
        named = ", ".join(cases_of) + (", ..." if len(odd) > SHOWN else "")
        number = f"{len(odd)} case{'' if len(odd) == 1 else 's'}"
        found.append(f"{label(key)}: the reference volume of {number} differs between runs: {named}.")
    return found


def _not_one(cell: str, why: str, folders: pd.Series, values: Iterable[Any]) -> ValueError:
    listed = "".join(f"  {folder}: {value}\n" for folder, value in zip(folders, values, strict=True))
    return ValueError(
        f"runs of {cell} {why} and cannot be averaged:\n{listed}"
        "Report folders that hold one kind each, or give each kind a name of its own (names.loss=...)."
    )
