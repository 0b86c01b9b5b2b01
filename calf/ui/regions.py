"""Masks of a volume without their empty surroundings: lesions are small, and a dozen runs are looked at together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Cropped:
    """A uint8 volume of this ``shape`` (X, Y, Z), of which ``values`` are what lies in ``box``; elsewhere it is 0."""

    shape: tuple[int, int, int]
    box: Box
    values: NDArray[np.uint8]

    @classmethod
    def of(cls, volume: NDArray[np.uint8]) -> Cropped:
        """The least box around what is not 0; an empty one where all is."""
        x, y, z = volume.shape
        flat = np.any(volume, axis=2)
        ends = [_ends(np.any(flat, axis=1)), _ends(np.any(flat, axis=0)), _ends(np.any(volume, axis=(0, 1)))]
        box = slice(*ends[0]), slice(*ends[1]), slice(*ends[2])
        return cls((x, y, z), box, volume[box].copy(order="K"))

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)

    def within(self, box: Box) -> NDArray[np.uint8]:
        """The part of the volume that lies in ``box``."""
        part = np.zeros([own.stop - own.start for own in box], np.uint8, order="F")
        common = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, self.box, strict=True)]
        if all(own.start < own.stop for own in common):
            part[_shifted(common, box)] = self.values[_shifted(common, self.box)]
        return part

    def plane(self, axis: int, index: int) -> NDArray[np.uint8]:
        """One slice across ``axis``, 2-D."""
        box = [slice(0, length) for length in self.shape]
        box[axis] = slice(index, index + 1)
        return np.squeeze(self.within((box[0], box[1], box[2])), axis)


@dataclass(frozen=True, eq=False)
class Region:
    """The voxels whose value in ``volume`` is among those for which ``chosen``, bool (256,), is true; never that of 0.

    ``key`` tells it from any other region.
    """

    volume: Cropped
    chosen: Mask
    key: Hashable

    @property
    def box(self) -> Box:
        """Outside of it there is none of its voxels."""
        return self.volume.box

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.volume.shape

    def within(self, box: Box) -> Mask:
        """Bool, the part of the mask that lies in ``box``."""
        return self.chosen[self.volume.within(box)]

    def plane(self, axis: int, index: int) -> Mask:
        """Bool, one slice across ``axis``."""
        return self.chosen[self.volume.plane(axis, index)]

    def whole(self) -> Mask:
        """Bool (X, Y, Z)."""
        x, y, z = self.shape
        return self.within((slice(0, x), slice(0, y), slice(0, z)))

    def count(self) -> int:
        """The number of its voxels."""
        return int(np.count_nonzero(self.chosen[self.volume.values]))


def values(*numbers: int) -> Mask:
    """``chosen`` of a region that is made of these values; 0 is never one."""
    chosen = np.zeros(256, bool)
    chosen[list(numbers)] = True
    chosen[0] = False
    return chosen


def common_box(regions: Sequence[Region]) -> Box:
    """The least box that holds those of all regions; an empty one where all are empty."""
    ends: list[Any] = []
    for axis in range(3):
        own = [region.box[axis] for region in regions if region.volume.values.size]
        ends.append(slice(min(box.start for box in own), max(box.stop for box in own)) if own else slice(0, 0))
    return ends[0], ends[1], ends[2]


def _ends(found: Mask) -> tuple[int, int]:
    places = np.flatnonzero(found)
    return (int(places[0]), int(places[-1]) + 1) if places.size else (0, 0)


def _shifted(box: Sequence[slice], origin: Sequence[slice]) -> tuple[slice, ...]:
    return tuple(slice(own.start - at.start, own.stop - at.start) for own, at in zip(box, origin, strict=True))
