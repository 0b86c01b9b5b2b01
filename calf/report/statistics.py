"""Losses compared with a baseline and with the best of a table: intervals, paired tests over patients, effect sizes.

Means and differences are over cases, as in the tables; what is drawn, flipped and counted is the patient.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from calf.metrics.scores import LOWER_IS_BETTER, UNRANKED
from calf.report.resampling import LEVEL, clustered_interval, holm, holm_of_pairs, rank_biserial, sign_flip_p
from calf.report.summary import BLOCK, GROUP, summarise
from calf.report.units import ROW, Floats, Indices, Scores, arrange, nanmean, patient_sums, rows_of

FEW = 50
SUMMARISED = ("mean", "sd", "seed_sd", "num_scored", "num_cases", "num_patients", "num_seeds")
COMPARED = (
    *GROUP,
    "mean",
    "low",
    "high",
    "sd",
    "seed_sd",
    "num_scored",
    "num_cases",
    "num_patients",
    "num_scored_patients",
    "num_seeds",
    "difference",
    "difference_low",
    "difference_high",
    "difference_seed_sd",
    "num_pairs",
    "num_paired_patients",
    "p",
    "p_holm",
    "effect",
    "significant",
    "equal_to_best",
    "power_note",
    "note",
)
POOLED_NOTE = "batches of shuffled slices are no sample of patients: no interval, no test"


def per_unit(cases: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One row a unit, one column a model and loss: the mean over the seeds that have a value.

    Index: protocol, dataset, class, case, patient; columns: model, loss. Folds are pooled, since a case is tested in one of
    them. NaN: undefined under the empty rule, or not scored. In a pooled protocol a unit is a batch of a fold, without patient.

    Raises:
        ValueError: rows that cannot stand in one table (:func:`calf.report.units.rows_of`).
    """
    means = rows_of(cases, metric).groupby([*BLOCK, "case", "patient", *ROW])["value"].mean()
    return means.unstack(ROW).sort_index().sort_index(axis=1)


def compare(
    cases: pd.DataFrame,
    metric: str,
    baseline: str | None,
    num_bootstrap: int = 10_000,
    seed: int = 0,
    all_pairs: bool = True,
) -> pd.DataFrame:
    """One row a protocol, data set, class, model and loss (``COMPARED``), in the order of the summary.

    ``mean``, ``sd``, ``seed_sd`` and most ``num_`` columns are those of :func:`calf.report.summary.summarise`;
    ``num_scored_patients`` have a value. ``low`` and
    ``high``: 95 % interval of the mean, a bootstrap-t in which whole patients are drawn, clipped to the range of the values,
    which a mean cannot leave. Against the baseline loss of the same model, for cases and seeds where both have a value:

    ``difference``: mean over these ``num_pairs`` cases of ``num_paired_patients`` of the value minus the baseline's, with an
    interval made likewise;
    ``difference_seed_sd``: SD over the common seeds of that mean.
    ``p``: two-sided sign-flip test of patients' mean differences, each patient counting once; exact up to 16 patients.
    ``p_holm``: Holm over all comparisons with a baseline of that protocol, data set and class, those of all models together.
    ``effect``: matched-pairs rank-biserial correlation of patients' differences, signed as ``difference``.
    ``significant``: ``p_holm <= 0.05``, in whichever direction.

    ``equal_to_best``: the row with the best mean, and those that are not significantly worse. As the best is picked by the same
    data, its family is every pair of rows of the table: Holm over the comparisons with the best alone would call losses that
    are all alike different in 8 to 14 of 100 tables (``benchmarks/simulation.json``). A row that lacks cases others have is
    neither best nor equal to it; a metric of ``UNRANKED`` has no best. Without a baseline only the best mean is marked.

    ``power_note``: said below 50 patients. ``note``: why numbers are missing or rest on less than all, "" otherwise.

    Intervals and tests are of other patients and the same trained networks: seeds are averaged away first. ``note`` says where
    seeds differ so much that another training would leave the interval, and where the sign of a difference depends on the seed.

    Sign flips test the difference of means that the table shows. Of eight losses that could be exchanged they call one
    different from the baseline in at most 5 of 100 tables. Where losses differ but in their mean, some missing 6 % of the lesions
    and outlining the others better, it is 14 of 100 at 50 patients and 26 at 12; with Wilcoxon's test, which is about the typical
    patient, 70 and 19. Wilcoxon's power is higher where misses are rare noise. Intervals hold the mean in 94 to 96 of 100
    studies of 50 patients, in 89 to 97 of 10; of HD95 with 3 % missed, in 71 of 10 patients and 79 of 20, since most such studies
    see no miss. All from ``benchmarks/simulation.json``.

    Args:
        cases: rows of ``cases.csv``.
        metric: one of them, best the one that was declared.
        baseline: a loss; None: nothing is tested.
        num_bootstrap: resamples of an interval.
        seed: of resamples and flips.
        all_pairs: whether rows are compared with the best one, which takes the test of every pair of rows; if not,
            ``equal_to_best`` marks none.

    Raises:
        ValueError: no row is of this metric or baseline, or rows cannot stand in one table (:func:`calf.report.units.rows_of`).
    """
    rows = rows_of(cases, metric)
    if baseline is not None and baseline not in set(rows["loss"]):
        raise ValueError(f"baseline: expected one of the losses {', '.join(sorted(set(rows['loss'])))}; got {baseline}")
    found = [_compare(scores, metric, baseline, num_bootstrap, seed, all_pairs) for scores in arrange(rows)]
    summary = summarise(rows)[[*GROUP, *SUMMARISED]]
    return summary.merge(pd.concat(found, ignore_index=True), on=GROUP, validate="one_to_one")[list(COMPARED)]


