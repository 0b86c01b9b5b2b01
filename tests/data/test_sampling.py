from __future__ import annotations

import numpy as np
import pytest

from calf.data.sampling import Balanced, Oversampled, RatioFilter, SampledBatches, Sampling, Shuffled, numbers_at_ratio

INDICES = np.arange(1000, 1103)
AREAS = np.zeros((103, 2), np.int32)
AREAS[:20, 0] = 5  # 20 slices of the first name, 7 of the second, two of both
AREAS[18:25, 1] = 9
SHOWN = AREAS.any(axis=1)
RULES = [Shuffled(), Balanced(), Balanced("class"), Oversampled(0.33), Oversampled(1.0)]


def dealt(rule: Sampling, batch_size: int = 8, seed: int = 0, epoch: int = 0, rank: int = 0, ranks: int = 1) -> list[np.ndarray]:
    batches = SampledBatches(rule, INDICES, AREAS, batch_size, seed, rank, ranks)
    batches.set_epoch(epoch)
    listed = list(batches)
    assert len(listed) == len(batches)
    return listed


def reference_shuffle(batch_size: int, seed: int, epoch: int, rank: int, ranks: int) -> list[np.ndarray]:
    """The plain order, as runs before this module had it."""
    order = INDICES[np.random.default_rng([seed, epoch]).permutation(len(INDICES))]
    step = batch_size * ranks
    return [order[n * step : (n + 1) * step][rank::ranks] for n in range(max(1, len(INDICES) // step))]


@pytest.mark.parametrize(("batch_size", "rank", "ranks"), [(8, 0, 1), (4, 1, 3), (200, 0, 1), (103, 0, 1)])
def test_plain_shuffling_is_that_of_earlier_versions(batch_size, rank, ranks):
    for seed, epoch in ((0, 0), (3, 7)):
        expected = reference_shuffle(batch_size, seed, epoch, rank, ranks)
        for batch, wanted in zip(dealt(Shuffled(), batch_size, seed, epoch, rank, ranks), expected, strict=True):
            assert np.array_equal(batch, wanted)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_batches_follow_from_seed_and_epoch_and_every_epoch_is_as_long_as_a_plain_one(rule):
    first = np.concatenate(dealt(rule))
    assert np.array_equal(first, np.concatenate(dealt(rule)))
    assert not np.array_equal(first, np.concatenate(dealt(rule, epoch=1)))
    assert not np.array_equal(first, np.concatenate(dealt(rule, seed=1)))
    for epoch in range(3):
        assert [len(batch) for batch in dealt(rule, epoch=epoch)] == [8] * 12


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_ranks_have_as_many_whole_batches_each_and_together_those_of_one_process(rule):
    alone = dealt(rule, batch_size=12)
    ranks = [dealt(rule, batch_size=4, rank=rank, ranks=3) for rank in range(3)]
    if isinstance(rule, Oversampled):  # rounds the share of each rank's batch
        assert all(len(batch) == 4 for batches in ranks for batch in batches)
        assert len(ranks[0]) == len(alone)
        return
    for whole, *shares in zip(alone, *ranks, strict=True):
        assert [len(share) for share in shares] == [4, 4, 4]
        assert sorted(whole) == sorted(np.concatenate(shares))


@pytest.mark.parametrize("ranks", [1, 3])
def test_balanced_batches_have_as_many_slices_with_as_without_target_on_every_rank(ranks):
    for rank in range(ranks):
        for batch in dealt(Balanced(), rank=rank, ranks=ranks):
            assert SHOWN[batch - 1000].sum() == 4
    odd = [SHOWN[batch - 1000].sum() for batch in dealt(Balanced(), batch_size=7)]
    assert set(odd) == {3, 4}
    assert abs(odd.count(3) - odd.count(4)) <= 1


def test_balanced_classes_each_have_their_share():
    kinds = np.column_stack([AREAS > 0, ~SHOWN])
    for batch in dealt(Balanced("class"), batch_size=9):
        # three drawn of each kind; those drawn of one may show the other, too
        assert (kinds[batch - 1000].sum(axis=0)[:2] >= 3).all()
        assert kinds[batch - 1000, 2].sum() == 3
    firsts = [batch[0] - 1000 for batch in dealt(Balanced("class"), batch_size=1)]
    assert {0, 1, 2} <= {0 if AREAS[n, 0] else 1 if AREAS[n, 1] else 2 for n in firsts}


def test_a_kind_is_used_up_before_it_repeats():
    drawn = np.concatenate(dealt(Balanced()))
    own = drawn[SHOWN[drawn - 1000]]
    assert len(own) == 48
    assert sorted(own[:25]) == sorted(1000 + np.flatnonzero(SHOWN))
    without = drawn[~SHOWN[drawn - 1000]]
    assert len(set(without)) == len(without) == 48


@pytest.mark.parametrize(
    ("share", "batch_size", "certain"), [(0.33, 2, 1), (0.33, 12, 4), (0.33, 8, 3), (0.5, 8, 4), (1.0, 8, 8)]
)
def test_oversampled_batches_show_the_target_as_often_as_in_nnunet(share, batch_size, certain):
    for ranks in (1, 2):
        for rank in range(ranks):
            for batch in dealt(Oversampled(share), batch_size, rank=rank, ranks=ranks):
                assert SHOWN[batch[:certain] - 1000].all()
                assert SHOWN[batch - 1000].sum() >= certain


def test_what_is_not_oversampled_is_drawn_from_all_slices():
    rest = np.concatenate([batch[4:] for batch in dealt(Oversampled(0.5))])
    assert len(set(rest)) == len(rest) == 48
    assert 0 < SHOWN[rest - 1000].sum() < 30


@pytest.mark.parametrize(
    ("rule", "areas"),
    [(Balanced(), AREAS * 0), (Balanced(), AREAS + 1), (Balanced("class"), AREAS * [1, 0]), (Oversampled(), AREAS * 0)],
)
def test_a_kind_that_is_not_there_is_named(rule, areas):
    with pytest.raises(ValueError, match="no training slice shows"):
        next(iter(SampledBatches(rule, INDICES, areas.astype(np.int32), 8, 0)))


@pytest.mark.parametrize("make", [lambda: Balanced("colour"), lambda: Oversampled(0.0), lambda: Oversampled(1.1)])
def test_sampling_options_are_checked_at_once(make):
    with pytest.raises(ValueError, match=r"sampling\."):
        make()


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.25, 0.41, 0.6, 0.85, 0.99, 1.0])
@pytest.mark.parametrize(("with_target", "without"), [(41, 59), (3, 1000), (1000, 3), (410_000, 590_000)])
def test_no_larger_set_has_the_ratio(ratio, with_target, without):
    p, n = numbers_at_ratio(with_target, without, ratio)
    assert 0 <= p <= with_target
    assert 0 <= n <= without
    assert p == with_target or n == without
    # within the rounding of one slice of the kind that was cut
    assert abs(p - ratio * (p + n)) <= 0.5 * (ratio if p == with_target and n < without else 1 - ratio) + 1e-6


PATIENTS = np.repeat([f"p{n}" for n in range(10)], 11)[:103].astype(object)


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.6, 0.85])
def test_the_filter_keeps_as_many_slices_as_the_ratio_allows(ratio):
    kept = RatioFilter(ratio).keep(INDICES, SHOWN, PATIENTS, "train")
    assert np.all(np.diff(kept) > 0)
    shown = SHOWN[kept - 1000]
    assert (shown.sum(), (~shown).sum()) == numbers_at_ratio(25, 78, ratio)
    assert np.array_equal(kept, RatioFilter(ratio).keep(INDICES, SHOWN, PATIENTS, "train"))
    assert not np.array_equal(kept, RatioFilter(ratio, seed=1).keep(INDICES, SHOWN, PATIENTS, "train"))


