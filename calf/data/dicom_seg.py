"""DICOM segmentations: every frame is put where it says it lies in the image's grid.

The order of frames means nothing, and frames without foreground are usually left out: what no frame covers is background.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import SegmentationStorage

from calf.data.dicom import Plane, Slice, damage_named, make_plane, pixels, series
from calf.data.grid import VOXEL_TOLERANCE, Grid, VolumeError, to_ras
from calf.data.stored import read_bytes

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # younger than pydicom's dictionary


@dataclass(frozen=True, eq=False)
class _Frame:
    """Segment numbers (rows, columns), not all 0; of one ``segment``, or of any (0)."""

    name: str
    segment: int
    values: NDArray[np.uint16]
    plane: Plane
    slice_distance_mm: float | None
    sources: tuple[str, ...]


def read_segmentation(path: Path, grid: Grid, image: Path | None = None, segment: int | None = None) -> NDArray[np.uint16]:
    """A DICOM segmentation (BINARY or LABELMAP) on a grid: segment numbers (X, Y, Z) in RAS+ order, 0 where there is none.

    Args:
        path: the file.
        grid: of the image it was drawn on. Every frame that is not empty has to lie on a slice of it.
        image: where the image is a folder with a DICOM series, frames are also held against the slices that they refer to.
        segment: the only one to be read; None: all of them, and no two may share a voxel.

    Raises:
        VolumeError: a damaged file, no segmentation, FRACTIONAL values, a frame off the grid, segments that overlap.
    """
    read_bytes(path, "a DICOM segmentation", 4)
    slices = series(image) if image is not None and image.is_dir() else []
    labels = np.zeros(grid.original_shape, np.uint16)
    placed: set[tuple[int, int]] = set()
    try:
        with damage_named(path):
            dataset = dcmread(path)
            _check_kind(path, dataset)
            _check_frame_of_reference(path, dataset, slices)
            names = {int(item.SegmentNumber): str(item.get("SegmentLabel")) for item in dataset.SegmentSequence}
            if segment is not None and segment not in names:
                raise VolumeError(f"{path}: expected a segment {segment}, it has {_listed(names)}")
            for frame in _frames(path, dataset, names, segment):
                _check_sources(frame, slices)
                there = _place_in(labels, frame, grid)
                place = frame.segment, there.ctypes.data
                if place in placed:
                    raise VolumeError(f"{frame.name} lies where another frame of the same segment lies: which of them holds?")
                placed.add(place)
                _check_overlap(frame, there, names)
                there |= frame.values
    except InvalidDicomError as error:
        raise VolumeError(f"{path}: expected a DICOM segmentation, but the file is not DICOM: fetch it again") from error
    return to_ras(grid, labels)


def _check_kind(path: Path, dataset: Dataset) -> None:
    if dataset.get("SOPClassUID") not in (SegmentationStorage, LABEL_MAP_STORAGE):
        raise VolumeError(
            f"{path}: expected a DICOM segmentation, got {dataset.get('Modality')} of class {dataset.get('SOPClassUID')}: "
            "a mask is a segmentation object or a volume"
        )
    if (kind := dataset.get("SegmentationType")) not in ("BINARY", "LABELMAP"):
        raise VolumeError(
            f"{path}: expected a BINARY or LABELMAP segmentation, got {kind}: threshold it and save it as one of them"
        )


def _check_frame_of_reference(path: Path, dataset: Dataset, slices: list[Slice]) -> None:
    own = dataset.get("FrameOfReferenceUID")
    if slices and own is not None and str(own) != slices[0].frame_of_reference:
        raise VolumeError(
            f"{path}: expected the frame of reference of {slices[0].path.parent}, {slices[0].frame_of_reference}, got {own}: "
            "is it of another examination?"
        )


def _frames(path: Path, dataset: Dataset, names: dict[int, str], segment: int | None) -> Iterator[_Frame]:
    """The frames that show anything."""
    groups = dataset.PerFrameFunctionalGroupsSequence
    arrays = pixels(path, dataset).reshape(-1, int(dataset.Rows), int(dataset.Columns))
    if len(groups) != len(arrays):
        raise VolumeError(f"{path}: expected a position for each of {len(arrays)} frames, got {len(groups)}: the file is damaged")
    shared = dataset.SharedFunctionalGroupsSequence[0] if dataset.get("SharedFunctionalGroupsSequence") else Dataset()
    for number, (array, own) in enumerate(zip(arrays, groups, strict=True), start=1):
        name, label, values = f"{path}: frame {number}", 0, array.astype(np.uint16)
        if dataset.SegmentationType == "BINARY":
            label = int(_group(name, own, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            values *= np.uint16(label)
        if unknown := set(np.flatnonzero(np.bincount(values.ravel())).tolist()) - {0, *names}:
            raise VolumeError(f"{name} shows the segments {sorted(unknown)}, but the file has {_listed(names)}")
        if segment is not None:
            values[values != segment] = 0
        if values.any():
            measures = _group(name, own, shared, "PixelMeasuresSequence")
            position, orientation = (
                _group(name, own, shared, group) for group in ("PlanePositionSequence", "PlaneOrientationSequence")
            )
            distance = measures.get("SpacingBetweenSlices")
            yield _Frame(
                name,
                label,
                values,
                make_plane(path, position, orientation, measures),
                None if distance is None else abs(float(distance)),
                tuple(
                    str(source.get("ReferencedSOPInstanceUID"))
                    for step in own.get("DerivationImageSequence") or []
                    for source in step.get("SourceImageSequence") or []
                ),
            )


def _place_in(labels: NDArray[np.uint16], frame: _Frame, grid: Grid) -> NDArray[np.uint16]:
    """The voxels of a volume in the file's own order of axes that a frame covers: a view (rows, columns)."""
    inverse = np.linalg.inv(grid.original_affine)
    start = inverse[:3, :3] @ frame.plane.position + inverse[:3, 3]
    steps = np.stack([inverse[:3, :3] @ frame.plane.row_step, inverse[:3, :3] @ frame.plane.column_step])
    whole_start, whole_steps = np.rint(start).astype(int), np.rint(steps).astype(int)
    rows, columns = frame.values.shape
    corners = np.array([[0, 0], [0, columns - 1], [rows - 1, 0], [rows - 1, columns - 1]])
    off = float(np.abs(corners @ (steps - whole_steps) + start - whole_start).max())
    moved = np.abs(whole_steps)
    if off > VOXEL_TOLERANCE or (moved.sum(1) != 1).any() or (moved.sum(0) > 1).any():
        raise VolumeError(
            f"{frame.name} does not lie on the image's grid (its pixels are up to {off:.3g} voxels off, allowed "
            f"{VOXEL_TOLERANCE:g}): was it drawn on another series?"
        )
    ends = corners @ whole_steps + whole_start
    if ends.min() < 0 or (ends >= grid.original_shape).any():
        raise VolumeError(
            f"{frame.name} reaches beyond the image: was it drawn on another series, or are slices of the image missing?"
        )
    row_axis, column_axis = (int(axis) for axis in moved.argmax(1))
    _check_distance(frame, float(np.linalg.norm(grid.original_affine[:3, 3 - row_axis - column_axis])))
    box = tuple(slice(low, high + 1) for low, high in zip(ends.min(0), ends.max(0), strict=True))
    plane = labels[box].transpose(row_axis, column_axis, 3 - row_axis - column_axis)[..., 0]
    return plane[:: whole_steps[0, row_axis], :: whole_steps[1, column_axis]]


