from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calf.data.datamodule import OrderedBatches, ShuffledBatches, SliceData
from calf.data.prepare import Preparation
from calf.data.splits import Holdout, check_parts
from tests.data.toy import ToyLayout


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


def test_shuffled_batches_show_every_slice_once_an_epoch_in_an_order_of_seed_and_epoch():
    batches = ShuffledBatches(np.arange(100, 120), batch_size=5, seed=3)
    first = np.concatenate(list(batches))
    assert sorted(first) == list(range(100, 120))
    assert np.array_equal(first, np.concatenate(list(batches)))
    batches.set_epoch(1)
    second = np.concatenate(list(batches))
    assert not np.array_equal(first, second)
    batches.set_epoch(0)
    assert np.array_equal(first, np.concatenate(list(batches)))
    assert not np.array_equal(first, np.concatenate(list(ShuffledBatches(np.arange(100, 120), 5, seed=4))))


def test_the_last_smaller_batch_is_left_out_unless_it_is_the_only_one():
    assert [len(batch) for batch in ShuffledBatches(np.arange(11), 4, seed=0)] == [4, 4]
    assert [len(batch) for batch in ShuffledBatches(np.arange(3), 4, seed=0)] == [3]


def test_ranks_share_the_batches_of_one_process():
    alone = list(ShuffledBatches(np.arange(24), 8, seed=0))
    ranks = [list(ShuffledBatches(np.arange(24), 4, seed=0, rank=rank, world_size=2)) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == len(alone)
    for batch, left, right in zip(alone, *ranks, strict=True):
        assert sorted(batch) == sorted([*left, *right])


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
