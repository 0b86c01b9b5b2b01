"""What runs wrote while they trained: history.csv and branches.csv of every run folder, read together."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd

from calf.report.reading import LONGEST, UNREADABLE, read_text
from calf.report.results import Gathered

RUN = ["protocol", "dataset", "model", "loss", "seed", "fold", "folder"]
NEEDED = {"history.csv": ["epoch"], "branches.csv": ["batch", "branch"]}
WITHOUT = {  # what a report lacks where such a file cannot be used
    "history.csv": "Whether it diverged is not known, and learning curves leave it out.",
    "branches.csv": "Figures of branches leave it out.",
}
LIMIT_BYTES = 2**28  # of one of them
LARGEST = 2**53  # epoch or batch
SHOWN = 5  # runs that are named
NUM_BINS = 24  # of a training, in which branches are counted


def histories(gathered: Gathered) -> pd.DataFrame:
    """Rows of every history.csv that can be read, with the run's ``RUN`` columns; empty where there is none."""
    return read(gathered, "history.csv")[0]


def diverged(history: pd.DataFrame) -> set[str]:
    """Folders of runs whose last training loss is no finite number."""
    if "train/loss" not in history:
        return set()
    last = history.sort_values("epoch", kind="stable").groupby("folder", sort=False)["train/loss"].nth(-1)
    bad = ~np.isfinite(last.to_numpy(float))
    return set(history.loc[last.index[bad], "folder"])


def branch_shares(gathered: Gathered) -> pd.DataFrame:
    """How often each branch was taken: rows (dataset, model, loss, branch, progress, share), pooled over seeds and folds.

    ``progress``: the middle of each of up to ``NUM_BINS`` equal parts of the training, in (0, 1). Shares of one part add up to 1.
    """
    rows, _ = read(gathered, "branches.csv")
    if rows.empty:
        return pd.DataFrame(columns=["dataset", "model", "loss", "branch", "progress", "share"])
    length = rows.groupby("folder")["batch"].transform("max") + 1
    bins = np.minimum(length, NUM_BINS)
    rows["progress"] = (np.floor(rows["batch"] * bins / length) + 0.5) / bins
    place = ["dataset", "model", "loss", "progress"]
    counts = rows.groupby([*place, "branch"]).size().unstack("branch", fill_value=0)
    shares = counts.div(counts.sum(axis=1), axis=0)
    return shares.reset_index().melt(place, var_name="branch", value_name="share")


def read(gathered: Gathered, name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """The rows of every file ``name``, a key of ``NEEDED``, with the run's ``RUN`` columns; by folder, why others cannot be used.

    A run without such a file, or with one that has no row, is in neither: it may have stopped early.
    """
    tables, odd = [], {}
    for run in gathered.runs.to_dict("records"):
        try:
            table = _read(gathered.folder / run["folder"] / name)
        except ValueError as reason:
            odd[run["folder"]] = str(reason)
            continue
        if table is not None:
            tables.append(table.assign(**{column: run[column] for column in RUN}))
    none = pd.DataFrame(columns=[*RUN, *NEEDED[name]])
    return pd.concat(tables, ignore_index=True) if tables else none, odd


def told(name: str, odd: dict[str, str]) -> list[str]:
    """Sentences on the files ``name`` that cannot be used, from what :func:`read` gives."""
    said = [f"{folder}: {reason}. {WITHOUT[name]}" for folder, reason in list(odd.items())[:SHOWN]]
    return said + ([f"{name} of {len(odd) - SHOWN} more runs cannot be used, either."] if len(odd) > SHOWN else [])


def _read(path: Path) -> pd.DataFrame | None:
    """None where there is no such file, or no row in it; ValueError, which tells why, for one that no run wrote."""
    if not os.path.lexists(path):
        return None
    text = read_text(path, LIMIT_BYTES)
    if not text.strip():
        return None
    if not text.endswith("\n"):
        raise ValueError(f"{path.name} was cut off in the middle of a row")
    if text.index("\n") > LONGEST:  # a million columns take minutes and gigabytes
        raise ValueError(f"{path.name}: expected a first line of at most {LONGEST} characters")
    try:
        table = pd.read_csv(io.StringIO(text), dtype={"branch": str})
    except UNREADABLE as reason:
        raise ValueError(f"{path.name} cannot be read: {str(reason).strip()}") from reason
    needed = NEEDED[path.name]
    if not set(needed) <= set(table.columns):
        raise ValueError(f"{path.name}: expected the columns {', '.join(needed)}, it has others")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first values of such rows for their names
        raise ValueError(f"{path.name}: its rows have more values than its first line has names")
    if table.empty:
        return None
    numbers = list(table.columns) if path.name == "history.csv" else needed[:1]
    if not all(pd.api.types.is_numeric_dtype(table[column]) for column in numbers):
        raise ValueError(f"{path.name}: expected numbers, it has other text")
    if not table[needed[0]].between(0, LARGEST).all():
        raise ValueError(f"{path.name}: expected {needed[0]} to be a number from 0 on in every row")
    return table
