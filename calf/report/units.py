"""One metric of one table as an array of cases x seeds x rows: what every statistic of a report starts from."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from calf.metrics.scores import POOLED
from calf.report.summary import BLOCK

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
ROW = ["model", "loss"]
MADE_ON = "made_on"  # column that findings add: prepared data and split, as made_on writes them
NEEDED = [*BLOCK, *ROW, "fold", "seed", "case", "patient", "metric", "value", "status"]


@dataclass(frozen=True)
class Scores:
    """One metric of one protocol, data set and class.

    ``rows``: the R models and losses, sorted. ``patient``: for each of the U units, sorted by name, the number
    of its patient. ``values``: (U, S, R) over units, seeds and rows, NaN where a score is undefined or was not made.
    ``pooled``: the units are batches of shuffled slices, or of unknown patients: nothing can be said of patients.
    ``made``: (U, S, R), on which of ``made_names`` a score was made, the prepared data and the split into patients; -1 where
    there is no row. Scores that were made on different ones are not compared: what one network was trained on another was
    tested on.
    """

    block: tuple[str, str, str]
    rows: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    patient: Indices
    values: Floats
    pooled: bool
    made: npt.NDArray[np.int32]
    made_names: tuple[str, ...]

    def means(self) -> Floats:
        """(U, R), over the seeds of each unit; those undefined left out."""
        return nanmean(self.values, axis=1)

    def common(self) -> npt.NDArray[np.bool_]:
        """(U, S): the seeds of each unit in which every row has a value."""
        found: npt.NDArray[np.bool_] = np.all(~np.isnan(self.values), axis=2)
        return found

    def common_means(self) -> Floats:
        """(U, R), over the ``common`` seeds of each unit, so that no row is its lucky seed alone; NaN where there is none."""
        return nanmean(np.where(self.common()[:, :, None], self.values, np.nan), axis=1)

    def restriction(self) -> str:
        """On which seeds ``common_means`` rest where some row has others in the same units, or that there are none; else ""."""
        common, unit, said = self.common(), "batch" if self.pooled else "case", []
        if not common.any():
            return f"no {unit} and seed in which every row has a value: not ranked"
        counted, shared = common.any(axis=1, keepdims=True), common.any(axis=0)
        some = ~np.isnan(self.values).all(axis=2) & counted
        if (shared < some.any(axis=0)).any():
            said.append(f"ranked on common seeds only ({', '.join(str(self.seeds[place]) for place in np.flatnonzero(shared))})")
        if (ranked := int(common.sum())) < (there := int((some & shared).sum())):
            said.append(f"ranked on {ranked} of {there} pairs of {unit} and seed, in which every row has a value")
        return "; ".join(said)

    def differences(self, first: Indices, second: Indices) -> Floats:
        """(U, K): rows ``first`` minus rows ``second``, over the seeds for which both of a pair have a value; else NaN."""
        return nanmean(self.seed_differences(first, second), axis=1)

    def seed_differences(self, first: Indices, second: Indices) -> Floats:
        """(U, S, K): rows ``first`` minus rows ``second``, NaN where one has no value, and for pairs that are not alike made."""
        found = self.values[:, :, first] - self.values[:, :, second]
        found[:, :, ~self.made_alike(first, second)] = np.nan
        return found

    def made_alike(self, first: Indices, second: Indices) -> npt.NDArray[np.bool_]:
        """(K,): whether what both of a pair scored was made on the same data and split, wherever both have a row."""
        if len(self.made_names) < 2:
            return np.ones(len(first), bool)
        one, other = self.made[:, :, first], self.made[:, :, second]
        alike: npt.NDArray[np.bool_] = ((one == other) | (one < 0) | (other < 0)).all((0, 1))
        return alike

    def comparable(self) -> npt.NDArray[np.bool_]:
        """(R,): the largest set of rows that were made on the same data and split as one of them, which may lack folds of it."""
        number = len(self.rows)
        if len(self.made_names) < 2:
            return np.ones(number, bool)
        on = np.stack([(self.made == place).any((0, 1)) for place in range(len(self.made_names))])
        first, second = (places.ravel() for places in np.indices((number, number)))
        related = self.made_alike(first, second).reshape(number, number) & (on.T.astype(int) @ on > 0)
        largest: npt.NDArray[np.bool_] = related[related.sum(1).argmax()]
        return largest

    def only(self, kept: npt.NDArray[np.bool_]) -> Scores:
        """The same of these rows alone."""
        rows = tuple(row for row, own in zip(self.rows, kept, strict=True) if own)
        return replace(self, rows=rows, values=self.values[:, :, kept], made=self.made[:, :, kept])

    def of_patients(self, values: Floats) -> Floats:
        """(P, K) from (U, K): the mean of each patient's units, NaN where there is none."""
        return nanratio(*patient_sums(values, self.patient))


