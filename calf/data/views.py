"""What training sees of prepared data: a store as it is, or its modalities one by one; of several, see ``calf.data.joined``."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calf.data.cases import Target
from calf.data.store import SliceStore, StoredCase, slice_table_of, slices_of

SAMPLES = ("slices", "modalities")


class Samples(Protocol):
    """Numbered samples with masks, of cases, of patients; :class:`calf.data.store.SliceStore` says what each member means.

    The samples of a case are consecutive, as many as ``case.grid[0]``, from ``case.first`` on, in the order of the volume.
    """

    @property
    def folder(self) -> Path: ...
    @property
    def manifest(self) -> dict[str, Any]: ...
    @property
    def target(self) -> Target: ...
    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def has_reference(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int, int, int]: ...
    @property
    def case_of_slice(self) -> NDArray[np.int32]: ...
    @property
    def position(self) -> NDArray[np.int32]: ...
    @property
    def areas(self) -> NDArray[np.int32]: ...
    @property
    def labelled(self) -> NDArray[np.bool_]: ...
    @property
    def boxes(self) -> NDArray[np.int32]: ...
    @property
    def cases(self) -> list[StoredCase]: ...
    @property
    def slice_table(self) -> pd.DataFrame: ...
    @property
    def key(self) -> str: ...
    @property
    def unchanged(self) -> bool: ...
    def __len__(self) -> int: ...
    def case_table(self, stored: bool = False) -> pd.DataFrame: ...
    def truth(self, number: int) -> NDArray[np.uint8]: ...
    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]: ...
    def slices_of(self, patients: set[str]) -> NDArray[np.int64]: ...


def whole_cases(samples: Samples) -> list[StoredCase]:
    """The cases by the names their data set gives them, which is how people are recognised, each once."""
    return samples.store.cases if isinstance(samples, ModalitySamples) else samples.cases


def view_of(store: SliceStore, samples: str) -> Samples:
    """The store itself (``slices``: all modalities of a slice are one sample), or :class:`ModalitySamples` (``modalities``)."""
    if samples not in SAMPLES:
        raise ValueError(f"dataset.samples is one of {', '.join(SAMPLES)}; got {samples!r}")
    return store if samples == "slices" else ModalitySamples(store)


class ModalitySamples:
    """Every modality of every slice is a sample of one channel with the slice's mask, as in the CALF authors' protocol.

    A store of S slices and M modalities has S x M samples. Each modality of a case becomes a case of its own,
    ``<case>:<modality>``, of the same patient: it is predicted and scored alone. Samples are ordered by case, modality, slice.
    """

    modalities = ("one modality",)

    def __init__(self, store: Samples) -> None:
        self.store = store
        self.folder, self.target, self.has_reference = store.folder, store.target, store.has_reference
        self.manifest, self.unchanged = {**store.manifest, "samples": "modalities"}, store.unchanged
        names = store.modalities
        lengths = np.array([case.grid[0] for case in store.cases for _ in names], np.int64)
        self._case = np.repeat(np.arange(len(store.cases)), len(names))  # of each case here: its case, and its modality there
        self._modality = np.tile(np.arange(len(names)), len(store.cases))
        self._first = np.cumsum(lengths) - lengths
        self.case_of_slice: NDArray[np.int32] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        first = np.array([case.first for case in store.cases], np.int64)
        within = np.arange(lengths.sum()) - self._first[self.case_of_slice]
        self.slice_of: NDArray[np.int64] = first[self._case[self.case_of_slice]] + within
        self.position, self.areas = store.position[self.slice_of], store.areas[self.slice_of]
        self.labelled = store.labelled[self.slice_of]
        self.shape = (len(self.slice_of), store.shape[1] - len(names) + 1, *store.shape[2:])

    def __len__(self) -> int:
        return len(self.slice_of)

    @property
    def key(self) -> str:
        """Differs from that of the store: other samples are other data."""
        return f"{self.store.key}-modalities"

    @cached_property
    def cases(self) -> list[StoredCase]:
        """Each case once a modality."""
        found = []
        for case, modality, first in zip(self._case.tolist(), self._modality.tolist(), self._first.tolist(), strict=True):
            whole = self.store.cases[case]
            found.append(replace(whole, id=f"{whole.id}:{self.store.modalities[modality]}", first=first))
        return found

    def case_table(self, stored: bool = False) -> pd.DataFrame:
        """See :meth:`calf.data.store.SliceStore.case_table`."""
        table = self.store.case_table(stored).iloc[self._case]
        return table.set_axis(pd.Index([case.id for case in self.cases], name="case"))

    @cached_property
    def slice_table(self) -> pd.DataFrame:
        """One row a sample: the id of its case and its position in the volume."""
        return slice_table_of(self.cases, self.case_of_slice, self.position)

    @cached_property
    def boxes(self) -> NDArray[np.int32]:
        """Where each sample lies in its plane."""
        return self.store.boxes[self.slice_of]

    def truth(self, number: int) -> NDArray[np.uint8]:
        """That of the whole case."""
        return self.store.truth(int(self._case[number]))

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """One image plane, then the mask, then the reference where there is one: uint8 (B, planes, rows, columns)."""
        check_range(indices, len(self))
        planes = self.store.read(self.slice_of[indices])
        image = planes[np.arange(len(indices)), self._modality[self.case_of_slice[indices]]]
        return np.concatenate([image[:, None], planes[:, len(self.store.modalities) :]], axis=1)

    def slices_of(self, patients: set[str]) -> NDArray[np.int64]:
        """Numbers of the samples of these patients, in order."""
        return slices_of(self.cases, self.case_of_slice, patients)


def check_range(indices: NDArray[np.int64], length: int) -> None:
    """Raise an IndexError for numbers that are not 0 ... ``length`` - 1."""
    if len(indices) and not 0 <= indices.min() <= indices.max() < length:
        raise IndexError(f"samples {indices.min()} ... {indices.max()} of {length}")
