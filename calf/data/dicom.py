"""A folder with the slices of one DICOM series as a volume.

Slices are put in order by where they say they lie: file names, instance numbers and slice thickness say nothing reliable
about that.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut

from calf.data.grid import (
    AFFINE_TOLERANCE,
    LPS,
    Grid,
    Volume,
    VolumeError,
    check_channel,
    make_grid,
    make_volume,
)
from calf.data.stored import read_bytes

# of the distance between slices: positions are rounded, often to 0.1 mm, and no slice may seem to be another one
SLICE_TOLERANCE = 0.1
DRIFT_TOLERANCE = 0.5  # of a pixel: what rounding and tilt may shift slices sideways, from the first to the last

_TAGS = [
    "SOPInstanceUID", "Modality", "SeriesInstanceUID", "SeriesDescription", "FrameOfReferenceUID", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Plane:
    """Where a rectangle of pixels lies, in mm and RAS+.

    The pixel in row r and column c has its centre at ``position + c * column_step + r * row_step``.
    """

    position: NDArray[np.float64]
    column_step: NDArray[np.float64]
    row_step: NDArray[np.float64]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector; columns, rows and normal are right-handed in DICOM's axes, and in ours."""
        normal = np.cross(self.column_step, self.row_step)
        return normal / np.linalg.norm(normal)


@dataclass(frozen=True, eq=False)
class Slice:
    """What the header of one slice says."""

    path: Path
    instance: str
    frame_of_reference: str
    shape: tuple[int, int]
    plane: Plane


def read_header(path: Path) -> Grid:
    """The grid of the series in a folder; of each file only the header is read."""
    return _grid(path, series(path))


def read_channels(path: Path, channels: Sequence[int | None]) -> Iterator[Volume]:
    """The series of a folder, float32 in the units of its rescaling (HU for CT); it has one channel."""
    slices = series(path)
    grid = _grid(path, slices)
    for channel in channels:
        check_channel(path, grid, channel)
    array = np.empty((len(slices), *slices[0].shape), np.float32)
    for index, found in enumerate(slices):
        array[index] = _pixels(found)
    for _ in channels:
        yield make_volume(grid, array.T)


def files_in(folder: Path) -> list[Path]:
    """The files of a folder, sorted, without hidden ones."""
    return sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))


def series(folder: Path) -> list[Slice]:
    """The slices of the one series in a folder, in the order in which they lie.

    Files that are not DICOM are passed over unless they are named like the slices, and so are DICOM files that are no images
    (reports, structure sets) and segmentations.

    Raises:
        VolumeError: no path to a folder, no series or several, a damaged file, slices that do not stack.
    """
    if not folder.is_dir():
        read_bytes(folder, "a folder with one DICOM series", 4)
        raise VolumeError(
            f"{folder}: a single DICOM file can only be a segmentation, which is a mask on the grid of its image; an image is a "
            "folder with the slices of one series. Convert a multi-frame image to NIfTI"
        )
    headers, others = _headers(folder)
    if not headers:
        names = ", ".join(file.name for file in others[:3]) or "no other file either"
        raise VolumeError(
            f"{folder}: expected a file, or a folder with one DICOM series; it is a folder without DICOM images ({names})"
        )
    with damage_named(headers[0][0]):
        _check_one_series(folder, [header for _, header in headers])
    suffixes = {file.suffix.lower() for file, _ in headers}
    if odd := [file for file in others if file.suffix.lower() in suffixes]:
        raise VolumeError(f"{odd[0]}: expected a DICOM file, as its name says, but it is not one: fetch it again, or remove it")
    slices = [_slice(file, header) for file, header in headers]
    return _stacked(folder, slices)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """What pydicom raises on a damaged file, which may be nearly any exception, as a VolumeError; its warnings are dropped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (VolumeError, InvalidDicomError):
        raise
    except OSError as error:
        raise VolumeError(f"{path}: cannot read it: {error.strerror or error}") from error
    except Exception as error:
        raise VolumeError(
            f"{path}: the DICOM file is damaged ({type(error).__name__}: {str(error)[:200]}): fetch the file again"
        ) from error


def numbers(path: Path, dataset: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    """The finite numbers of an element; a VolumeError if they are not there."""
    value = dataset.get(keyword)
    found = np.array([] if value is None else value, np.float64).reshape(-1)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise VolumeError(f"{path}: expected {count} numbers as {keyword}, got {value}: the file does not say where it lies")
    return found


def make_plane(path: Path, position: Dataset, orientation: Dataset, measures: Dataset) -> Plane:
    """The plane that three groups of a header, or one header thrice, describe."""
    directions = numbers(path, orientation, "ImageOrientationPatient", 6).reshape(2, 3)
    height, width = numbers(path, measures, "PixelSpacing", 2)
    if np.abs(directions @ directions.T - np.eye(2)).max() > AFFINE_TOLERANCE or min(height, width) <= 0:
        raise VolumeError(
            f"{path}: expected perpendicular unit vectors as ImageOrientationPatient and positive PixelSpacing, "
            f"got {directions.ravel().tolist()} and {[height, width]}"
        )
    return Plane(
        LPS[:3, :3] @ numbers(path, position, "ImagePositionPatient", 3),
        LPS[:3, :3] @ directions[0] * width,
        LPS[:3, :3] @ directions[1] * height,
    )


def pixels(path: Path, dataset: Dataset) -> NDArray[Any]:
    """The stored values, decompressed; a VolumeError if no decoder for them is installed."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and not get_decoder(syntax).is_available:
        raise VolumeError(
            f"{path}: compressed as {syntax.name}, for which pydicom finds no decoder: install pylibjpeg with its plugins, or "
            "decompress the files"
        )
    return dataset.pixel_array


