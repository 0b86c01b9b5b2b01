"""An open case as NIfTI files, which a browser draws in three dimensions: the image, the truth, one prediction.

A file has the axes of the case's own files, in their order, and their affine. Where a case has more than ``MOST_VOXELS``, voxels
are taken together in blocks (:func:`steps`): an image shows their mean, a mask is there where any voxel of the block is, so that
no lesion is lost. Numbers are always of all voxels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.orientations import io_orientation, ornt_transform
from numpy.typing import NDArray

from calf.report.volumes import Unreadable
from calf.ui.regions import Region
from calf.ui.volumes import OpenCase

MOST_VOXELS = 256**3
RAS = [[0, 1], [1, 1], [2, 1]]

Steps = tuple[int, int, int]


@dataclass(frozen=True)
class MaskState:
    """A mask in words.

    Attributes:
        error: why there is none to be shown, or "".
        empty: whether it has no voxel; False where there is none to be shown.
        volume_mm3: that of cases.csv; where that has no row, of the mask shown; None where that is not known either.
    """

    error: str
    empty: bool
    volume_mm3: float | None


def mask_state(case: OpenCase, run: str, name: str, truth: bool) -> MaskState:
    """The truth, or what the run took for ``name``.

    Raises:
        Unknown: no run has this name.
    """
    row = case.row(run, name)
    scored = None if row is None else float(row["reference_volume_mm3" if truth else "predicted_volume_mm3"])
    try:
        count = (case.truth(name) if truth else case.prediction(run, name)).count()
    except Unreadable as reason:
        return MaskState(str(reason), False, scored)
    return MaskState("", count == 0, count * case.voxel_mm3 if scored is None else scored)


def steps(case: OpenCase) -> Steps:
    """How many voxels along X, Y, Z make one of a file: 1, or more along the axes where voxels are shortest."""
    taken = [1, 1, 1]
    while math.prod(sent_shape(case, (taken[0], taken[1], taken[2]))) > MOST_VOXELS:
        lengths = [
            mm * step if step < voxels else math.inf for mm, step, voxels in zip(case.spacing_mm, taken, case.shape, strict=True)
        ]
        # of axes that are alike, all
        taken = [step + (length <= min(lengths) * 1.01) for step, length in zip(taken, lengths, strict=True)]
    return taken[0], taken[1], taken[2]


def sent_shape(case: OpenCase, taken: Steps) -> tuple[int, int, int]:
    """Voxels along X, Y, Z of a file."""
    x, y, z = (math.ceil(voxels / step) for voxels, step in zip(case.shape, taken, strict=True))
    return x, y, z


def image_file(case: OpenCase, modality: str) -> bytes:
    """The image in its own window, uint8 from black to white, as .nii.gz.

    Raises:
        Unknown: the case has no such image.
        Unreadable: it was moved, is damaged, or lies on another grid than the masks.
    """
    scan, taken = case.scan(modality), steps(case)
    if max(taken) == 1:
        return _file(case, scan.grey(scan.values), taken)
    mean = np.zeros(sent_shape(case, taken), np.float32)
    for part in _parts(scan.values, taken):
        mean += part
    return _file(case, scan.grey(np.rint(mean / math.prod(taken)).astype(np.uint16)), taken)


def mask_file(case: OpenCase, region: Region) -> bytes:
    """A region, 1 inside and 0 outside, as .nii.gz."""
    taken = steps(case)
    some = np.zeros(sent_shape(case, taken), bool)
    for part in _parts(region.whole(), taken):
        some |= part
    return _file(case, some.astype(np.uint8), taken)


def _parts(values: NDArray, taken: Steps) -> list[NDArray]:
    """Of each block its first voxel, its second, and so on; at the upper edges the last voxels are repeated to whole blocks."""
    rest = [(0, -voxels % step) for voxels, step in zip(values.shape, taken, strict=True)]
    whole = np.pad(values, rest, mode="edge") if np.any(rest) else values
    x, y, z = taken
    return [whole[i::x, j::y, k::z] for i, j, k in product(range(x), range(y), range(z))]


def _file(case: OpenCase, values: NDArray[np.uint8], taken: Steps) -> bytes:
    blocks = np.diag([*taken, 1.0])
    blocks[:3, 3] = (np.array(taken) - 1) / 2  # the middle of the first block
    image = nib.Nifti1Image(values, case.grid.affine @ blocks)
    image.header.set_xyzt_units("mm")
    own = image.as_reoriented(ornt_transform(RAS, io_orientation(case.grid.original_affine)))
    return igzip.compress(own.to_bytes(), 1)
