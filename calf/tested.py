"""Scores of tested cases that take whole volumes, gathered over all ranks beside those that counts give."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch.distributed as dist

from calf.data.cases import Target
from calf.data.restore import Restored
from calf.data.store import channels_of
from calf.data.views import Samples
from calf.metrics.volumetric import VolumeScores


class VolumeRows:
    """Collects the rows of ``cases.csv`` that :class:`calf.metrics.volumetric.VolumeScores` gives, case by case.

    Args:
        store: what is tested.
        target: what was segmented.
        scores: None: nothing is collected.
    """

    def __init__(self, store: Samples, target: Target, scores: VolumeScores | None) -> None:
        self.store, self.target, self.scores = store, target, scores
        self.rows: dict[str, pd.DataFrame] = {}

    def score(self, case: Restored) -> None:
        """Score a case against its truth, in the voxels of its own files."""
        if self.scores is None:
            return
        stored, truth = self.store.cases[case.number], self.store.truth(case.number)
        annotated = stored.annotated
        self.rows[stored.id] = self.scores.rows(
            stored.id,
            stored.patient,
            np.stack(channels_of(case.mask, self.target)),
            np.stack(channels_of(truth, self.target)),
            self.target.names,
            stored.spacing_mm,
            case.probabilities,
            None if annotated is None else np.broadcast_to(annotated, truth.shape).copy(),
        )

    def beside(self, counted: pd.DataFrame) -> pd.DataFrame:
        """The rows that counts gave, with those of all ranks' volumes: sorted by case and class as ``counted`` is.

        A case that several ranks scored is there once; every rank must call this.
        """
        if self.scores is None:
            return counted
        found = self.rows
        if dist.is_available() and dist.is_initialized():
            of_ranks: list[dict[str, pd.DataFrame]] = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(of_ranks, self.rows)
            found = {case: rows for ranked in of_ranks for case, rows in ranked.items()}
        cases = list(dict.fromkeys(counted["case"]))
        if set(found) != set(cases):
            raise RuntimeError(f"counted and measured cases differ: {sorted(set(found) ^ set(cases))[:10]}")
        rows = pd.concat([counted, *(found[case] for case in cases)], ignore_index=True)
        if "part" in counted:
            rows["part"] = rows["case"].map(counted.drop_duplicates("case").set_index("case")["part"])
        order = [
            rows[key].map({name: place for place, name in enumerate(dict.fromkeys(counted[key]))}) for key in ("case", "class")
        ]
        return rows.iloc[np.lexsort((order[1], order[0]))].reset_index(drop=True)
