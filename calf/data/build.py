"""Builds a store from a layout: every case prepared once, in parallel, restartable, atomic.

Each case is cut into slices in a part of its own, named by the digest of its files, under ``<store>.parts``; a killed build
finds the parts that are done. When all are there they are fitted into planes of one size in a new folder, which takes its final
name last.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from rich.progress import track

from calf.data.cases import Case, Layout, Target
from calf.data.geometry import Geometry, slice_grid
from calf.data.prepare import Preparation, Slices, cut
from calf.data.store import VERSION, SliceStore, areas_of
from calf.data.views import Samples
from calf.data.volumes import CaseVolumes, VolumeError, content_digest, encode_target, files_of, read_case
from calf.files import write_json

# of the size chosen for a data set: networks halve it five times, CALF's regions divide it
MULTIPLE = 32
GEOMETRY = [field.name for field in fields(Geometry)]


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
    if preparation.onto is not None and preparation.onto not in layout.modalities:
        raise ValueError(
            f"preparation.onto={preparation.onto} is not a modality of this data set: {', '.join(layout.modalities)}"
        )
    settings = asdict(preparation) | {"modalities": modalities}
    preparation = Preparation(**settings)
    listed = layout.cases()
    cases = [case for case in listed if case.mask is not None]
    if not cases:
        raise ValueError("no case of this data set has a mask: nothing can be trained or scored")
    read = {*modalities, *([preparation.onto] if preparation.onto else [])}
    digests = _digests([path for case in cases for path in case.files()], stores_dir)
    inputs = [
        {
            "id": case.id,
            "patient": case.patient,
            "images": {m: [digests[str(i.path)], i.channel] for m, i in case.images.items() if m in read},
            "mask": digests[str(case.mask)],
            "reference": digests[str(case.reference)] if case.reference else None,
            "subset": case.subset,
            "aliases": case.aliases,
            "partly_labelled": case.partly_labelled,
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
    """SHA-256 of each input, of a folder of all its files; remembered by path, size and modification time of each file."""
    memory = stores_dir / "digests.json"
    stores_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(stores_dir / "digests.lock"):
        known: dict[str, list[Any]] = json.loads(memory.read_text()) if memory.exists() else {}
        real = {str(path): [str(file.resolve()) for file in files_of(path)] for path in paths}
        stamps = {
            file: [os.stat(file).st_size, os.stat(file).st_mtime_ns]
            for file in {file for files in real.values() for file in files}
        }
        new = sorted(file for file, stamp in stamps.items() if known.get(file, [])[:2] != stamp)
        for path in track(new, description="digest of the input files", transient=True, disable=len(new) < 100):
            with open(path, "rb") as content:
                known[path] = [*stamps[path], hashlib.file_digest(content, "sha256").hexdigest()]
        if new:
            write_json(memory, known)
    return {given: _joint([known[file][2] for file in files]) for given, files in real.items()}


def _joint(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


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


def left_out(plan: StorePlan, store: Samples) -> list[str]:
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
    parts = plan.folder.with_name(plan.folder.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    todo = [case for case in plan.cases if not _part(parts, case, plan).exists()]
    with _room_on_disk(plan.folder):
        bad = _prepare_all(plan, todo, parts, min(workers, len(todo)))
        good = [case for case in plan.cases if case.id not in bad]
        if bad and (not skip_bad_cases or not good):
            raise _refusal(plan, bad)
        _join(plan, good, bad, parts)
    shutil.rmtree(parts)


@contextmanager
def _room_on_disk(folder: Path) -> Iterator[None]:
    """A full disk in words; what is prepared stays, and a store that was there before is not touched."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        shutil.rmtree(folder.with_name(folder.name + ".building"), ignore_errors=True)
        raise PreparationError(
            f"no room on the disk of {folder.parent.absolute()} for {folder.name} ({error.strerror}): free some, or choose "
            "another place with stores_dir=...; the same command then goes on with the cases that are prepared"
        ) from error


def _part(parts: Path, case: Case, plan: StorePlan) -> Path:
    digest = hashlib.sha256(" ".join([case.id, *(plan.digests[str(path)] for path in case.files())]).encode()).hexdigest()
    return parts / f"{digest[:24]}.npz"


def _prepare_all(plan: StorePlan, cases: list[Case], parts: Path, workers: int) -> dict[str, str]:
    """Prepare each case into its part; returns the reasons of those that cannot be."""
    bad: dict[str, str] = {}
    if not cases:
        return bad
    arguments = {case.id: (case, plan, _part(parts, case, plan)) for case in cases}
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


