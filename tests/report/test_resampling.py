"""Sign flips, Holm, effect sizes and intervals by hand, against scipy and statsmodels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from calf.report.resampling import (
    EXACT_UP_TO,
    clustered_interval,
    holm,
    rank_biserial,
    resamples,
    sign_flip_p,
)
from tests.report.table import NAN

# sign flips, Holm, effect


def brute_force(differences: Sequence[float]) -> float:
    """Every pattern of signs, written out."""
    flipped = [
        abs(sum(map(lambda s, d: s * d, signs, differences))) for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return float(np.mean([value >= abs(sum(differences)) - 1e-12 for value in flipped]))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3, 4, 5], 2 / 32),
        ([-1, 2, 3, 4, 5], 4 / 32),  # sums of 13 and more: none and 1 flipped, and their negatives
        ([1, 1, -1, -1, 0], 1),
        ([0.1, 0.2, 0.3, 0, 0], 8 / 32),  # 0.1 + 0.2 is 0.3 but for rounding
        ([0, 0, 0, 0, 0], 1),
        ([2], 1),
    ],
)
def test_exact_sign_flips_by_hand(differences, p):
    assert sign_flip_p(np.array(differences, float)[:, None], 0).tolist() == [p]
    assert brute_force(differences) == p


def test_exact_sign_flips_as_scipy():
    differences = np.random.default_rng(3).normal(0.3, 1, (9, 4))
    for column, p in zip(differences.T, sign_flip_p(differences, 0), strict=True):
        test = scipy.stats.permutation_test(
            (column,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        )
        assert p == pytest.approx(test.pvalue)


def test_drawn_sign_flips_are_near_all_of_them():
    number = EXACT_UP_TO + 1
    differences = np.random.default_rng(1).exponential(size=(number, 3)) - 0.6
    signs = 1 - 2 * (np.arange(2 ** (number - 1))[:, None] >> np.arange(number) & 1)
    everything = (np.abs(signs @ differences) >= np.abs(differences.sum(0)) - 1e-12).mean(0)
    np.testing.assert_allclose(sign_flip_p(differences, 0), everything, atol=0.007)
    assert sign_flip_p(np.ones((60, 1)), 0) == 1 / 50_001


def test_patients_without_a_pair_do_not_count():
    differences = np.array([[1, 2, 3, 4, 5, NAN, NAN], [NAN] * 7]).T
    assert sign_flip_p(differences, 0)[0] == 2 / 32
    assert np.isnan(sign_flip_p(differences, 0)[1])
    assert rank_biserial(differences)[0] == 1
    assert np.isnan(rank_biserial(differences)[1])


def test_holm_by_hand_and_as_statsmodels():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.03, NAN, 0.03])), [0.06, NAN, 0.06])
    p = np.random.default_rng(0).random(40) ** 3
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


def test_rank_biserial_by_hand_and_from_wilcoxons_ranks():
    # ranks of 3, 1, 2 (the 0 is left out): W+ = 5, W- = 1
    assert rank_biserial(np.array([[3.0, -1.0, 2.0, 0.0]]).T) == pytest.approx(4 / 6)
    assert rank_biserial(np.zeros((4, 1))) == 0
    differences = np.round(np.random.default_rng(2).normal(0.2, 1, 25), 1)
    positive = scipy.stats.wilcoxon(differences, alternative="greater").statistic
    used = np.count_nonzero(differences)
    assert rank_biserial(differences[:, None]) == pytest.approx(2 * positive / (used * (used + 1) / 2) - 1)


# the bootstrap


def test_one_case_a_patient_is_the_plain_bootstrap_t():
    values = np.random.default_rng(5).beta(5, 2, 12)
    t = []
    for weights in np.concatenate(list(resamples(12, 500, 7))).astype(int):
        drawn = np.repeat(values, weights)
        t.append((drawn.mean() - values.mean()) / (drawn.std() / np.sqrt(12)))
    upper, lower = np.quantile(t, [0.975, 0.025])
    error = values.std() / np.sqrt(12)
    low, high = clustered_interval(values[:, None], np.arange(12), 500, 7)
    np.testing.assert_allclose(
        [low[0], high[0]], np.clip(values.mean() - np.array([upper, lower]) * error, *np.sort(values)[[0, -1]])
    )


def test_repeating_a_patients_case_makes_no_interval_narrower():
    values = np.random.default_rng(6).beta(5, 2, (20, 1))
    once = clustered_interval(values, np.arange(20), 1000, 0)
    thrice = clustered_interval(np.repeat(values, 3, axis=0), np.repeat(np.arange(20), 3), 1000, 0)
    np.testing.assert_allclose(thrice, once)
    naive = clustered_interval(np.repeat(values, 3, axis=0), np.arange(60), 1000, 0)
    assert (naive[1] - naive[0])[0] < 0.7 * (once[1] - once[0])[0]


def test_an_interval_does_not_depend_on_other_columns_or_on_undefined_cases():
    rng = np.random.default_rng(8)
    patient, values = np.repeat(np.arange(15), 2), rng.beta(5, 2, (30, 2))
    values[28:, 1] = NAN
    both = np.array(clustered_interval(values, patient, 300, 0))
    np.testing.assert_allclose(both[:, 0], np.array(clustered_interval(values[:, :1], patient, 300, 0))[:, 0])
    np.testing.assert_allclose(both[:, 1], np.array(clustered_interval(values[:28, 1:], patient[:28], 300, 0))[:, 0])


def test_intervals_stay_within_the_values():
    same, one, rare = np.full(30, 0.1), np.r_[0.5, [NAN] * 29], np.r_[0.9, np.zeros(29)]
    low, high = clustered_interval(np.stack([same, one, rare], 1), np.arange(30), 500, 0)
    assert (low[0], high[0]) == (0.1, 0.1)
    assert np.isnan([low[1], high[1]]).all()
    assert low[2] == 0
    assert 0.03 < high[2] <= 0.9