def test_only_the_named_parts_are_filtered():
    rule = RatioFilter(0.6, parts=["train", "test"])
    assert len(rule.keep(INDICES, SHOWN, PATIENTS, "test")) < 103
    assert rule.keep(INDICES, SHOWN, PATIENTS, "val") is INDICES
    assert RatioFilter().keep(INDICES, SHOWN, PATIENTS, "train") is INDICES


def test_one_random_slice_of_each_patient():
    seen = set()
    for seed in range(30):
        kept = RatioFilter(mode="patient", seed=seed).keep(INDICES, np.ones(103, bool), PATIENTS, "train") - 1000
        assert sorted(PATIENTS[kept]) == sorted(set(PATIENTS))
        seen |= set(kept.tolist())
    assert len(seen) > 80
    shown = np.arange(103) < 55  # five patients with, five without target, one slice of each
    kept = RatioFilter(0.25, mode="patient").keep(INDICES, shown, PATIENTS, "train") - 1000
    assert (shown[kept].sum(), (~shown[kept]).sum()) == (2, 5)


def test_a_filter_that_leaves_no_target_says_so():
    with pytest.raises(ValueError, match="leaves no slice with target in the train part, where 0 of 103 show it"):
        RatioFilter(0.5).keep(INDICES, SHOWN & False, PATIENTS, "train")


@pytest.mark.parametrize("wrong", [{"ratio": 0.0}, {"ratio": 1.5}, {"mode": "slice"}, {"parts": ["training"]}])
def test_filter_options_are_checked_at_once(wrong):
    with pytest.raises(ValueError, match=r"filter\."):
        RatioFilter(**wrong)
