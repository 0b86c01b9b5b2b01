"""Rows of whole volumes: beside those of the protocol, in any order, and of volumes annotated in part."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from calf.metrics.overlap import count_slices
from calf.metrics.protocol import ROW_COLUMNS, PerCase
from calf.metrics.scores import EMPTY_RULE, LOWER_IS_BETTER, METRICS, STATUSES, UNRANKED
from calf.metrics.volumetric import VolumeScores

NAMES, SPACING = ("core", "oedema"), (0.7, 1.3, 2.1)
METRICS_ADDED = (
    *("hd95_mm", "hd_mm", "assd_mm", "nsd_2mm"),
    *("lesion_sensitivity", "lesion_precision", "lesion_f1", "false_positive_lesions"),
    *("balanced_accuracy", "relative_volume_error", "volume_difference_ml"),
    *("ece", "ace", "brier"),
)
SHAPES = METRICS_ADDED[:8]


def case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blobs of two classes, a prediction near them, and its probabilities."""
    generator = np.random.default_rng(seed)
    smooth = np.stack([sum(np.roll(generator.random((9, 10, 8)), k, axis) for k in (0, 1) for axis in range(3)) for _ in NAMES])
    noisy = smooth + generator.normal(0, 0.3, smooth.shape)
    return noisy > 3.6, smooth > 3.6, np.clip((noisy - 2.6) / 2 * 255, 0, 255).astype(np.uint8)


def of(rows: pd.DataFrame, metric: str, name: str = "core") -> pd.Series:
    row = rows[(rows["metric"] == metric) & (rows["class"] == name)]
    assert len(row) == 1
    return row.iloc[0]


def test_rows_stand_beside_those_of_the_protocol():
    prediction, reference, probabilities = case(0)
    rows = VolumeScores(2.0).rows("001", "p1", prediction, reference, NAMES, SPACING, probabilities)
    assert tuple(rows.columns) == ROW_COLUMNS
    assert list(zip(rows["class"], rows["metric"], strict=True)) == [(name, metric) for name in NAMES for metric in METRICS_ADDED]
    assert set(rows["status"]) == {"ok"}
    counts = count_slices(*(torch.from_numpy(masks)[None] for masks in (prediction, reference)))
    cases = pd.DataFrame({"patient": ["p1"], "voxel_volume_mm3": [math.prod(SPACING)]}, index=["001"])
    per_case = PerCase().rows(np.array([0]), counts, pd.DataFrame({"case": ["001"]}), cases, NAMES)
    both = pd.concat([per_case, rows], ignore_index=True)
    assert both.dtypes.equals(per_case.dtypes)
    assert not both.duplicated(["case", "class", "metric"]).any()
    # one status and one pair of volumes a class, to the last bit
    shared = both.groupby("class")[["status", "patient", "reference_volume_mm3", "predicted_volume_mm3"]].nunique()
    assert (shared == 1).all(axis=None)
    for name in NAMES:
        sensitivity, specificity = of(per_case, "sensitivity", name)["value"], of(per_case, "specificity", name)["value"]
        assert of(rows, "balanced_accuracy", name)["value"] == pytest.approx((sensitivity + specificity) / 2, rel=1e-15)
        actual, predicted = of(rows, "ece", name)[["reference_volume_mm3", "predicted_volume_mm3"]]
        assert of(rows, "volume_difference_ml", name)["value"] == pytest.approx((predicted - actual) / 1000, rel=1e-12)
        assert of(rows, "relative_volume_error", name)["value"] == pytest.approx(abs(predicted - actual) / actual, rel=1e-12)


def test_a_case_scores_the_same_alone_and_in_any_order():
    def scored(order: list[int], kind: type = np.ascontiguousarray) -> dict[int, pd.DataFrame]:
        scores = VolumeScores(1.0, min_lesion_mm3=4.0)
        return {k: scores.rows(str(k), "p", *map(kind, case(k)[:2]), NAMES, SPACING, kind(case(k)[2])) for k in order}

    together, turned, fortran = scored([0, 1, 2, 3]), scored([3, 1, 0, 2]), scored([2, 0, 1, 3], np.asfortranarray)
    for number, rows in together.items():
        pd.testing.assert_frame_equal(rows, turned[number], check_exact=True)
        pd.testing.assert_frame_equal(rows, fortran[number], check_exact=True)
        pd.testing.assert_frame_equal(rows, scored([number])[number], check_exact=True)


def test_classes_are_scored_by_themselves():
    prediction, reference, probabilities = case(1)
    scores = VolumeScores(1.0)
    both = scores.rows("a", "p", prediction, reference, NAMES, SPACING, probabilities)
    second = scores.rows("a", "p", prediction[1:], reference[1:], NAMES[1:], SPACING, probabilities[1:])
    pd.testing.assert_frame_equal(both[both["class"] == "oedema"].reset_index(drop=True), second, check_exact=True)


def test_without_probabilities_there_is_no_calibration():
    prediction, reference, _ = case(0)
    rows = VolumeScores(0.5).rows("a", "p", prediction, reference, NAMES, SPACING)
    expected = tuple(metric.replace("nsd_2mm", "nsd_0.5mm") for metric in METRICS_ADDED[:-3])
    assert tuple(rows["metric"][: len(expected)]) == expected == VolumeScores(0.5).metrics(calibration=False)