def _compare(scores: Scores, metric: str, baseline: str | None, num_bootstrap: int, seed: int, all_pairs: bool) -> pd.DataFrame:
    numbers = len(scores.rows)
    table = pd.DataFrame(scores.rows, columns=ROW).assign(**dict(zip(BLOCK, scores.block, strict=True)))
    table[["low", "high", "difference", "difference_low", "difference_high", "difference_seed_sd"]] = np.nan
    table[["p", "p_holm", "effect"]] = np.nan
    table[["num_pairs", "num_paired_patients", "num_scored_patients"]] = 0
    notes: list[list[str]] = [[] for _ in range(numbers)]
    values = scores.means()
    best = _best(values, metric, notes) if all_pairs else None
    table["equal_to_best"] = _as_good(values, best)
    table["power_note"] = ""
    if scores.pooled:
        notes = [[*own, POOLED_NOTE] for own in notes]
    else:
        num_patients = (patient_sums(values, scores.patient)[1] > 0).sum(0)
        table["num_scored_patients"] = num_patients
        table["low"], table["high"] = clustered_interval(values, scores.patient, num_bootstrap, seed)
        for own, number in zip(notes, num_patients, strict=True):
            own += ["one patient: no interval"] if number == 1 else []
        _seeds(scores, table, notes)
        against = _against(scores, baseline, notes)
        if baseline is not None:
            _test(table, scores, against, num_bootstrap, seed, notes)
            if best is not None:
                table["equal_to_best"] = _not_worse(values, best, holm_of_pairs(_pairwise(scores, seed)), metric)
        tested = table["p"].notna().to_numpy()
        table["power_note"] = power_notes(num_patients, tested, int(tested.sum()))
    table["significant"] = table["p_holm"] <= LEVEL
    table["note"] = ["; ".join(own) for own in notes]
    return table


def _sd(of_seeds: Floats) -> Floats:
    """(K,): SD (n - 1) over seeds (S, K), NaN of fewer than two."""
    number = (~np.isnan(of_seeds)).sum(0).astype(np.float64)
    squares = nanmean((of_seeds - nanmean(of_seeds, axis=0)) ** 2, axis=0) * number
    return np.where(number > 1, np.sqrt(squares / np.maximum(number - 1, 1)), np.nan)


def _seeds(scores: Scores, table: pd.DataFrame, notes: list[list[str]]) -> None:
    """Where the standard error from seeds is above half the interval, which is of patients."""
    of_seeds = nanmean(scores.values, axis=0)
    error = _sd(of_seeds) / np.sqrt((~np.isnan(of_seeds)).sum(0))
    for own, of_row, half in zip(notes, error, (table["high"] - table["low"]) / 2, strict=True):
        own += ["seeds differ more than the interval says, which is of patients"] if of_row > half else []


def _best(values: Floats, metric: str, notes: list[list[str]]) -> int | None:
    """The row of the best mean among those that have a value in every case in which any has one."""
    if metric in UNRANKED:
        return None
    defined = ~np.isnan(values)
    scored = defined.any(1).sum()
    whole = (defined.sum(0) == scored) & (scored > 0)
    for own, number, complete in zip(notes, defined.sum(0), whole, strict=True):
        own += [] if complete else [f"scored in {number} of {scored} cases: not compared with the best"]
    if not whole.any():
        return None
    means = np.where(whole, nanmean(values, axis=0), np.nan)
    return int(np.nanargmin(means) if metric in LOWER_IS_BETTER else np.nanargmax(means))


def _as_good(values: Floats, best: int | None) -> npt.NDArray[np.bool_]:
    """Rows whose cases and mean are those of the best one."""
    if best is None:
        return np.zeros(values.shape[1], bool)
    same = (np.isnan(values) == np.isnan(values[:, [best]])).all(0)
    means = nanmean(values, axis=0)
    return same & np.isclose(means, means[best], rtol=1e-12, atol=0)


