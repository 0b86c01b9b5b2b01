"""Patches of volumes for networks in 3-D: where they lie, drawn by epoch, seed and rank, and whole uint8 batches of them.

A case is the volume of its slices without the padding of their planes: (slices, rows, columns), ``case.grid``, as long as slices
are padded, not resized. A patch that is larger than a case lies centred over it; what sticks out is 0 and is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from calf.data.sampling import Oversampled, Sampling, Shuffled, num_steps
from calf.data.store import StoredCase, channels_of
from calf.data.views import Samples

Indices = NDArray[np.int64]
Patch = tuple[int, int, int]


def checked_patch(patch: Sequence[int]) -> Patch:
    """``patch`` as a tuple; a ValueError unless it is three whole numbers of at least 1."""
    if len(patch) != 3 or not all(isinstance(length, int) and length >= 1 for length in patch):
        raise ValueError(f"dataset.patch is [slices, rows, columns], whole numbers of at least 1, or null; got {list(patch)}")
    slices, rows, columns = patch
    return slices, rows, columns


def volume_shape(case: StoredCase) -> Patch:
    """Slices, rows and columns of the case as it is stored, without padding."""
    top, bottom, left, right = case.box
    return case.grid[0], bottom - top, right - left


class PatchPlaces(Sampler[Indices]):
    """Training batches of one rank: int64 (B, 4), each row a case and the first slice, row and column of a patch of its volume.

    An epoch has as many patches of each case as cover its volume once, ``prod(ceil(volume / patch))``, each at a place drawn
    anew, all places being equally likely; of fewer patches than one batch of all ranks needs, each stands for several.
    The last, smaller batch is left out. A place follows from seed, epoch and the patch's number in the epoch alone.

    Args:
        store: where the masks are read.
        cases: numbers of the cases to draw from.
        patch: slices, rows and columns.
        sampling: :class:`~calf.data.sampling.Shuffled`, or :class:`~calf.data.sampling.Oversampled`: of B patches a rank,
            ``B - round(B (1 - share))`` are centred, as far as the volume's border lets them, on a voxel of a name of the target
            that the case has, names being equally likely and so are the voxels of one, as in nnU-Net (Isensee et al. 2021,
            https://doi.org/10.1038/s41592-020-01008-z); the others lie anywhere.
        batch_size: patches a step and rank.
        seed: with the epoch, of all that is random.
        rank: of this process,
        world_size: of so many.

    Raises:
        ValueError: another sampling, or slices of a case that nobody annotated.
    """

    def __init__(
        self,
        store: Samples,
        cases: Sequence[int],
        patch: Patch,
        sampling: Sampling,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not isinstance(sampling, Shuffled | Oversampled):
            raise ValueError(
                f"patches are drawn by dataset/sampling=shuffled or oversampled; got {type(sampling).__name__.lower()}"
            )
        if partly := [store.cases[n].id for n in cases if not store.labelled[store.cases[n].slices].all()]:
            raise ValueError(
                f"of {len(partly)} training cases ({', '.join(partly[:5])} ...) only some slices were annotated: what lies "
                "between them is unknown, so nothing can be learnt from their volumes. Train on slices, with dataset.patch=null"
            )
        self.store, self.patch, self.sampling, self.seed = store, patch, sampling, seed
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        shapes = np.array([volume_shape(store.cases[n]) for n in cases], np.int64)
        number = np.ceil(shapes / patch).astype(np.int64).prod(axis=1)
        number *= -(-batch_size * world_size // int(number.sum()))
        self.entries: Indices = np.repeat(cases, number)
        areas = np.array([store.areas[store.cases[n].slices].sum(axis=0, dtype=np.int64) for n in cases])
        share = (np.minimum(shapes, patch) / shapes).prod(axis=1, keepdims=True)
        # (N, names), for each patch of an epoch: its case's foreground, times the part of the volume that a patch holds
        self.areas: NDArray[np.float64] = np.repeat(areas * share, number, axis=0)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return num_steps(len(self.entries), self.batch_size, self.world_size)

    def __iter__(self) -> Iterator[Indices]:
        centred = 0
        if isinstance(self.sampling, Oversampled):
            centred = self.batch_size - round(self.batch_size * (1 - self.sampling.share))
        step, rng = self.batch_size * self.world_size, np.random.default_rng([self.seed, self.epoch])
        batches = self.sampling.epoch((self.areas > 0).astype(np.int32), self.batch_size, self.world_size, rng)
        for batch, drawn in enumerate(batches):
            rows = []
            for row, case in enumerate(self.entries[drawn[self.rank :: self.world_size]].tolist()):
                # 1 and up: a further 0 would seed as if it were not there
                number = 1 + batch * step + row * self.world_size + self.rank
                rows.append(self._place(case, row < centred, np.random.default_rng([self.seed, self.epoch, number])))
            yield np.array(rows, np.int64)

    def _place(self, number: int, centred: bool, rng: np.random.Generator) -> list[int]:
        case = self.store.cases[number]
        around = self._foreground_voxel(case, rng) if centred else None
        place = [number]
        for axis, (length, side) in enumerate(zip(volume_shape(case), self.patch, strict=True)):
            if length <= side:
                place.append(-((side - length) // 2))
            elif around is None:
                place.append(int(rng.integers(length - side + 1)))
            else:
                place.append(min(max(around[axis] - side // 2, 0), length - side))
        return place

    def _foreground_voxel(self, case: StoredCase, rng: np.random.Generator) -> tuple[int, int, int]:
        """Slice, row and column of a voxel of a name of the target; only one slice is read."""
        areas = self.store.areas[case.slices]
        name = int(rng.choice(np.flatnonzero(areas.any(axis=0))))
        up_to = areas[:, name].cumsum(dtype=np.int64)
        voxel = int(rng.integers(up_to[-1]))
        index = int(np.searchsorted(up_to, voxel, side="right"))
        mask = self.store.read(np.array([case.first + index]))[0, len(self.store.modalities)]
        within = voxel - int(up_to[index]) + int(areas[index, name])
        row, column = divmod(int(np.flatnonzero(channels_of(mask, self.store.target)[name])[within]), mask.shape[1])
        return index, row - case.box[0], column - case.box[2]


class Patches(Dataset[dict[str, Tensor]]):
    """Indexed by places as :class:`PatchPlaces` gives them, gives the batch at once; only the slices it needs are read.

    ``image`` uint8 (B, C, D, H, W); ``mask`` uint8 (B, D, H, W), encoded as the store's target says; ``box`` int32 (B, 6), first
    and end slice, row and column of what is volume: the rest is 0, which a loss sees as background and no score counts.
    """

    def __init__(self, store: Samples, patch: Patch) -> None:
        self.store, self.patch = store, patch

    def __getitem__(self, places: Indices) -> dict[str, Tensor]:
        channels = len(self.store.modalities)
        planes = np.zeros((len(places), channels + 1, *self.patch), np.uint8)
        boxes = np.empty((len(places), 3, 2), np.int32)
        for (number, *first), patch, box in zip(places.tolist(), planes, boxes, strict=True):
            case = self.store.cases[number]
            begin = np.maximum(first, 0)
            end = np.minimum(np.add(first, self.patch), volume_shape(case))
            box[:] = np.stack([begin, end], axis=1) - np.array(first)[:, None]
            slices = self.store.read(case.first + np.arange(begin[0], end[0]))
            rows, columns = (
                slice(*(edge + np.array([begin[axis], end[axis]]))) for axis, edge in ((1, case.box[0]), (2, case.box[2]))
            )
            inside = tuple(slice(*edges) for edges in box.tolist())
            patch[(slice(None), *inside)] = slices[:, : channels + 1, rows, columns].swapaxes(0, 1)
        image, mask = torch.from_numpy(planes[:, :channels]), torch.from_numpy(planes[:, channels])
        return {"image": image, "mask": mask, "box": torch.from_numpy(boxes.reshape(-1, 6))}
