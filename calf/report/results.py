"""Gathers run folders: what each run is and how it ended, and the case rows of all finished ones. Reads files, nothing else."""

from __future__ import annotations

import datetime
import io
import math
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from pyarrow import csv

from calf.metrics import protocol as protocols
from calf.metrics.protocol import CASE_COLUMNS
from calf.metrics.scores import LOWER_IS_BETTER, MISSED, NEEDS_BACKGROUND, OK, POOLED, STATUSES, UNRANKED, is_share
from calf.provenance import run_only
from calf.report.reading import DATA_BYTES, UNREADABLE, check_numbers, read_json, read_text, read_yaml

FINISHED, UNFINISHED, DAMAGED, KILLED = "finished", "unfinished", "damaged", "killed"
WAITING = "waiting"  # a job of a grid at work that has not begun
ALIVE = ("starting", "running")
UNDER_WAY = (*ALIVE, WAITING)
ROWS_BYTES = 2**31  # of a cases.csv
NEVER_BEGUN = "stopped before it began"
SILENT_H = 6  # hours without a word after which a run of another machine is taken for dead: scoring says nothing
NUMBERS = ("value", "reference_volume_mm3", "predicted_volume_mm3")
NUMBERED = ("epoch", "best_epoch", "seconds", "parameters", "peak_memory_mb")  # of result.json
TEXTS = ("protocol", "peak_memory_of", "fingerprint", "store_key", "split_hash", "scored_on", "commit")
ROUNDING = 1e-9  # by which a share may leave [0, 1]
SHOWN, LONGEST_NAME = 5, 80
SCORED_ONCE = ["protocol", "dataset", "case", "class", "metric"]
RUN_COLUMNS = (
    "folder",  # relative to the gathered one
    "state",  # finished | damaged | killed | unfinished, or what status.json says: waiting, starting, running, failed
    "dataset",
    "model",
    "loss",
    "seed",
    "fold",  # "" where the split has none
    "protocol",
    "metric",
    "value",  # of the metric named before, the primary one
    "epoch",
    "best_epoch",
    "seconds",
    "parameters",
    "peak_memory_mb",
    "peak_memory_of",  # cuda | process
    "fingerprint",
    "store_key",
    "split_hash",
    "scored_on",  # original grid | slices of R x C pixels as stored
    "commit",
    "versions",  # {package: version}
    "error",
)


@dataclass(frozen=True)
class Gathered:
    """What lies below ``folder``: one row a run (``RUN_COLUMNS``), and the case rows of the finished runs (``CASE_COLUMNS``).

    Both are sorted by the runs' folders; the index of ``cases`` says from which folder a row is. Every run folder is in
    ``runs``, whatever its state; a run whose files cannot be read is ``damaged``, says why in ``error``, and has no case rows.
    ``settings``: for each folder the keys of its config.yaml (``optim.lr``) with their values, but for those that cannot
    change a number.
    """

    folder: Path
    runs: pd.DataFrame
    cases: pd.DataFrame
    settings: dict[str, dict[str, Any]]

    @property
    def incomplete(self) -> pd.DataFrame:
        """The runs whose cases are in no table: running, failed, killed or damaged."""
        return self.runs[self.runs["state"] != FINISHED]

    @property
    def finished(self) -> pd.DataFrame:
        """The runs whose cases were read."""
        return self.runs[self.runs["state"] == FINISHED]


def gather(folder: Path) -> Gathered:
    """Read every run at or below ``folder``; ValueError when there is none."""
    runs, tables, settings = [], {}, {}
    unknown = dict.fromkeys(("dataset", "model", "loss", "fold", "protocol", "error"), "")
    for path in run_folders(folder):
        name = os.path.relpath(path, folder)
        try:
            settings[name], run = read_config(path)
        except UNREADABLE as reason:
            runs.append(unknown | {"folder": name, "state": DAMAGED, "error": str(reason)})
            continue
        ended, cases = _read_end(path)
        runs.append(unknown | run | ended | {"folder": name})
        if cases is not None:
            tables[name] = cases.set_index(pd.Index([name] * len(cases), name="folder"))
    if not runs:
        raise ValueError(
            f"no run at or below {folder}: expected folders with a config.yaml, such as "
            "runs/<name>/<dataset>/<model>/<loss>/seed-0-..., as `python train.py` writes them. Give a folder that holds runs, "
            "or train first."
        )
    table = pd.DataFrame(runs, columns=list(RUN_COLUMNS)).astype({"seed": "Int64"})
    cases = pd.concat(tables.values()) if tables else pd.DataFrame(columns=list(CASE_COLUMNS), index=pd.Index([], name="folder"))
    return Gathered(folder, table, cases, settings)


