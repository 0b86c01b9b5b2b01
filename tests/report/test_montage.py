"""Panels: which cases, which colours on which pixels, and that nothing is shown that was not scored."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from calf.data.grid import make_grid
from calf.report.montage import FN, FP, TILE, TP, TRUTH, Shown, Strip, coloured, montage, outlined, slice_shown
from calf.report.panels import chosen
from calf.report.volumes import Scan, Unreadable, read_scan

TARGET = {"names": ["tumour"], "labels": [[1, 4]], "exclusive": False}


def colours(picture: np.ndarray) -> Counter:
    return Counter(map(tuple, picture.reshape(-1, 3).tolist()))


def scan(truth: np.ndarray, affine: np.ndarray | None = None) -> Scan:
    image = np.full(truth.shape, 100, np.uint8)
    grid = make_grid(Path("mask.nii"), truth.shape, np.eye(4) if affine is None else affine, 1)
    return Scan(image, "", truth, grid, 2, TARGET, "tumour")


def test_colours_are_counted_exactly():
    rng = np.random.default_rng(0)
    truth, prediction = rng.random((2, 30, 20)) < 0.4
    grey = np.full((30, 20), 100, np.uint8)
    found = colours(coloured(grey, truth, prediction))
    assert found == {
        tuple((100 + part) // 2 for part in TP): (truth & prediction).sum(),
        FP: (prediction & ~truth).sum(),
        FN: (truth & ~prediction).sum(),
        (100, 100, 100): (~truth & ~prediction).sum(),
    }


def test_the_outline_lies_within_the_truth():
    truth = np.zeros((6, 6), bool)
    truth[1:5, 1:5] = True
    assert colours(outlined(np.zeros((6, 6), np.uint8), truth)) == {TRUTH: 12, (0, 0, 0): 24}


def test_the_montage_shows_every_wrong_voxel_in_its_place():
    truth, prediction = np.zeros((2, 10, 10, 2), bool)
    truth[6:8, 7:9, 1], prediction[7:9, 7:9, 1] = True, True
    shown = Shown("0.500", prediction)
    picture = np.asarray(montage([Strip("c1", "best", scan(truth), (shown,), (0,))], ["calf"]))
    found = colours(picture)
    assert found[FP] == found[FN]  # two voxels each
    assert found[FP] == 2 * round(found[FP] ** 0.5 / 2**0.5) ** 2  # squares, and no half voxel
    rows, columns = np.nonzero((picture == FN).all(axis=2))
    others = np.nonzero((picture == FP).all(axis=2))
    # x grows to the patient's right, which is on the left: the false positives, at larger x, are left of the missed ones
    assert others[1].max() < columns.min()
    assert (rows.min(), rows.max()) == (others[0].min(), others[0].max())


def test_voxels_are_as_long_as_they_are_in_mm():
    truth = np.ones((4, 8, 1), bool)
    thick = scan(truth, np.diag([2.0, 0.5, 1.0, 1.0]))  # 8 mm wide, 4 mm high
    picture = np.asarray(montage([Strip("c1", "best", thick, (Shown("0", ~truth),), (0,))], ["calf"]))
    rows, columns = np.nonzero((picture == FN).all(axis=2))
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (TILE, TILE // 2)


def test_the_slice_is_that_of_the_largest_area():
    truth = np.zeros((4, 4, 3), bool)
    truth[:2, 0, 1], truth[0, 0, 2] = True, True
    assert slice_shown(scan(truth), []) == 1
    false = np.zeros_like(truth)
    false[0, 0, 2] = True
    assert slice_shown(scan(np.zeros_like(truth)), [Shown("", None), Shown("", false)]) == 2


def test_cases_are_chosen_by_rule():
    table = pd.DataFrame(
        {"a": [0.9, 0.8, 0.7, 0.1, 0.6, np.nan], "b": [0.9, 0.8, 0.7, 0.1, 0.2, 1.0]}, index=["u", "v", "w", "x", "y", "z"]
    )
    assert chosen(table) == {"u": "best", "w": "median", "x": "worst", "y": "most disputed"}
    assert chosen(table, lower_is_better=True) == {"x": "best", "w": "median", "u": "worst", "y": "most disputed"}
    assert chosen(table.iloc[[5]]) == {}
    assert chosen(table[["b"]].iloc[:1]) == {"u": "best, median, worst"}


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A run folder with one case: labels 1 and 4 are the tumour, in files whose axes are not those of RAS."""
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    labels = np.zeros((5, 4, 3), np.int16)
    labels[0, 1, 2], labels[1, 1, 2], labels[2, 2, 1] = 1, 4, 2
    image = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
    for name, values in (("image", image), ("mask", labels), ("prediction", (labels == 4).astype(np.uint8))):
        nib.save(nib.Nifti1Image(values, affine), tmp_path / f"{name}.nii.gz")
    write_data(tmp_path)
    return tmp_path


