"""An image as the explorer keeps it: half the size of float32, and any window can be laid over it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from calf.report.volumes import PERCENTILES

LEVELS = 2**16 - 1


@dataclass(frozen=True, eq=False)
class Scan:
    """Voxels (X, Y, Z) as ``lowest + step * values``, uint16: exact for whole numbers that span less than 65536."""

    values: NDArray[np.uint16]
    lowest: float
    step: float

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest value."""
        return self.lowest, self.lowest + self.step * int(self.values.max())

    @cached_property
    def window(self) -> tuple[float, float]:
        """What is shown black and white unless something else is asked for: ``PERCENTILES`` of the voxels that are not 0."""
        counts = np.bincount(self.values.ravel(order="K"), minlength=LEVELS + 1)
        zero = np.rint(-self.lowest / self.step) if self.step else 0
        if 0 <= zero <= LEVELS and counts.sum() > counts[int(zero)]:
            counts[int(zero)] = 0
        shares = counts.cumsum() / counts.sum() * 100
        low, high = (int(np.searchsorted(shares, share)) for share in PERCENTILES)
        return self.lowest + self.step * low, self.lowest + self.step * high

    def grey(self, plane: NDArray[np.uint16], window: tuple[float, float] | None = None) -> NDArray[np.uint8]:
        """A part of ``values`` as uint8, black at the lower end of the window and below, white at the upper and above."""
        low, high = window or self.window
        shades = (self.lowest + self.step * plane.astype(np.float64) - low) * (255 / max(high - low, 1e-12))
        return np.clip(shades, 0, 255).astype(np.uint8)


def quantised(values: NDArray[np.float32]) -> Scan:
    """Finite voxels (X, Y, Z) in 65536 steps between the least and the largest."""
    low, high = float(values.min()), float(values.max())
    whole = high - low <= LEVELS and bool((values == np.rint(values)).all())
    step = 1.0 if whole else (high - low) / LEVELS
    steps = (values - np.float32(low)) / np.float32(step) if step else np.zeros_like(values)
    return Scan(np.rint(steps).astype(np.uint16), low, step)
