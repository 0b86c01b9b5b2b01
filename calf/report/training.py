"""What runs wrote while they trained: history.csv and branches.csv of every run folder, read together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from calf.report.results import Gathered

RUN = ["protocol", "dataset", "model", "loss", "seed", "fold", "folder"]
NEEDED = {"history.csv": {"epoch"}, "branches.csv": {"batch", "branch"}}
NUM_BINS = 24  # of a training, in which branches are counted


def histories(gathered: Gathered) -> pd.DataFrame:
    """Rows of every history.csv that can be read, with the run's ``RUN`` columns; empty where there is none."""
    return _gather(gathered, "history.csv")


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
    rows = _gather(gathered, "branches.csv")
    if rows.empty:
        return pd.DataFrame(columns=["dataset", "model", "loss", "branch", "progress", "share"])
    length = rows.groupby("folder")["batch"].transform("max") + 1
    bins = np.minimum(length, NUM_BINS)
    rows["progress"] = (np.floor(rows["batch"] * bins / length) + 0.5) / bins
    place = ["dataset", "model", "loss", "progress"]
    counts = rows.groupby([*place, "branch"]).size().unstack("branch", fill_value=0)
    shares = counts.div(counts.sum(axis=1), axis=0)
    return shares.reset_index().melt(place, var_name="branch", value_name="share")


def unreadable(gathered: Gathered) -> list[str]:
    """Which of these files are there and cannot be used, in sentences."""
    told = []
    for name, needed in NEEDED.items():
        odd = []
        for folder in gathered.runs["folder"]:
            table = _read(gathered.folder / folder / name)
            odd += [folder] if table is not None and not needed <= set(table.columns) else []
        if odd:
            told.append(f"{name} of {len(odd)} runs: expected the columns {', '.join(sorted(needed))}; {odd[0]} has others.")
    return told


def _gather(gathered: Gathered, name: str) -> pd.DataFrame:
    tables, needed = [], NEEDED[name]
    for run in gathered.runs.to_dict("records"):
        table = _read(gathered.folder / run["folder"] / name)
        if table is not None and needed <= set(table.columns):
            tables.append(table.assign(**{column: run[column] for column in RUN}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*RUN, *needed])


def _read(path: Path) -> pd.DataFrame | None:
    """None where a run has no such file, or stopped before it had a row."""
    try:
        return pd.read_csv(path)
    except (OSError, ValueError):
        return None