def patient_sums(values: Floats, patient: Indices) -> tuple[Floats, Floats]:
    """The sum of each patient's defined values, and their number: twice (P, K) from (U, K).

    ``patient``: (U,), numbers 0 to P - 1, each there at least once.
    """
    order = np.argsort(patient, kind="stable")
    starts = np.searchsorted(patient[order], np.arange(int(patient.max()) + 1))
    own = values[order]
    defined = ~np.isnan(own)
    return np.add.reduceat(np.where(defined, own, 0), starts), np.add.reduceat(defined.astype(np.float64), starts)


def nanratio(sums: Floats, counts: Floats) -> Floats:
    """``sums / counts``, NaN where there is none."""
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def nanmean(values: Floats, axis: int) -> Floats:
    """``numpy.nanmean`` without a warning where nothing is defined."""
    defined = ~np.isnan(values)
    return nanratio(np.where(defined, values, 0).sum(axis), defined.sum(axis).astype(np.float64))


def made_on(store_key: object, split_hash: object) -> str:
    """What a run was made on in one word: its prepared data and its split into patients."""
    return f"{store_key}/{split_hash}"


def same_patients(cases: pd.DataFrame) -> dict[str, str]:
    """For each data set the first, by name, of those that share patients with it, directly or through others; itself if none.

    Two data sets share patients where a patient has one id in both and they have one name, but for options in brackets and for
    a joined data set that they are a part of: ``p1`` of ``brain[preparation.plane=axial]`` is ``p1`` of ``brain``, and
    ``brain:p1`` of ``all/brain``. Equal ids under unlike names are other patients, as phantoms and numbered cases have. So what
    is told apart by its name alone is taken for independent, and phantoms of unlike seeds under one name are not. Unknown
    patients ("") of one name are taken for the same.
    """
    of: dict[str, set[tuple[str, str]]] = {}
    for dataset, patient in sorted(set(zip(cases["dataset"], cases["patient"].fillna(""), strict=True))):
        base = re.sub(r"\[[^\]]*\]", "", dataset).rpartition("/")[2]
        of.setdefault(dataset, set()).add((base, patient.removeprefix(f"{base}:")))
    first = {dataset: dataset for dataset in of}
    for one, other in combinations(of, 2):
        if of[one] & of[other]:
            kept, merged = sorted((first[one], first[other]))
            first = {dataset: kept if own == merged else own for dataset, own in first.items()}
    return first


def seed_means(values: Floats) -> Floats:
    """(S, K): the mean of each seed over the units that every seed has a value in; NaN where there is none.

    ``values``: (U, S, K). A seed without any value in a column is no seed of it. Means over all units would differ by what was
    scored so far, as where a seed has finished other folds than the next.
    """
    return nanmean(np.where(in_every_seed(values)[:, None], values, np.nan), axis=0)