# prediction and reference empty -> status, then the values that are defined
EMPTY = {
    "true negative": ((True, True), "true_negative", {"false_positive_lesions": 0, "volume_difference_ml": 0}),
    "false positive": ((False, True), "false_positive", {"false_positive_lesions": 1, "volume_difference_ml": 0.001}),
    "missed": (
        (True, False),
        "missed",
        dict.fromkeys(("hd95_mm", "hd_mm", "assd_mm"), math.sqrt(9**2 + 10**2 + 8**2))
        | dict.fromkeys(("nsd_2mm", "lesion_sensitivity", "lesion_precision", "lesion_f1", "false_positive_lesions"), 0)
        | {"balanced_accuracy": 0.5, "relative_volume_error": 1, "volume_difference_ml": -0.001},
    ),
}


@pytest.mark.parametrize(("empty", "status", "defined"), EMPTY.values(), ids=EMPTY)
def test_the_empty_rule(empty, status, defined):
    prediction, reference = (np.zeros((1, 9, 10, 8), bool) for _ in range(2))
    prediction[0, 4, 4, 4], reference[0, 4, 4, 4] = not empty[0], not empty[1]
    rows = VolumeScores(2.0).rows("a", "p", prediction, reference, ("core",), (1.0, 1.0, 1.0))
    assert set(rows["status"]) == {status}
    values = rows.set_index("metric")["value"]
    assert values.dropna().to_dict() == pytest.approx(defined)


def test_what_nobody_annotated_does_not_count():
    prediction, reference, probabilities = case(2)
    valid = np.zeros(reference.shape[1:], bool)
    valid[..., 2:5] = True
    scores = VolumeScores(2.0)
    rows = scores.rows("a", "p", prediction, reference, NAMES, SPACING, probabilities, valid)
    shapes = rows["metric"].isin(SHAPES)
    assert set(rows["status"][shapes]) == {"partly_labelled"}
    assert rows["value"][shapes].isna().all()
    inside = (array[..., 2:5] for array in (prediction, reference))
    alone = scores.rows("a", "p", *inside, NAMES, SPACING, probabilities[..., 2:5])
    pd.testing.assert_frame_equal(rows[~shapes], alone[~shapes])
    pd.testing.assert_series_equal(rows["reference_volume_mm3"], alone["reference_volume_mm3"])
    # predictions and labels elsewhere change nothing
    pd.testing.assert_frame_equal(
        scores.rows("a", "p", prediction | ~valid, reference & valid, NAMES, SPACING, probabilities, valid), rows
    )
    whole = scores.rows("a", "p", prediction, reference, NAMES, SPACING, probabilities, np.ones_like(valid))
    pd.testing.assert_frame_equal(whole, scores.rows("a", "p", prediction, reference, NAMES, SPACING, probabilities))


def test_small_lesions_have_a_status_of_their_own():
    prediction, reference = np.zeros((2, 1, 9, 10, 8), bool)
    prediction[0, 4, 4, 4:6] = reference[0, 4, 4, 4] = True
    rows = VolumeScores(2.0, min_lesion_mm3=2.0).rows("a", "p", prediction, reference, ("core",), (1.0, 1.0, 1.0))
    assert of(rows, "lesion_f1")["status"] == "true_negative"  # the only lesion is small, and so is nothing false
    assert math.isnan(of(rows, "lesion_f1")["value"])
    assert of(rows, "false_positive_lesions")["value"] == 0
    assert of(rows, "hd_mm")[["status", "value"]].tolist() == ["ok", 1]


def test_the_convention_of_surfaces_is_a_choice():
    prediction, reference, _ = case(3)
    values = [
        of(VolumeScores(1.0, surfaces=kind).rows("a", "p", prediction, reference, NAMES, SPACING), "assd_mm")["value"]
        for kind in ("voxels", "elements")
    ]
    assert values[0] != values[1]


@pytest.mark.parametrize(
    "options",
    [
        {"tolerance_mm": -1.0},
        {"tolerance_mm": math.nan},
        {"tolerance_mm": 1.0, "min_lesion_mm3": -1.0},
        {"tolerance_mm": 1.0, "min_iou": 0.4},
        {"tolerance_mm": 1.0, "num_bins": 0},
        {"tolerance_mm": 1.0, "surfaces": "surfels"},
    ],
)
def test_options_are_refused_when_they_are_given(options):
    with pytest.raises(ValueError, match="expected"):
        VolumeScores(**options)


def test_what_does_not_fit_is_refused():
    prediction, reference, probabilities = case(0)
    scores = VolumeScores(1.0)
    for said, arguments in {
        r"shape \(C, X, Y, Z\)": (prediction[0], reference[0], NAMES, SPACING),
        "a bool prediction": (prediction.astype(np.uint8), reference, NAMES, SPACING),
        "2 names": (prediction, reference, NAMES[:1], SPACING),
        "3 spacings": (prediction, reference, NAMES, SPACING[:2]),
        "probabilities of the masks' shape": (prediction, reference, NAMES, SPACING, probabilities[0]),
        "expected valid": (prediction, reference, NAMES, SPACING, None, prediction),
        "no valid voxel": (prediction, reference, NAMES, SPACING, None, np.zeros(reference.shape[1:], bool)),
    }.items():
        with pytest.raises(ValueError, match=said):
            scores.rows("a", "p", *arguments)


def test_what_the_tables_rest_on():
    assert set(METRICS_ADDED).isdisjoint(METRICS)
    assert set(METRICS) | set(METRICS_ADDED) >= LOWER_IS_BETTER
    best_is_high = {"nsd_2mm", "lesion_sensitivity", "lesion_precision", "lesion_f1", "balanced_accuracy"}
    assert set(METRICS_ADDED) - LOWER_IS_BETTER - UNRANKED == best_is_high
    assert "partly_labelled" in STATUSES
    for said in ("NSD", "HD95", "lesion", "diagonal of the image", "balanced accuracy", "volume difference"):
        assert said in EMPTY_RULE
