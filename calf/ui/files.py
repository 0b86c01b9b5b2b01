"""Where the files of a case lie, as a run's data.json says, and how each is read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from calf.data.cases import Case, Image
from calf.data.grid import Grid, Volume
from calf.data.volumes import VolumeError, read_header, read_images, read_mask, read_volume
from calf.report.volumes import Unreadable
from calf.ui.regions import Cropped
from calf.ui.runs import encodable
from calf.ui.scan import Scan, quantised

Stamp = tuple[str, int, int]
PLANES = ("axial", "coronal", "sagittal")
_BEGINNING = re.compile(r"(?:it|the file) begins with b(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        images: by modality.
        mask: what was scored against; None where there is none.
        onto: the modality whose grid the preparation brought all images to, if it did and the case has it.
        meanings: what the values of the mask may be.
        plane: the one that slices were taken in.
        annotated: the axial slices of the mask that somebody annotated; None: all, or an older run did not write it.
    """

    images: dict[str, Image]
    mask: Path | None
    onto: str | None
    meanings: dict[int, str]
    plane: str
    annotated: tuple[int, ...] | None = None

    @classmethod
    def of(cls, data: dict[str, Any], case: str) -> CaseFiles:
        """From a data.json; of joined data sets each has its own preparation and labels.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it does not say where the case lies, and how it is read.
        """
        entry = data["test_cases"][case]
        part = entry.get("dataset")
        prepared = data.get("parts", {}).get(part, {}).get("preparation") or data.get("preparation") or {}
        labels = data.get("labels", {}).get(part, {}) if part else data.get("labels", {})
        images = {str(name): Image(Path(path), channel) for name, (path, channel) in entry["images"].items()}
        if not all(image.channel is None or type(image.channel) is int for image in images.values()):
            raise ValueError("its data.json does not say where the images of this case lie")
        if not all(encodable(name) == name for name in images) or not all(0 <= int(value) <= 255 for value in labels):
            raise ValueError("its data.json has names of images that are no text, or labels that are not 0 to 255")
        plane = prepared.get("plane") or PLANES[0]
        if plane not in PLANES:
            raise ValueError(f"its data.json does not say the plane of its slices: expected {', '.join(PLANES)}")
        annotated = entry.get("annotated_slices")
        if annotated is not None and not all(type(place) is int and place >= 0 for place in annotated):
            raise ValueError("its data.json does not say which slices of this case were annotated")
        mask = entry["reference"] or entry["mask"]
        onto = prepared.get("onto")
        return cls(
            images,
            Path(mask) if mask else None,
            onto if onto in images else None,
            {int(value): str(meaning) for value, meaning in labels.items()},
            plane,
            None if annotated is None else tuple(annotated),
        )

    @property
    def paths(self) -> list[Path]:
        """Of the images and the mask."""
        return [*(image.path for image in self.images.values()), *([self.mask] if self.mask else [])]

    @property
    def mask_key(self) -> tuple[Any, ...]:
        """Changes where the mask, or the image whose grid it needs, does; :class:`Unreadable` where they are not there."""
        mask = self._mask
        return (stamp(mask),) if self._grid_path == mask else (stamp(mask), stamp(self._grid_path))

    def scan_key(self, modality: str) -> tuple[Any, ...]:
        """Changes where an image, or the one whose grid it is brought to, does; :class:`Unreadable` where it is not there."""
        image = self.images[modality]
        there(image.path, "image")
        return stamp(image.path), image.channel, self.onto and stamp(self.images[self.onto].path)

    def read_truth(self) -> tuple[Cropped, Grid]:
        """The label values of the mask."""
        grid = read_header(self._grid_path)
        return Cropped.of(read_mask(self._mask, self.meanings, self._grid_path, grid)), grid

    def read_scan(self, modality: str) -> tuple[Scan, Grid]:
        """An image."""
        images, grid = read_images(Case("", "", self.images), [modality], self.onto)
        return quantised(images[0]), grid

    @property
    def _mask(self) -> Path:
        if self.mask is None:
            raise Unreadable("the case has no mask")
        return there(self.mask, "mask")

    @property
    def _grid_path(self) -> Path:
        """The mask itself, but for a DICOM segmentation, which has no grid but that of its image."""
        if self._mask.suffix.lower() != ".dcm":
            return self._mask
        if not self.images:
            raise Unreadable("the case has no image, whose grid its mask has")
        return there(self.images[self.onto or next(iter(self.images))].path, "image, whose grid its mask has,")


def read_codes(path: Path) -> tuple[Cropped, Grid]:
    """A predicted mask as a run writes it: class indices, or a bit set of regions."""
    volume = read_volume(path)
    codes = np.rint(volume.data)
    low, high = float(codes.min()), float(codes.max())
    if low < 0 or high > 255:
        raise VolumeError(f"{path.name} holds values of {low:g} to {high:g}: no mask as a run writes it")
    return Cropped.of(codes.astype(np.uint8)), _grid_of(volume)


def read_steps(path: Path) -> tuple[Cropped, Grid]:
    """Probabilities as a run writes them, in steps of 1/255."""
    volume = read_volume(path)
    low, high = float(volume.data.min()), float(volume.data.max())
    if low < 0 or high > 1:
        raise VolumeError(f"{path.name} holds values of {low:g} to {high:g}: no probabilities")
    return Cropped.of(np.rint(volume.data * 255).astype(np.uint8)), _grid_of(volume)


def there(path: Path, what: str) -> Path:
    """The path; :class:`Unreadable` where it does not exist, as of data that were moved."""
    if not exists(path):
        raise Unreadable(f"its {what} is no longer at its place: {encodable(path.name)[:100]}")
    return path


def exists(path: Path) -> bool:
    """Whether it does; False for what can be no path, as one that is too long."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def told(reason: Exception, paths: Iterable[Path]) -> str:
    """Why a file cannot be read, for a browser: these files by their names alone, and nothing of what is in them."""
    if isinstance(reason, OSError):
        return reason.strerror or "it cannot be read"
    text = _BEGINNING.sub("it is none", str(reason))
    for path in sorted(paths, key=lambda path: -len(str(path))):
        text = text.replace(str(path), path.name)
        if path.is_absolute() and path.parent != path.parent.parent:  # the file of its voxels lies beside it
            text = text.replace(f"{path.parent}{os.sep}", "")
    return encodable(text)


def inside(folder: Path, name: str) -> Path | None:
    """The file of this name below ``folder``; None where there is none, or the name leads elsewhere."""
    try:
        folder = folder.resolve()
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # no name of a file: too long, or a loop of links
        return None


def stamp(path: Path) -> Stamp:
    """Changes where the file does."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return str(path), 0, 0
    return str(path), status.st_mtime_ns, status.st_size


def _grid_of(volume: Volume) -> Grid:
    """The grid alone, or the voxels would be kept with it."""
    return Grid(**{field.name: getattr(volume, field.name) for field in fields(Grid)})
