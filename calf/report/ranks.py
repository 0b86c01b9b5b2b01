"""Ranks of losses: how stable they are, and whether metrics agree on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import scipy.stats

from calf.metrics.scores import LOWER_IS_BETTER, UNRANKED
from calf.report.marks import ELSEWHERE
from calf.report.resampling import LEVEL, best_first, resamples
from calf.report.summary import BLOCK, GROUP
from calf.report.units import Floats, Scores, arrange, patient_sums, rows_of

ORDERS = ("mean_then_rank", "rank_then_mean")
LEAST_ROWS = 3  # two rows have but one pair, whose order is the same or not
RANKED = (*GROUP, "num_cases", "num_left_out", "rank", "mean_rank", "rank_low", "rank_high")
BY_CASE = ("case_rank", "rank_by_case", "mean_rank_by_case", "rank_by_case_low", "rank_by_case_high")


def ranks(cases: pd.DataFrame, metric: str, num_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """One row a protocol, data set, class, model and loss: its rank, 1 the best, and how that varies with the patients drawn.

    ``rank``: of the mean over cases. ``case_rank``: mean over cases of the rank within the case, and ``rank_by_case`` its rank.
    Of both orders the mean over bootstrap samples of patients (``mean_rank``, ``mean_rank_by_case``) and where 95 % of them lie
    (``_low``, ``_high``). Ties share the mean of their ranks. Of each case only the seeds in which every row has a value count,
    and only cases with such a seed, ``num_cases``; ``num_left_out`` others have a value in some row. In a pooled protocol only
    ``rank`` is given: its batches are no patients. Rows that were made on another split or other data than most have no rank.
    ``note`` says so, which seeds counted where not all did, and that there are none; "" elsewhere.

    Raises:
        ValueError: the metric has no best value, or rows cannot stand in one table.
    """
    tables = []
    for every in _every(cases, metric):
        scores = every.only(every.comparable())
        values, left_out = complete(scores)
        table = _named(scores).assign(num_cases=len(values), num_left_out=left_out)
        for order, names in zip(ORDERS, (("rank", *RANKED[-3:]), BY_CASE[1:]), strict=True):
            table[names[0]] = _ranks(values, order, metric)
            drawn = _bootstrapped(scores, order, metric, num_bootstrap, seed)
            table[list(names[1:])] = np.nan
            if drawn is not None:
                low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2], axis=0, method="inverted_cdf")
                table[names[1]], table[names[2]], table[names[3]] = drawn.mean(0), low, high
        table["case_rank"] = best_first(values, metric in LOWER_IS_BETTER).mean(0) if len(values) else np.nan
        if scores.pooled:
            table[list(BY_CASE)] = np.nan
        table = _named(every).merge(table, on=GROUP, how="left")
        note = np.where(every.comparable(), scores.restriction(), ELSEWHERE)
        tables.append(table.assign(note=note)[[*RANKED, *BY_CASE, "note"]])
    return pd.concat(tables, ignore_index=True)


def rank_distribution(
    cases: pd.DataFrame, metric: str, num_bootstrap: int = 1000, seed: int = 0, order: str = ORDERS[0]
) -> pd.DataFrame:
    """Tidy: protocol, data set, class, model, loss, rank, share of bootstrap samples of patients in which it has this rank.

    The samples and ``note`` are those of :func:`ranks`; ties share the best of their ranks. No row of pooled protocols.
    """
    tables = [pd.DataFrame(columns=[*GROUP, "rank", "share", "note"])]
    for scores in comparable(cases, metric):
        drawn = _bootstrapped(scores, order, metric, num_bootstrap, seed)
        if drawn is None:
            continue
        places = scipy.stats.rankdata(drawn, method="min", axis=1).astype(int)
        shares = np.stack([(places == place).mean(0) for place in range(1, len(scores.rows) + 1)], axis=1)
        table = _named(scores).loc[lambda names: names.index.repeat(len(names))].reset_index(drop=True)
        rank = np.tile(np.arange(1, len(scores.rows) + 1), len(scores.rows))
        tables.append(table.assign(rank=rank, share=shares.ravel(), note=scores.restriction()))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def kendall_tau(cases: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Kendall's tau-b of the ranks of a table's rows: between metrics by their means, and between the two orders of one metric.

    One row a protocol, data set, class and pair: ``first``, ``first_order``, ``second``, ``second_order``, ``tau`` (1: the same
    order, -1: the reverse; tau-b, so that ties count for neither), ``num_rows`` that have a rank by both, ``first_cases`` and
    ``second_cases`` on which the ranks rest, those with a seed in which every row has a value, and ``note``: why ``tau`` is NaN
    (no such case, fewer than ``LEAST_ROWS`` rows, or all tie), or how many cases are left out and which seeds count where not
    all do; "" otherwise. Metrics without a best value are left out.

    Raises:
        ValueError: rows that cannot stand in one table, or that have no such metric.
    """
    found, of = (
        [],
        {metric: {scores.block: scores for scores in comparable(cases, metric)} for metric in metrics if metric not in UNRANKED},
    )
    for block in sorted(set().union(*of.values())):
        given = {metric: scores[block] for metric, scores in of.items() if block in scores}
        ranked = {(metric, order): _Ranking.of(scores, metric, order) for metric, scores in given.items() for order in ORDERS}
        pairs = [((first, ORDERS[0]), (second, ORDERS[0])) for first, second in combinations(given, 2)]
        pairs += [((metric, ORDERS[0]), (metric, ORDERS[1])) for metric, scores in given.items() if not scores.pooled]
        found += [(*block, *first, *second, *_agreement(ranked[first], ranked[second])) for first, second in pairs]
    columns = ["first", "first_order", "second", "second_order", "tau", "num_rows", "first_cases", "second_cases", "note"]
    return pd.DataFrame(found, columns=[*BLOCK, *columns])


