"""Intervals and tests on arrays whose rows are patients' cases: the bootstrap, sign flips, Holm, and an effect size.

What was chosen, and by which simulation, is in ``benchmarks/simulation.py`` and ``benchmarks/simulation.json``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.stats

from calf.report.units import Floats, Indices, nanratio, patient_sums

LEVEL = 0.05
EXACT_UP_TO = 16  # patients, whose 2^15 patterns of signs are all counted
NUM_FLIPS = 50_000
CHUNK = 2_000_000  # numbers of a matrix of resamples
DIGITS = 12  # to which differences are rounded, so that what is equal but for the order of a sum ties
FAR = 1e6  # standard errors: a resample without spread lies infinitely many away


def clustered_interval(
    values: Floats, patient: Indices, num_bootstrap: int, seed: int, level: float = LEVEL
) -> tuple[Floats, Floats]:
    """Bootstrap-t interval of the mean over cases, whole patients drawn with all their cases.

    The standard error is that of a ratio of sums over patients, the values' and the numbers of cases, also in each resample
    (the studentised bootstrap, Efron and Tibshirani 1993, chapter 12.5). Where every patient has one case it is the plain
    bootstrap-t. What reaches beyond the range of the values is cut off: a mean cannot lie there.

    Args:
        values: (U, K), a row a case, a column an interval; NaN is left out.
        patient: (U,), the number of each case's patient.
        num_bootstrap: resamples.
        seed: of their random numbers; a column's interval does not depend on the other columns.
        level: one minus the confidence.

    Returns:
        low and high, (K,); NaN with fewer than two patients, and of width 0 where all values are the same.
    """
    sums, counts = patient_sums(values, patient)
    low, high = np.full((2, values.shape[1]), np.nan)
    patterns, pattern_of = np.unique(counts > 0, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        columns = pattern_of.reshape(-1) == number
        if pattern.sum() < 2:
            continue
        own = np.ix_(pattern, columns)
        low[columns], high[columns] = _studentised(sums[own], counts[own], num_bootstrap, seed, level)
    undefined = np.isnan(values)
    least, most = np.where(undefined, np.inf, values).min(0), np.where(undefined, -np.inf, values).max(0)
    return np.clip(low, least, most), np.clip(high, least, most)


def _studentised(sums: Floats, counts: Floats, num_bootstrap: int, seed: int, level: float) -> tuple[Floats, Floats]:
    total = counts.sum(0)
    mean = sums.sum(0) / total
    residual = sums - mean * counts
    error = np.sqrt((residual**2).sum(0)) / total
    t = []
    for weights in resamples(len(sums), num_bootstrap, seed):
        drawn = weights @ counts
        shift = weights @ residual / drawn
        square = weights @ residual**2
        spread = square - 2 * shift * (weights @ (residual * counts)) + shift**2 * (weights @ counts**2)
        none = spread <= 1e-12 * square
        t.append(np.where(none, np.sign(shift) * FAR, shift / np.sqrt(np.where(none, 1, spread)) * drawn))
    # rounding must not become spread where there is none
    error = np.where(error > 1e-12 * np.abs(mean), error, 0)
    upper, lower = np.quantile(np.clip(np.concatenate(t), -FAR, FAR), [1 - level / 2, level / 2], axis=0)
    return mean - upper * error, mean - lower * error


def resamples(number: int, num_bootstrap: int, seed: int) -> Iterator[Floats]:
    """How often each of ``number`` patients is drawn in each resample, in chunks (rows, number) of ``num_bootstrap`` rows."""
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK // number)
    for start in range(0, num_bootstrap, size):
        rows = min(size, num_bootstrap - start)
        drawn = rng.integers(0, number, (rows, number)) + np.arange(rows)[:, None] * number
        yield np.bincount(drawn.ravel(), minlength=rows * number).reshape(rows, number).astype(np.float64)


def sign_flip_p(differences: Floats, seed: int, num_flips: int = NUM_FLIPS) -> Floats:
    """Two-sided p of the mean over patients, under flips of the signs of whole patients.

    The share of patterns of signs whose sum is as far from 0 as the observed one: of all patterns up to ``EXACT_UP_TO``
    patients, else of ``num_flips`` drawn ones and the observed. Exact where differences are symmetric about 0, as they are if
    the two losses could be exchanged. The same patterns serve every column.

    Args:
        differences: (P, K), a patient's mean difference; NaN: no pair.
        seed: of the patterns.
        num_flips: how many are drawn where they are not all counted.

    Returns:
        (K,), 1 where all differences are 0, NaN where there is no pair.
    """
    values = np.round(np.nan_to_num(differences), DIGITS)
    far = np.abs(values.sum(0)) - 1e-9 * np.abs(values).sum(0)
    exact = len(values) <= EXACT_UP_TO
    reached = np.zeros(values.shape[1], np.int64)
    total = 0
    for signs in _all_signs(len(values)) if exact else _drawn_signs(len(values), num_flips, seed):
        reached += (np.abs(signs @ values) >= far).sum(0)
        total += len(signs)
    p = reached / total if exact else (reached + 1) / (total + 1)
    return np.where(np.isnan(differences).all(0), np.nan, p)


def _all_signs(number: int) -> Iterator[Floats]:
    """Every pattern whose first sign is +; the others are their negatives."""
    patterns = np.arange(2 ** max(number - 1, 0))
    yield 1 - 2 * (patterns[:, None] >> np.arange(number) & 1).astype(np.float64)


def _drawn_signs(number: int, num_flips: int, seed: int) -> Iterator[Floats]:
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK // number)
    for start in range(0, num_flips, size):
        rows = min(size, num_flips - start)
        bits = np.unpackbits(rng.integers(0, 256, (rows, -(-number // 8)), np.uint8), axis=1, count=number)
        yield 1 - 2 * bits.astype(np.float64)


def holm(p: Floats) -> Floats:
    """Holm's adjusted p, (K,); NaN is no comparison and makes no family larger.

    The smallest p times their number, the next times one less, and so on; never below the one before, at most 1.
    """
    # statsmodels' multipletests gives the same, and collects garbage at every call: a second each in a large process
    order = np.argsort(p, kind="stable")  # NaN last
    number = int((~np.isnan(p)).sum())
    factors = number - np.arange(number)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order[:number]] = np.minimum(np.maximum.accumulate(factors * p[order[:number]]), 1)
    return adjusted


def holm_of_pairs(p: Floats) -> Floats:
    """Holm over all pairs of a symmetric (R, R) matrix of p, as such a matrix; NaN on its diagonal."""
    adjusted = np.full(p.shape, np.nan)
    pair = np.triu_indices(len(p), 1)
    adjusted[pair] = adjusted[pair[::-1]] = holm(p[pair])
    return adjusted


def rank_biserial(differences: Floats) -> Floats:
    """Matched-pairs rank-biserial correlation: ``(W+ - W-) / (W+ + W-)`` of Wilcoxon's ranks of |difference|.

    Kerby 2014, https://doi.org/10.2466/11.IT.3.1. 1: positive in every patient; -1: negative in every one. Differences of 0
    are left out; where there is no other, the effect is 0.

    Args:
        differences: (P, K); NaN: no pair.

    Returns:
        (K,), NaN where there is no pair.
    """
    values = np.round(np.nan_to_num(differences), DIGITS)
    ranks = scipy.stats.rankdata(np.where(values == 0, np.nan, np.abs(values)), axis=0, nan_policy="omit")
    ranks = np.nan_to_num(ranks)
    signed, total = (np.sign(values) * ranks).sum(0), ranks.sum(0)
    effect: Floats = np.where(np.isnan(differences).all(0), np.nan, np.nan_to_num(nanratio(signed, total)))
    return effect


def best_first(values: Floats, lower_is_better: bool) -> Floats:
    """Ranks along the last axis, 1 the best, ties their mean; values alike to ``DIGITS`` digits tie."""
    rounded = np.round(values, DIGITS)
    ranks: npt.NDArray[np.float64] = scipy.stats.rankdata(rounded if lower_is_better else -rounded, axis=-1)
    return ranks
