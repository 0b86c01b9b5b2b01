"""What one run folder is and how it stands, from its small files; case rows are :mod:`calf.ui.library`'s."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from calf.report import results
from calf.report.cells import differing
from calf.report.reading import UNREADABLE
from calf.report.results import DAMAGED, FINISHED

MOST = 3  # settings that a label tells runs apart by
_WATCHED = ("config.yaml", "status.json", "result.json", "cases.csv", "data.json")

Signature = tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        id: of the folder's place below the library's.
        folder: where it lies; never sent to a browser.
        place: the same, relative to the library's folder: to read, not to ask by. A name that is no UTF-8 is shown with ``?``
            and the id, so that no two runs have one place.
        label: loss, model, seed and fold, and what else tells it from the others.
        state: as in :data:`calf.report.results.RUN_COLUMNS`.
        metric, value: the primary metric on test data; None until the run is finished, or where it is undefined.
        epoch: epochs done, in fractions; of a finished run the last that it wrote, mostly None. ``epochs``: to be done.
        scored_on: ``original grid``, or the stored slices that were scored.
        error: why it is not finished or cannot be read, in words.
    """

    id: str
    folder: Path
    place: str
    label: str = ""
    state: str = DAMAGED
    dataset: str = ""
    model: str = ""
    loss: str = ""
    seed: int | None = None
    fold: str = ""
    protocol: str = ""
    metric: str | None = None
    value: float | None = None
    epoch: float | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    seconds: float | None = None
    updated: str | None = None
    scored_on: str | None = None
    error: str = ""

    @property
    def finished(self) -> bool:
        return self.state == FINISHED

    def public(self) -> dict[str, Any]:
        """What a browser is told of it: every field but ``folder``."""
        return {key: value for key, value in asdict(self).items() if key != "folder"}


@dataclass(frozen=True)
class Entry:
    """A run, with what its files were when it was read, its row in ``results.RUN_COLUMNS``, and its settings."""

    run: Run
    signature: Signature
    row: dict[str, Any]  # RUN_COLUMNS
    settings: dict[str, Any]


def run_id(place: str) -> str:
    """The id of a run that lies at this place below the library's folder."""
    return _digest(place)


@lru_cache(2**16)
def case_id(dataset: str, case: str) -> str:
    """The id of a case: the same for all runs on a data set, whatever options they changed (``phantom[augment.flip=0]``)."""
    return _digest(f"{dataset.partition('[')[0]}\0{case}")


def read_entry(folder: Path, place: str, signature: Signature, known: Entry | None) -> Entry:
    """Read a run folder; ``known`` is what was read of it before. What it cannot be read for is its ``error``."""
    id, shown = run_id(place), encodable(place)
    place = place if shown == place else f"{shown} ({id})"
    row: dict[str, Any] = dict.fromkeys(("dataset", "model", "loss", "fold", "protocol", "error"), "") | {"folder": place}
    settings: dict[str, Any] = known.settings if known and known.signature[0] == signature[0] else {}
    try:
        if known and settings:  # what a run is called does not change, and YAML is slow to read
            row |= {key: known.row[key] for key in ("dataset", "model", "loss", "seed", "fold", "protocol")}
        else:
            settings, names = results.read_config(folder)
            row |= names
        ended = (folder / "result.json").exists()
        row |= results.read_result(folder) | {"state": FINISHED} if ended else results.read_status(folder)
        if ended and not (folder / "cases.csv").exists():
            raise ValueError("cases.csv is missing")
    except UNREADABLE as reason:
        row |= {"state": DAMAGED, "error": sentence(reason)}
    row = {key: encodable(value) if isinstance(value, str) else value for key, value in row.items()}
    epochs = settings.get("trainer.max_epochs")
    row.setdefault("epochs", epochs if isinstance(epochs, int) and abs(epochs) < 2**63 else None)
    told = {key: row[key] for key in Run.__dataclass_fields__ if key in row and key != "folder"}
    return Entry(Run(id, folder, place, **told), signature, row, settings)


def sentence(reason: BaseException) -> str:
    """Why a run cannot be read, without the place of a file on this machine."""
    return (reason.strerror if isinstance(reason, OSError) else str(reason)) or type(reason).__name__


def encodable(text: str) -> str:
    """The same, with ``?`` for what no browser or table can be sent: bytes of a file name that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def signature_of(folder: Path) -> Signature:
    """Changes where one of the files does that say what a run is, how it stands, and what it scored."""
    found: list[tuple[int, int] | None] = []
    for name in _WATCHED:
        try:
            status = os.stat(folder / name)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size))
    return tuple(found)


def labelled(entries: dict[str, Entry]) -> dict[str, Entry]:
    """The same runs, each with a label of its own."""
    same: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries.values():
        same.setdefault((entry.run.dataset, _names(entry.run)), []).append(entry)
    labels: dict[str, str] = {}
    for (_, names), alike in same.items():
        keys = differing([entry.settings for entry in alike], pd.DataFrame([entry.row for entry in alike])) if alike[1:] else []
        told = [", ".join(f"{key}={entry.settings.get(key)}" for key in keys) for entry in alike]
        if not 0 < len(keys) <= MOST or len(set(told)) < len(alike):
            told = [entry.run.place.rpartition("-")[2] or entry.run.id for entry in alike]
        labels |= {entry.run.id: f"{names} [{more}]" if alike[1:] else names for entry, more in zip(alike, told, strict=True)}
    labels = {id: encodable(label) for id, label in labels.items()}
    return {
        id: entry if entry.run.label == labels[id] else replace(entry, run=replace(entry.run, label=labels[id]))
        for id, entry in entries.items()
    }


def _names(run: Run) -> str:
    if not run.loss:
        return run.place
    return f"{run.loss} / {run.model} / seed {run.seed}" + (f" / fold {run.fold}" if run.fold else "")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
