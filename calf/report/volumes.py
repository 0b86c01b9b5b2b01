"""Reads what a qualitative panel shows: image, truth and predictions of a case, and checks them against the case's own row.

Files are read as training reads them, whatever their format: NIfTI, MetaImage, NRRD, DICOM series and segmentations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calf.data.cases import Case, Image
from calf.data.grid import Grid, same_grid
from calf.data.volumes import VolumeError, read_header, read_images, read_mask, read_volume
from calf.report.reading import DATA_BYTES, read_json

Mask = npt.NDArray[np.bool_]
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
PERCENTILES = (0.5, 99.5)  # of what is not 0, shown from black to white


class Unreadable(ValueError):
    """Something cannot be shown; the message says why."""


@dataclass(frozen=True)
class Scan:
    """A case in the grid of its mask, axes in RAS+ order.

    ``image`` uint8 (X, Y, Z), or None with ``without`` saying why; ``truth`` bool of the same shape; ``axis`` is the one that
    slices are taken along; ``annotated``: the axial slices that somebody annotated, None for all. What was predicted in the
    others was not scored and is not shown.
    """

    image: npt.NDArray[np.uint8] | None
    without: str
    truth: Mask
    grid: Grid
    axis: int
    target: dict[str, Any]
    name: str
    annotated: tuple[int, ...] | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return self.grid.spacing_mm

    def prediction(self, path: Path, volume_mm3: float) -> Mask:
        """The predicted mask of this case's class.

        Raises:
            Unreadable: there is none, it lies on another grid, or its volume is not ``volume_mm3``, that of the case's row.
        """
        if not path.is_file():
            raise Unreadable("not saved")
        values, grid = _labels(path)
        if not same_grid(grid, self.grid):
            raise Unreadable("on another grid than the mask")
        place = self.target["names"].index(self.name)
        overlapping = not self.target["exclusive"] and len(self.target["names"]) > 1
        mask = (values >> place) & 1 == 1 if overlapping else values == place + 1
        if self.annotated is not None:
            mask[:, :, np.setdiff1d(np.arange(mask.shape[2]), self.annotated)] = False
        if not _is_volume(mask, grid, volume_mm3):
            raise Unreadable("not what was scored")
        return mask


def read_scan(folders: Iterable[Path], case: str, name: str, volume_mm3: float) -> Scan:
    """A case's image and truth, from what the data.json of the first of these run folders that has one says.

    The image is the first modality that can be read; where the preparation brought images onto the grid of one of them, so is it.

    Args:
        folders: of runs that tested the case.
        case: its id.
        name: the class or region.
        volume_mm3: the reference volume of the case's row.

    Raises:
        Unreadable: no data.json, no mask that can be read where it says, or one that is not the one that was scored.
    """
    data = _data(folders)
    entry = data.get("test_cases", {}).get(case)
    if entry is None or name not in data["target"]["names"]:
        raise Unreadable("data.json does not say where its files lie")
    preparation = data.get("preparation", {})
    images = {key: Image(Path(path), channel) for key, (path, channel) in entry["images"].items()}
    onto = preparation.get("onto") if preparation.get("onto") in images else None
    labels, grid = _truth(Path(entry["reference"] or entry["mask"]), images, onto, _meanings(data, entry))
    mask = np.isin(labels, data["target"]["labels"][data["target"]["names"].index(name)])
    if not _is_volume(mask, grid, volume_mm3):
        raise Unreadable("its mask is not what was scored")
    image, without = None, "no image"
    for modality in images:
        try:
            image = _image(Case(case, case, images), modality, onto, grid)
            break
        except Unreadable as reason:
            without = str(reason)
    annotated = entry.get("annotated_slices")
    axis = AXES.get(preparation.get("plane"), 2)
    return Scan(image, without, mask, grid, axis, data["target"], name, None if annotated is None else tuple(annotated))


def _data(folders: Iterable[Path]) -> dict[str, Any]:
    for folder in folders:
        try:
            data = read_json(folder / "data.json", DATA_BYTES)
        except (OSError, ValueError):
            continue
        return data
    raise Unreadable("its runs have no data.json")


def _meanings(data: dict[str, Any], entry: dict[str, Any]) -> dict[int, str]:
    """What the values of a case's mask may be; of joined data sets each has its own."""
    labels = data.get("labels", {})
    own = labels.get(entry.get("dataset")) if entry.get("dataset") else labels
    return {int(value): str(meaning) for value, meaning in (own or {}).items()}


def _truth(
    path: Path, images: dict[str, Image], onto: str | None, meanings: dict[int, str]
) -> tuple[npt.NDArray[np.int64], Grid]:
    if path.suffix.lower() != ".dcm":
        return _labels(_there(path, "mask"))
    # a DICOM segmentation has no grid but that of its image
    image = _there(next(iter(images.values())).path if onto is None else images[onto].path, "image, whose grid its mask has,")
    try:
        grid = read_header(image)
        return read_mask(_there(path, "mask"), meanings, image, grid).astype(np.int64), grid
    except VolumeError as reason:
        raise Unreadable(str(reason)) from reason


def _there(path: Path, what: str) -> Path:
    if not path.exists():
        raise Unreadable(f"its {what} is no longer at {path}")
    return path


def _labels(path: Path) -> tuple[npt.NDArray[np.int64], Grid]:
    try:
        volume = read_volume(path)
    except VolumeError as reason:
        raise Unreadable(str(reason)) from reason
    return np.rint(volume.data).astype(np.int64), volume


def _image(case: Case, modality: str, onto: str | None, grid: Grid) -> npt.NDArray[np.uint8]:
    _there(case.images[modality].path, "image")
    try:
        images, own = read_images(case, [modality], onto)
    except VolumeError as reason:
        raise Unreadable(str(reason)) from reason
    if not same_grid(own, grid):
        raise Unreadable("its image lies on another grid than its mask")
    values = images[0]
    inside = values[values != 0]
    low, high = np.percentile(inside if inside.size else values, PERCENTILES)
    return (np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)


def _is_volume(mask: Mask, grid: Grid, volume_mm3: float) -> bool:
    voxel = abs(float(np.linalg.det(grid.affine[:3, :3])))
    return bool(abs(np.count_nonzero(mask) * voxel - volume_mm3) <= 0.5 * voxel + 1e-4 * volume_mm3)
