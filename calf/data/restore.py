"""From stored slices back to the patient: whole volumes in the voxels of the case's own files.

The values stay those of the store: a single region is 0 or 1, exclusive classes are 1 ... n in the order of the target's
names, overlapping regions a bit set (bit 0 the first name).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calf.data.geometry import Geometry
from calf.data.views import Samples
from calf.data.volumes import to_original, write_volume

_SHARE = float(
    np.nextafter(np.float32(1 / 255), np.float32(0))
)  # headers hold float32; rounded up, 255 would read as more than 1


class Restored(NamedTuple):
    """A predicted case in the voxels of its own files, axes in RAS order.

    Attributes:
        number: which case of the store.
        mask: uint8 (X, Y, Z), encoded as the store's masks.
        probabilities: of the foreground, uint8 (names, X, Y, Z) with 255 for 1; None where none were given.
    """

    number: int
    mask: NDArray[np.uint8]
    probabilities: NDArray[np.uint8] | None


class CaseCollector:
    """Collects the predicted slices of cases, in any order, and gives each case as a volume as soon as it is complete."""

    def __init__(self, store: Samples) -> None:
        self.store = store
        self.slices: dict[int, NDArray[np.uint8]] = {}
        self.missing: dict[int, int] = {}

    def add(
        self, indices: NDArray[np.int64], masks: NDArray[np.uint8], probabilities: NDArray[np.uint8] | None = None
    ) -> Iterator[Restored]:
        """Add slices by their numbers; yields the cases that they complete.

        Args:
            indices: (B,).
            masks: (B, *size).
            probabilities: (B, names, *size), of every slice or of none.
        """
        planes = masks[:, None] if probabilities is None else np.concatenate([masks[:, None], probabilities], axis=1)
        for index, slice_planes in zip(indices.tolist(), planes, strict=True):
            number = int(self.store.case_of_slice[index])
            case = self.store.cases[number]
            if number not in self.slices:
                self.slices[number] = np.zeros((len(slice_planes), case.grid[0], *masks.shape[1:]), np.uint8)
                self.missing[number] = case.grid[0]
            self.slices[number][:, index - case.first] = slice_planes
            self.missing[number] -= 1
            if not self.missing[number]:
                del self.missing[number]
                mask, *channels = self.slices.pop(number)
                restored = [case.restore(channel, masks=False) for channel in channels]
                yield Restored(number, case.restore(mask), np.stack(restored) if restored else None)


def write_probabilities(path: Path, probabilities: NDArray[np.uint8], geometry: Geometry) -> None:
    """Write restored probabilities of one name (X, Y, Z) like a mask; the header's slope makes them shares of 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.array(geometry.affine)
    write_volume(path, to_original(probabilities, affine), affine, slope=_SHARE)


def write_mask(path: Path, mask: NDArray[np.uint8], geometry: Geometry) -> None:
    """Write a restored mask (X, Y, Z), in RAS order, in the axes and with the affine of the case's own files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.array(geometry.affine)
    write_volume(path, to_original(mask, affine), affine)
