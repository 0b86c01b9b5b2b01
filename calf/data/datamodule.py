"""Batches of slices for Lightning: whole uint8 arrays from the store, dealt out by epoch, seed and rank."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from calf.data.build import StorePlan, open_store, plan_store
from calf.data.cases import Layout, Target
from calf.data.distances import ensure_distance_maps
from calf.data.prepare import Preparation
from calf.data.splits import Split, Splitter, divide
from calf.data.store import SliceStore

Batch = dict[str, Tensor]


class SliceBatches(Dataset[Batch]):
    """Indexed by an array of slice numbers, gives the batch at once.

    ``image`` uint8 (B, C, H, W); ``mask`` uint8 (B, H, W), encoded as the store's target says; ``box`` int32 (B, 4), where the
    slice lies in the plane: the rest is padding, which a loss sees as background and no score counts; ``slice`` int64 (B,).

    ``distance`` float16 (B, names, H, W), the distance maps of the masks, where the data module was told to provide them.

    In evaluation also ``reference``, like ``mask``, and of resized slices ``truth`` uint8 (B, R, C) and ``grid`` int32 (B, 2):
    the reference in the slice's own rows and columns.
    """

    def __init__(self, store: SliceStore, evaluation: bool, distances: NDArray[np.float16] | None = None) -> None:
        self.store, self.evaluation, self.distances = store, evaluation, distances

    def __getitem__(self, indices: NDArray[np.int64]) -> Batch:
        channels = len(self.store.modalities)
        planes = torch.from_numpy(self.store.read(indices))
        batch = {"image": planes[:, :channels], "mask": planes[:, channels], "slice": torch.from_numpy(indices)}
        batch["box"] = torch.from_numpy(self.store.boxes[indices])
        if self.distances is not None:
            batch["distance"] = torch.from_numpy(np.asarray(self.distances[indices]))
        if self.evaluation:
            batch["reference"] = planes[:, -1]
            if self.store.resized:
                batch["truth"] = torch.from_numpy(self.store.read_truth(indices))
                batch["grid"] = torch.from_numpy(self.store.grids[indices])
        return batch


class ShuffledBatches(Sampler[NDArray[np.int64]]):
    """Training order: a permutation of the slices that depends on seed and epoch alone, cut into batches.

    The last, smaller batch is left out (batch statistics of one slice are undefined), unless it is the only one. With
    several ranks each takes its share of every global batch of ``batch_size`` times ``world_size`` slices.
    """

    def __init__(self, indices: NDArray[np.int64], batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices, self.batch_size, self.seed, self.rank, self.world_size = indices, batch_size, seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, len(self.indices) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        order = self.indices[np.random.default_rng([self.seed, self.epoch]).permutation(len(self.indices))]
        step = self.batch_size * self.world_size
        for number in range(len(self)):
            yield order[number * step : (number + 1) * step][self.rank :: self.world_size]


class OrderedBatches(Sampler[NDArray[np.int64]]):
    """Evaluation order: slices as stored, the last batch smaller."""

    def __init__(self, indices: NDArray[np.int64], batch_size: int) -> None:
        self.batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return iter(self.batches)


class SliceData(pl.LightningDataModule):
    """A data set, prepared, split and dealt out as batches of slices.

    Args:
        layout: how the data set lies on disk.
        target: the name of what is segmented, one of ``layout.targets``.
        preparation: how volumes become slices.
        split: which patients train, validate and test.
        fold: the fold of ``split``, where it has folds.
        seed: of the order of the training batches.
        batch_size: slices a step and device.
        stores_dir: where prepared data are kept.
        skip_bad_cases: go on without the cases that cannot be read.
        workers: processes that prepare; None: one a core.
        name: what the store is called on disk.
        distance_maps: keep distance maps beside the store and give them with each training batch, for losses that would
            compute them anew in every step; half precision, up to one part in two thousand off.
    """

    def __init__(
        self,
        layout: Layout,
        target: str,
        preparation: Preparation,
        split: Splitter,
        fold: int | None,
        seed: int,
        batch_size: int,
        stores_dir: str,
        skip_bad_cases: bool = False,
        workers: int | None = None,
        name: str = "dataset",
        distance_maps: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"dataset.batch_size is at least 1; got {batch_size}")
        self.layout, self.target_name, self.preparation, self.splitter = layout, target, preparation, split
        self.fold, self.seed, self.batch_size = fold, seed, batch_size
        self.stores_dir, self.skip_bad_cases, self.workers, self.store_name = Path(stores_dir), skip_bad_cases, workers, name
        self.distance_maps = distance_maps

    @cached_property
    def plan(self) -> StorePlan:
        """What the store will hold; lists and digests the input files."""
        return plan_store(self.store_name, self.layout, self.target_name, self.preparation, self.stores_dir)

    @cached_property
    def store(self) -> SliceStore:
        """The prepared data, built first where they are missing."""
        return open_store(self.plan, self.skip_bad_cases, self.workers)

    @cached_property
    def division(self) -> Split:
        """The patients of each part."""
        return divide(self.store, self.splitter, self.fold)

    @property
    def target(self) -> Target:
        """What is segmented."""
        return self.store.target

    def part(self, name: str) -> NDArray[np.int64]:
        """Slice numbers of ``train``, ``val`` or ``test``."""
        return self.store.slices_of(set(getattr(self.division, name)))

    def _loader(self, sampler: Sampler[NDArray[np.int64]], evaluation: bool) -> DataLoader[Batch]:
        pin = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        wanted = self.distance_maps and not evaluation
        distances = ensure_distance_maps(self.store, self.workers or os.cpu_count() or 1) if wanted else None
        return DataLoader(SliceBatches(self.store, evaluation, distances), sampler=sampler, batch_size=None, pin_memory=pin)

    @property
    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(ShuffledBatches(self.part("train"), self.batch_size, self.seed, *self._rank), evaluation=False)

    def _in_order(self, name: str) -> DataLoader[Batch]:
        rank, world_size = self._rank
        indices = self.part(name)
        _, number = np.unique(self.store.case_of_slice[indices], return_inverse=True)
        # with more ranks than cases the idle ones repeat a case: every rank must have a batch, and repeated slices count once
        own = indices[number % world_size == rank % (number.max() + 1)]
        return self._loader(OrderedBatches(own, self.batch_size), evaluation=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._in_order("test")
