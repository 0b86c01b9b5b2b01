"""Prepared slices on disk: one array, an index, a manifest; read by the batch.

A store is a folder ``<data set>-<key>`` of

* ``planes.npy``, uint8 (slices, planes, rows, columns): the modalities, then the encoded mask, then, where a case has
  one, the reference mask. ``numpy.load(..., mmap_mode="r")`` opens it;
* ``truth.npy``, only where volumes were cropped, resampled or resized: what is scored against, in the voxels of the case's
  own files;
* ``index.npz``: for each slice its case, its position in the volume, the area of each target name in stored pixels, and
  whether it was annotated;
* ``manifest.json``: the settings, the cases with their geometry and the SHA-256 of their files, the cases left out.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calf.data.cases import Target
from calf.data.geometry import Geometry

VERSION = 5


@dataclass(frozen=True, kw_only=True)
class StoredCase(Geometry):
    """A case of a store: which slices are its own, and the geometry needed to leave the store again.

    Attributes:
        first: number of its first slice; its slices are consecutive.
        truth_first: where its truth begins in ``truth.npy``; None where the planes hold it.
        content: digests of the voxels of its modalities, by which it is known under another name; empty of constant images.
        annotated_slices: the axial slices of the file that were annotated; None: all.
        subset, aliases: see :class:`calf.data.cases.Case`.
    """

    id: str
    patient: str
    first: int
    truth_first: int | None = None
    content: dict[str, str] = field(default_factory=dict)
    annotated_slices: list[int] | None = None
    subset: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def slices(self) -> NDArray[np.int64]:
        """Numbers of its slices."""
        return np.arange(self.first, self.first + self.grid[0])

    @property
    def annotated(self) -> NDArray[np.bool_] | None:
        """Which voxels of the file were annotated, in a shape that broadcasts against (X, Y, Z); None: all."""
        if self.annotated_slices is None:
            return None
        annotated = np.zeros((1, 1, self.shape[2]), bool)
        annotated[..., self.annotated_slices] = True
        return annotated


class SliceStore:
    """Random access to a store by whole batches.

    Slices are read with ``pread`` into the batch itself, one call a slice: as fast as a memory map, and the resident
    memory of the process does not grow with the pages it has touched.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        self.target = Target(
            names=tuple(self.manifest["target"]["names"]),
            labels=tuple(tuple(values) for values in self.manifest["target"]["labels"]),
            exclusive=self.manifest["target"]["exclusive"],
        )
        self.modalities: tuple[str, ...] = tuple(self.manifest["modalities"])
        self.has_reference: bool = self.manifest["has_reference"]
        with np.load(folder / "index.npz") as index:
            self.case_of_slice: NDArray[np.int32] = index["case"]
            self.position: NDArray[np.int32] = index["position"]
            self.areas: NDArray[np.int32] = index["areas"]
            self.labelled: NDArray[np.bool_] = index["labelled"]
        planes = np.load(folder / "planes.npy", mmap_mode="r")
        self.shape: tuple[int, int, int, int] = planes.shape
        self._offset: int = planes.offset
        self._file = os.open(folder / "planes.npy", os.O_RDONLY)
        self._truth = np.load(folder / "truth.npy", mmap_mode="r") if (folder / "truth.npy").exists() else None

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def key(self) -> str:
        """Fingerprint of the inputs and settings the store was made from."""
        return self.manifest["key"]

    @cached_property
    def cases(self) -> list[StoredCase]:
        """The cases in the order of their slices."""
        return [StoredCase.from_json(case) for case in self.manifest["cases"]]

    def case_table(self, stored: bool = False) -> pd.DataFrame:
        """One row a case, indexed by its id: patient, voxel_volume_mm3 (``stored``: of a stored pixel)."""
        volumes = [case.stored_voxel_volume_mm3 if stored else case.voxel_volume_mm3 for case in self.cases]
        columns = {"patient": [case.patient for case in self.cases], "voxel_volume_mm3": volumes}
        return pd.DataFrame(columns, index=pd.Index([case.id for case in self.cases], name="case"))

    @property
    def unchanged(self) -> bool:
        """Whether every stored pixel is a voxel of its file, so that counts of stored slices are those of the files."""
        return self._truth is None

    def truth(self, number: int) -> NDArray[np.uint8]:
        """What case ``number`` is scored against, encoded, in the voxels of its own files: uint8 (X, Y, Z) in RAS order."""
        case = self.cases[number]
        if case.truth_first is None:
            return case.restore(self.read(case.slices)[:, -1])
        assert self._truth is not None
        return np.array(self._truth[case.truth_first : case.truth_first + int(np.prod(case.shape))]).reshape(case.shape)

    @cached_property
    def slice_table(self) -> pd.DataFrame:
        """One row a slice: the id of its case and its position in the volume."""
        return slice_table_of(self.cases, self.case_of_slice, self.position)

    @cached_property
    def boxes(self) -> NDArray[np.int32]:
        """Where each slice lies in its plane: (slices, 4) first row, end row, first column, end column."""
        return np.array([case.box for case in self.cases], np.int32)[self.case_of_slice]

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Planes of these slices, uint8 (B, planes, rows, columns)."""
        batch = np.empty((len(indices), *self.shape[1:]), np.uint8)
        rows = memoryview(batch.data).cast("B")
        size = batch[0].nbytes if len(batch) else 0
        for row, index in enumerate(indices.tolist()):
            if not 0 <= index < len(self):
                raise IndexError(f"slice {index} of a store of {len(self)} slices")
            view = rows[row * size : (row + 1) * size]
            got = os.preadv(self._file, [view], self._offset + index * size)
            if got != size:
                raise OSError(
                    f"{self.folder / 'planes.npy'} is shorter than its header says; delete the store and prepare it again"
                )
        return batch

    def slices_of(self, patients: set[str]) -> NDArray[np.int64]:
        """Indices of the slices of these patients, in order."""
        return slices_of(self.cases, self.case_of_slice, patients)


def slice_table_of(cases: list[StoredCase], case_of_slice: NDArray[np.int32], position: NDArray[np.int32]) -> pd.DataFrame:
    """One row a sample: the id of its case and its position in the volume."""
    ids = np.array([case.id for case in cases], dtype=object)
    return pd.DataFrame({"case": ids[case_of_slice], "position": position})


def slices_of(cases: list[StoredCase], case_of_slice: NDArray[np.int32], patients: set[str]) -> NDArray[np.int64]:
    """Numbers of the samples of these patients, in order."""
    wanted = np.array([case.patient in patients for case in cases], bool)
    return np.flatnonzero(wanted[case_of_slice])


def channels_of(mask: NDArray[np.uint8], target: Target) -> list[NDArray[np.bool_]]:
    """Where each target name is in encoded masks of any shape."""
    if target.exclusive:
        return [mask == value + 1 for value in range(len(target.names))]
    return [((mask >> bit) & 1).astype(bool) for bit in range(len(target.names))]


def areas_of(mask: NDArray[np.uint8], target: Target) -> NDArray[np.int32]:
    """Pixels of each target name in encoded masks (S, rows, columns): int32 (S, names)."""
    counts = [channel.sum(axis=(1, 2)) for channel in channels_of(mask, target)]
    return np.stack(counts, axis=1).astype(np.int32)