def run_folders(folder: Path) -> Iterator[Path]:
    """Folders with a config.yaml, sorted; what lies inside a run, and trackers' and hidden folders, are not searched."""
    for place, subfolders, files in os.walk(folder):
        if "config.yaml" in files:
            yield Path(place)
            subfolders.clear()
        subfolders[:] = sorted(name for name in subfolders if name != "wandb" and not name.startswith("."))


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a run folder, and what the run is called; both are known before it has ended.

    Settings: keys such as ``optim.lr``, but for those that cannot change a number. The other: ``dataset``, ``model``, ``loss``,
    ``seed``, ``fold``, ``protocol`` of ``RUN_COLUMNS``.

    Raises:
        OSError, ValueError: there is no configuration of a run.
    """
    try:
        config = read_yaml(path / "config.yaml")
        names = {noun: str(config["names"][noun]) for noun in ("dataset", "model", "loss")}
        run = names | {"seed": _seed(int(config["seed"])), "fold": _fold(config["fold"]), "protocol": _protocol(config)}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, *UNREADABLE) as reason:
        words = " ".join(str(reason).split()) if isinstance(reason, yaml.YAMLError) else repr(reason)
        raise ValueError(f"config.yaml: expected the configuration of a run ({words})") from reason
    return {key: value for key, value in _flat(config).items() if not run_only(key)}, run


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _protocol(config: dict[str, Any]) -> str:
    """What a run that has no result yet will call its protocol; "" where that cannot be said."""
    options = dict(config.get("protocol") or {})
    known = {f"{kind.__module__}.{kind.__name__}": kind for kind in (protocols.PerCase, protocols.Paper)}
    kind = known.get(options.pop("_target_", ""))
    return "" if kind is None else kind(**options).name


def _fold(value: Any) -> str:
    return "" if value is None else str(value)


def _read_end(path: Path) -> tuple[dict[str, Any], pd.DataFrame | None]:
    if not (path / "result.json").exists():
        return read_status(path), None
    try:
        return read_result(path) | {"state": FINISHED}, read_cases(path)
    except UNREADABLE as reason:  # a damaged run is shown as such, and the others are read
        return {"state": DAMAGED, "error": str(reason)}, None


def read_status(path: Path) -> dict[str, Any]:
    """What a run folder without result.json says of itself: ``state``, ``error`` and, where it is known, ``epoch`` (epochs done,
    in fractions), ``epochs`` (to be done) and ``updated`` (when it was last heard of).
    """
    if not (path / "status.json").exists():
        return {"state": UNFINISHED, "error": NEVER_BEGUN}
    try:
        status = read_json(path / "status.json")
        check_numbers("status.json", status, ("epoch", "epochs"))
    except UNREADABLE as reason:
        return {"state": UNFINISHED, "error": str(reason)}
    state, error = str(status.get("state", UNFINISHED)), str(status.get("error") or "")
    if state in ALIVE and not _alive(status):
        state, error = KILLED, f"killed or stopped: last heard of {_when(status)}"
    elif state == WAITING and not _alive(status):
        state, error = UNFINISHED, NEVER_BEGUN
    elif state == FINISHED:  # the last thing written before result.json
        state, error = UNFINISHED, f"stopped before its result was written: last heard of {_when(status)}"
    known = {key: status.get(key) for key in ("epoch", "epochs")}
    updated = status.get("updated")
    return {"state": state, "error": error, "updated": None if updated is None else str(updated)} | known


def _seed(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise ValueError("expected the seed to be a whole number of 64 bits")
    return value


def _alive(status: dict[str, Any]) -> bool:
    """Whether the run that wrote this may still be at work: its process is there, or another machine spoke not long ago."""
    pid, host, updated = (status.get(key) for key in ("pid", "host", "updated"))
    if host == socket.gethostname() and isinstance(pid, int):
        try:
            os.kill(pid, 0)  # asks, and does nothing
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        except OverflowError:  # no process has such a number
            return False
        return True
    try:
        silent = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(str(updated))
    except (TypeError, ValueError):  # no time, or one without a zone
        return True
    return silent < datetime.timedelta(hours=SILENT_H)


def _when(status: dict[str, Any]) -> str:
    words = f"at {status.get('updated', 'an unknown time')}"
    if (epoch := status.get("epoch")) is None:
        return words
    epochs = status.get("epochs")
    number = int(epoch) + 1 if epochs is None else min(int(epoch) + 1, int(epochs))
    return f"{words} in epoch {number}" + (f" of {epochs}" if epochs is not None else "")


def read_result(path: Path) -> dict[str, Any]:
    """Those of ``RUN_COLUMNS`` that result.json of a finished run says; ValueError where it is no such file."""
    result = read_json(path / "result.json")
    needed = ("names", "seed", "fold", "protocol", "primary", "store_key", "split_hash")
    if missing := [key for key in needed if key not in result]:
        raise ValueError(f"result.json lacks {', '.join(missing)}")
    own = ("folder", "state", "error")  # said by where it lies and how it is read
    run = {column: result[column] for column in RUN_COLUMNS if column in result and column not in own}
    for key in TEXTS:
        if not isinstance(run.get(key), str | None):
            raise ValueError(f"result.json: expected {key} to be text, got {type(run[key]).__name__}")
    check_numbers("result.json", run, NUMBERED)
    try:
        run |= {noun: str(result["names"][noun]) for noun in ("dataset", "model", "loss")}
        run |= {"metric": str(result["primary"]["metric"]), "value": result["primary"]["value"]}
    except (KeyError, TypeError) as reason:
        raise ValueError(f"result.json: expected names and primary as a run writes them ({reason!r})") from reason
    try:
        run["seed"] = _seed(result["seed"])
    except ValueError as reason:
        raise ValueError(f"result.json: {reason}") from reason
    if isinstance(run["value"], float) and math.isnan(run["value"]):  # undefined
        run["value"] = None
    check_numbers("result.json", run, ("value",))
    return run | {"fold": _fold(result["fold"])}


def read_cases(path: Path, categories: bool = False) -> pd.DataFrame:
    """The rows of one run, whole, as its result.json and data.json tell of it.

    ValueError: a table that was cut off or scores a case twice; values that no metric has; rows of another run than result.json
    is of; in the protocol ``per_case`` other cases than data.json lists as tested (runs made before it was written have none).
    Numbers are those of the file to the last bit. ``categories``: columns of text are categories, for who reads many runs.
    """
    text_type = pa.dictionary(pa.int32(), pa.string()) if categories else pa.string()
    types = {name: pa.float64() if name in NUMBERS else text_type for name in CASE_COLUMNS} | {"seed": pa.int64()}
    # text stays text: a case may be called 001 or NA
    convert = csv.ConvertOptions(column_types=types, null_values=["", "nan", "NaN"], strings_can_be_null=False)
    text = read_text(path / "cases.csv", ROWS_BYTES)
    try:
        rows = io.BytesIO(text.encode())
        table = csv.read_csv(rows, csv.ReadOptions(use_threads=False), csv.ParseOptions(newlines_in_values=True), convert)
    except ValueError as reason:  # includes Arrow's errors
        raise ValueError(f"cases.csv cannot be read: {str(reason).strip()}") from reason
    cases: pd.DataFrame = table.to_pandas()
    if list(cases.columns) != list(CASE_COLUMNS):
        raise ValueError(f"cases.csv: expected the columns {', '.join(CASE_COLUMNS)}, got {', '.join(map(str, cases.columns))}")
    if cases.empty:
        raise ValueError("cases.csv has no row")
    if not text.endswith("\n") or cases[["seed", *NUMBERS[1:]]].isna().any(axis=None):
        raise ValueError("cases.csv was cut off in the middle of a row")
    if (odd := ~cases["status"].isin(STATUSES)).any():
        raise ValueError(f"cases.csv: expected a status of {', '.join(STATUSES)}, got {cases.loc[odd, 'status'].iloc[0]!r}")
    if cases.duplicated(SCORED_ONCE).any():
        twice = cases.loc[cases.duplicated(SCORED_ONCE), "case"].iloc[0]
        raise ValueError(f"cases.csv scores case {twice} more than once")
    for (_, dataset), scored in cases.groupby(["protocol", "dataset"], observed=True):
        expected = scored["case"].nunique() * len(scored[["class", "metric"]].drop_duplicates())
        if len(scored) != expected:
            raise ValueError(
                f"cases.csv: {len(scored)} rows of {dataset} where cases x classes x metrics are {expected}; was it cut off?"
            )
    _check_values(cases)
    run = read_result(path)
    _check_names(run, cases)
    _check_tested(path, run, cases)
    return cases


def _check_values(cases: pd.DataFrame) -> None:
    """ValueError where a value is impossible, or is undefined though ``EMPTY_RULE`` defines it."""
    metrics = set(cases["metric"].unique())
    shares = {metric for metric in metrics if is_share(metric)}
    known = (shares | LOWER_IS_BETTER | UNRANKED) - NEEDS_BACKGROUND
    value, metric = cases["value"].to_numpy(), cases["metric"]
    wrong = {
        "a finite number": np.isinf(value),
        "a share, from 0 to 1": metric.isin(shares) & ((value < -ROUNDING) | (value > 1 + ROUNDING)),
        "at least 0": metric.isin(LOWER_IS_BETTER) & (value < -ROUNDING),
        "defined": metric.isin(known) & cases["status"].isin((OK, MISSED, POOLED)) & np.isnan(value),
    }
    for expected, odd in wrong.items():
        if odd.any():
            row = cases[odd].iloc[0]
            raise ValueError(
                f"cases.csv: expected {_first([row['metric']])} of case {_first([row['case']])}, "
                f"whose status is {row['status']}, to be {expected}; got {row['value']}"
            )
    volumes = cases[list(NUMBERS[1:])].to_numpy()
    if len(places := np.flatnonzero(~((volumes >= 0) & (volumes < np.inf)).all(axis=1))):
        raise ValueError(f"cases.csv: expected volumes of case {_first([cases['case'].iloc[places[0]]])} from 0 mm3 on")


def _check_names(run: dict[str, Any], cases: pd.DataFrame) -> None:
    """ValueError unless the columns that name a run say what its result.json says; parts of joined data are named below it."""
    told = {column: run[column] for column in ("protocol", "fold", "seed", "model", "loss")} | {"split": run["split_hash"]}
    for column, expected in told.items():
        if (found := list(cases[column].unique())) != [expected]:
            raise ValueError(f"cases.csv: expected {column} to be {_first([expected])} as in result.json, got {_first(found)}")
    found, whole = list(cases["dataset"].unique()), run["dataset"]
    if found != [whole] and not all(name.startswith(f"{whole}/") for name in found):
        raise ValueError(
            f"cases.csv: expected dataset to be {_first([whole])} as in result.json, or its parts, got {_first(found)}"
        )


def _check_tested(path: Path, run: dict[str, Any], cases: pd.DataFrame) -> None:
    """ValueError unless the cases are those that data.json lists; a batch of shuffled slices is none of them."""
    if run["protocol"] != protocols.PerCase.name or not (path / "data.json").exists():
        return
    tested = read_json(path / "data.json", DATA_BYTES).get("test_cases")
    if tested is None:
        return
    if not isinstance(tested, dict) or not all(isinstance(entry, dict) for entry in tested.values()):
        raise ValueError("data.json: expected test_cases to be an object of objects")
    parts = {case: entry.get("dataset") for case, entry in tested.items()}
    expected = {(case, run["dataset"] + (f"/{part}" if part else "")) for case, part in parts.items()}
    found = set(cases[["case", "dataset"]].drop_duplicates().itertuples(index=False, name=None))
    if differ := sorted({case for case, _ in expected ^ found}):
        raise ValueError(
            f"cases.csv scores {len(found)} cases where data.json lists {len(expected)} as tested; "
            f"they differ in {_first(differ)}"
        )


def _first(values: list[Any]) -> str:
    """The first of them, each cut short and a text without letters as ''."""
    return ", ".join(str(value)[:LONGEST_NAME] or "''" for value in values[:SHOWN]) + (", ..." if len(values) > SHOWN else "")