def in_every_seed(values: Floats) -> npt.NDArray[np.bool_]:
    """(U, K) of (U, S, K): the units that every seed has a value in; a seed without any value in a column is no seed of it."""
    defined = ~np.isnan(values)
    there = np.any(defined, axis=0)
    whole: npt.NDArray[np.bool_] = np.all(defined | ~there, axis=1) & np.any(there, axis=0)
    return whole


def rows_of(cases: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of one metric, checked; batches of different folds get names of their own.

    Raises:
        ValueError: a column or the metric is missing, a name is, a value is infinite, a case is scored twice by one seed, or
            belongs to two patients.
    """
    if missing := [column for column in NEEDED if column not in cases.columns]:
        raise ValueError(f"expected rows of cases.csv, which have the columns {', '.join(NEEDED)}; missing: {', '.join(missing)}")
    rows = cases[cases["metric"] == metric]
    if rows.empty:
        raise ValueError(f"expected one of the metrics {', '.join(map(str, cases['metric'].unique()))}, got {metric}")
    if rows[named := [*BLOCK, *ROW, "seed", "case"]].isna().any(axis=None):
        raise ValueError(f"rows of {metric} lack a name in one of the columns {', '.join(named)}")
    if np.isinf(rows["value"]).any():
        raise ValueError(
            f"{metric} of case {rows.loc[np.isinf(rows['value']), 'case'].iloc[0]} is infinite; expected a number or NaN"
        )
    fold = rows["fold"].map(lambda value: "" if pd.isna(value) else str(value))
    rows = rows.assign(fold=fold, patient=rows["patient"].fillna(""))
    if MADE_ON not in rows:
        rows[MADE_ON] = rows.get("split", "")
    rows["case"] = rows["case"].where(rows["status"] != POOLED, fold + "/" + rows["case"])
    twice = rows.duplicated([*BLOCK, *ROW, "seed", "case"])
    if twice.any():
        raise ValueError(
            f"case {rows.loc[twice, 'case'].iloc[0]} has more than one {metric} of one model, loss and seed: each case is tested "
            "once, in one fold; give only runs of one split"
        )
    owners = rows.drop_duplicates([*BLOCK[:2], "case", "patient"])
    shared = owners.duplicated([*BLOCK[:2], "case"])
    if shared.any():
        raise ValueError(f"case {owners.loc[shared, 'case'].iloc[0]} belongs to more than one patient in these rows")
    return rows


def arrange(rows: pd.DataFrame) -> list[Scores]:
    """One array a protocol, data set and class, from what ``rows_of`` gives; the order of the rows does not matter."""
    return [_arrange(rows_of_block) for _, rows_of_block in rows.groupby(BLOCK, sort=True)]


def _arrange(rows: pd.DataFrame) -> Scores:
    case, cases = pd.factorize(rows["case"].to_numpy(object), sort=True)
    seed, seeds = pd.factorize(rows["seed"].to_numpy(), sort=True)
    row, names = pd.factorize(pd.MultiIndex.from_frame(rows[ROW]), sort=True)
    values = np.full((len(cases), len(seeds), len(names)), np.nan)
    values[case, seed, row] = rows["value"].to_numpy(np.float64)
    made, made_names = pd.factorize(rows[MADE_ON].fillna("").to_numpy(object), sort=True)
    on = np.full(values.shape, -1, np.int32)
    on[case, seed, row] = made
    owner = np.empty(len(cases), object)
    owner[case] = rows["patient"].to_numpy(object)
    patient, _ = pd.factorize(owner, sort=True)
    protocol, dataset, name = (str(rows[column].iloc[0]) for column in BLOCK)
    return Scores(
        block=(protocol, dataset, name),
        rows=tuple((str(model), str(loss)) for model, loss in names),
        seeds=tuple(int(number) for number in seeds),
        patient=patient.astype(np.int64),
        values=values,
        pooled=bool((rows["status"] == POOLED).any() or (rows["patient"] == "").any()),
        made=on,
        made_names=tuple(map(str, made_names)),
    )
