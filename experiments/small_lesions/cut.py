"""Cuts the FLAIR image and the lesion mask of one patient into three parts that do not touch, and lists them in a manifest.

    python cut.py <folder with FLAIR.nii.gz and GOLD_STANDARD.nii.gz in MNI space> <folder to write>

train: right hemisphere; val: front of the left one; test: its back. Between the parts 6 mm are left out.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

GAP_MM = 3.0  # on either side of a cut
FRONT_MM = -17.0  # of MNI's y: cuts the left hemisphere's lesions into comparable halves
PARTS = {"train": (True, None), "val": (False, True), "test": (False, False)}  # right, front


def box(image: nib.Nifti1Image, right: bool, front: bool | None) -> tuple[slice, slice, slice]:
    """Where a part lies in the voxels of an image whose axes run along x, y and z."""
    if not np.allclose(image.affine[:3, :3], np.diag(np.diag(image.affine)[:3])):
        raise ValueError(f"expected an image whose axes are those of MNI space, got the affine\n{image.affine}")
    x, y = (image.affine[axis, axis] * np.arange(image.shape[axis]) + image.affine[axis, 3] for axis in (0, 1))
    inside_x = x >= GAP_MM if right else x <= -GAP_MM
    inside_y = np.ones(len(y), bool) if front is None else y >= FRONT_MM + GAP_MM if front else y <= FRONT_MM - GAP_MM
    return span(inside_x), span(inside_y), slice(None)


def span(inside: np.ndarray) -> slice:
    """The slice from the first to the last voxel of a mask along an axis."""
    first, last = np.flatnonzero(inside)[[0, -1]]
    return slice(int(first), int(last) + 1)


def main(patient: Path, out: Path) -> None:
    """Write ``<part>_flair.nii.gz``, ``<part>_mask.nii.gz`` and ``manifest.csv``."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for part, (right, front) in PARTS.items():
        row = {"patient": part, "subset": part}
        for column, name in (("flair", "FLAIR.nii.gz"), ("mask", "GOLD_STANDARD.nii.gz")):
            image = nib.load(patient / name)
            row[column] = f"{part}_{column}.nii.gz"
            nib.save(image.slicer[box(image, right, front)], out / row[column])
        rows.append(row)
    with open(out / "manifest.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
