"""The fingerprint of a data set: the numbers by which its imbalance can be judged before anything is trained.

``fingerprint.json`` holds, with ``null`` where a number is undefined:

``dataset``, ``store``, ``files``
    Its name, the folder of the prepared data, which its key names, and the folder that all input files are below.
``target``, ``modalities``, ``preparation``
    What is segmented (names, label values, exclusive or not), from what, prepared how.
``voxels_as_in_files``
    Whether stored pixels are the files' own voxels; false where volumes were cropped, resampled or resized. Volumes, shares of a
    case and components are in the files' own voxels all the same, slice areas in stored pixels.
``num_cases``, ``num_patients``, ``num_slices``, ``num_unlabelled_slices``, ``left_out``, ``without_mask``
    What the store holds, and what it does not: cases that cannot be read, each with its reason, and cases without a mask. All
    shares below are of labelled slices; a slice is unlabelled where nobody annotated it.
``empty_share``, ``background_to_foreground``
    Share of slices without any target, and pixels without for each one with any, as a loss sees them, padding included.
``padding_share``, ``pixels_of_a_slice``, ``pixel_mm``
    Share of the stored pixels that lies outside the images; pixels of a stored slice, padding included; quantiles over cases of
    the size of a stored pixel along ``rows`` and ``columns``, and from slice to slice.
``targets``, by name
    ``present_in_cases``; ``volume_mm3``, quantiles over the cases that have it; ``share_of_voxels`` of the images and
    ``share_of_pixels`` as a loss sees them; ``empty_share`` of the slices; ``areas``, the histogram of slice areas in stored
    pixels; ``all_slices`` and ``training_slices``: skewness and excess kurtosis of the areas, empty slices counting 0, and the
    branch they choose at ``loss.scope=dataset``; ``components``: their number, the quantiles of ``per_case`` and of
    ``volume_mm3``, the share of those of one voxel (``single_voxel_share``), and what only the largest component of each case
    would score (``dice_of_largest``, mean over cases); ``largest_radius_px``, in a slice; ``balanced_weight``, quantiles of
    background over foreground in slices that have both.
``batch_size``, ``batches``
    The size that is set, and for it and others, drawn as training draws them (``simulated_from``): how often CALF takes each of
    its branches (``scope=batch``, ``area=pixels``), quantiles of skewness and kurtosis, the share of batches where they are
    ``undefined`` and of those ``without_foreground``.
``split``
    For each part patients, cases, labelled slices, share of empty ones, and by target the cases that have it and the quantiles of
    their volumes; or ``null``, and why not in ``no_split``.
``remarks``
    What these numbers say, what that means by the documented behaviour of the losses, and the basis of it.
``cases``
    For each case: patient, ``part``, ``shape`` (voxels along the axes from left to right, back to front, feet to head),
    ``spacing_mm`` of these axes, ``orientation`` of the file, slices, ``intensities`` of each modality in the units of the file
    (``background``: the value that all eight corners share, and its share of the voxels; percentiles are of all others), and by
    target ``volume_mm3``, ``share`` of the case's voxels, ``components`` (voxels that share a face, an edge or a corner),
    ``component_voxels`` and ``component_volumes_mm3``, largest first, ``largest_share``, ``largest_radius_px``.

Quantiles are ``min``, ``p25``, ``p50``, ``p75``, ``max`` unless they say otherwise.
"""

from __future__ import annotations

import math
import os
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calf.data.build import StorePlan
from calf.data.geometry import PLANES
from calf.data.sampling import RatioFilter, Sampling
from calf.data.splits import PARTS, Split, check_parts
from calf.data.store import SliceStore, StoredCase
from calf.data.views import Samples
from calf.inspect.batches import BATCH_SIZES, histogram, moments, simulate
from calf.inspect.measure import Measured
from calf.inspect.remarks import remarks


class Data(Protocol):
    """What is asked of a data set: the part of :class:`calf.data.datamodule.SliceData` that says what training sees."""

    @property
    def plan(self) -> StorePlan: ...
    @property
    def store(self) -> Samples: ...
    @property
    def division(self) -> Split: ...
    @property
    def sampling(self) -> Sampling: ...
    @property
    def filter(self) -> RatioFilter: ...
    @property
    def batch_size(self) -> int: ...
    def part(self, name: str) -> NDArray[np.int64]: ...


def fingerprint(name: str, data: Data, store: SliceStore, measured: list[Measured]) -> dict[str, Any]:
    """All numbers, as the head of this module lists them, plain enough for JSON.

    Args:
        name: of the data set.
        store: the prepared data, whole cases whatever a sample of ``data`` is.
        measured: each case of the store, in its order.
    """
    split, labelled = _split(data, store), store.labelled
    areas = store.areas[labelled]
    divided = isinstance(split, Split)
    training = data.store.areas[data.part("train") if divided else np.flatnonzero(data.store.labelled)]
    found = {
        "dataset": name,
        "store": store.folder.name,
        "files": os.path.commonpath([path.parent for case in data.plan.cases for path in case.files()]),
        **{key: store.manifest[key] for key in ("target", "modalities", "preparation")},
        "voxels_as_in_files": store.unchanged,
        "num_cases": len(store.cases),
        "num_patients": len({case.patient for case in store.cases}),
        "num_slices": len(store),
        "num_unlabelled_slices": int((~labelled).sum()),
        "left_out": store.manifest["skipped"],
        "without_mask": data.plan.unmasked,
        **_imbalance(store, measured, labelled),
        "pixel_mm": {
            axis: quantiles([stored_spacing(case)[place] for case in store.cases])
            for place, axis in enumerate(("slices", "rows", "columns"))
        },
        "targets": {
            target: _target(target, place, store, measured, areas, training) for place, target in enumerate(store.target.names)
        },
        "batch_size": data.batch_size,
        "simulated_from": _simulated_from(data, divided),
        "batches": [
            simulate(training, store.target.names, size, data.sampling) for size in sorted({*BATCH_SIZES, data.batch_size})
        ],
        "split": {part: _part(store, measured, getattr(split, part)) for part in PARTS} if divided else None,
        "no_split": None if divided else split,
    }
    found["cases"] = [{**case.numbers, "part": _part_of(case.numbers["patient"], split)} for case in measured]
    found["remarks"] = [remark._asdict() for remark in remarks(found)]
    plain: dict[str, Any] = _plain(found)
    return plain