def _check_distance(frame: _Frame, distance_mm: float) -> None:
    if frame.slice_distance_mm is not None and frame.slice_distance_mm > distance_mm * (1 + VOXEL_TOLERANCE):
        raise VolumeError(
            f"{frame.name} is one of slices {frame.slice_distance_mm:.4g} mm apart, but the image's are "
            f"{distance_mm:.4g} mm apart: those between would seem to be background; was it drawn on another series?"
        )


def _check_sources(frame: _Frame, slices: list[Slice]) -> None:
    """Of the slices of the image that a frame says it was drawn on, one lies where the frame says it lies."""
    known = [found for found in slices if found.instance in frame.sources]
    plane = frame.plane
    away = [abs(float((found.plane.position - plane.position) @ plane.normal)) for found in known]
    if away and min(away) > VOXEL_TOLERANCE * min(np.linalg.norm(plane.column_step), np.linalg.norm(plane.row_step)):
        raise VolumeError(
            f"{frame.name} says it was drawn on {known[0].path.name}, but lies {min(away):.4g} mm away from it: is the "
            "segmentation upside down? Repair the positions, or convert it to NIfTI and look at it"
        )


def _check_overlap(frame: _Frame, there: NDArray[np.uint16], names: dict[int, str]) -> None:
    both = (there != 0) & (frame.values != 0)
    if both.any():
        pair = {number: names[number] for number in (int(there[both][0]), int(frame.values[both][0]))}
        raise VolumeError(
            f"{frame.name}: {np.count_nonzero(both)} voxels belong to several segments ({_listed(pair)}), and a voxel has one "
            "label: choose one segment, or convert the file to a label map"
        )


def _group(name: str, own: Dataset, shared: Dataset, group: str) -> Any:
    sequence = own.get(group) or shared.get(group)
    if not sequence:
        raise VolumeError(f"{name} has no {group}: it does not say where it lies or what it shows")
    return sequence[0]


def _listed(names: dict[int, str]) -> str:
    return ", ".join(f"{number} {name}" for number, name in names.items())
