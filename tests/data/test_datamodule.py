from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from calf.data.datamodule import OrderedBatches, SliceBatches, SliceData
from calf.data.prepare import Preparation
from calf.data.sampling import RatioFilter
from calf.data.splits import Holdout, check_parts
from tests.data.toy import PartlyLabelled, ToyLayout


def toy_data(tmp_path: Path, **changes: object) -> SliceData:
    arguments = {
        "layout": ToyLayout(tmp_path / "toy", biased=True),
        "target": "whole",
        "preparation": Preparation(),
        "split": Holdout(val=0.3, test=0.3),
        "fold": None,
        "seed": 0,
        "batch_size": 4,
        "stores_dir": str(tmp_path / "stores"),
        "workers": 1,
        "name": "toy",
    }
    return SliceData(**(arguments | changes))  # type: ignore[arg-type]


def test_ordered_batches_keep_the_last_smaller_one():
    assert [batch.tolist() for batch in OrderedBatches(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]


def test_a_batch_has_images_masks_and_in_evaluation_the_reference(tmp_path):
    data = toy_data(tmp_path)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 2, 32, 32)
    assert set(batch) == {"image", "mask", "slice", "box"}
    batch = next(iter(data.test_dataloader()))
    case = data.store.cases[int(data.store.case_of_slice[int(batch["slice"][0])])]
    assert batch["box"][0].tolist() == list(case.box)
    assert batch["mask"].sum() > batch["reference"].sum()  # the annotation is larger than the truth


def test_neighbouring_slices_become_channels_and_the_outermost_stand_in_for_those_beyond(tmp_path):
    data = toy_data(tmp_path, neighbours=2)
    alone = toy_data(tmp_path)
    assert (alone.in_channels, data.in_channels) == (2, 10)
    case = data.store.cases[0]
    batch = SliceBatches(data.store, evaluation=False, neighbours=2)[case.slices]["image"].reshape(case.grid[0], 5, 2, 32, 32)
    own = SliceBatches(data.store, evaluation=False)[case.slices]["image"]
    for place in range(case.grid[0]):
        for step in range(-2, 3):
            assert torch.equal(batch[place, step + 2], own[min(max(place + step, 0), case.grid[0] - 1)])


def test_slices_that_nobody_annotated_are_predicted_but_neither_trained_on_nor_scored(tmp_path):
    data = toy_data(tmp_path, layout=PartlyLabelled(tmp_path / "toy"), target="core")
    train, test = data.part("train"), data.part("test")
    assert data.store.labelled[train].all()
    assert len(train) < len(data.store.slices_of(set(data.division.train)))
    # the whole volume is predicted; the batch says what may be scored
    assert len(test) == len(data.store.slices_of(set(data.division.test)))
    batch = next(iter(data.test_dataloader()))
    assert torch.equal(batch["labelled"], torch.from_numpy(data.store.labelled[batch["slice"].numpy()]))
    assert 0 < batch["labelled"].sum() < len(batch["labelled"])


def test_parts_share_no_patient_and_together_hold_every_slice(tmp_path):
    data = toy_data(tmp_path)
    parts = [data.part(name) for name in ("train", "val", "test")]
    assert sorted(np.concatenate(parts)) == list(range(len(data.store)))
    patients = [{data.store.cases[case].patient for case in data.store.case_of_slice[part]} for part in parts]
    assert sum(len(part) for part in patients) == len(set.union(*patients))


def test_a_part_without_the_target_is_refused_before_training(tmp_path):
    data = toy_data(tmp_path)
    check_parts(data.store, data.division)
    data.store.areas[data.part("val")] = 0
    with pytest.raises(ValueError, match="no slice of the val part shows whole: no checkpoint can be chosen"):
        check_parts(data.store, data.division)


def test_too_few_patients_are_refused(tmp_path):
    data = toy_data(tmp_path, layout=ToyLayout(tmp_path / "few", num_cases=3))
    with pytest.raises(ValueError, match="too few patients"):
        data.part("train")


def test_a_filter_of_tested_slices_is_of_those_that_are_scored(tmp_path):
    """Slices that nobody annotated would make up the share without target, and then not be scored."""
    data = toy_data(
        tmp_path, layout=PartlyLabelled(tmp_path / "toy"), target="core", filter=RatioFilter(0.6, "image", ("val", "test"))
    )
    kept = data.part("test")
    assert data.store.labelled[kept].all()
    shown = (data.store.areas[kept] > 0).any(axis=1)
    # of each case three slices are annotated and two show core: all that show it stay, and every fourth without
    assert shown.mean() == pytest.approx(0.6, abs=0.1)
    assert data.kept["test"]["kept"] == len(kept)
    assert data.kept["test"]["slices"] == data.store.labelled[data.store.slices_of(set(data.division.test))].sum()
