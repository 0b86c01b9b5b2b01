"""Losses compared with a baseline and with the best of a table: intervals, paired tests over patients, effect sizes.

Means and differences are over cases, as in the tables; what is drawn, flipped and counted is the patient.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from calf.report.marks import mark
from calf.report.resampling import LEVEL, clustered_interval, holm, least_p, rank_biserial, sign_flip_p
from calf.report.summary import BLOCK, GROUP, summarise
from calf.report.units import ROW, Floats, Indices, Scores, arrange, in_every_seed, nanmean, patient_sums, rows_of, seed_means

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
    "seeds_disagree",
    "equal_to_best",
    "means_alone",
    "power_note",
    "note",
)
SIGN_NOTE = "the sign of the difference depends on the seed"
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
    ``difference_seed_sd``: SD over the common seeds of that mean, over the cases that each of them has; ``seeds_disagree``:
    whether it is above 0 with one seed and below with another.
    ``p``: two-sided sign-flip test of patients' mean differences, each patient counting once; exact up to 16 patients.
    ``p_holm``: Holm over all comparisons with a baseline of that protocol, data set and class, those of all models together.
    ``effect``: matched-pairs rank-biserial correlation of patients' differences, signed as ``difference``.
    ``significant``: ``p_holm <= 0.05``, in whichever direction.

    Rows whose networks were made on another split or other prepared data are not tested against each other: what one was
    trained on, the other was tested on. ``note`` says so.

    ``equal_to_best``: the row with the best mean, and those that are not significantly worse (:func:`calf.report.marks.mark`).
    As the best is picked by the same data, its family is every pair of rows of the table: comparisons with the best alone
    would call losses that are all alike different in 8 to 14 of 100 tables (``benchmarks/simulation.json``). A row that lacks
    cases others have is neither best nor equal to it; a metric of ``UNRANKED`` has no best. Without a baseline only the best
    mean is marked, and where a row cannot be tested against it; ``means_alone`` then says why.

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
    table["seeds_disagree"] = table["equal_to_best"] = False
    table["power_note"] = table["means_alone"] = ""
    if all_pairs:
        marks = mark(scores, metric, baseline is not None, seed)
        table["equal_to_best"], table["means_alone"] = marks.marked, marks.means_alone
        for own, why in zip(notes, marks.notes, strict=True):
            own += [why] if why else []
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
        table["power_note"] = power_notes(table)
    table["significant"] = table["p_holm"] <= LEVEL
    table["note"] = ["; ".join(own) for own in notes]
    return table


def _sd(of_seeds: Floats) -> Floats:
    """(K,): SD (n - 1) over seeds (S, K), NaN of fewer than two."""
    number = (~np.isnan(of_seeds)).sum(0).astype(np.float64)
    squares = nanmean((of_seeds - nanmean(of_seeds, axis=0)) ** 2, axis=0) * number
    return np.where(number > 1, np.sqrt(squares / np.maximum(number - 1, 1)), np.nan)


def _seeds(scores: Scores, table: pd.DataFrame, notes: list[list[str]]) -> None:
    """Where seeds have no case in common, and where their standard error is above half the interval, which is of patients."""
    of_seeds = seed_means(scores.values)
    error = _sd(of_seeds) / np.sqrt((~np.isnan(of_seeds)).sum(0))
    apart = np.any(~np.isnan(scores.values), axis=(0, 1)) & ~np.any(in_every_seed(scores.values), axis=0)
    for own, of_row, half in zip(notes, error, (table["high"] - table["low"]) / 2, strict=True):
        own += ["seeds differ more than the interval says, which is of patients"] if of_row > half else []
    for own, none_in_common in zip(notes, apart, strict=True):
        own += ["no case was scored by every seed: no SD over seeds"] if none_in_common else []


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
    of_seeds = seed_means(scores.seed_differences(tested, against[tested]))
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
        "seeds_disagree": (of_seeds > 0).any(0) & (of_seeds < 0).any(0),
    }
    for name, column in columns.items():
        table.loc[tested, name] = column
    for number, pairs in zip(tested, columns["num_pairs"], strict=True):
        notes[number] += _restriction(scores, int(number), int(against[number]), int(pairs))
    for number in tested[columns["seeds_disagree"]]:
        notes[number].append(SIGN_NOTE)


def _restriction(scores: Scores, row: int, baseline: int, num_pairs: int) -> list[str]:
    """On what a comparison rests where that is not everything that either of the two has."""
    first, second = (~np.isnan(scores.values[:, :, number]) for number in (row, baseline))
    common, either = first & second, first | second
    if not scores.made_alike(np.array([row]), np.array([baseline])).all():
        return [f"{_made_otherwise(scores, row, baseline)} than the baseline: not tested"]
    if not num_pairs:
        return ["no case and seed in common with the baseline: not tested"]
    said = []
    if num_pairs < (num_cases := int(either.any(axis=1).sum())):
        said.append(f"paired in {num_pairs} of {num_cases} cases")
    paired, shared = common.any(axis=1, keepdims=True), common.any(axis=0)
    if (shared < (either & paired).any(axis=0)).any():
        seeds = [str(scores.seeds[place]) for place in np.flatnonzero(shared)]
        said.append(f"paired on common seeds only ({', '.join(seeds)})")
    if (compared := int(common.sum())) < (there := int((either & paired & shared).sum())):
        said.append(f"compared in {compared} of {there} pairs of case and seed")
    return said


def _made_otherwise(scores: Scores, row: int, baseline: int) -> str:
    """In what two rows that were not made alike differ: the prepared data, or the split."""
    stores = [{scores.made_names[place].partition("/")[0] for place in _places(scores, own)} for own in (row, baseline)]
    has_both = all("/" in name for name in scores.made_names)
    return "differently prepared data" if has_both and not stores[0] & stores[1] else "another split into patients"


def _places(scores: Scores, row: int) -> list[int]:
    return [int(place) for place in np.unique(scores.made[:, :, row]) if place >= 0]


def power_notes(table: pd.DataFrame) -> list[str]:
    """Below 50 patients their number, and whether the least p that sign flips can reach is too large to survive Holm.

    ``table``: rows with ``num_scored_patients``, ``num_paired_patients`` and ``p``; the comparisons that have a p are a family.
    """
    family = int(table["p"].notna().sum())
    least = least_p(table["num_paired_patients"].to_numpy(np.int64)) * family
    said = []
    for row, small in zip(table.to_dict("records"), least, strict=True):
        number, paired = int(row["num_scored_patients"]), int(row["num_paired_patients"])
        parts = [f"N < {FEW}: {number} patient{'' if number == 1 else 's'}"] if number < FEW else []
        if not np.isnan(row["p"]) and small > LEVEL:
            parts += [f"{paired} of them paired"] if paired < number and parts else [f"{paired} paired patients"] * (not parts)
            parts.append(f"too few for any of {family} comparison{'' if family == 1 else 's'} to be significant")
        said.append(", ".join(parts))
    return said
