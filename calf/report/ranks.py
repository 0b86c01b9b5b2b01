"""Ranks of losses: how stable they are, whether metrics agree on them, and Friedman's test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
import scipy.stats

from calf.metrics.scores import LOWER_IS_BETTER, UNRANKED
from calf.report.marks import ELSEWHERE
from calf.report.resampling import LEVEL, best_first, holm, resamples
from calf.report.summary import BLOCK, GROUP
from calf.report.units import ROW, Floats, Scores, arrange, patient_sums, rows_of, same_patients

ORDERS = ("mean_then_rank", "rank_then_mean")
NUM_PERMUTATIONS = 5_000
LEAST_ROWS = 3  # two rows have but one pair, whose order is the same or not
RANKED = (*GROUP, "num_cases", "num_left_out", "rank", "mean_rank", "rank_low", "rank_high")
FRIEDMAN_COLUMNS = (
    "protocol",
    "over",
    "dataset",
    "class",
    "num_blocks",
    "num_rows",
    "statistic",
    "p",
    "f",
    "p_iman_davenport",
    "p_permutation",
    "first",
    "second",
    "first_rank",
    "second_rank",
    "p_holm",
    "note",
)
BY_CASE = ("case_rank", "rank_by_case", "mean_rank_by_case", "rank_by_case_low", "rank_by_case_high")


@dataclass(frozen=True)
class Friedman:
    """Friedman's test of one protocol, and what follows it; rank 1 is the best.

    ``over``: ``data sets`` or ``patients``, the N blocks that rank the k rows; ``dataset`` and ``name``: of which, "" over data
    sets. ``statistic`` and ``p``: chi square, corrected for ties. ``f`` and ``p_iman_davenport``: Iman and Davenport 1980, the
    better approximation of the two; NaN where all blocks agree, since F is infinite. ``p_permutation``: ranks shuffled within
    blocks, valid also with the two or three blocks with which the others are not. ``note``: on which seeds or blocks it rests
    where that is not all, or why nothing is ``tested`` and every number but ``num_blocks`` is NaN; "" otherwise.
    """

    protocol: str
    over: str
    dataset: str
    name: str
    num_blocks: int
    mean_ranks: pd.Series
    statistic: float
    p: float
    f: float
    p_iman_davenport: float
    p_permutation: float
    note: str = ""

    @property
    def tested(self) -> bool:
        return not math.isnan(self.statistic)

    @property
    def critical_difference(self) -> float:
        """Of mean ranks, at 0.05 (Nemenyi; Demsar 2006, https://jmlr.org/papers/v7/demsar06a.html)."""
        quantile = scipy.stats.studentized_range.ppf(1 - LEVEL, len(self.mean_ranks), np.inf)
        return float(quantile / math.sqrt(2) * self._error)

    @property
    def nemenyi(self) -> pd.DataFrame:
        """p of every pair of rows, 1 on the diagonal."""
        # scikit-posthocs gives the same, and takes longer to import than a report to write
        rows = self.mean_ranks.index
        p = scipy.stats.studentized_range.sf(math.sqrt(2) * self._z, len(rows), np.inf)
        np.fill_diagonal(p, 1)
        return pd.DataFrame(p, rows, rows)

    @cached_property
    def holm(self) -> pd.DataFrame:
        """p of every pair of rows from normal scores of their mean ranks, with Holm over all pairs; 1 on the diagonal."""
        rows = self.mean_ranks.index
        p, pair = np.ones(self._z.shape), np.triu_indices(len(rows), 1)
        p[pair] = p[pair[::-1]] = holm(2 * scipy.stats.norm.sf(self._z[pair]))
        return pd.DataFrame(p, rows, rows)

    @property
    def _error(self) -> float:
        number = len(self.mean_ranks)
        return math.sqrt(number * (number + 1) / (6 * self.num_blocks))

    @property
    def _z(self) -> Floats:
        own = self.mean_ranks.to_numpy(np.float64)
        z: Floats = np.abs(own[:, None] - own) / self._error
        return z


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
        values, left_out = _complete(scores)
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
    for scores in _ranked(cases, metric):
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
        {metric: {scores.block: scores for scores in _ranked(cases, metric)} for metric in metrics if metric not in UNRANKED},
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
        values, left_out = _complete(scores)
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


def friedman(cases: pd.DataFrame, metric: str, seed: int = 0) -> list[Friedman]:
    """Do the rows of a table differ at all? Over data sets where a protocol has two or more, and over patients within each.

    Over data sets: a block is a data set, its values the mean over classes of the mean over cases; classes are no blocks of
    their own, as they are of the same patients. Nor are data sets that share patients (:func:`calf.report.units.same_patients`):
    they are one block, the mean over them. Over patients, for each data set and class: a block is a patient, the mean of the
    patient's cases. Of each case only the seeds in which every row has a value count, and only blocks with such cases; rows that
    lack a whole data set are left out over data sets. Nothing for fewer than two blocks or rows, and over patients in pooled
    protocols; where it is for want of a common seed or of other patients that there are no two blocks, a test without numbers
    whose ``note`` says so. Of rows that were made on different splits or data, those that are most alike count.

    Raises:
        ValueError: the metric has no best value, or rows cannot stand in one table.
    """
    found, over = list[Friedman](), list[Friedman]()
    sets, notes = dict[str, dict[str, list[pd.Series]]](), dict[str, list[str]]()
    for scores in _ranked(cases, metric):
        protocol, dataset, name = scores.block
        values, _ = _complete(scores)
        names, note = pd.MultiIndex.from_tuples(scores.rows, names=ROW), scores.restriction()
        notes.setdefault(protocol, []).extend([f"{dataset} ({name}) {note}"] if note else [])
        if len(values):
            sets.setdefault(protocol, {}).setdefault(dataset, []).append(pd.Series(values.mean(0), names))
        if not scores.pooled:
            blocks = scores.of_patients(scores.common_means())
            blocks = blocks[~np.isnan(blocks).any(1)]
            if len(blocks) != 1:  # one patient ranks nothing, which needs no word
                found += _friedman(blocks, names, metric, (protocol, "patients", dataset, name), note, seed)
    for protocol, of in sets.items():
        of_protocol = cases[cases["protocol"] == protocol]
        if of_protocol["dataset"].nunique() < 2:
            continue
        table = pd.DataFrame({dataset: sum(classes) / len(classes) for dataset, classes in of.items()}).dropna()
        first = same_patients(of_protocol)
        note = "; ".join([*notes[protocol], *_one_block(first, list(of))])
        means = table.T.groupby([first[dataset] for dataset in table.columns]).mean()
        if note and len(means) < 2:
            note = f"not tested, as there are fewer than two blocks; {note}"
        over += _friedman(means.to_numpy(), table.index, metric, (protocol, "data sets", "", ""), note, seed)
    return over + found


def _one_block(first: dict[str, str], datasets: Sequence[str]) -> list[str]:
    """Which data sets are one block, as they share patients."""
    groups: dict[str, list[str]] = {}
    for dataset in datasets:
        groups.setdefault(first[dataset], []).append(dataset)
    shared = [", ".join(own) for own in groups.values() if len(own) > 1]
    return [f"{own} are one block, as they share patients by their names and ids" for own in shared]


def _friedman(
    blocks: Floats, names: pd.MultiIndex | pd.Index, metric: str, where: tuple[str, str, str, str], note: str, seed: int
) -> list[Friedman]:
    number, rows = blocks.shape
    if rows < 2 or (number < 2 and not note):
        return []
    if number < 2:
        nothing = pd.Series(np.nan, names, name="mean_rank")
        return [Friedman(*where, number, nothing, math.nan, math.nan, math.nan, math.nan, math.nan, note)]
    of = best_first(blocks, metric in LOWER_IS_BETTER)
    statistic = chi_square(of.sum(0)[None], of)[0]
    rest = number * (rows - 1) - statistic
    f = (number - 1) * statistic / rest if rest > 1e-9 * number else math.inf
    of_f = float(scipy.stats.f.sf(f, rows - 1, (rows - 1) * (number - 1))) if math.isfinite(f) else math.nan
    return [
        Friedman(
            *where,
            num_blocks=number,
            mean_ranks=pd.Series(of.mean(0), names, name="mean_rank"),
            statistic=float(statistic),
            p=float(scipy.stats.chi2.sf(statistic, rows - 1)),
            f=float(f),
            p_iman_davenport=of_f,
            p_permutation=permutation_p(of, statistic, seed),
            note=note,
        )
    ]


def chi_square(rank_sums: Floats, of: Floats) -> Floats:
    """Friedman's statistic of (B, k) rank sums of blocks that hold the same ranks as ``of`` (N, k); 0 where all tie."""
    number, rows = of.shape
    scatter = ((rank_sums - number * (rows + 1) / 2) ** 2).sum(1)
    spread = ((of - (rows + 1) / 2) ** 2).sum()
    return (rows - 1) * scatter / spread if spread else np.zeros(len(rank_sums))


def permutation_p(of: Floats, statistic: float, seed: int) -> float:
    """Share of tables whose ranks are shuffled within blocks that reach this statistic, the table itself among them."""
    rng, reached = np.random.default_rng(seed), 0
    size = max(1, 1_000_000 // of.size)
    for start in range(0, NUM_PERMUTATIONS, size):
        drawn = np.broadcast_to(of, (min(size, NUM_PERMUTATIONS - start), *of.shape))
        reached += int((chi_square(rng.permuted(drawn, axis=2).sum(1), of) >= statistic * (1 - 1e-9)).sum())
    return (reached + 1) / (NUM_PERMUTATIONS + 1)


def friedman_table(tests: Sequence[Friedman]) -> pd.DataFrame:
    """Tidy: one row a test and pair of rows, with the test's numbers in each, both mean ranks, and p after Holm.

    What could not be tested has one row, which says why.
    """
    lines = []
    for test in tests:
        named = {name: getattr(test, name) for name in FRIEDMAN_COLUMNS if hasattr(test, name)}
        own = named | {"class": test.name, "num_rows": len(test.mean_ranks)}
        if not test.tested:
            lines.append(own)
            continue
        rows = [" / ".join(map(str, row)) for row in test.mean_ranks.index]
        of, p = test.mean_ranks.to_numpy(), test.holm.to_numpy()
        for first, second in combinations(range(len(rows)), 2):
            pair = {"first": rows[first], "second": rows[second], "first_rank": of[first], "second_rank": of[second]}
            lines.append(own | pair | {"p_holm": p[first, second]})
    return pd.DataFrame(lines, columns=list(FRIEDMAN_COLUMNS))


def _ranked(cases: pd.DataFrame, metric: str) -> list[Scores]:
    """Of each table the rows that were made on the same data and split: on others, a rank is of other patients."""
    return [scores.only(scores.comparable()) for scores in _every(cases, metric)]


def _every(cases: pd.DataFrame, metric: str) -> list[Scores]:
    if metric in UNRANKED:
        raise ValueError(f"expected a metric that has a best value, got {metric}: errors of opposite sign cancel in its mean")
    return arrange(rows_of(cases, metric))


def _named(scores: Scores) -> pd.DataFrame:
    return pd.DataFrame([(*scores.block, *row) for row in scores.rows], columns=list(GROUP))


def _complete(scores: Scores) -> tuple[Floats, int]:
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
