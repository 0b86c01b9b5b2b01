"""Trees of small and of true-sized files as the glioma data sets ship them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from calf.data.cases import Case
from calf.data.layouts.brats import BraTS
from calf.data.volumes import encode_target, read_case
from tests.data.layouts.trees import LPS, touch, write

SHAPE = (240, 240, 155)
MODALITIES = ("t1", "t1ce", "t2", "flair")


def case(folder: Path, endings: str, suffix: str = ".nii.gz", name: str | None = None) -> Path:
    """A folder of empty files ``<name><ending><suffix>``; the name is the folder's."""
    touch(*(folder / f"{name or folder.name}{ending}{suffix}" for ending in endings.split()))
    return folder


def write_image(path: Path, value: int, shape: tuple[int, int, int] = (6, 5, 4), affine: np.ndarray = LPS) -> None:
    """int16, background 0, a block of ``value`` in the middle."""
    array = np.zeros(shape, np.int16)
    array[tuple(slice(size // 4, size // 2) for size in shape)] = value
    write(path, array, affine)


def write_mask(
    path: Path,
    labels: Iterable[int],
    shape: tuple[int, int, int] = (6, 5, 4),
    dtype: type = np.uint8,
    affine: np.ndarray = LPS,
) -> None:
    """Each label has as many voxels as ten to the power of its place in the list: one, ten, a hundred, ..."""
    values = np.repeat(list(labels), [10**place for place, _ in enumerate(labels)])
    array = np.zeros(np.prod(shape), dtype)
    array[: len(values)] = values
    write(path, array.reshape(shape), affine)


def check_true_size(layout: BraTS, found: Case, labels: Iterable[int], shape: tuple[int, int, int] = SHAPE) -> dict[str, int]:
    """Read a case whose images are blocks of 100, 200, 300 and 400; voxels of each target's foreground."""
    volumes = read_case(found, layout.modalities, layout.labels)
    voxels = np.bincount(volumes.mask.ravel())
    assert layout.modalities == MODALITIES
    assert volumes.images.shape == (4, *shape)
    assert [int(image.max()) for image in volumes.images] == [100, 200, 300, 400]
    assert all(image.min() == 0 for image in volumes.images)
    assert volumes.spacing_mm == (1, 1, 1)
    assert np.flatnonzero(voxels).tolist() == sorted({0, *labels})
    codes = {name: encode_target(np.arange(len(voxels)), target) for name, target in layout.targets.items()}
    return {name: int(voxels[code > 0].sum()) for name, code in codes.items()}
