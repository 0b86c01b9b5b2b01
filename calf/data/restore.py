"""From stored slices back to the patient: whole volumes in the voxels of the case's own files.

The values stay those of the store: a single region is 0 or 1, exclusive classes are 1 ... n in the order of the target's
names, overlapping regions a bit set (bit 0 the first name).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calf.data.geometry import Geometry
from calf.data.views import Samples
from calf.data.volumes import to_original, write_volume


class CaseCollector:
    """Collects the predicted slices of cases, in any order, and gives each case as a volume as soon as it is complete."""

    def __init__(self, store: Samples) -> None:
        self.store = store
        self.masks: dict[int, NDArray[np.uint8]] = {}
        self.missing: dict[int, int] = {}

    def add(self, indices: NDArray[np.int64], masks: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Add slices (B, *size) by their numbers; yields numbers of cases and their masks (X, Y, Z) in RAS order."""
        for index, mask in zip(indices.tolist(), masks, strict=True):
            number = int(self.store.case_of_slice[index])
            case = self.store.cases[number]
            if number not in self.masks:
                self.masks[number] = np.zeros((case.grid[0], *mask.shape), np.uint8)
                self.missing[number] = case.grid[0]
            self.masks[number][index - case.first] = mask
            self.missing[number] -= 1
            if not self.missing[number]:
                del self.missing[number]
                yield number, case.restore(self.masks.pop(number))


def write_mask(path: Path, mask: NDArray[np.uint8], geometry: Geometry) -> None:
    """Write a restored mask (X, Y, Z), in RAS order, in the axes and with the affine of the case's own files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.array(geometry.affine)
    write_volume(path, to_original(mask, affine), affine)
