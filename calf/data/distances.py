"""Distance maps of a store's masks: computed once, so that losses which need them need not compute them in every step.

They follow from the stored masks alone and are a file of their own, ``distances.npy``, beside the planes of the store.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from rich.progress import track
from scipy.ndimage import distance_transform_edt

from calf.data.store import SliceStore, channels_of

NAME = "distances.npy"
SLICES_A_CHUNK = 256


def signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance in pixels of each pixel to the nearest one of the other kind: positive outside, negative inside.

    0 everywhere where the mask is empty or full: there is no border to be near to.

    >>> signed_distance(np.array([[False, False, True, True]])).tolist()
    [[2.0, 1.0, -1.0, -2.0]]
    """
    if not mask.any() or mask.all():
        return np.zeros(mask.shape, np.float32)
    return (distance_transform_edt(~mask) - distance_transform_edt(mask)).astype(np.float32)


def ensure_distance_maps(store: SliceStore, workers: int) -> NDArray[np.float16]:
    """The maps of every slice and target name, float16 ``(slices, names, rows, columns)``, memory-mapped; made where missing.

    Half precision holds them to one part in two thousand. A second process that wants them waits for the first.
    """
    path = store.folder / NAME
    if not path.exists():
        with FileLock(store.folder / f"{NAME}.lock"):
            if not path.exists():
                _write(store, path, workers)
    return np.load(path, mmap_mode="r")


def _write(store: SliceStore, path: Path, workers: int) -> None:
    partial = path.with_name(f"partial.{NAME}")
    shape = (len(store), len(store.target.names), *store.shape[2:])
    np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape).flush()
    chunks = [np.arange(start, min(start + SLICES_A_CHUNK, len(store))) for start in range(0, len(store), SLICES_A_CHUNK)]
    text = f"distance maps of {store.folder.name}"
    if workers == 1 or len(chunks) == 1:
        for indices in track(chunks, description=text):
            _write_chunk(store, partial, indices)
    else:
        with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(_write_chunk, store, partial, indices) for indices in chunks]
            for future in track(as_completed(futures), description=text, total=len(futures)):
                future.result()
    partial.replace(path)


def _write_chunk(store: SliceStore, path: Path, indices: NDArray[np.int64]) -> None:
    maps = np.load(path, mmap_mode="r+")
    masks = store.read(indices)[:, len(store.modalities)]
    for index, mask in zip(indices, masks, strict=True):
        for name, channel in enumerate(channels_of(mask, store.target)):
            maps[index, name] = signed_distance(channel)
    maps.flush()
