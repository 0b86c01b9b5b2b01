"""The volumes that part small lesions from large ones: tertiles of what the networks were trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from calf.report.cells import of_data_set
from calf.report.reading import DATA_BYTES, read_json
from calf.report.results import Gathered

KEY = "train_volumes_mm3"
LEAST = 3  # training references, of which tertiles can be taken


@dataclass(frozen=True)
class Limits:
    """``edges_mm3``: ascending, or None where they cannot be of the training data. ``said``: of what they are, or why not."""

    edges_mm3: tuple[float, ...] | None
    said: str


def training_limits(gathered: Gathered, protocol: str, dataset: str, name: str) -> Limits:
    """Tertiles of the positive training volumes of the runs behind one table, as their data.json has them under ``KEY``.

    All runs of one fold have the same training cases, which count once, however many runs there are. With folds, the training
    cases of all folds are pooled, each fold once: one set of limits for the whole table. The volume of a tested case then helps
    to set the limits, in the folds that train on it; its scores never do. Limits that tie fall together.

    There are none, and ``said`` says why, where no run of a fold holds the volumes, as of runs made before they were written;
    where runs of one fold were split differently or hold different volumes; and for fewer than ``LEAST`` references.
    """
    runs = gathered.finished
    here = runs["dataset"].map(lambda own: of_data_set(dataset, own))
    runs = runs[here & (runs["protocol"] == protocol)]
    pooled, num_cases = [], 0
    for fold, own in runs.groupby("fold", sort=True):
        of = f" of fold {fold!s}" if fold else ""
        if own["split_hash"].nunique(dropna=False) > 1:
            return Limits(None, f"the runs{of} were split differently into patients")
        held = [volumes for folder in own["folder"] if (volumes := _volumes(gathered, folder, name)) is not None]
        if not held:
            return Limits(None, f"no run{of} holds the volumes of its training cases")
        if any(other.shape != held[0].shape or not np.allclose(other, held[0], rtol=1e-6) for other in held):
            return Limits(None, f"the runs{of} hold different volumes of their training cases")
        pooled.append(held[0][held[0] > 0])
        num_cases += len(held[0])
    volumes = np.concatenate(pooled) if pooled else np.zeros(0)
    if len(volumes) < LEAST:
        return Limits(None, f"{len(volumes)} of {num_cases} training cases have a reference, too few for tertiles")
    edges = tuple(float(edge) for edge in np.unique(np.quantile(volumes, [1 / 3, 2 / 3])))
    folds = f", pooled over {len(pooled)} folds" if len(pooled) > 1 else ""
    return Limits(edges, f"tertiles of the {len(volumes)} training references{folds}")


def _volumes(gathered: Gathered, folder: str, name: str) -> np.ndarray | None:
    """A run's, sorted; None where it holds none that can be used."""
    try:
        data: Any = read_json(gathered.folder / folder / "data.json", DATA_BYTES)
        volumes = np.sort(np.asarray(data[KEY][name], np.float64))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    usable = volumes.ndim == 1 and all(map(math.isfinite, volumes)) and (volumes >= 0).all()
    return volumes if usable else None
