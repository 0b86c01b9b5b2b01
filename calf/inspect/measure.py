"""What is measured in each case: its grid and intensities in its own files, and its targets in the stored masks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import cv2
import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy import ndimage

from calf.data.cases import Case
from calf.data.prepare import background
from calf.data.store import SliceStore, channels_of
from calf.data.volumes import Grid, read_images

PERCENTILES = (0.5, 5, 50, 95, 99.5)
TOUCHING = np.ones((3, 3, 3), bool)  # 26 neighbours: voxels that share a face, an edge or a corner are of one component


@dataclass(frozen=True, eq=False)
class Measured:
    """One case: what the page says of it, and for each of its slices the pixels of any target."""

    numbers: dict[str, Any]
    foreground: NDArray[np.int64]


def measure_cases(cases: list[Case], store: SliceStore, workers: int) -> list[Measured]:
    """Measure every case of the store, in its order; reads the images of all of them again.

    Args:
        cases: the cases the store was made from, more than it holds where some were left out.

    Raises:
        VolumeError: an image can no longer be read.
    """
    by_id = {case.id: case for case in cases}
    # threads: reading, inflating, sorting and labelling are done outside the interpreter's lock
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(_measure, by_id[case.id], store, number): number for number, case in enumerate(store.cases)}
        done = track(as_completed(futures), description="measure the cases", total=len(futures), transient=True)
        found = {futures[future]: future.result() for future in done}
    return [found[number] for number in range(len(found))]


def _measure(case: Case, store: SliceStore, number: int) -> Measured:
    stored = store.cases[number]
    grid, found = _of_files(case, store.modalities)
    masks = store.read(stored.slices)[:, len(store.modalities)]
    volume, voxel = training_mask(store, number, masks), stored.voxel_volume_mm3
    annotated = volume.size if stored.annotated is None else int(np.broadcast_to(stored.annotated, volume.shape).sum())
    targets = {
        name: {"volume_mm3": float(own.sum()) * voxel, "share": float(own.sum() / annotated)}
        | components(own, voxel)
        | {"largest_radius_px": largest_radius(in_slices)}
        for name, own, in_slices in zip(
            store.target.names, channels_of(volume, store.target), channels_of(masks, store.target), strict=True
        )
    }
    numbers = {
        "case": stored.id,
        "patient": stored.patient,
        "shape": grid.ras_shape,
        "spacing_mm": grid.spacing_mm,
        "orientation": "".join(nib.aff2axcodes(grid.original_affine)),
        "slices": len(masks),
        "unlabelled_slices": int((~store.labelled[stored.slices]).sum()),
        "intensities": found,
        "targets": targets,
    }
    return Measured(numbers, np.count_nonzero(masks, axis=(1, 2)))


def training_mask(store: SliceStore, number: int, masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The encoded mask of a case that networks learn from, (X, Y, Z) in the voxels of its own files.

    Exact, unless the data set has references of its own and slices are resampled: then the stored ``masks`` are brought back.
    """
    return store.cases[number].restore(masks) if store.has_reference else store.truth(number)


def _of_files(case: Case, modalities: tuple[str, ...]) -> tuple[Grid, dict[str, Any]]:
    """The grid of the first modality, and the intensities of each as they are in the files."""
    found: dict[str, Any] = {}
    grids = []
    for names in _by_file(case, modalities):
        images, grid = read_images(case, names)
        grids.append(grid)
        found |= {name: intensities(image) for name, image in zip(names, images, strict=True)}
    return grids[0], {name: found[name] for name in modalities}


def _by_file(case: Case, modalities: tuple[str, ...]) -> Iterator[list[str]]:
    """Modalities that are channels of one file are read together; others alone, since their grids may differ."""
    files: dict[Any, list[str]] = {}
    for name in modalities:
        files.setdefault(case.images[name].path, []).append(name)
    yield from files.values()


def intensities(volume: NDArray[np.float32]) -> dict[str, Any]:
    """Least and greatest value, and percentiles of what is not background.

    Background is the value that all eight corners of the volume share, as in preparation; ``None`` where they differ.
    """
    outside = background(volume)
    inside = volume if outside is None else volume[~outside]
    percentiles = np.percentile(inside, PERCENTILES).tolist() if inside.size else [None] * len(PERCENTILES)
    return {
        "min": float(volume.min()),
        **{f"p{rank:g}": level for rank, level in zip(PERCENTILES, percentiles, strict=True)},
        "max": float(volume.max()),
        "background": None if outside is None else float(volume[0, 0, 0]),
        "background_share": 1 - inside.size / volume.size,
    }


def components(mask: NDArray[np.bool_], voxel_mm3: float) -> dict[str, Any]:
    """How many connected parts a mask (X, Y, Z) has, the volume of each, largest first, and the largest one's share.

    Voxels that share a face, an edge or a corner are connected. An empty mask has no component, and no largest share.
    """
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return {"components": 0, "component_voxels": [], "component_volumes_mm3": [], "largest_share": None}
    labels, number = ndimage.label(mask[boxes[0]], TOUCHING)
    voxels = np.sort(np.bincount(labels.ravel())[1:])[::-1]
    return {
        "components": int(number),
        "component_voxels": voxels.tolist(),
        "component_volumes_mm3": (voxels * voxel_mm3).tolist(),
        "largest_share": float(voxels[0] / voxels.sum()),
    }


def largest_radius(mask: NDArray[np.bool_]) -> float:
    """Greatest distance, in pixels and within a slice, of a pixel of (S, R, C) to the nearest one outside; 0 if empty."""
    planes = [np.pad(plane.astype(np.uint8), 1) for plane in mask if plane.any()]
    return max((float(cv2.distanceTransform(plane, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max()) for plane in planes), default=0.0)