def _prepare_part(case: Case, plan: StorePlan, part: Path) -> str | None:
    """Prepare one case; the reason instead of an exception when its files are at fault."""
    preparation = plan.preparation
    assert preparation.modalities is not None
    try:
        volumes = read_case(case, preparation.modalities, plan.labels, preparation.onto)
        content = {
            name: "" if image.min() == image.max() else content_digest(image)
            for name, image in zip(preparation.modalities, volumes.images, strict=True)
        }
        masks = [encode_target(volumes.mask, plan.target)]
        if plan.has_reference:
            masks.append(masks[0] if volumes.reference is None else encode_target(volumes.reference, plan.target))
        annotated = _annotated(case, volumes, preparation)
        if annotated is not None:
            masks.append(annotated)
        truth = masks[plan.has_reference]
        slices = cut(volumes.images, masks, volumes, preparation)
    except ValueError as error:
        return str(error)
    geometry = slices.geometry(volumes, preparation, (1, 1))  # the size of all planes is known when every case is cut
    masks_kept = 1 + plan.has_reference
    labelled = np.ones(len(slices.masks), bool) if annotated is None else slices.masks[:, masks_kept:].any(axis=(1, 2, 3))
    entry = {
        "id": case.id,
        "patient": case.patient,
        "subset": case.subset,
        "aliases": case.aliases,
        "content": content,
        "annotated_slices": None if annotated is None else np.flatnonzero(annotated.any(axis=(0, 1))).tolist(),
        **asdict(geometry),
    }
    partial = part.with_suffix(".partial")
    with open(partial, "wb") as file:
        np.savez(
            file,
            entry=np.array(json.dumps(entry)),
            images=slices.images,
            masks=slices.masks[:, :masks_kept],
            labelled=labelled,
            truth=np.zeros(0, np.uint8) if geometry.unchanged else np.ascontiguousarray(truth),
        )
    partial.replace(part)
    return None


def _annotated(case: Case, volumes: CaseVolumes, preparation: Preparation) -> NDArray[np.uint8] | None:
    """The annotated axial slices of a partly labelled case, as a mask of ones."""
    if not case.partly_labelled:
        return None
    if preparation.plane != "axial":
        raise VolumeError(f"case {case.id} is annotated in some axial slices only: take preparation.plane=axial")
    annotated = np.zeros(volumes.mask.shape, np.uint8)
    annotated[:, :, volumes.mask.any(axis=(0, 1))] = 1
    if not annotated.any():
        raise VolumeError(f"case {case.id}: no slice of its mask {case.mask} shows a label, so none is annotated: leave it out")
    return annotated


def _join(plan: StorePlan, cases: list[Case], bad: dict[str, str], parts: Path) -> None:
    """Fit the slices of all cases into planes of one size and write the store."""
    building = plan.folder.with_name(plan.folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    files = [_part(parts, case, plan) for case in cases]
    entries = [_entry(file) for file in files]
    size = plan.preparation.size or _common_size(entries)
    modalities = plan.preparation.modalities
    assert modalities is not None
    geometries = [Geometry.from_json({key: entry[key] for key in GEOMETRY} | {"size": size}) for entry in entries]
    shape = (sum(geometry.grid[0] for geometry in geometries), len(modalities) + 1 + plan.has_reference, *size)
    planes = _new_array(building / "planes.npy", shape)
    changed = [entry for entry, geometry in zip(entries, geometries, strict=True) if not geometry.unchanged]
    truth = _new_array(building / "truth.npy", (sum(int(np.prod(entry["shape"])) for entry in changed),)) if changed else None
    areas, owner, position, labelled, first, begin = [], [], [], [], 0, 0
    for number, (file, entry, geometry) in enumerate(zip(files, entries, geometries, strict=True)):
        with np.load(file) as part:
            slices = Slices(part["images"], part["masks"], geometry.crop, geometry.resampled)
            labelled.append(part["labelled"])
            entry["truth_first"] = None
            if truth is not None and not geometry.unchanged:
                voxels = part["truth"]
                truth[begin : begin + voxels.size] = voxels.ravel()
                entry["truth_first"], begin = begin, begin + voxels.size
        count = len(slices.images)
        fitted = slices.planes(size, geometry.fit)
        planes[first : first + count] = fitted
        areas.append(areas_of(fitted[:, len(modalities)], plan.target))
        owner.append(np.full(count, number, np.int32))
        position.append(np.arange(count, dtype=np.int32))
        entry |= {"first": first, "size": size}
        first += count
    planes.flush()
    if truth is not None:
        truth.flush()
    del planes, truth
    np.savez(
        building / "index.npz",
        case=np.concatenate(owner),
        position=np.concatenate(position),
        areas=np.concatenate(areas),
        labelled=np.concatenate(labelled),
    )
    manifest = {
        "key": plan.key,
        "modalities": modalities,
        "has_reference": plan.has_reference,
        "target": asdict(plan.target),
        "preparation": asdict(plan.preparation) | {"size": size},
        "cases": entries,
        "skipped": bad,
        "sha256": {case.id: {path.name: plan.digests[str(path)] for path in case.files()} for case in cases},
    }
    write_json(building / "manifest.json", manifest)
    building.replace(plan.folder)


def _entry(file: Path) -> dict[str, Any]:
    with np.load(file) as part:
        return json.loads(str(part["entry"]))


def _common_size(entries: list[dict[str, Any]]) -> tuple[int, int]:
    """Rows and columns of the largest slice, up to the next multiples."""
    grids = [slice_grid(tuple(entry["resampled"]), entry["plane"]) for entry in entries]
    rows, columns = (-(-max(grid[axis] for grid in grids) // MULTIPLE) * MULTIPLE for axis in (1, 2))
    return rows, columns


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A uint8 array on disk, its room taken at once: writing to a memory map of a full disk would kill the process."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if path.stat().st_size:
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
