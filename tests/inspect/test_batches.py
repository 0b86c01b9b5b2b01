from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from calf.data.sampling import Balanced, SampledBatches, Shuffled
from calf.inspect.batches import NUM_BATCHES, draw_batches, histogram, moments, simulate
from calf.losses.calf import BRANCHES, CALFLoss

AREAS = np.concatenate([np.zeros(40, np.int64), np.random.default_rng(1).integers(1, 60, 60)])[:, None]


def branches_of_the_loss(areas: np.ndarray) -> str:
    """The branch that the loss itself takes on masks of these areas."""
    masks = torch.zeros(len(areas), 1, 8, 8)
    for mask, area in zip(masks, areas.tolist(), strict=True):
        mask.view(-1)[:area] = 1
    loss = CALFLoss(scope="batch", area="pixels", ddp="global", clamp=16.118)
    loss(torch.zeros_like(masks), masks)
    return BRANCHES[int(loss.last_branch)]


@pytest.mark.parametrize("size", [3, 5, 16])
def test_the_simulated_branches_are_those_of_the_loss_on_such_masks(size, monkeypatch):
    monkeypatch.setattr("calf.inspect.batches.NUM_BATCHES", 60)
    drawn = AREAS[draw_batches(AREAS, size, Shuffled())][..., 0]
    taken = [branches_of_the_loss(batch) for batch in drawn.T]
    found = simulate(AREAS, ("tumour",), size, Shuffled())
    assert found["batches"] == 60
    shares = found["targets"]["tumour"]["branches"]
    assert shares == {branch: pytest.approx(taken.count(branch) / 60) for branch in BRANCHES}
    assert len([branch for branch in BRANCHES if shares[branch]]) > 1


def test_batches_are_drawn_as_training_draws_them_and_repeat_no_slice():
    drawn = draw_batches(AREAS, 16, Shuffled())
    assert drawn.shape == (16, NUM_BATCHES)
    assert all(len(set(batch)) == 16 for batch in drawn.T)
    assert len(set(drawn[:, :6].ravel())) == 96  # an epoch of 100 slices: six batches, no slice twice
    assert np.array_equal(drawn, draw_batches(AREAS, 16, Shuffled()))
    assert not np.array_equal(drawn, draw_batches(AREAS, 16, Shuffled(), seed=1))
    trained = SampledBatches(Shuffled(), np.arange(100), AREAS, 16, seed=0)
    assert [len(batch) for batch in trained] == [16] * 6


def test_another_sampler_makes_other_batches():
    found = simulate(AREAS, ("tumour",), 8, Balanced())
    plain = simulate(AREAS[:40].repeat(2, axis=0), ("tumour",), 8, Shuffled())
    assert found["targets"]["tumour"]["without_foreground"] == 0
    assert plain["targets"]["tumour"]["without_foreground"] == 1
    drawn = AREAS[draw_batches(AREAS, 8, Balanced())][..., 0]
    assert ((drawn > 0).sum(axis=0) == 4).all()


def test_fewer_slices_than_a_batch_are_one_batch():
    found = simulate(AREAS[38:44], ("tumour",), 64, Shuffled())
    assert (found["size"], found["slices"], found["batches"]) == (64, 6, 1)
    own = found["targets"]["tumour"]
    assert own["skewness"]["p50"] == pytest.approx(stats.skew(AREAS[38:44, 0]))
    assert own["kurtosis"]["p95"] == pytest.approx(stats.kurtosis(AREAS[38:44, 0]))


def test_batches_of_equal_areas_are_undefined_and_choose_bce_dice():
    found = simulate(np.zeros((20, 2), int), ("a", "b"), 8, Shuffled())
    for own in found["targets"].values():
        assert own["undefined"] == own["without_foreground"] == own["branches"]["bce_dice"] == 1
        assert own["skewness"] == {"p5": None, "p50": None, "p95": None}


def test_each_target_has_its_own_areas():
    both = np.concatenate([AREAS, np.full_like(AREAS, 3)], axis=1)
    found = simulate(both, ("a", "b"), 8, Shuffled())["targets"]
    assert found["a"] == simulate(AREAS, ("a",), 8, Shuffled())["targets"]["a"]
    assert found["b"]["branches"]["bce_dice"] == 1
    assert found["b"]["without_foreground"] == 0


def test_moments_are_scipys_with_the_empty_slices():
    found = moments(AREAS[:, 0])
    assert found["skewness"] == pytest.approx(stats.skew(AREAS[:, 0]))
    assert found["kurtosis"] == pytest.approx(stats.kurtosis(AREAS[:, 0]))
    assert moments(np.array([0, 0, 0, 9]))["branch"] == "log10"


def test_the_histogram_counts_every_slice_once():
    found = histogram(AREAS[:, 0])
    assert found["empty"] == 40
    assert sum(found["counts"]) == 60
    assert found["edges_px"][-1] == AREAS.max()
    tiny = histogram(np.array([0, 1, 2, 2]))
    assert (tiny["counts"], tiny["edges_px"]) == ([0, 3], [0, 1, 2])
    assert histogram(np.zeros(3, int)) == {"empty": 3, "edges_px": [0.0], "counts": []}