def _split(data: Data, store: SliceStore) -> Split | str:
    """Who is in which part, or in words why nobody is."""
    try:
        check_parts(store, data.division)
    except ValueError as error:
        return str(error)
    return data.division


def _simulated_from(data: Data, divided: bool) -> str:
    what = "the training part" if divided else "all slices"
    filtered = " after dataset.filter" if divided and data.filter.filters else ""
    return f"{what}{filtered}, {type(data.sampling).__name__.lower()}"


def _slices_in(store: SliceStore, patients: tuple[str, ...]) -> NDArray[np.bool_]:
    inside = np.zeros(len(store), bool)
    inside[store.slices_of(set(patients))] = True
    return inside


def _imbalance(store: SliceStore, measured: list[Measured], labelled: NDArray[np.bool_]) -> dict[str, Any]:
    foreground = np.concatenate([case.foreground for case in measured])[labelled]
    pixels, shown = len(foreground) * store.shape[2] * store.shape[3], int(foreground.sum())
    return {
        "empty_share": float((foreground == 0).mean()),
        "background_to_foreground": (pixels - shown) / shown if shown else None,
        "padding_share": 1 - _pixels_of_images(store) / pixels,
        "pixels_of_a_slice": store.shape[2] * store.shape[3],
    }


def stored_spacing(case: StoredCase) -> tuple[float, float, float]:
    """Millimetres from slice to slice, row to row and column to column of the stored planes."""
    extent = [(end - first) * step for (first, end), step in zip(case.crop, case.spacing_mm, strict=True)]
    axis = PLANES[case.plane]
    columns, rows = (length for index, length in enumerate(extent) if index != axis)
    top, bottom, left, right = case.box
    return extent[axis] / case.grid[0], rows / (bottom - top), columns / (right - left)


def _target(
    name: str, place: int, store: SliceStore, measured: list[Measured], areas: NDArray[np.int32], training: NDArray[np.int32]
) -> dict[str, Any]:
    own, pixels = areas[:, place].astype(np.int64), store.shape[2] * store.shape[3]
    cases = [case.numbers["targets"][name] for case in measured]
    present = [case for case in cases if case["components"]]
    shown = own[(own > 0) & (own < pixels)]
    parts = np.concatenate([case["component_voxels"] for case in cases])
    return {
        "present_in_cases": len(present),
        "volume_mm3": quantiles([case["volume_mm3"] for case in present]),
        "share_of_voxels": own.sum() / _pixels_of_images(store),
        "share_of_pixels": own.sum() / (len(own) * pixels),
        "empty_share": (own == 0).mean(),
        "areas": histogram(own),
        "all_slices": moments(own),
        "training_slices": moments(training[:, place]),
        "components": {
            "number": len(parts),
            "per_case": quantiles([case["components"] for case in present]),
            "volume_mm3": quantiles([volume for case in cases for volume in case["component_volumes_mm3"]]),
            "single_voxel_share": float((parts == 1).mean()) if len(parts) else None,
            "dice_of_largest": np.mean([_dice_of_part(case["largest_share"]) for case in present]) if present else None,
        },
        "largest_radius_px": max(case["largest_radius_px"] for case in cases),
        "balanced_weight": quantiles((pixels - shown) / shown) | {"above_1000": float(((pixels - shown) / shown > 1000).mean())}
        if shown.size
        else None,
    }


def _pixels_of_images(store: SliceStore) -> int:
    """Stored pixels of labelled slices that are not padding."""
    boxes = store.boxes[store.labelled].astype(np.int64)
    return int(((boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])).sum())


def _dice_of_part(share: float) -> float:
    """Dice of a prediction that is right, and is this share of the truth."""
    return 2 * share / (1 + share)


def quantiles(values: ArrayLike) -> dict[str, float | None]:
    """``min``, ``p25``, ``p50``, ``p75``, ``max``; None of no values."""
    values = np.asarray(values, float)
    levels = np.percentile(values, (0, 25, 50, 75, 100)).tolist() if values.size else [None] * 5
    return dict(zip(("min", "p25", "p50", "p75", "max"), levels, strict=True))


def _part(store: SliceStore, measured: list[Measured], patients: tuple[str, ...]) -> dict[str, Any]:
    cases = [case.numbers for case in measured if case.numbers["patient"] in patients]
    slices = store.labelled & _slices_in(store, patients)
    return {
        "patients": len(patients),
        "cases": len(cases),
        "slices": int(slices.sum()),
        "empty_share": float((store.areas[slices] == 0).all(axis=1).mean()) if slices.any() else None,
        "targets": {
            name: {"present_in_cases": len(volumes), "volume_mm3": quantiles(volumes)}
            for name in store.target.names
            for volumes in [[case["targets"][name]["volume_mm3"] for case in cases if case["targets"][name]["components"]]]
        },
    }


def _part_of(patient: str, split: Split | str) -> str | None:
    return None if isinstance(split, str) else next((part for part in PARTS if patient in getattr(split, part)), None)


def _plain(value: Any) -> Any:
    """Python's own numbers, lists and dictionaries; None for what is not finite, which JSON does not know."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
