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

# of 1/255, as headers hold it in float32: rounded up, 255 would read as more than 1
_SHARE = float(np.nextafter(np.float32(1 / 255), np.float32(0)))


class Restored(NamedTuple):
    """A predicted case in the voxels of its own files, axes in RAS order.

    Attributes:
        number: which case of the store.
        mask: uint8 (X, Y, Z), encoded as the store's masks.
        probabilities: of the foreground, float16 (names, X, Y, Z); None where none were given. Of a resampled store they are
            interpolated linearly, and the mask is not made from them: at its border they may lie on the other side of 1/2.
            Calibration is that of the interpolated ones.
    """

    number: int
    mask: NDArray[np.uint8]
    probabilities: NDArray[np.float16] | None


class CaseCollector:
    """Collects the predicted slices of cases, in any order, and gives each case as a volume as soon as it is complete."""

    def __init__(self, store: Samples) -> None:
        self.store = store
        self.masks: dict[int, NDArray[np.uint8]] = {}
        self.probabilities: dict[int, NDArray[np.float16]] = {}
        self.missing: dict[int, int] = {}

    def add(
        self, indices: NDArray[np.int64], masks: NDArray[np.uint8], probabilities: NDArray[np.float16] | None = None
    ) -> Iterator[Restored]:
        """Add slices by their numbers; yields the cases that they complete.

        Args:
            indices: (B,).
            masks: (B, *size).
            probabilities: (B, names, *size), of every slice or of none.
        """
        for row, index in enumerate(indices.tolist()):
            number = int(self.store.case_of_slice[index])
            case = self.store.cases[number]
            if number not in self.masks:
                self.masks[number] = np.zeros((case.grid[0], *masks.shape[1:]), np.uint8)
                self.missing[number] = case.grid[0]
                if probabilities is not None:
                    shape = (probabilities.shape[1], case.grid[0], *masks.shape[1:])
                    self.probabilities[number] = np.zeros(shape, probabilities.dtype)
            self.masks[number][index - case.first] = masks[row]
            if probabilities is not None:
                self.probabilities[number][:, index - case.first] = probabilities[row]
            self.missing[number] -= 1
            if not self.missing[number]:
                del self.missing[number]
                yield self._restored(number)

    def _restored(self, number: int) -> Restored:
        case = self.store.cases[number]
        mask, channels = case.restore(self.masks.pop(number)), self.probabilities.pop(number, None)
        if channels is None:
            return Restored(number, mask, None)
        return Restored(number, mask, np.stack([case.restore(channel, masks=False) for channel in channels]))


def write_probabilities(
    path: Path, probabilities: NDArray[np.floating], geometry: Geometry, foreground: NDArray[np.bool_] | None = None
) -> None:
    """Write restored probabilities of one name (X, Y, Z) like a mask, as uint8; the header's slope makes them shares of 1.

    ``foreground``: the predicted mask, where a probability above 1/2 is what made it. Then 128 and above are exactly it, also
    where rounding, or resampling of both, would have parted them.
    """
    steps = np.rint(probabilities.astype(np.float32) * 255)
    if foreground is not None:
        steps = np.where(foreground, np.maximum(steps, 128), np.minimum(steps, 127))
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.array(geometry.affine)
    write_volume(path, to_original(steps.astype(np.uint8), affine), affine, slope=_SHARE)


def write_mask(path: Path, mask: NDArray[np.uint8], geometry: Geometry) -> None:
    """Write a restored mask (X, Y, Z), in RAS order, in the axes and with the affine of the case's own files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.array(geometry.affine)
    write_volume(path, to_original(mask, affine), affine)
