"""Rows per case and per batch, from the real configuration files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from calf.metrics.overlap import SliceCounts, count_slices
from calf.metrics.protocol import CASE_COLUMNS, ROW_COLUMNS, Paper, PerCase
from calf.metrics.scores import METRICS

CONF = Path(__file__).resolve().parents[2] / "conf" / "protocol"
NAMES = ("core", "oedema")
NUM_SLICES = 103


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray, pd.DataFrame, pd.DataFrame]:
    """Counts of 103 slices of 7 cases, in no order: every third slice empty, two of the cases of one patient."""
    generator = np.random.default_rng(1)
    counts = generator.integers(0, 50, (NUM_SLICES, 2, 4))
    counts[::3, :, :3] = 0
    counts[..., 3] = 200 - counts[..., :3].sum(-1)
    ids = np.array([f"{number:03d}" for number in range(7)])
    index = generator.permutation(300)[:NUM_SLICES]
    slices = pd.DataFrame({"case": np.full(300, "not tested", object)})
    slices.loc[index, "case"] = ids[np.arange(NUM_SLICES) % 7]
    cases = pd.DataFrame(
        {"patient": [f"p{number // 2}" for number in range(7)], "voxel_volume_mm3": np.linspace(0.5, 2, 7)}, index=ids
    )
    return index, counts, slices, cases


def of(rows: pd.DataFrame, case: str, name: str, metric: str) -> pd.Series:
    row = rows[(rows["case"] == case) & (rows["class"] == name) & (rows["metric"] == metric)]
    assert len(row) == 1
    return row.iloc[0]


def test_configuration_files():
    assert instantiate(OmegaConf.load(CONF / "per_case.yaml")).name == "per_case"
    paper = instantiate(OmegaConf.load(CONF / "paper.yaml"))
    assert (paper.name, paper.batch_size, paper.shuffle_seed) == ("paper", 32, 12345)
    assert sorted(path.stem for path in CONF.glob("*.yaml")) == ["paper", "per_case"]


def test_rows_per_case(scored):
    index, counts, slices, cases = scored
    rows = PerCase().rows(index, counts, slices, cases, NAMES)
    assert tuple(rows.columns) == ROW_COLUMNS == CASE_COLUMNS[-len(ROW_COLUMNS) :]
    assert len(rows) == 7 * 2 * len(METRICS)
    for case, channel in [("000", 0), ("004", 1), ("006", 0)]:
        tp, fp, fn, tn = counts[slices["case"].to_numpy()[index] == case, channel].sum(axis=0)
        row = of(rows, case, NAMES[channel], "dice")
        assert row["value"] == pytest.approx(2 * tp / (2 * tp + fp + fn), rel=1e-15)
        assert row["patient"] == cases.loc[case, "patient"]
        assert row["status"] == "ok"
        assert row["reference_volume_mm3"] == pytest.approx((tp + fn) * cases.loc[case, "voxel_volume_mm3"])
        assert row["predicted_volume_mm3"] == pytest.approx((tp + fp) * cases.loc[case, "voxel_volume_mm3"])
        assert of(rows, case, NAMES[channel], "mae")["value"] == pytest.approx((fp + fn) / (tp + fp + fn + tn), rel=1e-15)


def test_order_of_slices_and_other_cases_do_not_matter(scored):
    index, counts, slices, cases = scored
    rows = PerCase().rows(index, counts, slices, cases, NAMES)
    turned = np.random.default_rng(2).permutation(NUM_SLICES)
    pd.testing.assert_frame_equal(PerCase().rows(index[turned], counts[turned], slices, cases, NAMES), rows)
    pd.testing.assert_frame_equal(
        Paper().rows(index[turned], counts[turned], slices, cases, NAMES), Paper().rows(index, counts, slices, cases, NAMES)
    )
    kept = slices["case"].to_numpy()[index] == "003"
    alone = PerCase().rows(index[kept], counts[kept], slices, cases, NAMES)
    pd.testing.assert_frame_equal(alone, rows[rows["case"] == "003"].reset_index(drop=True))


def test_a_case_of_which_slices_are_missing_is_not_scored(scored):
    index, counts, slices, cases = scored
    with pytest.raises(ValueError, match=r"of cases \['000'\] only some slices were scored"):
        PerCase().rows(index[1:], counts[1:], slices, cases, NAMES)


def test_a_case_scores_the_same_however_its_slices_are_batched():
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.rand(12, 1, 9, 9, generator=generator) > 0.7 for _ in range(2))
    slices = pd.DataFrame({"case": ["a"] * 5 + ["b"] * 7})
    cases = pd.DataFrame({"patient": ["a", "b"], "voxel_volume_mm3": 1.0}, index=["a", "b"])
    tables = []
    for size in (1, 5, 12):
        metric = SliceCounts()
        for batch in torch.randperm(12, generator=generator).split(size):
            metric.update(batch, count_slices(prediction[batch], target[batch]))
        tables.append(PerCase().rows(*metric.compute(), slices, cases, ("tumour",)))
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    whole = count_slices(*(mask[:5].movedim(0, 1)[None] for mask in (prediction, target)))  # (1, 1, 5, 9, 9)
    tp, fp, fn, _ = whole[0, 0].tolist()
    assert of(tables[0], "a", "tumour", "dice")["value"] == 2 * tp / (2 * tp + fp + fn)


def test_a_lone_slice():
    metric = SliceCounts()
    metric.update(torch.tensor([1]), torch.tensor([[[1, 0, 1, 2]]]))
    slices, cases = pd.DataFrame({"case": ["b", "a"]}), pd.DataFrame({"patient": ["p"], "voxel_volume_mm3": [1.0]}, index=["a"])
    for protocol in (PerCase(), Paper()):
        assert protocol.summarise(protocol.rows(*metric.compute(), slices, cases, ("tumour",)))["dice"] == pytest.approx(2 / 3)


def test_statuses_and_false_positive_volume():
    counts = np.array([[[0, 0, 0, 9]], [[0, 4, 0, 5]], [[0, 0, 4, 5]], [[3, 0, 1, 5]]])
    slices = pd.DataFrame({"case": list("abcd")})
    cases = pd.DataFrame({"patient": list("abcd"), "voxel_volume_mm3": 2.5}, index=list("abcd"))
    rows = PerCase().rows(np.arange(4), counts, slices, cases, ("tumour",))
    dice = rows[rows["metric"] == "dice"]
    assert dice["status"].tolist() == ["true_negative", "false_positive", "missed", "ok"]
    assert dice["predicted_volume_mm3"].tolist() == [0, 10, 0, 7.5]
    assert dice["reference_volume_mm3"].tolist() == [0, 0, 10, 10]
    assert PerCase().summarise(rows)["dice"] == pytest.approx((0 + 6 / 7) / 2)  # the miss counts, the empty ones do not


def test_summary_is_over_cases_then_classes():
    rows = pd.DataFrame(
        [
            ("a", "core", "dice", 0.2),
            ("b", "core", "dice", 0.4),
            ("c", "core", "dice", np.nan),
            ("a", "oedema", "dice", 0.9),
            ("a", "cyst", "dice", np.nan),
            ("a", "core", "iou", np.nan),
        ],
        columns=["case", "class", "metric", "value"],
    )
    summary = PerCase().summarise(rows)
    assert list(summary) == ["dice", "iou"]
    assert summary["dice"] == pytest.approx((0.3 + 0.9) / 2)
    assert np.isnan(summary["iou"])


def authors_batches(index: np.ndarray, counts: np.ndarray, batch_size: int, seed: int) -> list[dict[str, float]]:
    """The authors' test loop for one class, one slice after the other in plain Python."""
    ascending = sorted(range(len(index)), key=lambda place: index[place])
    order = [ascending[place] for place in np.random.default_rng(seed).permutation(len(index))]
    results = []
    while order:
        batch, order = order[:batch_size], order[batch_size:]
        tp, fp, fn, tn = (sum(int(counts[place][kind]) for place in batch) for kind in range(4))
        results.append(
            {
                "dice": 2 * tp / (2 * tp + fp + fn) if 2 * tp + fp + fn > 0 else 1.0,
                "iou": tp / (tp + fp + fn) if tp + fp + fn > 0 else 1.0,
                "sensitivity": tp / (tp + fn) if tp + fn > 0 else 1.0,
                "specificity": tn / (tn + fp) if tn + fp > 0 else 1.0,
                "precision": tp / (tp + fp) if tp + fp > 0 else 1.0,
                "mae": (fp + fn) / (tp + fp + fn + tn),
                "accuracy": (tp + tn) / (tp + fp + fn + tn),
            }
        )
    return results


