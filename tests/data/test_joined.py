from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate

from calf.data.build import open_store
from calf.data.datamodule import JoinedData, SliceBatches, SliceData
from calf.data.joined import JoinedStore, Source, source_of
from calf.data.joined_plan import JoinedPlan, Part
from calf.data.leakage import LeakageError
from calf.data.maps import DistanceMaps
from calf.data.prepare import Preparation
from calf.data.sampling import Balanced, RatioFilter, numbers_at_ratio
from calf.data.splits import Holdout, LeaveOnePatientOut, divide
from calf.data.views import ModalitySamples, Samples, whole_cases
from tests.data.sites import Site, planned

PREPARED = Preparation(size=(16, 16))
RESIZED = Preparation(size=(16, 16), fit="resize")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the whole file: stores are made once."""
    return tmp_path_factory.mktemp("joined")


def joint(folder: Path, **changes: object) -> JoinedPlan:
    """North has 8 cases, south 6 resized ones with a reference of their own; ids of cases and patients collide."""
    north = planned(folder, "north", seed=1, num_cases=8)
    south = planned(folder, "south", seed=2, preparation=RESIZED, biased=True)
    parts = {"north": Part(north, Holdout(0.25, 0.25)), "south": Part(south, LeaveOnePatientOut(), fold=1)}
    return JoinedPlan(**({"parts": parts, "duplicates": "allow"} | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(folder: Path) -> JoinedStore:
    return joint(folder).open(workers=1)


def everything(samples: Samples) -> np.ndarray:
    return samples.read(np.arange(len(samples)))


def test_joined_samples_are_those_of_the_parts_one_after_the_other(store):
    north, south = store.parts.values()
    assert len(store) == len(north) + len(south) == 8 * 6 + 6 * 6
    order = np.random.default_rng(0).permutation(len(store))
    batch = store.read(order)
    planes = everything(north)
    assert np.array_equal(batch[np.argsort(order)][:48, :3], planes)
    assert np.array_equal(batch[np.argsort(order)][:48, 3], planes[:, 2])  # no reference: the mask stands in
    assert np.array_equal(batch[np.argsort(order)][48:], everything(south))
    assert np.array_equal(store.areas, np.concatenate([north.areas, south.areas]))
    assert np.array_equal(store.boxes, np.concatenate([north.boxes, south.boxes]))
    assert not store.unchanged
    assert store.read(np.array([], np.int64)).shape == (0, 4, 16, 16)
    with pytest.raises(IndexError):
        store.read(np.array([84]))
    with pytest.raises(IndexError):
        store.read(np.array([-1]))


def test_names_that_collide_carry_their_part_and_others_do_not(store):
    ids = [case.id for case in store.cases]
    assert ids == [
        *(f"north:case{n}" for n in range(6)), "case6", "case7", *(f"south:case{n}" for n in range(6))
    ]  # fmt: skip
    assert {case.patient for case in store.cases if not case.patient.startswith(("north:", "south:"))} == {"patient3"}
    assert store.part_of_case["case6"] == "north"
    assert store.part_of_case["south:case0"] == "south"
    assert list(store.case_table().index) == ids
    assert list(store.case_table()["patient"]) == [case.patient for case in store.cases]
    assert list(store.slice_table["case"].unique()) == ids


def test_cases_of_joined_stores_are_whole_and_have_the_truth_of_their_part(store):
    for number, case in enumerate(store.cases):
        assert np.array_equal(np.flatnonzero(store.case_of_slice == number), case.slices)
        assert np.array_equal(store.slices_of({case.patient})[0], min(c.first for c in store.cases if c.patient == case.patient))
        part = store.parts[store.part_of_case[case.id]]
        own = [c.id for c in part.cases].index(case.id.rpartition(":")[2])
        assert np.array_equal(store.truth(number), part.truth(own))
        assert np.array_equal(store.read(case.slices)[:, 0], part.read(part.cases[own].slices)[:, 0])
    assert np.array_equal(store.truth(0), store.cases[0].restore(store.read(store.cases[0].slices)[:, -1]))


def test_settings_that_the_parts_do_not_share_are_not_taken_for_those_of_all(store):
    prepared = store.manifest["preparation"]
    assert prepared["fit"] is None
    assert prepared["normalise"] == "volume_percentile"
    assert store.manifest["parts"]["south"]["preparation"]["fit"] == "resize"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preparation": Preparation(size=(16, 32))}, r"slices of \(16, 16\) and .*: .*\(16, 32\); give both the same prep"),
        (
            {"preparation": Preparation(modalities=("a",), size=(16, 16))},
            "channels: 2 and other has this many channels: 1|channels",
        ),
        ({"preparation": Preparation(modalities=("b", "a"), size=(16, 16))}, "a network would take one for the other"),
        ({"target": "regions"}, "the target names"),
    ],
)
def test_data_sets_that_do_not_fit_together_are_refused(folder, change, message):
    one = open_store(planned(folder, "north", seed=1, num_cases=8), workers=1)
    other = open_store(planned(folder, "other", **{"seed": 3, "num_cases": 4} | change), workers=1)
    with pytest.raises(ValueError, match=message.partition(" and .*")[0]):
        JoinedStore({"north": one, "other": other})


def test_every_part_is_split_as_it_is_alone(folder, store):
    plan = joint(folder)
    split, said = plan.divide(store)
    north = divide(store.parts["north"], Holdout(0.25, 0.25), None)
    south = divide(store.parts["south"], LeaveOnePatientOut(), 1)
    names = store.renamed("patient")
    for role in ("train", "val", "test"):
        expected = [names["north"][p] for p in getattr(north, role)] + [names["south"][p] for p in getattr(south, role)]
        assert sorted(getattr(split, role)) == sorted(expected)
    # the patients have the same names in both, which was allowed, and is said
    assert len(said) == 3


def of_part(split_part: tuple[str, ...], store: JoinedStore) -> set[str]:
    return {store.part_of_case[case.id] for case in store.cases if case.patient in split_part}


def test_trained_on_one_and_tested_on_another(folder, store):
    split, _ = joint(folder, train_on=["north"], test_on=["south"]).divide(store)
    assert of_part(split.train, store) == of_part(split.val, store) == {"north"}
    assert set(split.test) == {f"south:patient{n}" for n in range(3)}  # all of them
    north = divide(store.parts["north"], Holdout(0.25, 0.25), None)
    assert [p.rpartition(":")[2] for p in split.train] == sorted(north.train)  # what is tested alone is not learnt here
    split, _ = joint(folder, test_on=["north"]).divide(store)
    assert of_part(split.train, store) == {"north", "south"}
    assert of_part(split.test, store) == {"north"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_on": ["west"]}, "dataset.train_on names some of the parts north, south, or is null; got .'west'."),
        ({"test_on": []}, "dataset.test_on names some of"),
        ({"train_on": ["north"], "test_on": ["north"]}, "south is neither in dataset.train_on nor in dataset.test_on"),
        ({"parts": {}}, "at least two data sets, got none"),
        ({"duplicates": "error"}, r"patient0 of north and patient0 of south: both are known as"),
    ],
)
def test_joins_that_mean_nothing_are_refused_before_anything_is_prepared(folder, change, message):
    with pytest.raises(ValueError, match=message):
        joint(folder, **change)


def test_a_person_in_two_data_sets_is_held_out_of_both(folder):
    """patient0 ... patient3 of north are patients w, x, y, z of west, which was made from the same files."""
    west = planned(folder, "west", seed=1, num_cases=8, site="w", renamed={f"patient{n}": "wxyz"[n] for n in range(4)})
    parts = {
        "north": Part(planned(folder, "north", seed=1, num_cases=8), Holdout(0.25, 0.25)),
        "west": Part(west, Holdout(0.25, 0.25, seed=2)),
    }
    with pytest.raises(LeakageError, match="patient0 of north and w of west: identical images"):
        JoinedPlan(parts)
    plan = JoinedPlan(parts, duplicates="group")
    store = plan.open(workers=1)
    split, said = plan.divide(store)
    role = {name: part for part, names in vars(split).items() for name in names}
    assert all(role[f"patient{n}"] == role["wxyz"[n]] for n in range(4))
    alone = [divide(samples, parts[name].split, None) for name, samples in store.parts.items()]
    assert {*alone[0].test, *alone[1].test} <= set(split.test)  # nobody who is tested alone is lost
    assert len(said) == 5
    assert said[-1].startswith(f"{sum(role[p] != r for s in alone for r, ps in vars(s).items() for p in ps)} copies")
    plan = JoinedPlan(parts, train_on=["west"], test_on=["north"], duplicates="group")
    with pytest.raises(ValueError, match="the train part of the split has no patient"):  # all of them are tested in north
        plan.divide(store)


def test_every_modality_is_a_sample_with_the_mask_of_its_slice(store):
    base = store.parts["south"]
    view = ModalitySamples(base)
    assert len(view) == 2 * len(base)
    assert view.shape == (72, 3, 16, 16)
    assert [case.id for case in view.cases][:4] == ["case0:a", "case0:b", "case1:a", "case1:b"]
    whole, single = everything(base), everything(view)
    for number, case in enumerate(view.cases):
        own = base.cases[number // 2]
        assert case.patient == own.patient
        assert np.array_equal(np.flatnonzero(view.case_of_slice == number), case.slices)
        assert np.array_equal(single[case.slices, 0], whole[own.slices, number % 2])
        assert np.array_equal(single[case.slices, 1:], whole[own.slices, 2:])
        assert np.array_equal(view.areas[case.slices], base.areas[own.slices])
        assert np.array_equal(view.truth(number), base.truth(number // 2))
    assert list(view.case_table()["patient"])[::2] == list(base.case_table()["patient"])
    assert list(view.slice_table["case"][:12]) == ["case0:a"] * 6 + ["case0:b"] * 6
    shuffled = np.random.default_rng(0).permutation(72)
    assert np.array_equal(view.read(shuffled), single[shuffled])


def test_modalities_of_data_sets_with_different_ones_are_joined(folder):
    one = planned(folder, "one_modality", seed=4, preparation=Preparation(modalities=("b",), size=(16, 16)), site="o")
    parts = {
        "both": Part(planned(folder, "north", seed=1, num_cases=8), Holdout(0.25, 0.25), samples="modalities"),
        "one": Part(one, Holdout(0.4, 0.3), samples="modalities"),
    }
    store = JoinedPlan(parts).open(workers=1)
    assert len(store) == 2 * 8 * 6 + 6 * 6
    assert store.shape[1:] == (2, 16, 16)
    assert [case.id for case in store.cases][-2:] == ["ocase4:b", "ocase5:b"]
    assert [source_of(store, n) for n in (1, 17)] == [Source("case0", "both", "b"), Source("ocase1", "one", "b")]
    split, _ = JoinedPlan(parts).divide(store)
    assert {c.id.partition(":")[2] for c in store.cases if c.patient in split.test and c.patient.startswith("p")} == {"a", "b"}


def test_distance_maps_are_those_of_the_masks_behind_the_samples(folder, store):
    joined = JoinedStore({"north": ModalitySamples(store.parts["north"]), "south": ModalitySamples(store.parts["south"])})
    maps = DistanceMaps(joined, workers=1)
    order = np.random.default_rng(0).permutation(len(joined))
    masks = joined.read(order)[:, 1]
    found = maps[order][:, 0]
    assert found.shape == masks.shape
    assert np.array_equal(found < 0, (masks > 0) & masks.any(axis=(1, 2), keepdims=True))


def data(folder: Path, name: str, **options: object) -> SliceData:
    layout = Site(folder / name, seed={"north": 1, "south": 2}[name], num_cases={"north": 8, "south": 6}[name], site=name)
    rules = {"split": Holdout(0.25, 0.3), "fold": None, "seed": 0, "batch_size": 4, "stores_dir": str(folder / "stores")}
    return SliceData(layout, "whole", PREPARED, **(rules | {"workers": 1, "name": name} | options))  # type: ignore[arg-type]


def test_a_joined_data_module_deals_out_batches_of_all_parts(folder):
    parts = {name: data(folder, name) for name in ("north", "south")}
    joined = JoinedData(parts, seed=0, batch_size=8, workers=1, sampling=Balanced(), filter=RatioFilter(0.6))
    batches = list(joined.train_dataloader())
    seen = np.concatenate([batch["slice"].numpy() for batch in batches])
    assert of_part(joined.division.train, joined.store) == {"north", "south"}
    assert {joined.store.part_of_case[joined.store.cases[n].id] for n in joined.store.case_of_slice[seen]} == {"north", "south"}
    assert all(batch["mask"].flatten(1).any(1).sum() == 4 for batch in batches)
    for batch in joined.test_dataloader():
        assert np.array_equal(batch["image"].numpy(), joined.store.read(batch["slice"].numpy())[:, :2])
    for part in ("train", "val", "test"):
        names = {joined.store.cases[n].patient for n in joined.store.case_of_slice[joined.part(part)]}
        assert names == set(getattr(joined.division, part))
    kept = joined.kept
    assert kept["test"]["kept"] == kept["test"]["slices"]
    shown = int(joined.store.areas[joined.store.slices_of(set(joined.division.train))].any(axis=1).sum())
    expected = numbers_at_ratio(shown, kept["train"]["slices"] - shown, 0.6)
    assert (kept["train"]["with_target"], kept["train"]["kept"]) == (expected[0], sum(expected))


def test_modalities_as_samples_of_a_data_module(folder):
    module = data(folder, "north", samples="modalities", distance_maps=True)
    assert module.in_channels == 1
    assert divide(module.store, Holdout(0.25, 0.3), None) == data(folder, "north").division
    batch = next(iter(module.train_dataloader()))
    assert batch["image"].shape == (4, 1, 16, 16)
    assert batch["distance"].shape == (4, 1, 16, 16)
    assert len(module.part("test")) == 2 * len(data(folder, "north").part("test"))
    with pytest.raises(ValueError, match=r"dataset\.samples is one of slices, modalities"):
        _ = data(folder, "north", samples="channels").store


def test_neighbours_stay_within_a_case_of_a_part(store):
    batch = SliceBatches(store, evaluation=False, neighbours=1)[np.array([47, 48])]
    planes = store.read(np.array([46, 47, 48, 49]))[:, :2]
    first = [planes[0], planes[1], planes[1]]
    second = [planes[2], planes[2], planes[3]]
    assert np.array_equal(batch["image"].numpy(), [np.concatenate(first), np.concatenate(second)])


def test_a_join_is_composed_from_the_files_of_its_parts(composed, tmp_path):
    parts = [f"+dataset@dataset.parts.{name}=phantom" for name in ("young", "old")]
    small = ["layout.patients=6", "layout.shape=[32,32,10]", "layout.spacing_mm=[6,6,15]", "preparation.size=[32,32]"]
    shrunk = [f"dataset.parts.{name}.{option}" for name in ("young", "old") for option in small]
    cfg = composed("dataset=joined", *parts, *shrunk, "dataset.parts.old.layout.seed=1", f"data_root={tmp_path}",
                   f"stores_dir={tmp_path}", "dataset.duplicates=allow", "dataset.workers=1",
                   "dataset/sampling=oversampled", "dataset.filter.ratio=0.6")  # fmt: skip
    joined = instantiate(cfg.dataset, name="joined", _convert_="all")
    assert isinstance(joined, JoinedData)
    assert joined.sampling.share == 0.33
    assert len(joined.store) == 120
    assert joined.store.part_of_case["old:BraTS20_Training_001"] == "old"
    assert next(iter(joined.train_dataloader()))["image"].shape[1:] == (4, 32, 32)


def test_modalities_as_samples_do_not_hide_who_a_case_is(folder):
    """A case is known by its own name, not by ``<case>:<modality>``."""
    parts = {
        "old": Part(planned(folder, "known_old", seed=7, site="o", num_cases=16), Holdout(0.25, 0.25), samples="modalities"),
        "new": Part(
            planned(
                folder, "known_new", seed=8, site="n", num_cases=16, aliases={f"patient{n}": (f"ocase{2 * n}",) for n in range(8)}
            ),
            Holdout(0.25, 0.25, seed=5),
            samples="modalities",
        ),
    }
    plan = JoinedPlan(parts, None, None, "group")
    store = plan.open(workers=1)
    split, _ = plan.divide(store)
    for number in range(8):
        person = {f"opatient{number}", f"npatient{number}"}
        assert len([part for part in (split.train, split.val, split.test) if person & set(part)]) == 1
    # nor does a bare number become a name by the modality that stands behind it
    assert not [case.id for part in store.parts.values() for case in whole_cases(part) if ":" in case.id]
