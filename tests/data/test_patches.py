from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from calf.data.datamodule import SliceData
from calf.data.patches import Patches, PatchPlaces, volume_shape
from calf.data.prepare import Preparation
from calf.data.sampling import Balanced, Oversampled, RatioFilter, Sampling, Shuffled
from calf.data.splits import Holdout
from calf.data.views import Samples, view_of
from tests.data.toy import PartlyLabelled, ToyLayout

PATCHES = [(2, 5, 4), (6, 12, 10), (8, 5, 16), (1, 4, 3)]  # of volumes of 6 slices, 12 rows, 10 or 11 columns


def toy_data(tmp_path: Path, **changes: object) -> SliceData:
    arguments = {
        "layout": ToyLayout(tmp_path / "toy"),
        "target": "classes",
        "preparation": Preparation(),
        "split": Holdout(val=0.3, test=0.3),
        "fold": None,
        "seed": 0,
        "batch_size": 2,
        "stores_dir": str(tmp_path / "stores"),
        "workers": 1,
        "name": "toy",
        "patch": [4, 8, 8],
    }
    return SliceData(**(arguments | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return toy_data(tmp_path_factory.mktemp("patches")).store


def drawn(
    store: Samples,
    patch: tuple[int, int, int],
    sampling: Sampling,
    batch_size: int = 4,
    epoch: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> list[np.ndarray]:
    places = PatchPlaces(store, range(len(store.cases)), patch, sampling, batch_size, seed=5, rank=rank, world_size=ranks)
    places.set_epoch(epoch)
    batches = list(places)
    assert len(batches) == len(places)
    return batches


@pytest.mark.parametrize("patch", PATCHES, ids=str)
@pytest.mark.parametrize("samples", ["slices", "modalities"])
def test_a_patch_is_the_part_of_its_volume_with_zeros_around_it(store, patch, samples):
    store, sampling = view_of(store, samples), Oversampled(0.5)
    channels = len(store.modalities)
    for places in drawn(store, patch, sampling, epoch=3)[:12]:
        batch = Patches(store, patch)[places]
        assert {name: values.dtype for name, values in batch.items()} == {
            "image": torch.uint8,
            "mask": torch.uint8,
            "box": torch.int32,
        }
        for row, (number, *first) in enumerate(places.tolist()):
            case = store.cases[number]
            top, bottom, left, right = case.box
            volume = store.read(case.slices)[:, :, top:bottom, left:right].swapaxes(0, 1)
            assert volume.shape[1:] == volume_shape(case)
            # far enough around, so that every patch is a plain cut
            wide = np.pad(volume, [(0, 0), *[(20, 20)] * 3])
            own = np.pad(np.ones(volume.shape[1:], bool), 20)
            cut = tuple(slice(20 + start, 20 + start + side) for start, side in zip(first, patch, strict=True))
            assert np.array_equal(batch["image"][row], wide[(slice(0, channels), *cut)])
            assert np.array_equal(batch["mask"][row], wide[(channels, *cut)])
            inside = np.zeros(patch, bool)
            edges = batch["box"][row].reshape(3, 2).tolist()
            inside[tuple(slice(*edge) for edge in edges)] = True
            assert np.array_equal(inside, own[cut])
            for start, length, side in zip(first, volume.shape[1:], patch, strict=True):
                assert start == -((side - length) // 2) if length <= side else 0 <= start <= length - side


def test_an_epoch_has_the_patches_that_cover_each_volume_once_and_reaches_every_place_in_time(store):
    batches = drawn(store, (4, 8, 8), Shuffled(), batch_size=3)
    cases = np.concatenate(batches)[:, 0]
    assert np.bincount(cases).tolist() == [2 * 2 * 2] * 6
    firsts = np.concatenate([np.concatenate(drawn(store, (4, 8, 8), Shuffled(), epoch=epoch)) for epoch in range(30)])
    odd = firsts[firsts[:, 0] % 2 == 1]  # 11 columns wide
    assert [sorted(set(odd[:, axis])) for axis in (1, 2, 3)] == [[0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 3]]


def test_patches_follow_from_seed_and_epoch_and_ranks_share_those_of_one_process(store):
    for sampling in (Shuffled(), Oversampled(0.5)):
        alone = drawn(store, (2, 5, 4), sampling)
        assert np.array_equal(alone, drawn(store, (2, 5, 4), sampling))
        assert not np.array_equal(alone, drawn(store, (2, 5, 4), sampling, epoch=1))
        ranks = [drawn(store, (2, 5, 4), sampling, batch_size=2, rank=rank, ranks=2) for rank in range(2)]
        for whole, *shares in zip(alone, *ranks, strict=True):
            assert np.array_equal(whole[0::2], shares[0])
            assert np.array_equal(whole[1::2], shares[1])


def test_few_patches_fill_one_batch_of_all_ranks(store):
    ranks = [drawn(store, (6, 12, 16), Shuffled(), batch_size=4, rank=rank, ranks=4) for rank in range(4)]
    assert [[len(batch) for batch in batches] for batches in ranks] == [[4]] * 4
    # 6 volumes, 16 wanted: each is there three times, 16 of these 18 are drawn
    assert np.bincount(np.concatenate([batches[0][:, 0] for batches in ranks])).max() == 3


def test_patches_of_the_oversampled_share_lie_around_a_voxel_of_each_class_equally_often(store):
    voxels = np.concatenate(drawn(store, (1, 1, 1), Oversampled(1.0), batch_size=64))
    found = Patches(store, (1, 1, 1))[voxels]["mask"].flatten().numpy()
    assert set(found) == {1, 2}
    # 78 voxels of rim, 12 of core: by voxels 13 % were core
    assert 0.47 < (found == 2).mean() < 0.53
    assert len({tuple(place) for place in voxels[found == 2]}) == 12 * 6  # every voxel of every case
    larger = drawn(store, (1, 3, 3), Oversampled(0.33), batch_size=3)[:40]  # as many as nnU-Net: 3 - round(2.01) = 1
    masks = [Patches(store, (1, 3, 3))[places]["mask"].numpy() for places in larger]
    assert all(mask[0].any() for mask in masks)
    assert not all(mask[1].any() for mask in masks)


def test_losses_are_told_the_foreground_that_patches_have(tmp_path):
    data = toy_data(tmp_path, patch=[3, 12, 16])
    areas = data.train_areas
    cases = [case for case in data.store.cases if case.patient in data.division.train]
    assert areas.shape == (2 * len(cases), 2)
    # half of the slices: 78 voxels of rim and 12 of core a case
    assert np.allclose(areas, [[39, 6]])
    assert toy_data(tmp_path, patch=None).train_areas.shape == (6 * len(cases), 2)


def test_in_evaluation_a_batch_is_all_slices_of_a_case(tmp_path):
    data = toy_data(tmp_path)
    batches = list(data.test_dataloader())
    tested = [case for case in data.store.cases if case.patient in data.division.test]
    assert [batch["slice"].tolist() for batch in batches] == [case.slices.tolist() for case in tested]
    assert len(data.train_dataloader()) == len(data.train_dataloader().sampler)  # type: ignore[arg-type]


def test_nothing_is_learnt_from_partly_labelled_volumes_but_they_can_be_tested(tmp_path):
    data = toy_data(tmp_path, layout=PartlyLabelled(tmp_path / "toy"))
    with pytest.raises(ValueError, match=r"training cases \(case.*only some slices were annotated.*dataset.patch=null"):
        data.train_dataloader()
    batch = next(iter(data.test_dataloader()))
    assert 0 < batch["labelled"].sum() < len(batch["labelled"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch": [4, 8]}, r"dataset.patch is \[slices, rows, columns\].*got \[4, 8\]"),
        ({"patch": [4, 8, 0]}, r"got \[4, 8, 0\]"),
        ({"patch": [4, 8, 8.0]}, r"got \[4, 8, 8.0\]"),
        ({"neighbours": 1}, "dataset.neighbours"),
        ({"distance_maps": True}, "distance_maps"),
        ({"filter": RatioFilter(0.5)}, "filter"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        toy_data(tmp_path, **changes)


def test_a_sampling_of_slices_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dataset/sampling=shuffled or oversampled; got balanced"):
        toy_data(tmp_path, sampling=Balanced()).train_dataloader()