@pytest.mark.parametrize(("batch_size", "seed"), [(32, 12345), (32, 1), (1, 12345), (500, 0)])
def test_paper_equals_the_authors_loop(scored, batch_size, seed):
    index, counts, slices, cases = scored
    paper = Paper(batch_size, seed)
    rows = paper.rows(index, counts, slices, cases, NAMES)
    for channel, name in enumerate(NAMES):
        expected = authors_batches(index, counts[:, channel], batch_size, seed)
        ours = rows[rows["class"] == name].pivot(index="case", columns="metric", values="value")
        theirs = pd.DataFrame(expected)
        np.testing.assert_allclose(ours[theirs.columns].to_numpy(), theirs.to_numpy(), rtol=1e-15)
    both = [np.mean([batch["dice"] for batch in authors_batches(index, counts[:, c], batch_size, seed)]) for c in range(2)]
    assert paper.summarise(rows)["dice"] == pytest.approx(np.mean(both), rel=1e-14)


def test_rows_of_the_paper_protocol(scored):
    index, counts, slices, cases = scored
    rows = Paper().rows(index, counts, slices, cases, NAMES)
    assert rows["case"].unique().tolist() == [f"batch-{number:04d}" for number in range(4)]
    assert set(rows["patient"]) == {""}
    assert set(rows["status"]) == {"pooled"}
    assert rows["value"].notna().all()
    per_case = PerCase().rows(index, counts, slices, cases, NAMES)
    for column in ("reference_volume_mm3", "predicted_volume_mm3"):
        volumes = [table[table["metric"] == "dice"].groupby("class")[column].sum() for table in (rows, per_case)]
        pd.testing.assert_series_equal(*volumes)


