"""From stored masks back to the patient: the grid of the case's own files.

The values stay those of the store: a single region is 0 or 1, exclusive classes are 1 ... n in the order of the target's
names, overlapping regions a bit set (bit 0 the first name).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calf.data.prepare import from_slices, unfit_slices
from calf.data.store import SliceStore
from calf.data.volumes import to_original, write_volume


def restore_mask(masks: NDArray[np.uint8], store: SliceStore, number: int) -> NDArray[np.uint8]:
    """Stored masks of all slices of case ``number``, (S, rows, columns), in the axes of the case's own files.

    Exact where the store pads; nearest neighbour where it resizes.
    """
    case, preparation = store.cases[number], store.manifest["preparation"]
    fitted = unfit_slices(masks, case.grid[1], case.grid[2], preparation["fit"])
    return to_original(from_slices(fitted, preparation["plane"]), np.array(case.affine))


def write_mask(folder: Path, masks: NDArray[np.uint8], store: SliceStore, number: int) -> Path:
    """Write the restored mask as ``<case>.nii.gz`` with the affine of the case's own files."""
    folder.mkdir(parents=True, exist_ok=True)
    case = store.cases[number]
    path = folder / f"{case.id}.nii.gz"
    write_volume(path, restore_mask(masks, store, number), np.array(case.affine))
    return path
