"""Do the rows of a table differ at all? Friedman's test, over data sets and over patients, and what follows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
import scipy.stats

from calf.metrics.scores import LOWER_IS_BETTER
from calf.report.ranks import comparable, complete
from calf.report.resampling import LEVEL, best_first, holm
from calf.report.units import ROW, Floats, same_patients

NUM_PERMUTATIONS = 5_000
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
    for scores in comparable(cases, metric):
        protocol, dataset, name = scores.block
        values, _ = complete(scores)
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
