"""Distance maps of what training sees, read by the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calf.data.distances import ensure_distance_maps
from calf.data.joined import JoinedStore
from calf.data.store import SliceStore
from calf.data.views import ModalitySamples, Samples


class DistanceMaps:
    """Distance maps of samples, float16 ``(samples, names, rows, columns)``, read by the batch: ``maps[indices]``.

    They are kept beside the stores behind the samples: modalities of a slice share one, joined data sets bring their own.
    """

    def __init__(self, samples: Samples, workers: int) -> None:
        self.samples = samples
        self._parts: list[Any]
        if isinstance(samples, JoinedStore):
            self._parts = [DistanceMaps(part, workers) for part in samples.parts.values()]
            self.shape: tuple[int, ...] = (len(samples), *self._parts[0].shape[1:])
        elif isinstance(samples, ModalitySamples):
            self._parts = [DistanceMaps(samples.store, workers)]
            self.shape = (len(samples), *self._parts[0].shape[1:])
        else:
            assert isinstance(samples, SliceStore)
            self._parts = [ensure_distance_maps(samples, workers)]
            self.shape = self._parts[0].shape

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.float16]:
        if isinstance(self.samples, ModalitySamples):
            return self._parts[0][self.samples.slice_of[indices]]
        if isinstance(self.samples, SliceStore):
            return np.asarray(self._parts[0][indices])
        batch = np.empty((len(indices), *self.shape[1:]), np.float16)
        begin = 0
        for part in self._parts:
            own = (indices >= begin) & (indices < begin + part.shape[0])
            batch[own] = part[indices[own] - begin]
            begin += part.shape[0]
        return batch
