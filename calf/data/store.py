"""Prepared slices on disk: one array, an index, a manifest; read by the batch.

A store is a folder ``<data set>-<key>`` of

* ``planes.npy``, uint8 (slices, planes, rows, columns): the modalities, then the encoded mask, then, where a case has
  one, the reference mask. ``numpy.load(..., mmap_mode="r")`` opens it;
* ``truth.npy``, only where slices were resized: what is scored against in the case's own rows and columns, at the top left;
* ``index.npz``: for each slice its case, its position in the volume and the area of each target name, in stored pixels;
* ``manifest.json``: the settings, the cases with their geometry and the SHA-256 of their files, the cases left out.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calf.data.cases import Target

VERSION = 2


@dataclass(frozen=True)
class StoredCase:
    """A case of a store: which slices are its own, and the geometry needed to leave the store again.

    ``shape`` and ``spacing_mm`` are those of the volume in RAS order, ``grid`` its slices, rows and columns;
    ``affine`` and ``original_shape`` are the file's own.
    """

    id: str
    patient: str
    first: int
    shape: tuple[int, int, int]
    grid: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: list[list[float]]
    original_shape: tuple[int, int, int]
    box: tuple[int, int, int, int]
    stored_voxel_volume_mm3: float

    @property
    def voxel_volume_mm3(self) -> float:
        """Of the case's own voxels; ``stored_voxel_volume_mm3`` is what a stored pixel stands for, after resizing."""
        return float(np.prod(self.spacing_mm))


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
        planes = np.load(folder / "planes.npy", mmap_mode="r")
        self.shape: tuple[int, int, int, int] = planes.shape
        self._offset: int = planes.offset
        self._file = os.open(folder / "planes.npy", os.O_RDONLY)
        self.resized: bool = self.manifest["preparation"]["fit"] == "resize"
        self._truth = np.load(folder / "truth.npy", mmap_mode="r") if self.resized else None

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
        return [StoredCase(**case) for case in self.manifest["cases"]]

    def case_table(self, stored: bool = False) -> pd.DataFrame:
        """One row a case, indexed by its id: patient, voxel_volume_mm3 (``stored``: of a stored pixel)."""
        volumes = [case.stored_voxel_volume_mm3 if stored else case.voxel_volume_mm3 for case in self.cases]
        columns = {"patient": [case.patient for case in self.cases], "voxel_volume_mm3": volumes}
        return pd.DataFrame(columns, index=pd.Index([case.id for case in self.cases], name="case"))

    @cached_property
    def grids(self) -> NDArray[np.int32]:
        """Rows and columns of each slice in its own file: (slices, 2)."""
        return np.array([case.grid[1:] for case in self.cases], np.int32)[self.case_of_slice]

    def read_truth(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """What these slices are scored against in their own rows and columns, uint8 (B, R, C), at the top left of each plane.

        Only of a store whose slices were resized; in any other the stored planes are the original voxels.
        """
        if self._truth is None:
            raise ValueError(f"{self.folder} holds slices in their own size: there is no other truth than its planes")
        return np.asarray(self._truth[indices])

    @cached_property
    def slice_table(self) -> pd.DataFrame:
        """One row a slice: the id of its case and its position in the volume."""
        ids = np.array([case.id for case in self.cases], dtype=object)
        return pd.DataFrame({"case": ids[self.case_of_slice], "position": self.position})

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
        wanted = np.array([case.patient in patients for case in self.cases], bool)
        return np.flatnonzero(wanted[self.case_of_slice])


def channels_of(mask: NDArray[np.uint8], target: Target) -> list[NDArray[np.bool_]]:
    """Where each target name is in encoded masks of any shape."""
    if target.exclusive:
        return [mask == value + 1 for value in range(len(target.names))]
    return [((mask >> bit) & 1).astype(bool) for bit in range(len(target.names))]


def areas_of(mask: NDArray[np.uint8], target: Target) -> NDArray[np.int32]:
    """Pixels of each target name in encoded masks (S, rows, columns): int32 (S, names)."""
    counts = [channel.sum(axis=(1, 2)) for channel in channels_of(mask, target)]
    return np.stack(counts, axis=1).astype(np.int32)
