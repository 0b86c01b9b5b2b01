"""Calibration: by hand, quantised probabilities, and against monai."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calf.metrics.calibration import CALIBRATION_METRICS, calibration_scores


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    truth = generator.random((12, 13, 14))
    return {
        "calibrated": (truth.astype(np.float32), generator.random(truth.shape) < truth),
        "overconfident": ((truth > 0.5) * 0.9 + 0.05, generator.random(truth.shape) < truth),
        "imbalanced": (truth**8, generator.random(truth.shape) < truth**12),
        "empty reference": (truth**4, np.zeros(truth.shape, bool)),
        "full reference": (truth, np.ones(truth.shape, bool)),
    }


CASES = cases()


def test_by_hand():
    # bins of a quarter: [0, 0.25) mean 0.1, none of 2 true; [0.5, 0.75) mean 0.6, 1 of 2 true; the last one 1.0, true
    probabilities = np.array([0.0, 0.2, 0.5, 0.7, 1.0])
    reference = np.array([False, False, False, True, True])
    scores = calibration_scores(probabilities, reference, num_bins=4)
    assert tuple(scores) == CALIBRATION_METRICS
    assert scores["ece"] == pytest.approx((2 * 0.1 + 2 * 0.1 + 0) / 5)
    assert scores["ace"] == pytest.approx((0.1 + 0.1 + 0) / 3)
    assert scores["brier"] == pytest.approx((0.2**2 + 0.5**2 + 0.3**2) / 5)


@pytest.mark.parametrize("sure", [np.uint8, np.float64])
def test_limits(sure):
    reference = np.arange(20) < 5
    one = 255 if sure is np.uint8 else 1
    assert set(calibration_scores((reference * one).astype(sure), reference).values()) == {0.0}
    assert set(calibration_scores((~reference * one).astype(sure), reference).values()) == {1.0}


@pytest.mark.parametrize("name", CASES)
def test_quantised_probabilities(name):
    probabilities, reference = CASES[name]
    levels = np.rint(probabilities * 255).astype(np.uint8)
    scores = calibration_scores(levels, reference)
    assert scores == pytest.approx(calibration_scores(levels / 255, reference), rel=1e-12)
    by_integers = levels.astype(int) * 20 // 255
    for number in range(20):  # no level falls into a neighbouring bin by rounding
        np.testing.assert_array_equal((levels / 255 * 20).astype(int) == number, by_integers == number)
    plain = calibration_scores(probabilities, reference)
    assert scores["brier"] == pytest.approx(plain["brier"], abs=0.004)
    assert scores["ece"] == pytest.approx(plain["ece"], abs=0.01)


def test_only_valid_voxels_count():
    probabilities, reference = CASES["overconfident"]
    valid = np.zeros(reference.shape, bool)
    valid[:, 3:9] = True
    inside = calibration_scores(probabilities[:, 3:9], reference[:, 3:9])
    assert calibration_scores(probabilities, reference, valid) == pytest.approx(inside, rel=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("num_bins", [10, 20])
def test_parity_with_monai(name, num_bins):
    from monai.metrics.calibration import CalibrationErrorMetric

    probabilities, reference = CASES[name]
    pair = [torch.from_numpy(np.asarray(array, np.float64))[None, None] for array in (probabilities, reference)]
    ours = calibration_scores(probabilities, reference, num_bins=num_bins)
    for metric, reduction in (("ece", "expected"), ("ace", "average")):
        theirs = CalibrationErrorMetric(num_bins=num_bins, calibration_reduction=reduction, right=True)
        # its right=True gives bins [left, right), contrary to its documentation: torch.bucketize's right is another one
        theirs(*pair)
        assert ours[metric] == pytest.approx(float(theirs.aggregate()), abs=1e-5), metric


@pytest.mark.parametrize(
    ("probabilities", "reference", "valid"),
    [
        (np.array([0.5, 1.1]), np.array([True, False]), None),
        (np.array([0.5, -0.1]), np.array([True, False]), None),
        (np.array([0.5, np.nan]), np.array([True, False]), None),
        (np.array([0, 1]), np.array([True, False]), None),
        (np.array([0.5, 0.5]), np.array([1, 0]), None),
        (np.array([0.5, 0.5]), np.array([True]), None),
        (np.array([0.5, 0.5]), np.array([True, False]), np.array([False, False])),
    ],
)
def test_what_is_refused(probabilities, reference, valid):
    with pytest.raises(ValueError, match="expected"):
        calibration_scores(probabilities, reference, valid)


def test_half_precision_is_scored_by_its_own_values():
    generator = np.random.default_rng(3)
    probabilities = (generator.random((9, 8, 7)) ** 8).astype(np.float16)  # most are near 0, as in an image
    reference = generator.random((9, 8, 7)) < 0.01
    wide = calibration_scores(probabilities.astype(np.float64), reference)
    assert calibration_scores(probabilities, reference) == pytest.approx(wide, rel=1e-12)
    with pytest.raises(ValueError, match="float in"):
        calibration_scores(probabilities + np.float16(1), reference)


def test_a_background_that_is_right_on_the_promille_has_no_error():
    reference = np.zeros(100_000, bool)
    reference[:150] = True
    rounded = np.full(reference.shape, np.float16(0.0015))
    assert calibration_scores(rounded, reference)["ece"] == pytest.approx(0, abs=2e-6)