def _not_worse(values: Floats, best: int | None, p_holm: Floats, metric: str) -> npt.NDArray[np.bool_]:
    equal = _as_good(values, best)
    if best is None:
        return equal
    whole = (np.isnan(values) == np.isnan(values[:, [best]])).all(0)
    return equal | (whole & (p_holm[best] > LEVEL))


def _pairwise(scores: Scores, seed: int) -> Floats:
    """(R, R): p of every pair of rows, NaN where they have no case and seed in common."""
    number = len(scores.rows)
    p = np.full((number, number), np.nan)
    first, second = np.triu_indices(number, 1)
    size = max(1, 5_000_000 // max(scores.values[:, :, 0].size, 1))  # pairs whose differences are held at a time
    for start in range(0, len(first), size):
        pair = first[start : start + size], second[start : start + size]
        p[pair] = p[pair[::-1]] = sign_flip_p(scores.of_patients(scores.differences(*pair)), seed)
    return p


def _against(scores: Scores, baseline: str | None, notes: list[list[str]]) -> Indices:
    """For each row that of the baseline of its model; -1 where there is none, or it is the baseline itself."""
    against = np.full(len(scores.rows), -1)
    if baseline is None:
        return against
    for number, (model, loss) in enumerate(scores.rows):
        if loss == baseline:
            notes[number].append("baseline")
        elif (model, baseline) in scores.rows:
            against[number] = scores.rows.index((model, baseline))
        else:
            notes[number].append(f"no finished run of {model} with the baseline {baseline}")
    return against


def _test(
    table: pd.DataFrame,
    scores: Scores,
    against: Indices,
    num_bootstrap: int,
    seed: int,
    notes: list[list[str]],
) -> None:
    """Fill in the columns of the comparison with the baseline."""
    tested = np.flatnonzero(against >= 0)
    if not tested.size:
        return
    differences = scores.differences(tested, against[tested])
    of_seeds = nanmean(scores.values[:, :, tested] - scores.values[:, :, against[tested]], axis=0)
    low, high = clustered_interval(differences, scores.patient, num_bootstrap, seed)
    of_patients = scores.of_patients(differences)
    p = sign_flip_p(of_patients, seed)
    columns = {
        "difference": nanmean(differences, axis=0),
        "difference_low": low,
        "difference_high": high,
        "difference_seed_sd": _sd(of_seeds),
        "num_pairs": (~np.isnan(differences)).sum(0),
        "num_paired_patients": (~np.isnan(of_patients)).sum(0),
        "p": p,
        "p_holm": holm(p),
        "effect": rank_biserial(of_patients),
    }
    for name, column in columns.items():
        table.loc[tested, name] = column
    for number, pairs in zip(tested, columns["num_pairs"], strict=True):
        notes[number] += _restriction(scores, int(number), int(against[number]), int(pairs))
    for number, found in zip(tested, of_seeds.T, strict=True):
        if (found > 0).any() and (found < 0).any():
            notes[number].append("the sign of the difference depends on the seed")


def _restriction(scores: Scores, row: int, baseline: int, num_pairs: int) -> list[str]:
    """On what a comparison rests where that is not everything that either of the two has."""
    first, second = (~np.isnan(scores.values[:, :, number]) for number in (row, baseline))
    common, either = first & second, first | second
    if not num_pairs:
        return ["no case and seed in common with the baseline: not tested"]
    said = []
    if num_pairs < (num_cases := int(either.any(axis=1).sum())):
        said.append(f"paired in {num_pairs} of {num_cases} cases")
    if (common < (either & common.any(axis=1, keepdims=True))).any():
        seeds = [seed for place, seed in enumerate(scores.seeds) if common[:, place].any()]
        said.append(f"paired on common seeds only ({', '.join(map(str, seeds))})")
    return said


def power_notes(num_patients: npt.NDArray[np.int64], tested: npt.NDArray[np.bool_], family: int) -> list[str]:
    """Below 50 patients their number, and whether it is too small for the least p of their sign flips to survive Holm.

    Args:
        num_patients: (R,), that have a value in each row.
        tested: (R,), whether a row is compared with a baseline.
        family: how many comparisons Holm is over.
    """
    said = []
    for number, compared in zip(num_patients, tested, strict=True):
        note = f"N < {FEW}: {number} patient{'' if number == 1 else 's'}" if number < FEW else ""
        if compared and family * 2.0 ** (1 - number) > LEVEL:
            note += f", too few for any of {family} comparison{'' if family == 1 else 's'} to be significant"
        said.append(note)
    return said
