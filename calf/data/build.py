"""Builds a store from a layout: every case prepared once, in parallel, restartable, atomic.

Each case is prepared into a part of its own, named by the digest of its files, under ``<store>.parts``; a killed build finds
the parts that are done. When all are there they are joined into a new folder, which takes its final name last.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from rich.progress import track

from calf.data.cases import Case, Layout, Target
from calf.data.prepare import Preparation, box_in, planes_of_case, to_slices
from calf.data.store import VERSION, SliceStore, areas_of
from calf.data.volumes import VolumeError, encode_target, read_case, read_header
from calf.files import write_json

# of the size chosen for a data set: networks halve it five times, CALF's regions divide it
MULTIPLE = 32


class PreparationError(ValueError):
    """Some cases cannot be prepared; the message lists each with its reason."""


@dataclass(frozen=True)
class StorePlan:
    """What a store will hold: known before any voxel is read."""

    folder: Path
    key: str
    cases: list[Case]
    target: Target
    preparation: Preparation
    labels: dict[int, str]
    digests: dict[str, str]
    unmasked: tuple[str, ...] = ()  # cases without a mask, which a store does not take

    @property
    def has_reference(self) -> bool:
        return any(case.reference is not None for case in self.cases)

    @property
    def ready(self) -> bool:
        """Whether the store is built; its manifest is written before the folder takes its name."""
        return (self.folder / "manifest.json").exists()


def plan_store(name: str, layout: Layout, target: str, preparation: Preparation, stores_dir: Path) -> StorePlan:
    """List the inputs, digest them, and name the store that holds them so prepared."""
    layout.ensure()
    if target not in layout.targets:
        raise ValueError(f"dataset.target={target} is not one of this data set's targets: {', '.join(layout.targets)}")
    modalities = preparation.modalities or tuple(layout.modalities)
    if unknown := [modality for modality in modalities if modality not in layout.modalities]:
        raise ValueError(f"modalities {unknown} are not among this data set's: {', '.join(layout.modalities)}")
    settings = asdict(preparation) | {"modalities": modalities}
    preparation = Preparation(**settings)
    listed = layout.cases()
    cases = [case for case in listed if case.mask is not None]
    if not cases:
        raise ValueError("no case of this data set has a mask: nothing can be trained or scored")
    digests = _digests([path for case in cases for path in case.files()], stores_dir)
    inputs = [
        {
            "id": case.id,
            "patient": case.patient,
            "images": {m: [digests[str(i.path)], i.channel] for m, i in case.images.items() if m in modalities},
            "mask": digests[str(case.mask)],
            "reference": digests[str(case.reference)] if case.reference else None,
        }
        for case in cases
    ]
    content = {
        "version": VERSION,
        "target": asdict(layout.targets[target]),
        "labels": {str(value): meaning for value, meaning in layout.labels.items()},
        "settings": settings,
        "inputs": inputs,
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    folder = stores_dir / f"{name}-{key[:12]}"
    unmasked = tuple(case.id for case in listed if case.mask is None)
    return StorePlan(folder, key, cases, layout.targets[target], preparation, layout.labels, digests, unmasked)


def _digests(paths: Iterable[Path], stores_dir: Path) -> dict[str, str]:
    """SHA-256 of each file; remembered by path, size and modification time, so that a large set is read once."""
    memory = stores_dir / "digests.json"
    stores_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(stores_dir / "digests.lock"):
        known: dict[str, list[Any]] = json.loads(memory.read_text()) if memory.exists() else {}
        real = {str(path): str(path.resolve()) for path in paths}
        stamps = {path: [os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in set(real.values())}
        new = sorted(path for path, stamp in stamps.items() if known.get(path, [])[:2] != stamp)
        for path in track(new, description="digest of the input files", transient=True, disable=len(new) < 100):
            with open(path, "rb") as file:
                known[path] = [*stamps[path], hashlib.file_digest(file, "sha256").hexdigest()]
        if new:
            write_json(memory, known)
    return {given: known[path][2] for given, path in real.items()}


def open_store(plan: StorePlan, skip_bad_cases: bool = False, workers: int | None = None) -> SliceStore:
    """The store of a plan, built first where it is missing; a second process that wants it waits for the first."""
    if not plan.ready:
        with FileLock(plan.folder.with_name(plan.folder.name + ".lock")):
            if not plan.ready:
                _build(plan, skip_bad_cases, workers or os.cpu_count() or 1)
    store = SliceStore(plan.folder)
    if store.manifest["skipped"] and not skip_bad_cases:
        raise _refusal(plan, store.manifest["skipped"])
    return store


def left_out(plan: StorePlan, store: SliceStore) -> list[str]:
    """What the data set lists and the store does not hold, one line each."""
    skipped = [f"left out: {case}: {reason}" for case, reason in sorted(store.manifest["skipped"].items())]
    return skipped + [f"left out: {case}: it has no mask" for case in plan.unmasked]


def _refusal(plan: StorePlan, bad: dict[str, str]) -> PreparationError:
    listed = "\n".join(f"  {case}: {reason}" for case, reason in sorted(bad.items()))
    return PreparationError(
        f"{len(bad)} of {len(plan.cases)} cases cannot be prepared:\n{listed}\n"
        "Repair or remove them, or go on without them: dataset.skip_bad_cases=true. The other cases are kept prepared."
    )


def _build(plan: StorePlan, skip_bad_cases: bool, workers: int) -> None:
    bad: dict[str, str] = {}
    size = plan.preparation.size or _largest_slice(plan, bad)
    parts = plan.folder.with_name(plan.folder.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    todo = [case for case in plan.cases if case.id not in bad and not _part(parts, case, plan).exists()]
    bad |= _prepare_all(plan, todo, parts, size, min(workers, len(todo)))
    good = [case for case in plan.cases if case.id not in bad]
    if bad and (not skip_bad_cases or not good):
        raise _refusal(plan, bad)
    _join(plan, good, bad, parts, size)
    shutil.rmtree(parts)


def _largest_slice(plan: StorePlan, bad: dict[str, str]) -> tuple[int, int]:
    sizes = []
    for case in plan.cases:
        try:
            assert case.mask is not None
            sizes.append(plan.preparation.grid(read_header(case.mask).ras_shape)[1:])
        except VolumeError as error:
            bad[case.id] = str(error)
    if not sizes:
        raise _refusal(plan, bad)
    largest = (max(rows for rows, _ in sizes), max(columns for _, columns in sizes))
    return -(-largest[0] // MULTIPLE) * MULTIPLE, -(-largest[1] // MULTIPLE) * MULTIPLE


def _part(parts: Path, case: Case, plan: StorePlan) -> Path:
    digest = hashlib.sha256(" ".join([case.id, *(plan.digests[str(path)] for path in case.files())]).encode()).hexdigest()
    return parts / f"{digest[:24]}.npy"


def _prepare_all(plan: StorePlan, cases: list[Case], parts: Path, size: tuple[int, int], workers: int) -> dict[str, str]:
    """Prepare each case into its part; returns the reasons of those that cannot be."""
    bad: dict[str, str] = {}
    if not cases:
        return bad
    arguments = {case.id: (case, plan, _part(parts, case, plan), size) for case in cases}
    text = f"prepare {plan.folder.name}"
    if workers == 1:
        for case_id in track(arguments, description=text):
            if reason := _prepare_part(*arguments[case_id]):
                bad[case_id] = reason
        return bad
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_prepare_part, *values): case_id for case_id, values in arguments.items()}
        for future in track(as_completed(futures), description=text, total=len(futures)):
            if reason := future.result():
                bad[futures[future]] = reason
    return bad


def _prepare_part(case: Case, plan: StorePlan, part: Path, size: tuple[int, int]) -> str | None:
    """Prepare one case; the reason instead of an exception when its files are at fault."""
    preparation = plan.preparation
    assert preparation.modalities is not None
    try:
        volumes = read_case(case, preparation.modalities, plan.labels)
        masks = [encode_target(volumes.mask, plan.target)]
        if plan.has_reference:
            masks.append(masks[0] if volumes.reference is None else encode_target(volumes.reference, plan.target))
        planes = planes_of_case(volumes.images, masks, preparation, size)
        truth = np.ascontiguousarray(to_slices(masks[-1], preparation.plane))
    except ValueError as error:
        return str(error)
    shape = volumes.mask.shape
    grid = preparation.grid(shape)
    box = box_in(size, *grid[1:], preparation.fit)
    pixels = (box[1] - box[0]) * (box[3] - box[2])
    geometry = {
        "id": case.id,
        "patient": case.patient,
        "shape": shape,
        "grid": grid,
        "spacing_mm": [float(step) for step in volumes.spacing_mm],
        "affine": np.asarray(volumes.original_affine).tolist(),
        "original_shape": list(volumes.original_shape),
        "box": box,
        # after resizing a stored pixel stands for a different area
        "stored_voxel_volume_mm3": float(np.prod(volumes.spacing_mm)) * grid[1] * grid[2] / pixels,
    }
    write_json(part.with_suffix(".json"), geometry)
    if preparation.fit == "resize":
        np.save(part.with_suffix(".truth.npy"), truth)
    partial = part.with_suffix(".partial")
    with open(partial, "wb") as file:
        np.save(file, planes)
    partial.replace(part)
    return None


def _join_truth(building: Path, files: list[Path], geometry: list[dict[str, Any]]) -> None:
    """``truth.npy`` of all cases, each slice at the top left of a plane that holds the largest."""
    shape = (sum(entry["grid"][0] for entry in geometry), *(max(entry["grid"][axis] for entry in geometry) for axis in (1, 2)))
    planes = np.lib.format.open_memmap(building / "truth.npy", mode="w+", dtype=np.uint8, shape=shape)
    for file, entry in zip(files, geometry, strict=True):
        part = np.load(file.with_suffix(".truth.npy"))
        planes[entry["first"] : entry["first"] + len(part), : part.shape[1], : part.shape[2]] = part
    planes.flush()


def _join(plan: StorePlan, cases: list[Case], bad: dict[str, str], parts: Path, size: tuple[int, int]) -> None:
    building = plan.folder.with_name(plan.folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    files = [_part(parts, case, plan) for case in cases]
    geometry = [json.loads(file.with_suffix(".json").read_text()) for file in files]
    total = sum(entry["grid"][0] for entry in geometry)
    modalities = plan.preparation.modalities
    assert modalities is not None
    shape = (total, len(modalities) + 1 + plan.has_reference, *size)
    planes = np.lib.format.open_memmap(building / "planes.npy", mode="w+", dtype=np.uint8, shape=shape)
    areas, owner, position, first = [], [], [], 0
    for number, (file, entry) in enumerate(zip(files, geometry, strict=True)):
        part = np.load(file)
        planes[first : first + len(part)] = part
        areas.append(areas_of(part[:, len(modalities)], plan.target))
        owner.append(np.full(len(part), number, np.int32))
        position.append(np.arange(len(part), dtype=np.int32))
        entry["first"] = first
        first += len(part)
    planes.flush()
    del planes
    if plan.preparation.fit == "resize":
        _join_truth(building, files, geometry)
    np.savez(building / "index.npz", case=np.concatenate(owner), position=np.concatenate(position), areas=np.concatenate(areas))
    manifest = {
        "key": plan.key,
        "modalities": modalities,
        "has_reference": plan.has_reference,
        "target": asdict(plan.target),
        "preparation": asdict(plan.preparation) | {"size": size},
        "cases": geometry,
        "skipped": bad,
        "sha256": {case.id: {path.name: plan.digests[str(path)] for path in case.files()} for case in cases},
    }
    write_json(building / "manifest.json", manifest)
    building.replace(plan.folder)
