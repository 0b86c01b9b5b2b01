"""Published means over classes beside the mean over ours."""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest

from calf.report.findings import find
from calf.report.published import read_published, set_beside

HEADER = ("dataset", "model", "loss", "metric", "class", "value", "source", "note")


@pytest.fixture
def two_classes(make, runs):
    """Two seeds whose second class has a Dice of 0.25 in every case that has one."""
    for seed, tp in ((0, 6), (1, 8)):
        path = make("calf", seed=seed, tp=tp) / "cases.csv"
        cases = pd.read_csv(path, dtype=str, keep_default_na=False)
        cases = cases[cases["metric"].isin(["dice", "iou"])]
        dice = (cases["metric"] == "dice") & (cases["value"] != "")
        other = cases.assign(**{"class": "oedema", "value": cases["value"].mask(dice, "0.25")})
        pd.concat([cases, other]).to_csv(path, index=False)
    return runs


@pytest.fixture
def beside(two_classes, tmp_path):
    """The only row for a published number of this class and metric."""

    def of(class_name: str, metric: str = "dice") -> pd.Series:
        path = tmp_path / "published.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, ("phantom", "unet", "calf", metric, class_name, "0.5", "Table 1", "")])
        rows = set_beside(path, read_published(path), find(two_classes)).rows
        rows = rows[rows["theirs"].notna()]
        assert len(rows) == 1, rows
        return rows.iloc[0]

    return of


def test_the_mean_over_classes_is_of_their_means_and_has_no_interval(beside, two_classes):
    row = beside("mean of 2 organs")
    means = find(two_classes).summary.query("metric == 'dice'").set_index("class")["mean"]
    assert means["oedema"] == 0.25 != means["tumour"]
    assert row["ours"] == pytest.approx((means["tumour"] + 0.25) / 2, abs=1e-12)
    assert row["difference"] == pytest.approx(row["ours"] - 0.5, abs=1e-12)
    assert row["our_class"] == "mean of 2 classes"
    assert np.isnan(row["low"])
    assert np.isnan(row["high"])
    assert (row["num_seeds"], row["num_cases"], row["num_scored"]) == (2, 4, 2)


def test_another_number_of_classes_is_another_mean(beside):
    row = beside("mean of 8 organs")
    assert np.isnan(row["ours"])
    assert row["state"] == "no class mean of 8 organs in ours (oedema, tumour)"


def test_a_metric_that_was_not_scored_is_said_to_be_so(beside):
    row = beside("mean of 2 organs", "precision")
    assert np.isnan(row["ours"])
    assert row["state"] == "metric not scored"
