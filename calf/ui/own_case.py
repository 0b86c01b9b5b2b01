"""What networks made of an image of one's own, as a library of one case: what shows runs' cases shows it, too.

Without a truth there is no score, and no number that could be taken for one: a run's own test score is not told either.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from calf.data.volumes import VolumeError, read_mask
from calf.metrics import scores
from calf.report.volumes import Unreadable
from calf.ui.library import CASE_KEYS, VOLUMES, Unknown
from calf.ui.networks import Network, shared_labels
from calf.ui.predictions import CASE, Prediction
from calf.ui.runs import Run
from calf.ui.uploads import Upload
from calf.ui.volumes import Cases, OpenCase

LIMIT_BYTES = 2**29  # of voxels of one page that are kept
NOT_SCORED = "not scored"


class OwnCase:
    """One image with the masks of a prediction, to be opened by :class:`calf.ui.volumes.Cases` (``cases``).

    Attributes:
        id: of the case; another one whenever anything changes.
        networks: those whose masks are there.
        images: by modality; the first has the grid of the masks.
        truth: what is scored against; None: nothing is scored.
    """

    def __init__(self, prediction: Prediction, images: Mapping[str, Upload], truth: Upload | None) -> None:
        self.prediction, self.images, self.truth = prediction, dict(images), truth
        self.id, self.networks = secrets.token_hex(6), prediction.finished
        self.cases = Cases(self, LIMIT_BYTES)
        self._runs = {network.run.id: self._run(network) for network in self.networks}
        # what the values of each mask mean
        self._meanings = {run: json.loads(prediction.labels(run).read_text()) for run in self._runs}
        self._labels = {} if truth is None else shared_labels(self.networks)
        case = self.cases.open(self.id, list(self._runs))
        self._tables = {run: self._table(case, run) for run in self._runs}

    def against(self, truth: Upload | None) -> OwnCase:
        """The same masks against another truth, or none."""
        return OwnCase(self.prediction, self.images, truth)

    def public(self) -> dict[str, Any]:
        """What a browser is told of it."""
        masks = [{"id": run.id, "label": run.label, "meanings": self._meanings[run.id]} for run in self.runs]
        return {"case": self.id, "runs": list(self._runs), "scored": self.truth is not None, "masks": masks}

    @property
    def runs(self) -> list[Run]:
        return list(self._runs.values())

    @property
    def name(self) -> str:
        """What the case is called: as the file of its first image."""
        return next(iter(self.images.values())).name

    def chosen(self, ids: Sequence[str]) -> list[Run]:
        """As :meth:`calf.ui.library.Library.chosen`."""
        try:
            return [self._runs[id] for id in dict.fromkeys(ids)]
        except KeyError:
            raise Unknown("there is no mask by a network of this id") from None

    def case(self, id: str, runs: Sequence[str]) -> str:
        """As :meth:`calf.ui.library.Library.case`."""
        if id != self.id:
            raise Unknown("this image is no longer here, or was predicted again")
        return CASE

    def data(self, id: str) -> dict[str, Any]:
        """As data.json of a run that tested the image."""
        network = next(network for network in self.networks if network.run.id == id)
        images = {modality: (str(upload.path), None) for modality, upload in self.images.items()}
        mask = None if self.truth is None else str(self.truth.path)
        return {
            "target": network.target,
            "labels": self._labels,
            "preparation": {"onto": network.onto, "plane": network.plane},
            "test_cases": {CASE: {"images": images, "mask": mask, "reference": None}},
        }

    def table(self, id: str) -> pd.DataFrame:
        """As :meth:`calf.ui.library.Library.table`; without a truth no metric, NaN for its volume, status ``NOT_SCORED``."""
        return self._tables[id]

    def case_rows(self, id: str) -> pd.DataFrame:
        """The same; all voxels are scored."""
        return self._tables[id]

    def _run(self, network: Network) -> Run:
        folder = self.prediction.folder / network.run.id
        return replace(network.run, folder=folder, metric=None, value=None, scored_on=None)

    def _table(self, case: OpenCase, run: str) -> pd.DataFrame:
        rows = []
        for name in case.names:
            try:
                rows.append(self._row(case, run, name))
            except Unreadable:  # which stands where the mask would
                continue
        return pd.DataFrame(rows, columns=None if rows else [*CASE_KEYS, "status", *VOLUMES])

    def _row(self, case: OpenCase, run: str, name: str) -> dict[str, Any]:
        """A row of the table, by the rules of :mod:`calf.metrics.scores`."""
        prediction = case.prediction(run, name)
        keys = dict(zip(CASE_KEYS, (run, self.id, "", CASE, "", name), strict=True))
        predicted_mm3 = prediction.count() * case.voxel_mm3
        if self.truth is None:
            return keys | {"status": NOT_SCORED} | dict(zip(VOLUMES, (np.nan, predicted_mm3), strict=True))
        truth = case.truth(name)
        # outside of the truth's box nothing is found
        tp = int(np.count_nonzero(truth.within(truth.box) & prediction.within(truth.box)))
        fp, fn = prediction.count() - tp, truth.count() - tp
        values, status = scores.case_scores(np.array([tp, fp, fn, int(np.prod(case.shape)) - tp - fp - fn]))
        volumes = dict(zip(VOLUMES, (truth.count() * case.voxel_mm3, predicted_mm3), strict=True))
        return keys | {"status": str(status)} | volumes | dict(zip(scores.METRICS, values.tolist(), strict=True))


def check_truth(chosen: Sequence[Network], images: Mapping[str, Upload], truth: Upload) -> None:
    """Raise :class:`Unreadable` for a truth that masks by these networks cannot be compared with.

    They do not agree on what its values mean, it holds others, or it does not lie on the grid of their masks, that of the first
    image.
    """
    labels = {int(value): meaning for value, meaning in shared_labels(list(chosen)).items()}
    image = next(iter(images.values()))
    try:
        read_mask(truth.path, labels, image.path, image.grid)
    except VolumeError as reason:
        said = str(reason).replace(str(truth.path), f"truth {truth.name}").replace(str(image.path), image.name)
        raise Unreadable(said) from reason