def test_the_options_of_paper_are_felt(scored):
    index, counts, slices, cases = scored
    rows = Paper().rows(index, counts, slices, cases, NAMES)
    assert not rows["value"].equals(Paper(shuffle_seed=1).rows(index, counts, slices, cases, NAMES)["value"])
    assert len(Paper(batch_size=8).rows(index, counts, slices, cases, NAMES)) == 13 * 2 * len(METRICS)
    assert Paper(batch_size=1).name == "paper_batch1"
    with pytest.raises(ValueError, match=r"protocol\.batch_size"):
        Paper(batch_size=0)


@pytest.mark.parametrize("protocol", [PerCase(), Paper()], ids=lambda protocol: protocol.name)
def test_what_cannot_be_scored_is_refused(scored, protocol):
    index, counts, slices, cases = scored
    with pytest.raises(ValueError, match=r"slices \[.*\] more than once"):
        protocol.rows(np.append(index, index[0]), np.append(counts, counts[:1], axis=0), slices, cases, NAMES)
    with pytest.raises(ValueError, match="103 > 0 slices x 1 classes x 4, got"):
        protocol.rows(index, counts, slices, cases, NAMES[:1])
    with pytest.raises(ValueError, match="not in the table of slices"):
        protocol.rows(index + 200, counts, slices, cases, NAMES)
    with pytest.raises(ValueError, match=r"cases \['006'\] have slices"):
        protocol.rows(index, counts, slices, cases[:-1], NAMES)
    with pytest.raises(ValueError, match="no valid voxel"):
        protocol.rows(index, counts * 0, slices, cases, NAMES)
    with pytest.raises(ValueError, match="0 > 0 slices"):
        protocol.rows(index[:0], counts[:0], slices, cases, NAMES)


def test_needs_no_torch():
    import subprocess
    import sys

    check = "import sys, calf.metrics.protocol, calf.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
