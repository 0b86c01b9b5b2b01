"""Batches of slices for Lightning: whole uint8 arrays from the store, dealt out by epoch, seed and rank."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
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
from calf.data.joined import JoinedStore
from calf.data.joined_plan import JoinedPlan, Part
from calf.data.maps import DistanceMaps
from calf.data.patches import Patches, PatchPlaces, checked_patch
from calf.data.prepare import Preparation
from calf.data.sampling import RatioFilter, SampledBatches, Sampling, Shuffled
from calf.data.splits import Split, Splitter, divide
from calf.data.views import Samples, view_of

Batch = dict[str, Tensor]


class SliceBatches(Dataset[Batch]):
    """Indexed by an array of slice numbers, gives the batch at once.

    ``image`` uint8 (B, C, H, W); ``mask`` uint8 (B, H, W), encoded as the store's target says; ``box`` int32 (B, 4), where the
    slice lies in the plane: the rest is padding, which a loss sees as background and no score counts; ``slice`` int64 (B,).

    ``distance`` float16 (B, names, H, W), the distance maps of the masks, where the data module was told to provide them.

    In evaluation also ``reference``, like ``mask``, and ``labelled`` bool (B,), whether somebody annotated the slice.

    Args:
        store: where slices are read.
        evaluation: see above.
        distances: of all slices, see ``calf.data.distances``.
        neighbours: so many slices on either side give their channels, too, from the lowest to the highest; beyond the first and
            the last slice of a case these stand in.
    """

    def __init__(
        self, store: Samples, evaluation: bool, distances: DistanceMaps | NDArray[np.float16] | None = None, neighbours: int = 0
    ) -> None:
        self.store, self.evaluation, self.distances, self.neighbours = store, evaluation, distances, neighbours
        cases = self.store.cases
        self._first = np.array([case.first for case in cases], np.int64)
        self._last = np.array([case.first + case.grid[0] - 1 for case in cases], np.int64)

    def __getitem__(self, indices: NDArray[np.int64]) -> Batch:
        channels = len(self.store.modalities)
        planes = torch.from_numpy(self.store.read(indices))
        image = torch.cat(self._around(indices, planes[:, :channels]), dim=1) if self.neighbours else planes[:, :channels]
        batch = {"image": image, "mask": planes[:, channels], "slice": torch.from_numpy(indices)}
        batch["box"] = torch.from_numpy(self.store.boxes[indices])
        if self.distances is not None:
            batch["distance"] = torch.from_numpy(np.asarray(self.distances[indices]))
        if self.evaluation:
            batch["reference"] = planes[:, -1]
            batch["labelled"] = torch.from_numpy(self.store.labelled[indices])
        return batch

    def _around(self, indices: NDArray[np.int64], own: Tensor) -> list[Tensor]:
        """The channels of the slices from ``neighbours`` below to as many above."""
        number = self.store.case_of_slice[indices]
        images = []
        for step in range(-self.neighbours, self.neighbours + 1):
            beside = np.clip(indices + step, self._first[number], self._last[number])
            images.append(own if step == 0 else torch.from_numpy(self.store.read(beside)[:, : own.shape[1]]))
        return images


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
        neighbours: how many slices on either side a network sees beside each slice (2.5-D).
        sampling: how the slices of an epoch are drawn; None: all of them, in random order.
        filter: which slices are left out for good; None: none.
        samples: ``slices``, or ``modalities``: every modality of a slice is a sample of its own.
        duplicates: what is done where two patients have the same images, see ``calf.data.leakage.groups_within``.
        patch: [slices, rows, columns] of the patches that a network in 3-D is trained on (``calf.data.patches``); a batch of
            validation and test is then all slices of a case. None: slices.
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
        neighbours: int = 0,
        sampling: Sampling | None = None,
        filter: RatioFilter | None = None,
        samples: str = "slices",
        duplicates: str = "group",
        patch: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"dataset.batch_size is at least 1; got {batch_size}")
        if neighbours < 0:
            raise ValueError(f"dataset.neighbours is at least 0; got {neighbours}")
        self.layout, self.target_name, self.preparation, self.splitter = layout, target, preparation, split
        self.fold, self.seed, self.batch_size = fold, seed, batch_size
        self.stores_dir, self.skip_bad_cases, self.workers, self.store_name = Path(stores_dir), skip_bad_cases, workers, name
        self.distance_maps, self.neighbours = distance_maps, neighbours
        self.sampling, self.filter = sampling or Shuffled(), filter or RatioFilter()
        self.samples, self.duplicates = samples, duplicates
        self.patch = None if patch is None else checked_patch(patch)
        if patch is not None and (neighbours or distance_maps or self.filter.filters):
            raise ValueError("dataset.neighbours, distance_maps and filter are of slices: leave them out, or dataset.patch")

    @cached_property
    def plan(self) -> StorePlan:
        """What the store will hold; lists and digests the input files."""
        return plan_store(self.store_name, self.layout, self.target_name, self.preparation, self.stores_dir)

    @cached_property
    def store(self) -> Samples:
        """The prepared data, built first where they are missing."""
        return view_of(open_store(self.plan, self.skip_bad_cases, self.workers), self.samples)

    @cached_property
    def division(self) -> Split:
        """The patients of each part."""
        return divide(self.store, self.splitter, self.fold, self.duplicates)

    @property
    def target(self) -> Target:
        """What is segmented."""
        return self.store.target

    @property
    def in_channels(self) -> int:
        """Channels of a batch's images."""
        return len(self.store.modalities) * (2 * self.neighbours + 1)

    def part(self, name: str) -> NDArray[np.int64]:
        """Slice numbers of ``train``, ``val`` or ``test``; nobody learns from slices that nobody annotated."""
        indices = self.store.slices_of(set(getattr(self.division, name)))
        if name == "train" or (self.filter.filters and name in self.filter.parts):
            indices = indices[self.store.labelled[indices]]
        return self._filtered(indices, name)

    def _filtered(self, indices: NDArray[np.int64], name: str) -> NDArray[np.int64]:
        patients = np.array([case.patient for case in self.store.cases], object)[self.store.case_of_slice[indices]]
        shown: NDArray[np.bool_] = np.any(self.store.areas[indices] > 0, axis=1)
        return self.filter.keep(indices, shown, patients, name)

    @property
    def kept(self) -> dict[str, dict[str, int]]:
        """Of each part, how many annotated slices there are, how many the filter kept, and how many of these show the target."""
        found = {}
        for name in ("train", "val", "test"):
            listed = self.store.slices_of(set(getattr(self.division, name)))
            listed, kept = (indices[self.store.labelled[indices]] for indices in (listed, self.part(name)))
            shown = int((self.store.areas[kept] > 0).any(axis=1).sum())
            found[name] = {"slices": len(listed), "kept": len(kept), "with_target": shown}
        return found

    @property
    def train_areas(self) -> NDArray[np.int32] | NDArray[np.float64]:
        """Foreground of the training samples in pixels, (N, names): of each slice; or of patches, what is expected of each."""
        return self.store.areas[self.part("train")] if self.patch is None else self._places.areas

    @property
    def _places(self) -> PatchPlaces:
        assert self.patch is not None
        cases = np.unique(self.store.case_of_slice[self.store.slices_of(set(self.division.train))]).tolist()
        return PatchPlaces(self.store, cases, self.patch, self.sampling, self.batch_size, self.seed, *self._rank)

    def _loader(self, batches: Dataset[Batch], sampler: Iterable[NDArray[np.int64]]) -> DataLoader[Batch]:
        pin = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(batches, sampler=sampler, batch_size=None, pin_memory=pin)

    @property
    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def train_dataloader(self) -> DataLoader[Batch]:
        if self.patch is not None:
            return self._loader(Patches(self.store, self.patch), self._places)
        indices = self.part("train")
        sampler = SampledBatches(self.sampling, indices, self.store.areas[indices], self.batch_size, self.seed, *self._rank)
        distances = DistanceMaps(self.store, self.workers or os.cpu_count() or 1) if self.distance_maps else None
        return self._loader(SliceBatches(self.store, False, distances, self.neighbours), sampler)

    def _in_order(self, name: str) -> DataLoader[Batch]:
        rank, world_size = self._rank
        indices = self.part(name)
        _, number = np.unique(self.store.case_of_slice[indices], return_inverse=True)
        # with more ranks than cases the idle ones repeat a case: every rank must have a batch, and repeated slices count once
        own = indices[number % world_size == rank % (number.max() + 1)]
        whole = np.split(own, np.flatnonzero(np.diff(self.store.case_of_slice[own])) + 1)
        batches = OrderedBatches(own, self.batch_size) if self.patch is None else whole
        return self._loader(SliceBatches(self.store, evaluation=True, neighbours=self.neighbours), batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._in_order("test")


class JoinedData(SliceData):
    """Several data sets trained on together and tested apart.

    Args:
        parts: the data sets by name. Of their own options count those that say what the data are and how they are divided:
            layout, target, preparation, split, fold, samples and duplicates; for the others those below stand.
        train_on, test_on, duplicates: see :class:`calf.data.joined_plan.JoinedPlan`.
        seed, batch_size, skip_bad_cases, workers, distance_maps, neighbours, sampling, filter, patch: see :class:`SliceData`.
        name: nothing is called so on disk: each part has the store it has alone.
    """

    def __init__(
        self,
        parts: dict[str, SliceData],
        seed: int,
        batch_size: int,
        train_on: list[str] | None = None,
        test_on: list[str] | None = None,
        duplicates: str = "error",
        skip_bad_cases: bool = False,
        workers: int | None = None,
        name: str = "joined",
        distance_maps: bool = False,
        neighbours: int = 0,
        sampling: Sampling | None = None,
        filter: RatioFilter | None = None,
        patch: Sequence[int] | None = None,
    ) -> None:
        if not parts:
            raise ValueError("joined data have no parts: add them with +dataset@dataset.parts.<name>=<data set>")
        one = next(iter(parts.values()))  # stands in where a single data set has what several have each
        super().__init__(
            one.layout,
            one.target_name,
            one.preparation,
            one.splitter,
            one.fold,
            seed,
            batch_size,
            str(one.stores_dir),
            skip_bad_cases,
            workers,
            name,
            distance_maps,
            neighbours,
            sampling,
            filter,
            patch=patch,
        )
        self.parts, self.train_on, self.test_on, self.duplicates = parts, train_on, test_on, duplicates

    @cached_property
    def joined(self) -> JoinedPlan:
        """What the stores will hold."""
        plans = {}
        for name, data in self.parts.items():
            plan = plan_store(name, data.layout, data.target_name, data.preparation, data.stores_dir)
            plans[name] = Part(plan, data.splitter, data.fold, data.samples, data.duplicates)
        return JoinedPlan(plans, self.train_on, self.test_on, self.duplicates)

    @cached_property
    def store(self) -> Samples:
        """The prepared data of all parts, built first where they are missing."""
        return self.joined.open(self.skip_bad_cases, self.workers)

    @cached_property
    def division(self) -> Split:
        """The patients of each part of the split."""
        store = self.store
        assert isinstance(store, JoinedStore)
        return self.joined.divide(store)[0]
