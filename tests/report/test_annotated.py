"""Cases of which only some slices were annotated: what was predicted in the others was not scored, and no panel shows it."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from calf.report.volumes import Unreadable, read_scan
from tests.report.test_volumes import describe

VOXEL_MM3 = 6.0


@pytest.fixture
def files(tmp_path):
    """An image, a mask of slices 1 and 2, and a prediction that goes on in slices 0 and 3."""
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    mask = np.zeros((8, 8, 5), np.uint8)
    mask[2:5, 2:5, 1:3] = 1
    predicted = mask.copy()
    predicted[2:5, 2:5, 0:4] = 1
    for name, values in (("image", np.arange(320).reshape(8, 8, 5)), ("mask", mask), ("c1", predicted)):
        Nifti1Image(values.astype(np.int16), affine).to_filename(tmp_path / f"{name}.nii.gz")
    return tmp_path


def test_only_what_was_scored_of_a_prediction_is_shown(files):
    run = describe(files / "run", files / "image.nii.gz", files / "mask.nii.gz", entry={"annotated_slices": [1, 2]})
    found = read_scan([run], "c1", "lesion", 18 * VOXEL_MM3)
    assert np.array_equal(found.prediction(files / "c1.nii.gz", 18 * VOXEL_MM3), found.truth)


@pytest.mark.parametrize("entry", [{}, {"annotated_slices": None}])
def test_where_every_slice_was_annotated_all_of_it_counts(files, entry):
    run = describe(files / "run", files / "image.nii.gz", files / "mask.nii.gz", entry=entry)
    found = read_scan([run], "c1", "lesion", 18 * VOXEL_MM3)
    assert found.prediction(files / "c1.nii.gz", 36 * VOXEL_MM3).sum() == 36
    with pytest.raises(Unreadable, match="not what was scored"):
        found.prediction(files / "c1.nii.gz", 18 * VOXEL_MM3)
