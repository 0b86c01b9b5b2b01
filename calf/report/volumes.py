"""Reads what a qualitative panel shows: image, truth and predictions of a case, and checks them against the case's own row."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
NIFTI = (".nii", ".nii.gz")
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
PERCENTILES = (0.5, 99.5)  # of what is not 0, shown from black to white


class Unreadable(ValueError):
    """Something cannot be shown; the message says why."""


@dataclass(frozen=True)
class Scan:
    """A case in the grid of its mask, axes in RAS+ order.

    ``image`` uint8 (X, Y, Z), or None with ``without`` saying why; ``truth`` bool of the same shape; ``axis`` is the one that
    slices are taken along.
    """

    image: npt.NDArray[np.uint8] | None
    without: str
    truth: Mask
    affine: npt.NDArray[np.float64]
    axis: int
    target: dict[str, Any]
    name: str

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        x, y, z = nib.affines.voxel_sizes(self.affine).tolist()
        return x, y, z

    def prediction(self, path: Path, volume_mm3: float) -> Mask:
        """The predicted mask of this case's class.

        Raises:
            Unreadable: there is none, it lies on another grid, or its volume is not ``volume_mm3``, that of the case's row.
        """
        if not path.is_file():
            raise Unreadable("not saved")
        values, affine = _labels(path)
        if values.shape != self.truth.shape or not np.allclose(affine, self.affine, atol=1e-2):
            raise Unreadable("on another grid than the mask")
        place = self.target["names"].index(self.name)
        overlapping = not self.target["exclusive"] and len(self.target["names"]) > 1
        mask = (values >> place) & 1 == 1 if overlapping else values == place + 1
        if not _is_volume(mask, affine, volume_mm3):
            raise Unreadable("not what was scored")
        return mask


def read_scan(folders: Iterable[Path], case: str, name: str, volume_mm3: float) -> Scan:
    """A case's image and truth, from what the data.json of the first of these run folders that has one says.

    Args:
        folders: of runs that tested the case.
        case: its id.
        name: the class or region.
        volume_mm3: the reference volume of the case's row.

    Raises:
        Unreadable: no data.json, no NIfTI mask where it says, or a mask that is not the one that was scored.
    """
    data = _data(folders)
    entry = data.get("test_cases", {}).get(case)
    if entry is None or name not in data["target"]["names"]:
        raise Unreadable("data.json does not say where its files lie")
    truth, affine = _labels(_nifti(Path(entry["reference"] or entry["mask"]), "mask"))
    mask = np.isin(truth, data["target"]["labels"][data["target"]["names"].index(name)])
    if not _is_volume(mask, affine, volume_mm3):
        raise Unreadable("its mask is not what was scored")
    image, without = None, "no image"
    for path, channel in entry["images"].values():
        try:
            image = _image(_nifti(Path(path), "image"), channel, mask.shape, affine)
            break
        except Unreadable as reason:
            without = str(reason)
    axis = AXES.get(data.get("preparation", {}).get("plane"), 2)
    return Scan(image, without, mask, affine, axis, data["target"], name)


def _data(folders: Iterable[Path]) -> dict[str, Any]:
    for folder in folders:
        try:
            data: dict[str, Any] = json.loads((folder / "data.json").read_text())
        except (OSError, ValueError):
            continue
        return data
    raise Unreadable("its runs have no data.json")


def _nifti(path: Path, what: str) -> Path:
    if not path.name.endswith(NIFTI):
        raise Unreadable(f"its {what} is no NIfTI file ({path.name})")
    if not path.is_file():
        raise Unreadable(f"its {what} is no longer at {path}")
    return path


def _read(path: Path, channel: int | None) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """A volume (X, Y, Z) in RAS+ order, and its affine."""
    try:
        file: Any = nib.load(path)
        values = np.asanyarray(file.dataobj)
        if values.ndim > 3:
            values = values[..., channel or 0] if channel is not None else values.reshape(values.shape[:3])
        ras: Any = nib.as_closest_canonical(nib.Nifti1Image(values, file.affine))
        return np.asanyarray(ras.dataobj), ras.affine
    except (OSError, ValueError, EOFError, IndexError, nib.filebasedimages.ImageFileError) as reason:
        raise Unreadable(f"{path.name} cannot be read: {reason}") from reason


def _labels(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    values, affine = _read(path, None)
    return np.rint(values).astype(np.int64), affine


def _image(path: Path, channel: int | None, shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    values, own = _read(path, channel)
    if values.shape != shape or not np.allclose(own, affine, atol=1e-2):
        raise Unreadable("its image lies on another grid than its mask")
    values = np.nan_to_num(values.astype(np.float32))
    inside = values[values != 0]
    low, high = np.percentile(inside if inside.size else values, PERCENTILES)
    return (np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)


def _is_volume(mask: Mask, affine: npt.NDArray[np.float64], volume_mm3: float) -> bool:
    voxel = abs(float(np.linalg.det(affine[:3, :3])))
    return bool(abs(np.count_nonzero(mask) * voxel - volume_mm3) <= 0.5 * voxel + 1e-4 * volume_mm3)
