from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calf.data.build import open_store, plan_store
from calf.data.datamodule import SliceBatches
from calf.data.distances import NAME, ensure_distance_maps, signed_distance
from calf.data.prepare import Preparation
from calf.data.store import SliceStore
from tests.data.toy import ToyLayout


def store_of(tmp_path: Path, target: str) -> SliceStore:
    plan = plan_store("toy", ToyLayout(tmp_path / "toy"), target, Preparation(), tmp_path / "stores")
    return open_store(plan, workers=1)


def nearest_of_the_other_kind(mask: np.ndarray) -> np.ndarray:
    """By looking at every pair of pixels."""
    here, there = np.argwhere(mask), np.argwhere(~mask)
    distance = np.zeros(mask.shape)
    if len(here) and len(there):
        pairs = np.linalg.norm(here[:, None] - there[None], axis=-1)
        distance[tuple(here.T)] = -pairs.min(axis=1)
        distance[tuple(there.T)] = pairs.min(axis=0)
    return distance


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_it_is_the_distance_to_the_nearest_pixel_of_the_other_kind(share):
    mask = np.random.default_rng(0).random((9, 13)) < share
    np.testing.assert_allclose(signed_distance(mask), nearest_of_the_other_kind(mask), rtol=1e-6)


@pytest.mark.parametrize(("target", "channels"), [("whole", 1), ("classes", 2), ("regions", 2)])
def test_every_channel_of_every_slice_has_its_map(tmp_path, target, channels):
    store = store_of(tmp_path, target)
    maps = ensure_distance_maps(store, workers=1)
    assert maps.shape == (len(store), channels, *store.shape[2:])
    mask = store.read(np.array([8]))[0, -1]
    first = mask == 1 if target == "classes" else (mask & 1).astype(bool)
    assert first.any()
    np.testing.assert_allclose(maps[8, 0], nearest_of_the_other_kind(first), rtol=1e-3)
    assert not maps[0].any()  # an empty slice


def test_they_are_computed_once_and_by_several_processes_alike(tmp_path, monkeypatch):
    store = store_of(tmp_path, "classes")
    maps = np.array(ensure_distance_maps(store, workers=1))
    written = (store.folder / NAME).stat().st_mtime_ns
    ensure_distance_maps(store, workers=1)
    assert (store.folder / NAME).stat().st_mtime_ns == written
    (store.folder / NAME).unlink()
    monkeypatch.setattr("calf.data.distances.SLICES_A_CHUNK", 10)
    assert np.array_equal(ensure_distance_maps(store, workers=2), maps)
    assert not list(store.folder.glob("partial*"))


def test_a_training_batch_brings_the_maps_of_its_slices(tmp_path):
    store = store_of(tmp_path, "regions")
    maps = ensure_distance_maps(store, workers=1)
    indices = np.array([8, 2, 9])
    batch = SliceBatches(store, evaluation=False, distances=maps)[indices]
    assert np.array_equal(batch["distance"].numpy(), maps[indices])
    assert "distance" not in SliceBatches(store, evaluation=False)[indices]
