"""Lesions found and falsely found: by hand, the size limit, and against SimpleITK and monai."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from calf.metrics.lesions import LESION_METRICS, LesionCounts, count_lesions


def masks(prediction: str, reference: str) -> tuple[np.ndarray, np.ndarray]:
    """A row of voxels each, # is foreground; given two rows so that they are images."""
    return tuple(np.array([[mark == "#" for mark in row], [False] * len(row)]) for row in (prediction, reference))


# prediction and reference -> lesions of the reference, found; predicted, matched
BY_HAND = {
    "one each": ("##......", "###.....", (1, 1, 1, 1)),
    "one missed, one false": ("##....##", "##..#...", (2, 1, 2, 1)),
    "fragments of one lesion are all right": ("#.#.#...", "#####...", (1, 1, 3, 3)),
    "one prediction finds two lesions": ("#######.", "##..##..", (2, 2, 1, 1)),
    "nothing predicted": ("........", "#.#.....", (2, 0, 0, 0)),
    "nothing there": ("#.#.....", "........", (0, 0, 2, 0)),
    "both empty": ("........", "........", (0, 0, 0, 0)),
}


@pytest.mark.parametrize(("prediction", "reference", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_by_hand(prediction, reference, expected):
    assert count_lesions(*masks(prediction, reference), (1.0, 1.0)) == LesionCounts(*expected)


# counts -> status, sensitivity, precision, F1, false positive lesions
SCORED = {
    "some of all": (LesionCounts(4, 1, 2, 1), "ok", [0.25, 0.5, 1 / 3, 1]),
    "none found": (LesionCounts(4, 0, 2, 0), "ok", [0, 0, 0, 2]),
    "missed": (LesionCounts(4, 0, 0, 0), "missed", [0, 0, 0, 0]),
    "false positives": (LesionCounts(0, 0, 3, 0), "false_positive", [math.nan, math.nan, math.nan, 3]),
    "true negative": (LesionCounts(0, 0, 0, 0), "true_negative", [math.nan, math.nan, math.nan, 0]),
}


@pytest.mark.parametrize(("counts", "status", "expected"), SCORED.values(), ids=SCORED)
def test_the_empty_rule(counts, status, expected):
    assert counts.status == status
    assert tuple(counts.scores()) == LESION_METRICS
    np.testing.assert_allclose(list(counts.scores().values()), expected, rtol=1e-15)


def test_voxels_that_share_a_corner_are_one_lesion():
    for ndim in (2, 3):
        reference = np.zeros([4] * ndim, bool)
        reference[(1,) * ndim] = reference[(2,) * ndim] = True
        assert count_lesions(~reference & False, reference, [1.0] * ndim).num_reference == 1


def test_small_lesions_do_not_count():
    #                                   small, found        large, found      small one missed, small one false
    prediction, reference = masks("###......####......#....", "#........##.....#.......")
    assert count_lesions(prediction, reference, (1.0, 1.0)) == LesionCounts(3, 2, 3, 2)
    # what was predicted where only a small lesion is counts on neither side; the small prediction is gone
    assert count_lesions(prediction, reference, (1.0, 1.0), min_volume_mm3=2) == LesionCounts(1, 1, 1, 1)
    assert count_lesions(prediction, reference, (2.0, 1.0), min_volume_mm3=2) == LesionCounts(3, 2, 3, 2)
    assert count_lesions(prediction, reference, (1.0, 1.0), min_volume_mm3=5) == LesionCounts(0, 0, 0, 0)
    single = float(np.float32(0.9)), 1.0  # a file's header has 0.89999998
    assert count_lesions(prediction, reference, single, min_volume_mm3=1.8).num_reference == 1


def test_a_small_prediction_does_not_find_a_lesion():
    assert count_lesions(*masks(".#......", "#####..."), (1.0, 1.0), min_volume_mm3=2) == LesionCounts(1, 0, 0, 0)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("####......", "######....", (1, 1, 1, 1)),  # 4 of 6
        ("###.......", "######....", (1, 0, 1, 0)),  # exactly a half is not above it
        ("####.##...", "########..", (1, 0, 2, 0)),  # no fragment is large enough
        ("####..###.", "#####.####", (2, 2, 2, 2)),
        ("##########", "#######.##", (2, 1, 1, 1)),  # one prediction, one lesion
    ],
)
def test_matching_by_iou(prediction, reference, expected):
    assert count_lesions(*masks(prediction, reference), (1.0, 1.0), min_iou=0.5) == LesionCounts(*expected)


@pytest.mark.parametrize("options", [{"min_iou": 0.3}, {"min_iou": 1.0}, {"min_volume_mm3": -1}, {"min_volume_mm3": math.nan}])
def test_options_that_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        count_lesions(*masks("##", "##"), (1.0, 1.0), **options)


@pytest.fixture
def ms_lesions(shared) -> tuple[np.ndarray, np.ndarray]:
    """Real lesions, and a prediction that loses the thin ones and is displaced."""
    reference = np.asarray(nib.load(shared / "data" / "ms_lesions" / "patient19" / "GOLD_STANDARD.nii.gz").dataobj) > 0
    prediction = np.roll(binary_erosion(reference), (2, 1), (0, 1))
    prediction[20:23, 100, 60:63] = True
    return prediction, reference


def test_parity_with_the_wmh_challenge(ms_lesions):
    """The challenge's evaluation, in its own words: components of SimpleITK, and labels that survive the other mask."""
    import SimpleITK as sitk

    components = sitk.ConnectedComponentImageFilter()
    components.SetFullyConnected(True)
    labels = [
        sitk.GetArrayFromImage(components.Execute(sitk.GetImageFromArray(mask.astype(np.uint8)))).astype(int)
        for mask in ms_lesions
    ]
    numbers = [int(label.max()) for label in labels]
    hit = [len(np.unique(label * other)) - 1 for label, other in zip(labels, ms_lesions[::-1], strict=True)]
    found = count_lesions(*ms_lesions, (1.0, 1.0, 1.0))
    assert found == LesionCounts(numbers[1], hit[1], numbers[0], hit[0])
    assert 0 < hit[1] < numbers[1]
    assert 0 < hit[0] < numbers[0]
    recall, precision = hit[1] / numbers[1], hit[0] / numbers[0]
    f1 = 2 * precision * recall / (precision + recall)
    assert list(found.scores().values()) == pytest.approx([recall, precision, f1, numbers[0] - hit[0]])


def test_parity_of_iou_with_panoptic_quality():
    from monai.metrics.panoptic_quality import compute_panoptic_quality
    from scipy.ndimage import label

    generator = np.random.default_rng(0)
    reference = np.zeros((64, 64), bool)
    for row, column in np.ndindex(8, 8):  # one lesion a field
        height, width = generator.integers(2, 6, 2)
        reference[8 * row + 1 : 8 * row + 1 + height, 8 * column + 1 : 8 * column + 1 + width] = True
    prediction = np.roll(reference, (1, 0), (0, 1))
    labels = [torch.from_numpy(label(mask, np.ones((3, 3)))[0]) for mask in (prediction, reference)]
    quality = float(compute_panoptic_quality(*labels, metric_name="rq", match_iou_threshold=0.5))
    ours = count_lesions(prediction, reference, (1.0, 1.0), min_iou=0.5)
    assert 0 < ours.num_found < ours.num_reference
    assert ours.scores()["lesion_f1"] == pytest.approx(quality, rel=1e-4)
