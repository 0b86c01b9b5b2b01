"""Pictures of slices that are chosen by rule, with the target outlined."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calf.data.store import SliceStore, channels_of
from calf.inspect.fingerprint import stored_spacing
from calf.inspect.measure import Measured
from calf.page import Figure, picture
from calf.pictures import CAPTION, overlay

EDGE = 260  # pixels of the longer side of a panel, at least
GAP = 6  # black pixels between panels
MOST_OUTLINED = 3  # targets with a panel of their own; of more, one panel shows all together


def samples(store: SliceStore, measured: list[Measured]) -> list[Figure]:
    """A picture of each of :func:`chosen`."""
    return [_picture(store, index, why) for why, index in chosen(store, measured).items()]


def chosen(store: SliceStore, measured: list[Measured]) -> dict[str, int]:
    """Slice numbers by the reason for showing them; always the same ones.

    Of the cases with the smallest, the median and the largest volume of any target that slice which shows most of it; the
    slice that shows least of all; and of the median case the empty slice nearest to its target, or else the first empty one.
    """
    areas = np.concatenate([case.foreground for case in measured])
    cases = store.case_of_slice
    volumes = np.array(
        [case.foreground.sum() * own.stored_voxel_volume_mm3 for case, own in zip(measured, store.cases, strict=True)]
    )
    order = [number for number in np.argsort(volumes, kind="stable").tolist() if volumes[number] > 0]
    if not order:
        return {}
    middle = order[len(order) // 2]
    found = {
        f"{what} target of a case": _most(areas, cases, number)
        for what, number in (("smallest", order[0]), ("median", middle), ("largest", order[-1]))
    }
    shown = np.flatnonzero(areas > 0)
    found["least that a slice shows"] = int(shown[areas[shown].argmin()])
    empty = np.flatnonzero((areas == 0) & store.labelled)
    if empty.size:
        own = empty[cases[empty] == middle]
        target = np.flatnonzero((areas > 0) & (cases == middle))
        nearest = [int(np.abs(target - index).min()) for index in own]
        found["empty slice"] = int(own[int(np.argmin(nearest))]) if own.size else int(empty[0])
    return found


def _most(areas: NDArray[np.int64], cases: NDArray[np.int32], number: int) -> int:
    own = np.flatnonzero(cases == number)
    return int(own[areas[own].argmax()])


def _picture(store: SliceStore, index: int, why: str) -> Figure:
    """The slice in each modality, plain and with each target outlined: a row each, or beside each other of one modality."""
    case, names = store.cases[store.case_of_slice[index]], store.target.names
    planes = _shown(store.read(np.array([index]))[0, : len(store.modalities) + 1])
    mask = planes[-1]
    outlined = channels_of(mask, store.target) if len(names) <= MOST_OUTLINED else [mask > 0]
    _, row_mm, column_mm = stored_spacing(case)
    columns = [
        [
            _panel(plane, target, row_mm / column_mm)
            for target in (np.zeros_like(mask), *(own.astype(np.uint8) for own in outlined))
        ]
        for plane in planes[:-1]
    ]
    rows = columns if len(columns) == 1 else list(zip(*columns, strict=True))
    picture_of = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    counted = ", ".join(f"{name} {area}" for name, area in zip(names, store.areas[index].tolist(), strict=True))
    place = f"{case.id}, slice {store.position[index] + 1} of {case.grid[0]}"
    panels = ", ".join(["plain", *(names if len(names) <= MOST_OUTLINED else ["all targets"])])
    caption = f"{why}: {place}; {', '.join(store.modalities)}; {panels} outlined; pixels: {counted}"
    return picture(picture_of, caption, caption)


def _shown(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Planes (P, R, C) without the margin where all are 0."""
    rows, columns = (np.flatnonzero(planes.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    return planes[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if rows.size else planes


def _panel(plane: NDArray[np.uint8], mask: NDArray[np.uint8], stretch: float) -> NDArray[np.uint8]:
    """The plane with the mask outlined, (H, W, 3), its pixels as tall and wide as they are in the patient."""
    shown = overlay(plane, mask, mask, "")
    width = shown.width // 3
    panel = shown.crop((width, CAPTION, 2 * width, shown.height))
    tall, wide = panel.height * max(stretch, 1), panel.width * max(1 / stretch, 1)
    scale = max(1, EDGE / max(tall, wide))
    shape = round(wide * scale), round(tall * scale)
    return np.pad(np.asarray(panel.resize(shape, Image.Resampling.NEAREST)), ((0, GAP), (0, GAP), (0, 0)))
