"""Which slices an epoch shows, in which order; and which are left out for good.

A :class:`Sampling` is a rule; :class:`SampledBatches` deals what it draws out to epochs, batches and ranks. All follows from
the indices, seed and epoch alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from calf.data.splits import PARTS

Indices = NDArray[np.int64]
MODES = ("image", "patient")
BALANCES = ("target", "class")


class Sampling(Protocol):
    """A rule by which the batches of an epoch are drawn."""

    def epoch(self, areas: NDArray[np.int32], batch_size: int, ranks: int, rng: np.random.Generator) -> list[Indices]:
        """The batches of one epoch, as places in ``areas`` (N, names), the slices' foreground: one array a step.

        Rank r takes every ``ranks``-th place from the r-th on. The number of steps depends on N alone.
        """


def num_steps(slices: int, batch_size: int, ranks: int) -> int:
    """Steps of an epoch, the same for every rule: as many whole global batches as there are slices for, at least one."""
    return max(1, slices // (batch_size * ranks))


@dataclass(frozen=True)
class Shuffled:
    """Every slice once, in random order.

    The last, smaller batch is left out (batch statistics of one slice are undefined), unless it is the only one.
    """

    def epoch(self, areas: NDArray[np.int32], batch_size: int, ranks: int, rng: np.random.Generator) -> list[Indices]:
        order, step = rng.permutation(len(areas)), batch_size * ranks
        return [order[number * step : (number + 1) * step] for number in range(num_steps(len(areas), batch_size, ranks))]


@dataclass(frozen=True)
class Balanced:
    """Every batch shows equally many slices of each kind, up to one; where a kind gets one more, they take turns.

    Kinds: ``by=target``, slices with and slices without anything of the target; ``by=class``, the slices that show each name of
    the target, and those that show none, where there are any; a slice that shows several names is of several kinds. A batch
    with fewer slices than kinds shows the kinds in turn. An epoch has as many steps as one of :class:`Shuffled`; each kind is
    drawn in random order without repetition until it is used up, then anew. So a rare kind is seen often and, in one epoch, not
    all of a frequent one.
    """

    by: str = "target"

    def __post_init__(self) -> None:
        if self.by not in BALANCES:
            raise ValueError(f"sampling.by is one of {', '.join(BALANCES)}; got {self.by!r}")

    def epoch(self, areas: NDArray[np.int32], batch_size: int, ranks: int, rng: np.random.Generator) -> list[Indices]:
        kinds = [_Endless(places, rng) for places in self._kinds(areas > 0)]
        batches, step = [], batch_size * ranks
        for number in range(num_steps(len(areas), batch_size, ranks)):
            numbers = np.full(len(kinds), step // len(kinds))
            numbers[(np.arange(step % len(kinds)) + number * (step % len(kinds))) % len(kinds)] += 1
            batches.append(np.concatenate([kind.draw(count) for kind, count in zip(kinds, numbers.tolist(), strict=True)]))
        return batches

    def _kinds(self, shown: NDArray[np.bool_]) -> list[Indices]:
        without = np.flatnonzero(~shown.any(axis=1))
        if self.by == "class":
            each = [np.flatnonzero(column) for column in shown.T]
            return _not_empty(each, "some class of the target") + ([without] if len(without) else [])
        return _not_empty([np.flatnonzero(shown.any(axis=1)), without], "the target, or none is without it")


@dataclass(frozen=True)
class Oversampled:
    """At least a share of each batch shows the target; the rest is drawn from all slices.

    nnU-Net (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z) has a share of 0.33 and rounds as here: of B slices
    a rank, ``B - round(B (1 - share))`` show the target for certain. An epoch has as many steps as one of :class:`Shuffled`; both
    the slices with target and all slices are drawn in random order without repetition until they are used up, then anew.
    """

    share: float = 0.33

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"sampling.share is above 0 and at most 1; got {self.share}")

    def epoch(self, areas: NDArray[np.int32], batch_size: int, ranks: int, rng: np.random.Generator) -> list[Indices]:
        (shown,) = _not_empty([np.flatnonzero((areas > 0).any(axis=1))], "the target")
        certain, rest = _Endless(shown, rng), _Endless(np.arange(len(areas)), rng)
        number = batch_size - round(batch_size * (1 - self.share))
        return [
            # dealt out by turns, so that each rank gets its share of both
            np.concatenate([certain.draw(number * ranks), rest.draw((batch_size - number) * ranks)])
            for _ in range(num_steps(len(areas), batch_size, ranks))
        ]


class _Endless:
    """Places in random order without repetition, in a new order each time they are used up."""

    def __init__(self, places: Indices, rng: np.random.Generator) -> None:
        self.places, self.rng = places, rng
        self.left = rng.permutation(places)

    def draw(self, number: int) -> Indices:
        while len(self.left) < number:
            self.left = np.concatenate([self.left, self.rng.permutation(self.places)])
        drawn, self.left = self.left[:number], self.left[number:]
        return drawn


def _not_empty(kinds: list[Indices], what: str) -> list[Indices]:
    if any(len(places) == 0 for places in kinds):
        raise ValueError(f"no training slice shows {what}: there is nothing to choose from. Take dataset/sampling=shuffled")
    return kinds


class SampledBatches(Sampler[Indices]):
    """Training batches of one rank, arrays of slice numbers: what ``sampling`` draws for seed and epoch.

    Args:
        sampling: the rule.
        indices: the slices to draw from.
        areas: their foreground, (N, names).
        batch_size: slices a step and rank.
        seed: with the epoch, of all that is random.
        rank: of this process,
        world_size: of so many.
    """

    def __init__(
        self,
        sampling: Sampling,
        indices: Indices,
        areas: NDArray[np.int32],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sampling, self.indices, self.areas = sampling, indices, areas
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return num_steps(len(self.indices), self.batch_size, self.world_size)

    def __iter__(self) -> Iterator[Indices]:
        rng = np.random.default_rng([self.seed, self.epoch])
        for places in self.sampling.epoch(self.areas, self.batch_size, self.world_size, rng):
            yield self.indices[places[self.rank :: self.world_size]]


@dataclass(frozen=True)
class RatioFilter:
    """Leaves slices out so that a given share of the rest shows the target: the CALF authors' data set filtering.

    Args:
        ratio: share of slices with target, above 0 and at most 1; null: whatever it is. As many slices as possible are kept: all
            with or all without target stay, and of the others as many, chosen at random, as fit; the share is met up to the
            rounding of one slice. https://arxiv.org/abs/2504.04458 has 0.1, 0.25, 0.6, 0.85 and the unfiltered 0.41.
        mode: ``image``, all slices; ``patient``, one slice of each patient, chosen at random, before the ratio.
        parts: what is filtered. Cases of a filtered val or test part are not whole: only the ``paper`` protocol scores them.
        seed: of what is random.
    """

    ratio: float | None = None
    mode: str = "image"
    parts: Sequence[str] = ("train",)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"filter.ratio is a share above 0 and at most 1, or null; got {self.ratio}")
        if self.mode not in MODES:
            raise ValueError(f"filter.mode is one of {', '.join(MODES)}; got {self.mode!r}")
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise ValueError(f"filter.parts are of {', '.join(PARTS)}; got {', '.join(unknown)}")

    @property
    def filters(self) -> bool:
        """Whether anything is left out."""
        return bool(self.parts) and (self.ratio is not None or self.mode == "patient")

    def keep(self, indices: Indices, shown: NDArray[np.bool_], patients: NDArray[np.object_], part: str) -> Indices:
        """Those of ``indices`` that stay, in order.

        Args:
            indices: slices of one part.
            shown: (N,), whether each shows the target.
            patients: (N,), whose it is.
            part: train, val or test.

        Raises:
            ValueError: no slice that shows the target is left.
        """
        if part not in self.parts or not self.filters:
            return indices
        rng = np.random.default_rng([self.seed, PARTS.index(part)])
        places = np.arange(len(indices)) if self.mode == "image" else _one_each(patients, rng)
        if self.ratio is not None:
            places = _at_ratio(places, shown[places], self.ratio, rng)
        if not shown[places].any():
            raise ValueError(
                f"filter.ratio={self.ratio} with mode={self.mode} leaves no slice with target in the {part} part, where "
                f"{int(shown.sum())} of {len(indices)} show it. Take another ratio, or mode=image."
            )
        return indices[np.sort(places)]


def _one_each(patients: NDArray[np.object_], rng: np.random.Generator) -> Indices:
    """A random place of each patient."""
    order = rng.permutation(len(patients))
    _, first = np.unique(patients[order].astype(str), return_index=True)
    return order[first]


def _at_ratio(places: Indices, shown: NDArray[np.bool_], ratio: float, rng: np.random.Generator) -> Indices:
    num_with, num_without = numbers_at_ratio(int(shown.sum()), int((~shown).sum()), ratio)
    kept = [rng.permutation(places[shown])[:num_with], rng.permutation(places[~shown])[:num_without]]
    return np.concatenate(kept)


def numbers_at_ratio(num_with: int, num_without: int, ratio: float) -> tuple[int, int]:
    """How many with and without target to keep: ``n = min(P / r, N / (1 - r))`` in all, one kind whole, the other rounded.

    >>> numbers_at_ratio(41, 59, 0.1), numbers_at_ratio(41, 59, 0.85), numbers_at_ratio(41, 59, 0.41)
    ((7, 59), (41, 7), (41, 59))
    """
    if ratio == 1:
        return num_with, 0
    wanted = num_without * ratio / (1 - ratio)  # with target, for all that are without
    if wanted <= num_with:
        return round(wanted), num_without
    return num_with, min(num_without, round(num_with * (1 - ratio) / ratio))
