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
NUM_FAMILY_FLIPS = 10_000  # of a whole family at once, whose least p is not multiplied by anything
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
    reached = np.zeros(values.shape[1], np.int64)
    total = 0
    for signs in _signs(len(values), values.shape[1], num_flips, seed):
        reached += (np.abs(signs @ values) >= far).sum(0)
        total += len(signs)
    return np.where(np.isnan(differences).all(0), np.nan, _share(reached, total, len(values)))


def max_t_p(differences: Floats, seed: int, num_flips: int = NUM_FAMILY_FLIPS) -> Floats:
    """Two-sided p of the means of a family of comparisons, adjusted together: step-down max-T (Westfall and Young 1993).

    ``T`` is the sum over patients over the root of the sum of squares, which no flip of signs changes. In each pattern all
    columns are flipped alike, and a column is held against the largest ``T`` among those that are not larger than its own, so
    that what columns share is not corrected for twice. The least p is :func:`least_p`, however many columns there are; with
    Holm it would be multiplied by their number, and with ten patients nothing could differ in a table of eight rows.

    Flips of whole patients keep the correlation of the columns; that the error of the family is held was found by simulation
    (``benchmarks/simulation.json``).

    Args:
        differences: (P, K), a patient's mean difference; NaN: no pair.
        seed: of the patterns.
        num_flips: how many are drawn where they are not all counted.

    Returns:
        (K,), NaN where there is no pair, which is no comparison of the family.
    """
    tested = np.flatnonzero(~np.isnan(differences).all(0))
    rounded = np.round(np.nan_to_num(differences[:, tested]), DIGITS)
    size = np.sqrt((rounded**2).sum(0))
    standard = rounded / np.where(size > 0, size, 1)
    order = np.argsort(np.abs(standard.sum(0)), kind="stable")  # the largest last
    values = standard[:, order]
    far = np.abs(values.sum(0)) - 1e-9 * np.abs(values).sum(0)
    reached = np.zeros(len(tested), np.int64)
    total = 0
    for signs in _signs(len(values), values.shape[1], num_flips, seed):
        largest = np.abs(signs @ values)
        np.maximum.accumulate(largest, axis=1, out=largest)
        reached += (largest >= far).sum(0)
        total += len(signs)
    adjusted = np.full(differences.shape[1], np.nan)
    share = _share(reached, total, len(values))
    adjusted[tested[order]] = np.maximum.accumulate(share[::-1])[::-1]
    return adjusted


def least_p(num_patients: npt.NDArray[np.int64], num_flips: int = NUM_FLIPS) -> Floats:
    """The least p that sign flips of so many patients can reach: one pattern of ``2^(n - 1)``, or of those that are drawn."""
    patterns = 2.0 ** np.clip(num_patients - 1, 0, 60)
    return np.asarray(np.where(num_patients <= EXACT_UP_TO, 1 / patterns, np.maximum(1 / patterns, 1 / (num_flips + 1))))


def _share(reached: npt.NDArray[np.int64], total: int, num_patients: int) -> Floats:
    """Of all patterns, or of those drawn and the observed one."""
    return reached / max(total, 1) if num_patients <= EXACT_UP_TO else (reached + 1) / (total + 1)


def _signs(number: int, columns: int, num_flips: int, seed: int) -> Iterator[Floats]:
    """Patterns of signs of ``number`` patients, so many rows at a time that their products with ``columns`` fit in memory.

    All whose first sign is + (the others are their negatives) up to ``EXACT_UP_TO`` patients, else ``num_flips`` drawn ones,
    the same whatever ``columns``.
    """
    size = max(1, CHUNK // max(number, columns, 1))
    if number <= EXACT_UP_TO:
        total = 2 ** max(number - 1, 0)
        for start in range(0, total, size):
            patterns = np.arange(start, min(start + size, total))
            yield 1 - 2 * (patterns[:, None] >> np.arange(number) & 1).astype(np.float64)
        return
    drawn = np.random.default_rng(seed).integers(0, 256, (num_flips, -(-number // 8)), np.uint8)
    for start in range(0, num_flips, size):
        yield 1 - 2 * np.unpackbits(drawn[start : start + size], axis=1, count=number).astype(np.float64)


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
