"""Scores from counts: by hand, the empty rule branch by branch, and against monai and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calf.metrics import scores
from calf.metrics.overlap import count_slices
from calf.metrics.scores import METRICS, case_scores, pooled_scores

UNDEFINED = float("nan")


def scored(*counts: int) -> tuple[dict[str, float], str]:
    values, status = case_scores(np.array([counts]))
    return dict(zip(METRICS, values[0].tolist(), strict=True)), str(status[0])


def test_by_hand():
    values, status = scored(2, 2, 4, 8)
    assert status == "ok"
    assert values == pytest.approx(
        {
            "dice": 4 / 10,
            "iou": 2 / 8,
            "sensitivity": 2 / 6,
            "specificity": 8 / 10,
            "precision": 2 / 4,
            "mae": 6 / 16,
            "accuracy": 10 / 16,
        },
        rel=1e-15,
    )


# tp, fp, fn, tn -> status, then dice, iou, sensitivity, specificity, precision, mae, accuracy
BRANCHES = {
    "both empty": ((0, 0, 0, 10), "true_negative", [UNDEFINED, UNDEFINED, UNDEFINED, 1, UNDEFINED, 0, 1]),
    "reference empty": ((0, 3, 0, 7), "false_positive", [UNDEFINED, UNDEFINED, UNDEFINED, 0.7, UNDEFINED, 0.3, 0.7]),
    "reference empty, all predicted": ((0, 10, 0, 0), "false_positive", [UNDEFINED, UNDEFINED, UNDEFINED, 0, UNDEFINED, 1, 0]),
    "prediction empty": ((0, 0, 4, 6), "missed", [0, 0, 0, 1, 0, 0.4, 0.6]),
    "prediction empty, reference full": ((0, 0, 10, 0), "missed", [0, 0, 0, UNDEFINED, 0, 1, 0]),
    "apart": ((0, 2, 3, 5), "ok", [0, 0, 0, 5 / 7, 0, 0.5, 0.5]),
    "perfect": ((4, 0, 0, 6), "ok", [1, 1, 1, 1, 1, 0, 1]),
    "both full": ((10, 0, 0, 0), "ok", [1, 1, 1, UNDEFINED, 1, 0, 1]),
}


@pytest.mark.parametrize(("counts", "status", "expected"), BRANCHES.values(), ids=BRANCHES)
def test_the_empty_rule(counts, status, expected):
    values, found = scored(*counts)
    assert found == status
    np.testing.assert_allclose(list(values.values()), expected, rtol=1e-15)


@pytest.mark.parametrize(("counts", "status", "expected"), BRANCHES.values(), ids=BRANCHES)
def test_a_pooled_score_of_an_empty_denominator_is_one(counts, status, expected):
    tp, fp, fn, tn = counts
    pairs = [
        (2 * tp, 2 * tp + fp + fn),
        (tp, tp + fp + fn),
        (tp, tp + fn),
        (tn, tn + fp),
        (tp, tp + fp),
        (fp + fn, 10),
        (tp + tn, 10),
    ]
    by_hand = [above / below if below else 1.0 for above, below in pairs]
    np.testing.assert_allclose(pooled_scores(np.array(counts)), by_hand, rtol=1e-15)


def test_each_case_and_class_is_scored_by_itself():
    counts = np.array([[case[0], (1, 2, 3, 4)] for case in BRANCHES.values()])
    values, status = case_scores(counts)
    assert values.shape == (len(BRANCHES), 2, len(METRICS))
    assert values.dtype == np.float64
    for row, (_, expected_status, expected) in enumerate(BRANCHES.values()):
        assert status[row].tolist() == [expected_status, "ok"]
        np.testing.assert_allclose(values[row, 0], expected, rtol=1e-15)
        np.testing.assert_allclose(values[row, 1, 0], 2 / 7, rtol=1e-15)


def test_counts_of_whole_volumes_do_not_overflow():
    values, _ = scored(3_000_000_000, 1_000_000_000, 0, 0)
    assert values["dice"] == pytest.approx(6 / 7, rel=1e-15)


def random_masks() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    prediction, target = (torch.rand(8, 2, 12, 12, 12, generator=generator) > share for share in (0.6, 0.8))
    prediction[0], target[1] = False, False  # a miss and a false positive
    prediction[2], target[2] = False, False  # a true negative
    return prediction, target


def test_parity_with_monai():
    from monai.metrics import ConfusionMatrixMetric, DiceMetric

    prediction, target = random_masks()
    values, _ = case_scores(count_slices(prediction, target).numpy())
    dice = DiceMetric(include_background=True, reduction="none", ignore_empty=True)(prediction, target)
    np.testing.assert_allclose(values[..., METRICS.index("dice")], dice, rtol=1e-6)
    names = ["sensitivity", "specificity", "precision", "accuracy"]
    confusion = ConfusionMatrixMetric(include_background=True, metric_name=names, reduction="none")
    confusion(prediction.float(), target.float())
    for name, theirs in zip(names, confusion.aggregate(), strict=True):
        ours, theirs = values[3:, :, METRICS.index(name)], theirs[3:]  # there an empty denominator is NaN or 0 by formula
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=name)


def test_parity_with_torchmetrics():
    from torchmetrics.functional import classification

    prediction, target = random_masks()
    values, _ = case_scores(count_slices(prediction, target).numpy())
    theirs_by_name = {
        "dice": classification.binary_f1_score,
        "iou": classification.binary_jaccard_index,
        "sensitivity": classification.binary_recall,
        "specificity": classification.binary_specificity,
        "precision": classification.binary_precision,
        "accuracy": classification.binary_accuracy,
    }
    for name, theirs in theirs_by_name.items():
        for case, channel in np.ndindex(8, 2):
            if np.isfinite(ours := values[case, channel, METRICS.index(name)]):
                assert theirs(prediction[case, channel].long(), target[case, channel].long()) == pytest.approx(ours, rel=1e-6), (
                    name
                )


def test_what_the_tables_rest_on():
    assert METRICS == ("dice", "iou", "sensitivity", "specificity", "precision", "mae", "accuracy")
    assert set(METRICS) & scores.LOWER_IS_BETTER == {"mae"}


# tp, fp, fn, tn -> balanced accuracy, relative volume error, volume difference in mL of voxels of 2 mm3
OF_VOLUME = {
    "in part": ((2, 2, 4, 8), (2 / 6 + 8 / 10) / 2, 2 / 6, -0.004),
    "too much": ((2, 6, 0, 8), (1 + 8 / 14) / 2, 3, 0.012),
    "equal volumes apart": ((0, 3, 3, 4), (0 + 4 / 7) / 2, 0, 0),
    "missed": ((0, 0, 4, 12), 0.5, 1, -0.008),
    "all predicted": ((4, 12, 0, 0), 0.5, 3, 0.024),
    "reference empty": ((0, 3, 0, 7), UNDEFINED, UNDEFINED, 0.006),
    "both empty": ((0, 0, 0, 10), UNDEFINED, UNDEFINED, 0),
    "reference full": ((10, 0, 0, 0), UNDEFINED, 0, 0),
}


@pytest.mark.parametrize(("counts", "balanced", "relative", "difference"), OF_VOLUME.values(), ids=OF_VOLUME)
def test_balanced_accuracy_and_volume_errors(counts, balanced, relative, difference):
    counts = np.array([counts])
    found = scores.balanced_accuracy(counts), scores.relative_volume_error(counts), scores.volume_difference_ml(counts, 2.0)
    np.testing.assert_allclose(np.concatenate(found), [balanced, relative, difference], rtol=1e-15)
