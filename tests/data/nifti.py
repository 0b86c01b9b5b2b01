"""Small NIfTI files, in any orientation."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np

LPS = np.array([[-1.0, 0, 0, 0], [0, -1.5, 0, 30], [0, 0, 4, -7], [0, 0, 0, 1]])
LABELS = {0: "background", 1: "core", 2: "oedema", 4: "enhancing"}
SHAPE = (4, 5, 3)


def save(path: Path, array: np.ndarray, affine: np.ndarray = LPS, image_class: type[nib.Nifti1Image] = nib.Nifti1Image) -> Path:
    nib.save(image_class(array, affine), path)
    return path


# --- orientation ---------------------------------------------------------------------------------------------------

ORIENTATIONS = [
    "".join(letters[sign] for letters, sign in zip(axes, signs, strict=True))
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for signs in itertools.product((0, 1), repeat=3)
]


def affine_of(orientation: str) -> np.ndarray:
    """Voxel sizes 1, 2, 3 mm along right, front and up, an oblique of one degree, and an origin off zero."""
    columns = {"R": (1, 0, 0), "A": (0, 2, 0), "S": (0, 0, 3), "L": (-1, 0, 0), "P": (0, -2, 0), "I": (0, 0, -3)}
    tilt = np.array([[np.cos(0.02), -np.sin(0.02), 0], [np.sin(0.02), np.cos(0.02), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.array([columns[letter] for letter in orientation], float).T
    affine[:3, 3] = (7, -11, 5)
    return affine
