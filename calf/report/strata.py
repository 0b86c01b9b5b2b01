"""Scores by the volume of the reference: how a loss does on small lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from calf.metrics.scores import POOLED
from calf.report.resampling import LEVEL, holm
from calf.report.statistics import compare, power_notes
from calf.report.summary import BLOCK, GROUP
from calf.report.units import rows_of

Edges = Sequence[float]
ROUNDING = 1e-3  # relative
LEAST_PATIENTS = 6  # of five, the least p that sign flips can reach is 2 / 2^5, above 0.05 before any correction
MEASURED = ("mean", "low", "high", "sd", "seed_sd", "num_scored", "num_cases", "num_patients", "num_scored_patients", "num_seeds")
AGAINST = ("difference", "difference_low", "difference_high", "num_pairs", "num_paired_patients")
TESTS = ("p", "p_holm", "num_tests", "effect", "significant", "seeds_disagree")
STRATA_COLUMNS = (
    *GROUP,
    "stratum",
    "above_mm3",
    "up_to_mm3",
    "edges_from",
    *MEASURED,
    *AGAINST,
    *TESTS,
    "power_note",
    "note",
)
GIVEN, TESTED = "given", "tertiles of the tested references"
FEW = f"fewer than {LEAST_PATIENTS} patients, hence no interval and no test"


def strata(
    cases: pd.DataFrame,
    metric: str,
    edges: Edges | Mapping[tuple[str, str], Edges] | None = None,
    baseline: str | None = None,
    num_bootstrap: int = 10_000,
    seed: int = 0,
    edges_from: str = GIVEN,
) -> pd.DataFrame:
    """What :func:`calf.report.statistics.compare` says of a metric, for cases of similar reference volume.

    ``stratum``: 1 the smallest, holding volumes above ``above_mm3`` and up to ``up_to_mm3``; 0 the cases without any reference,
    in which Dice and its like are undefined. ``edges_from``: what the limits are. Those that were set before the test, as
    tertiles of the training data (:func:`calf.report.limits.training_limits`), are to be preferred. Rows of pooled protocols
    are left out: a batch has no lesion. A stratum without a case has no row.

    ``difference``, ``p`` and ``effect``: against the baseline loss of the same model in the cases of the stratum. ``p_holm``:
    Holm over all ``num_tests`` comparisons of a protocol, data set and class, those of all strata and models together, which
    is another family than that of the whole table. With values of fewer than ``LEAST_PATIENTS`` patients (for a difference: in
    common) there is neither interval nor test, and ``note`` says so. No row is marked as the best of its stratum.

    Args:
        cases: rows of ``cases.csv``.
        metric: one of them.
        edges: limits in mm3, ascending, for all data sets and classes, or by (data set, class); None: tertiles of the
            references that were tested, each case once.
        baseline: a loss; None: nothing is tested.
        num_bootstrap: resamples of an interval.
        seed: of resamples and flips.
        edges_from: what ``edges`` are, in words.

    Raises:
        ValueError: edges that do not ascend or are missing for a class, only pooled rows, or rows that cannot stand in a table.
    """
    rows = rows_of(cases, metric)
    rows = rows[rows["status"] != POOLED]
    if rows.empty:
        raise ValueError("expected rows of cases, got batches of shuffled slices only, which have no lesion of a size")
    tables = []
    for (_, dataset, name), block in rows.groupby(BLOCK, sort=True):
        volumes = block.groupby("case")["reference_volume_mm3"].median()  # where runs differ, notes say so (differing_volumes)
        limits = _limits(volumes[volumes > 0], edges, str(dataset), str(name))
        place = np.searchsorted(limits, volumes.to_numpy(), side="left") + 1
        of_case = pd.Series(np.where(volumes > 0, place, 0), volumes.index)
        bounds = [0.0, *limits, np.inf]
        parts = []
        for stratum, within in block.groupby(block["case"].map(of_case), sort=True):
            number = int(str(stratum))
            low, high = (0.0, 0.0) if number == 0 else (bounds[number - 1], bounds[number])
            against = baseline if baseline in set(within["loss"]) else None
            table = compare(within, metric, against, num_bootstrap, seed, all_pairs=False)
            parts.append(table.assign(stratum=number, above_mm3=low, up_to_mm3=high))
        tables.append(_as_one_family(pd.concat(parts, ignore_index=True)))
    return pd.concat(tables, ignore_index=True).assign(edges_from=TESTED if edges is None else edges_from)[list(STRATA_COLUMNS)]


def differing_volumes(cases: pd.DataFrame) -> pd.DataFrame:
    """Cases whose reference volume is not the same in all rows, beyond rounding.

    Columns: protocol, dataset, class, case, and ``least`` and ``most`` in mm3. Batches of shuffled slices are left out.
    """
    of_case = cases[cases["status"] != POOLED].groupby([*BLOCK, "case"], sort=False, observed=True)["reference_volume_mm3"]
    found = of_case.agg(least="min", most="max").reset_index()
    return found[found["most"] - found["least"] > ROUNDING * found["most"]]


def _as_one_family(table: pd.DataFrame) -> pd.DataFrame:
    """Holm over the strata of one table together, without those that have too few patients."""
    table = table.copy()
    few, unpaired = table["num_scored_patients"] < LEAST_PATIENTS, table["num_paired_patients"] < LEAST_PATIENTS
    table.loc[few, ["low", "high"]] = np.nan
    table.loc[unpaired, ["difference_low", "difference_high", "p", "effect"]] = np.nan
    noted = few | (unpaired & table["difference"].notna())
    table.loc[noted, "note"] = [f"{note}; {FEW}" if note else FEW for note in table.loc[noted, "note"]]
    tested = table["p"].notna().to_numpy()
    table["num_tests"] = int(tested.sum())
    table["p_holm"] = holm(table["p"].to_numpy(np.float64))
    table["significant"] = table["p_holm"] <= LEVEL
    table["power_note"] = power_notes(table)
    return table


def _limits(volumes: pd.Series, edges: Edges | Mapping[tuple[str, str], Edges] | None, dataset: str, name: str) -> list[float]:
    if edges is None:
        return [float(limit) for limit in np.quantile(volumes, [1 / 3, 2 / 3])] if len(volumes) else []
    given = edges.get((dataset, name)) if isinstance(edges, Mapping) else edges
    if given is None:
        raise ValueError(f"edges: expected limits in mm3 for ({dataset}, {name}) too; got none")
    limits = [float(limit) for limit in given]
    if not all(low < high for low, high in zip([0.0, *limits], limits, strict=False)):
        raise ValueError(f"edges: expected ascending volumes in mm3 above 0, got {limits}")
    return limits