@dataclass(frozen=True)
class _Ranking:
    """Ranks of the rows of a table, on how many cases they rest, how many others some row has, and on which seeds."""

    ranks: pd.Series
    num_cases: int
    num_left_out: int
    restriction: str

    @classmethod
    def of(cls, scores: Scores, metric: str, order: str) -> _Ranking:
        values, left_out = complete(scores)
        own = pd.Series(_ranks(values, order, metric), pd.MultiIndex.from_tuples(scores.rows))
        return cls(own, len(values), left_out, scores.restriction())


def _agreement(first: _Ranking, second: _Ranking) -> tuple[float, int, int, int, str]:
    both = pd.concat([first.ranks, second.ranks], axis=1).dropna()
    note, tau = "", math.nan
    if not first.num_cases or not second.num_cases:
        note = first.restriction if not first.num_cases else second.restriction
    elif len(both) < LEAST_ROWS:
        note = f"fewer than {LEAST_ROWS} rows"
    elif (both.nunique() == 1).any():
        note = "all rows tie"
    else:
        tau = float(scipy.stats.kendalltau(both[0], both[1], variant="b").statistic)
        left_out = max(first.num_left_out, second.num_left_out)
        said = [f"{left_out} cases left out, in which not every row has a value"] if left_out else []
        note = "; ".join(dict.fromkeys([*said, *filter(None, [first.restriction, second.restriction])]))
    return tau, len(both), first.num_cases, second.num_cases, note


def comparable(cases: pd.DataFrame, metric: str) -> list[Scores]:
    """Of each table the rows that were made on the same data and split: on others, a rank is of other patients."""
    return [scores.only(scores.comparable()) for scores in _every(cases, metric)]


def _every(cases: pd.DataFrame, metric: str) -> list[Scores]:
    if metric in UNRANKED:
        raise ValueError(f"expected a metric that has a best value, got {metric}: errors of opposite sign cancel in its mean")
    return arrange(rows_of(cases, metric))


def _named(scores: Scores) -> pd.DataFrame:
    return pd.DataFrame([(*scores.block, *row) for row in scores.rows], columns=list(GROUP))


def complete(scores: Scores) -> tuple[Floats, int]:
    """The cases with a seed in which every row has a value, over such seeds, and how many others have one in some row."""
    whole, some = scores.common().any(axis=1), ~np.isnan(scores.values).all(axis=(1, 2))
    return scores.common_means()[whole], int((some & ~whole).sum())


def _ranks(values: Floats, order: str, metric: str) -> Floats:
    if not len(values):
        return np.full(values.shape[1], np.nan)
    lower = metric in LOWER_IS_BETTER
    return best_first(values.mean(0), lower) if order == ORDERS[0] else best_first(best_first(values, lower).mean(0), True)


def _bootstrapped(scores: Scores, order: str, metric: str, num_bootstrap: int, seed: int) -> Floats | None:
    """(B, R): ranks in samples of patients; None where there are no two patients with a complete case."""
    values, lower = scores.common_means(), metric in LOWER_IS_BETTER
    whole = scores.common().any(axis=1, keepdims=True)
    if order == ORDERS[1]:
        values, lower = best_first(np.where(whole, values, 0), lower), True
    sums, counts = patient_sums(np.where(whole, values, np.nan), scores.patient)
    drawn_from = counts[:, 0] > 0
    if scores.pooled or drawn_from.sum() < 2:
        return None
    sums, counts = sums[drawn_from], counts[drawn_from]
    means = [weights @ sums / (weights @ counts) for weights in resamples(len(sums), num_bootstrap, seed)]
    return best_first(np.concatenate(means), lower)
