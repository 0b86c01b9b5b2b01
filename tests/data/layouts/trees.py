"""What the tests build data sets' trees of: empty files, links to real volumes, and generated ones."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

LPS = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def link(path: Path, target: Path) -> Path:
    """``path`` as a link to ``target``, a file or a folder."""
    assert target.exists(), target
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def write(path: Path, array: NDArray, affine: NDArray | None = None) -> Path:
    """A NIfTI file of the array's own type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine, dtype=array.dtype), path)
    return path


def write_mha(path: Path, array: NDArray, spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> Path:
    """A MetaImage file of an array (Z, Y, X), whose world axes run to the left, the back and the head."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path