def write_data(folder: Path, **changes: object) -> None:
    entry = {"images": {"mri": [str(folder / "image.nii.gz"), None]}, "mask": str(folder / "mask.nii.gz"), "reference": None}
    data = {"target": TARGET, "preparation": {"plane": "coronal"}, "test_cases": {"c1": entry | changes}}
    (folder / "data.json").write_text(json.dumps(data))


def test_truth_and_prediction_are_read_in_ras(case):
    found = read_scan([case / "gone", case], "c1", "tumour", 12.0)
    assert found.axis == 1
    assert found.spacing_mm == (1, 2, 3)
    assert [place.tolist() for place in np.nonzero(found.truth)] == [[3, 4], [1, 1], [2, 2]]  # the first axis is flipped
    assert found.image is not None
    assert found.image[0, 0, 0] > found.image[4, 0, 0]
    prediction = found.prediction(case / "prediction.nii.gz", 6.0)
    assert [place.tolist() for place in np.nonzero(prediction)] == [[3], [1], [2]]


def test_what_was_not_scored_is_not_shown(case):
    with pytest.raises(Unreadable, match="its mask is not what was scored"):
        read_scan([case], "c1", "tumour", 18.0)
    found = read_scan([case], "c1", "tumour", 12.0)
    with pytest.raises(Unreadable, match="not what was scored"):
        found.prediction(case / "prediction.nii.gz", 12.0)
    with pytest.raises(Unreadable, match="not saved"):
        found.prediction(case / "nowhere.nii.gz", 12.0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"mask": "mask.mha"}, "its mask is no longer at mask.mha"),
        ({"mask": __file__}, "expected a NIfTI file"),
        ({"mask": "/nowhere/mask.dcm"}, "its mask is no longer at /nowhere/mask.dcm"),
        (
            {"mask": "mask.dcm", "images": {"ct": ["/nowhere/ct", None]}},
            "its image, whose grid its mask has, is no longer at /nowhere/ct",
        ),
        ({"mask": "/nowhere/mask.nii.gz"}, "its mask is no longer at /nowhere"),
    ],
)
def test_files_that_cannot_be_shown_are_named(case, change, why):
    write_data(case, **change)
    with pytest.raises(Unreadable, match=why):
        read_scan([case], "c1", "tumour", 12.0)


def test_a_case_without_its_image_is_shown_on_black_and_one_without_data_not_at_all(case):
    write_data(case, images={"mri": ["/nowhere/image.nii.gz", None]})
    found = read_scan([case], "c1", "tumour", 12.0)
    assert (found.image, found.without) == (None, "its image is no longer at /nowhere/image.nii.gz")
    with pytest.raises(Unreadable, match=r"no data\.json"):
        read_scan([case / "gone"], "c1", "tumour", 12.0)
    with pytest.raises(Unreadable, match="does not say where its files lie"):
        read_scan([case], "c2", "tumour", 12.0)


def test_regions_that_overlap_are_bits(case):
    found = read_scan([case], "c1", "tumour", 12.0)
    target = {"names": ["whole", "tumour"], "labels": [[1, 2, 4], [1, 4]], "exclusive": False}
    overlapping = Scan(found.image, "", found.truth, found.grid, 1, target, "tumour")
    values = np.zeros((5, 4, 3), np.uint8)
    values[0, 1, 2], values[1, 1, 2], values[2, 2, 1] = 3, 2, 1
    nib.save(nib.Nifti1Image(values, np.diag([-1.0, 2.0, 3.0, 1.0])), case / "bits.nii.gz")
    assert np.array_equal(overlapping.prediction(case / "bits.nii.gz", 12.0), found.truth)