def _headers(folder: Path) -> tuple[list[tuple[Path, Dataset]], list[Path]]:
    """Files and headers of the images in a folder, and the files that are not DICOM."""
    headers: list[tuple[Path, Dataset]] = []
    others = []
    for file in files_in(folder):
        try:
            with damage_named(file):
                header = dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
                if "Rows" in header and header.get("Modality") != "SEG":
                    headers.append((file, header))
        except InvalidDicomError:
            others.append(file)
    return headers, others


def _check_one_series(folder: Path, headers: list[Dataset]) -> None:
    found = Counter((str(h.get("SeriesInstanceUID")), f"{h.get('Modality')} {h.get('SeriesDescription') or ''}") for h in headers)
    if len({uid for uid, _ in found}) > 1:
        listed = "; ".join(f"{name.strip()} ({count} files, {uid})" for (uid, name), count in sorted(found.items()))
        raise VolumeError(f"{folder}: expected one DICOM series, found several: {listed}. Give each a folder of its own")


def _slice(path: Path, header: Dataset) -> Slice:
    with damage_named(path):
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise VolumeError(f"{path}: multi-frame DICOM images are not read: convert the image to NIfTI")
        if header.get("SamplesPerPixel", 1) != 1 or header.get("PhotometricInterpretation") != "MONOCHROME2":
            raise VolumeError(
                f"{path}: expected MONOCHROME2 pixels, got {header.get('PhotometricInterpretation')}: no slice of a volume?"
            )
        shape = (int(header.Rows), int(header.Columns))
        plane = make_plane(path, header, header, header)
        return Slice(path, str(header.get("SOPInstanceUID")), str(header.get("FrameOfReferenceUID")), shape, plane)


def _stacked(folder: Path, slices: list[Slice]) -> list[Slice]:
    """The slices in order along their normal, if they are the planes of one box, equally spaced."""
    first = slices[0]
    for other in slices:
        steps = np.stack([other.plane.column_step - first.plane.column_step, other.plane.row_step - first.plane.row_step])
        if (
            other.shape != first.shape
            or np.abs(steps).max() > AFFINE_TOLERANCE
            or other.frame_of_reference != first.frame_of_reference
        ):
            raise VolumeError(
                f"{other.path}: expected a slice like {first.path.name}, but number of pixels ({other.shape} and {first.shape}), "
                "spacing, directions or frame of reference differ: remove scouts and others that are not of the volume"
            )
    if len(slices) < 2:
        raise VolumeError(f"{folder}: expected the slices of a volume, found only {first.path.name}: are the others missing?")
    slices = sorted(slices, key=lambda found: float(found.plane.position @ first.plane.normal))
    _check_spacing(folder, slices)
    return slices


def _check_spacing(folder: Path, slices: list[Slice]) -> None:
    plane = slices[0].plane
    offsets = np.array([found.plane.position for found in slices]) - plane.position
    heights = offsets @ plane.normal
    steps, usual = np.diff(heights), float(np.median(np.diff(heights)))

    def between(index: int) -> str:
        return f"{slices[index].path.name} and {slices[index + 1].path.name} lie {steps[index]:.4g} mm apart"

    if usual <= 0 or steps.min() < SLICE_TOLERANCE * usual:
        raise VolumeError(
            f"{folder}: two slices at the same place: {between(int(steps.argmin()))}. Is a file there twice, or are there "
            "several echoes or time points in one series? Give each a folder of its own"
        )
    if steps.max() > 1.5 * usual:
        raise VolumeError(f"{folder}: slices are missing: {between(int(steps.argmax()))}, the others {usual:.4g} mm")
    expected = np.arange(len(slices)) * heights[-1] / (len(slices) - 1)
    if np.abs(heights - expected).max() > SLICE_TOLERANCE * usual:
        raise VolumeError(
            f"{folder}: expected equally spaced slices, but {between(int(np.abs(steps - usual).argmax()))}, the others "
            f"{usual:.4g} mm: resample the series to equal distances"
        )
    drift = float(np.linalg.norm(offsets - heights[:, None] * plane.normal, axis=1).max())
    if drift > DRIFT_TOLERANCE * min(np.linalg.norm(plane.column_step), np.linalg.norm(plane.row_step)):
        raise VolumeError(
            f"{folder}: slices are shifted sideways by up to {drift:.3g} mm (a tilted gantry?): correct the tilt, for example by "
            "dcm2niix, and use the NIfTI file"
        )


def _grid(folder: Path, slices: list[Slice]) -> Grid:
    plane = slices[0].plane
    thickness = (slices[-1].plane.position - plane.position) @ plane.normal / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3] = np.stack([plane.column_step, plane.row_step, plane.normal * thickness, plane.position], 1)
    rows, columns = slices[0].shape
    return make_grid(folder, (columns, rows, len(slices)), affine, 1)


def _pixels(found: Slice) -> NDArray[Any]:
    with damage_named(found.path):
        dataset = dcmread(found.path)
        array = apply_modality_lut(pixels(found.path, dataset), dataset)
        if array.shape != found.shape:
            raise VolumeError(f"{found.path}: expected {found.shape} pixels, got {array.shape}: fetch the file again")
        return array
