"""Draws a panel: a strip a case, with the image, the truth and the predictions of the losses side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from calf.report.volumes import Mask, Scan

Rgb = npt.NDArray[np.uint8]
#: Okabe and Ito's: found, predicted where there is nothing, and missed.
TP, FP, FN = (0, 158, 115), (213, 94, 0), (86, 180, 233)
TRUTH = (240, 228, 66)
TILE, GAP, LINE = 150, 6, 20
LEAST = 0.4  # of the slice's longer side is always shown
MARGIN = 0.25  # of the shown target, around it


@dataclass(frozen=True)
class Shown:
    """A loss's mask of a case, or None, and the text above it."""

    text: str
    mask: Mask | None


@dataclass(frozen=True)
class Strip:
    """One case: why it is shown, its volumes, and one prediction a loss."""

    case: str
    why: str
    scan: Scan
    predictions: tuple[Shown, ...]
    seeds: tuple[int, ...]


def coloured(grey: npt.NDArray[np.uint8], truth: Mask, prediction: Mask) -> Rgb:
    """uint8 (H, W, 3): the slice in grey, tinted by ``TP`` where found; false positive in ``FP``, missed in ``FN``."""
    picture = np.repeat(grey[..., None], 3, axis=2)
    found = truth & prediction
    picture[found] = (picture[found].astype(np.uint16) + TP) // 2
    picture[prediction & ~truth] = FP
    picture[truth & ~prediction] = FN
    return picture


def outlined(grey: npt.NDArray[np.uint8], truth: Mask) -> Rgb:
    """uint8 (H, W, 3): the slice in grey with the border of the truth, within it, in ``TRUTH``."""
    picture = np.repeat(grey[..., None], 3, axis=2)
    inner = np.pad(truth, 1)
    inner = truth & inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    picture[truth & ~inner] = TRUTH
    return picture


def slice_shown(scan: Scan, predictions: Sequence[Shown]) -> int:
    """The slice with the largest target area; where there is no target, with the largest area of all predictions."""
    across = tuple(axis for axis in range(3) if axis != scan.axis)
    areas = scan.truth.sum(axis=across)
    if not areas.any():
        areas = np.sum([shown.mask.sum(axis=across) for shown in predictions if shown.mask is not None] or [areas], axis=0)
    return int(areas.argmax()) if areas.any() else scan.truth.shape[scan.axis] // 2


def montage(strips: Sequence[Strip], losses: Sequence[str]) -> Image.Image:
    """All strips below each other on black, with the names of the losses above them."""
    columns = ["image", "truth", *losses]
    width = len(columns) * (TILE + GAP) + GAP
    picture = Image.new("RGB", (width, LINE + len(strips) * (LINE + TILE + GAP)))
    draw = ImageDraw.Draw(picture)
    for place, name in enumerate(columns):
        _write(draw, (GAP + place * (TILE + GAP), 3), name, bold=True)
    for row, strip in enumerate(strips):
        top = LINE + row * (LINE + TILE + GAP)
        _write(draw, (GAP, top + 3), f"{strip.why}: {strip.case}", most=2)
        for place, shown in enumerate(strip.predictions, start=2):
            _write(draw, (GAP + place * (TILE + GAP), top + 3), shown.text)
        for place, tile in enumerate(_tiles(strip)):
            x, y = GAP + place * (TILE + GAP), top + LINE
            picture.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
    return picture


def _tiles(strip: Strip) -> list[Image.Image]:
    scan, index = strip.scan, slice_shown(strip.scan, strip.predictions)
    rows_mm, columns_mm = _pixel_mm(scan)
    truth = _plane(scan.truth, scan.axis, index)
    grey = np.zeros(truth.shape, np.uint8) if scan.image is None else _plane(scan.image, scan.axis, index)
    masks = [None if shown.mask is None else _plane(shown.mask, scan.axis, index) for shown in strip.predictions]
    box = _window(np.any([truth, *(mask for mask in masks if mask is not None)], axis=0), rows_mm, columns_mm)
    drawn = [np.repeat(grey[..., None], 3, axis=2), outlined(grey, truth)]
    drawn += [np.zeros_like(drawn[0]) if mask is None else coloured(grey, truth, mask) for mask in masks]
    return [_scaled(plane[box], rows_mm, columns_mm) for plane in drawn]


def _plane(volume: npt.NDArray, axis: int, index: int) -> npt.NDArray:
    """A slice as radiologists look at it: the patient's right (in sagittal slices: front) on the left, head or front on top."""
    return np.take(volume, index, axis=axis).T[::-1, ::-1]


def _pixel_mm(scan: Scan) -> tuple[float, float]:
    columns, rows = (step for axis, step in enumerate(scan.spacing_mm) if axis != scan.axis)
    return rows, columns


def _window(shown: Mask, rows_mm: float, columns_mm: float) -> tuple[slice, slice]:
    """A square in mm around what is shown, with a margin; all of the slice where nothing is."""
    sides = np.array([shown.shape[0] * rows_mm, shown.shape[1] * columns_mm])
    places = np.argwhere(shown)
    if not len(places):
        return slice(None), slice(None)
    steps = np.array([rows_mm, columns_mm])
    low, high = places.min(axis=0) * steps, (places.max(axis=0) + 1) * steps
    half = max((high - low).max() * (0.5 + MARGIN), LEAST * sides.max() / 2)
    middle = (low + high) / 2
    # moved inwards where it would reach over the border
    middle = np.where(2 * half >= sides, sides / 2, np.clip(middle, half, np.maximum(sides - half, half)))
    first = np.maximum(np.floor((middle - half) / steps), 0).astype(int)
    last = np.minimum(np.ceil((middle + half) / steps), shown.shape).astype(int)
    return slice(first[0], last[0]), slice(first[1], last[1])


def _scaled(plane: Rgb, rows_mm: float, columns_mm: float) -> Image.Image:
    """As large as a tile can hold, pixels as they are: nothing is interpolated."""
    height, width = plane.shape[0] * rows_mm, plane.shape[1] * columns_mm
    scale = TILE / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return Image.fromarray(np.ascontiguousarray(plane)).resize(size, Image.Resampling.NEAREST)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, most: int = 1, bold: bool = False) -> None:
    """White text, cut where the next tile begins."""
    font = ImageFont.load_default(13)
    room = most * (TILE + GAP) - GAP
    while draw.textlength(text, font) > room:
        text = text[:-4].rstrip() + "..." if text.endswith("...") else text[:-1].rstrip() + "..."
    draw.text(place, text, fill=(255, 255, 255) if bold else (210, 210, 210), font=font)
