"""From counts of slices to the rows of ``cases.csv``: per case, or pooled over batches as the CALF authors did.

Rows are long-form, one a unit, class and metric. Metrics that need whole volumes (surface distances in mm, lesion counts)
become further rows of the same columns, which ``calf.metrics.volumetric`` gives to whoever holds the volumes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from calf.metrics.scores import METRICS, POOLED, Counts, Floats, case_scores, pooled_scores

if TYPE_CHECKING:
    from calf.metrics.volumetric import VolumeScores

RUN_COLUMNS = ("protocol", "dataset", "split", "fold", "seed", "model", "loss")
ROW_COLUMNS = ("case", "patient", "class", "metric", "value", "status", "reference_volume_mm3", "predicted_volume_mm3")
CASE_COLUMNS = RUN_COLUMNS + ROW_COLUMNS

Indices = npt.NDArray[np.int64]
Names = npt.NDArray[np.object_]
Number = TypeVar("Number", np.int64, np.float64)


class Protocol(ABC):
    """How counts of slices become scores; the unit that is scored is a case or a batch.

    ``original_grid``: predictions on resized slices are brought back to the rows and columns of the patient's own files first.
    ``volumes``: what tested cases are scored by besides, as whole volumes; None: by nothing.
    """

    original_grid: ClassVar[bool] = False
    volumes: VolumeScores | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """What tables call it; scores of different names are never averaged together."""

    @abstractmethod
    def rows(
        self,
        slice_index: npt.ArrayLike,
        counts: npt.ArrayLike,
        slices: pd.DataFrame,
        cases: pd.DataFrame,
        names: tuple[str, ...],
    ) -> pd.DataFrame:
        """One row a unit, class and metric, sorted by unit.

        Args:
            slice_index: int64 ``(N,)``, the scored slices, each once, in any order (host arrays or tensors).
            counts: int64 ``(N, len(names), 4)``, tp, fp, fn, tn of each, as ``calf.metrics.overlap.count_slices`` gives.
            slices: one row a slice, indexed by its number, with the column ``case``; may hold slices that are not scored.
            cases: one row a case, indexed by its id, with the columns ``patient`` and ``voxel_volume_mm3``.
            names: the classes or regions, in the order of the counts.

        Returns:
            The columns ``ROW_COLUMNS``; value is NaN where a score is undefined, volumes are in mm3.

        Raises:
            ValueError: a slice given twice or unknown, counts of another shape, or a unit without any valid voxel.
        """

    def summarise(self, rows: pd.DataFrame) -> dict[str, float]:
        """One number a metric: the mean over units of each class, then the mean over classes.

        Undefined values are left out; a class for which a score is undefined in every unit is left out of the mean over
        classes. A metric that is defined nowhere is NaN, which says that nothing could be scored, neither good nor bad:
        whoever picks a checkpoint by it has to treat NaN as worse than any number.
        """
        per_class = rows.groupby(["metric", "class"], sort=False)["value"].mean()
        return {str(metric): float(value) for metric, value in per_class.groupby("metric", sort=False).mean().items()}


class PerCase(Protocol):
    """Each case is scored once, from the counts of all its slices together, under ``calf.metrics.scores.EMPTY_RULE``.

    Args:
        volumes: distances, lesions and calibration of the tested cases, which take whole volumes; None: counts alone.
    """

    name = "per_case"
    original_grid = True

    def __init__(self, volumes: VolumeScores | None = None) -> None:
        self.volumes = volumes

    def rows(
        self,
        slice_index: npt.ArrayLike,
        counts: npt.ArrayLike,
        slices: pd.DataFrame,
        cases: pd.DataFrame,
        names: tuple[str, ...],
    ) -> pd.DataFrame:
        slice_counts, case_of = _in_order(slice_index, counts, slices, cases, names)
        ids, unit, scored = np.unique(case_of, return_inverse=True, return_counts=True)
        whole = slices["case"].value_counts().reindex(pd.Index(ids)).to_numpy()
        if (partly := scored != whole).any():
            raise ValueError(
                f"of cases {ids[partly][:10].tolist()} only some slices were scored: a case is scored as a whole; do not limit "
                "the batches of validation or test"
            )
        pooled = _pool(slice_counts, unit, len(ids))
        if (unlabelled := pooled.sum(-1).min(-1) == 0).any():
            raise ValueError(f"cases {ids[unlabelled].tolist()} have no valid voxel to score: leave them out of the split")
        values, status = case_scores(pooled)
        volume_mm3 = _voxel_volumes_mm3(cases, ids) * pooled
        patients = cases["patient"].reindex(pd.Index(ids)).to_numpy(object)
        return _long(ids, patients, names, values, status, volume_mm3)


class Paper(Protocol):
    """Scores pooled over batches of shuffled slices, an empty denominator scoring 1: the protocol of the CALF authors.

    Their published number is the mean over batches, the last and smaller one included, each weighing the same. The unit is
    the batch, so it is no score of an image or a patient and never stands in one table with ``per_case``. The authors
    average over the ranks of a shuffled distributed sampler, this over one shuffled sequence.
    https://arxiv.org/abs/2504.04458.

    A row's ``case`` is ``batch-0007``, its ``patient`` empty, its ``status`` ``pooled``, and its value never NaN. Every
    slice must have a valid voxel.

    Args:
        batch_size: slices a batch; 1 gives the mean over slices of the authors' table per modality.
        shuffle_seed: seed of the order in which slices fall into batches.
    """

    def __init__(self, batch_size: int = 32, shuffle_seed: int = 12345) -> None:
        if batch_size < 1:
            raise ValueError(f"protocol.batch_size: expected a positive number of slices, got {batch_size}")
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed

    @property
    def name(self) -> str:
        """``paper``; batches of another size than 32 give other numbers and so carry it in their name."""
        return "paper" if self.batch_size == 32 else f"paper_batch{self.batch_size}"

    def rows(
        self,
        slice_index: npt.ArrayLike,
        counts: npt.ArrayLike,
        slices: pd.DataFrame,
        cases: pd.DataFrame,
        names: tuple[str, ...],
    ) -> pd.DataFrame:
        slice_counts, case_of = _in_order(slice_index, counts, slices, cases, names)
        if (unlabelled := slice_counts.sum(-1).min(-1) == 0).any():
            raise ValueError(f"slices of {sorted(set(case_of[unlabelled]))[:10]} have no valid voxel: score them with per_case")
        order = np.random.default_rng(self.shuffle_seed).permutation(len(case_of))
        unit = np.empty(len(order), dtype=np.int64)
        unit[order] = np.arange(len(order)) // self.batch_size
        num_batches = int(unit.max()) + 1
        values = pooled_scores(_pool(slice_counts, unit, num_batches))
        volume_mm3 = _voxel_volumes_mm3(cases, case_of) * slice_counts
        ids = np.array([f"batch-{number:04d}" for number in range(num_batches)], dtype=object)
        status = np.full(values.shape[:2], POOLED)
        return _long(ids, np.full(num_batches, "", object), names, values, status, _pool(volume_mm3, unit, num_batches))


def _in_order(
    slice_index: npt.ArrayLike, counts: npt.ArrayLike, slices: pd.DataFrame, cases: pd.DataFrame, names: tuple[str, ...]
) -> tuple[Counts, Names]:
    """Counts of the slices in ascending order of their numbers, and the case each belongs to, after checking both."""
    index, counts = np.asarray(slice_index).reshape(-1), np.asarray(counts)
    if counts.shape != (len(index), len(names), 4) or not len(index):
        raise ValueError(f"expected counts of {len(index)} > 0 slices x {len(names)} classes x 4, got {counts.shape}")
    order = np.argsort(index, kind="stable")
    index, counts = index[order], counts[order]
    if (twice := index[1:][index[1:] == index[:-1]]).size:
        raise ValueError(f"each slice is scored once, got slices {twice[:10].tolist()} more than once")
    position = slices.index.get_indexer(pd.Index(index))
    if (position < 0).any():
        raise ValueError(f"slices {index[position < 0][:10].tolist()} are not in the table of slices")
    case_of = slices["case"].to_numpy(object)[position]
    if unknown := sorted(set(case_of) - set(cases.index)):
        raise ValueError(f"cases {unknown[:10]} have slices but are not in the table of cases")
    return counts, case_of


def _voxel_volumes_mm3(cases: pd.DataFrame, ids: Names) -> Floats:
    return cases["voxel_volume_mm3"].reindex(pd.Index(ids)).to_numpy(np.float64)[:, None, None]


def _pool(counts: npt.NDArray[Number], unit: Indices, num_units: int) -> npt.NDArray[Number]:
    """Sum ``(N, C, 4)`` over the slices of each unit: ``(num_units, C, 4)`` of the same dtype."""
    pooled = np.zeros((num_units, *counts.shape[1:]), counts.dtype)
    np.add.at(pooled, unit, counts)
    return pooled


def _long(
    ids: Names, patients: Names, names: tuple[str, ...], values: Floats, status: npt.NDArray[np.str_], volume_mm3: Floats
) -> pd.DataFrame:
    """Rows in the order unit, class, metric; ``values (U, C, M)``, ``status (U, C)``, ``volume_mm3 (U, C, 4)``."""
    num_units, num_names, num_metrics = values.shape
    tp, fp, fn, _ = np.moveaxis(volume_mm3, -1, 0)
    rows = pd.DataFrame(
        {
            "case": np.repeat(ids, num_names * num_metrics),
            "patient": np.repeat(patients, num_names * num_metrics),
            "class": np.tile(np.repeat(names, num_metrics), num_units),
            "metric": np.tile(METRICS, num_units * num_names),
            "value": values.reshape(-1),
            "status": np.repeat(status.reshape(-1), num_metrics),
            "reference_volume_mm3": np.repeat((tp + fn).reshape(-1), num_metrics),
            "predicted_volume_mm3": np.repeat((tp + fp).reshape(-1), num_metrics),
        },
        columns=list(ROW_COLUMNS),
    )
    assert len(rows) == num_units * len(names) * len(METRICS)
    assert not rows.duplicated(["case", "class", "metric"]).any()
    return rows
