"""Scores by the volume of the reference: how a loss does on small lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from calf.metrics.scores import POOLED
from calf.report.statistics import compare
from calf.report.summary import BLOCK, GROUP
from calf.report.units import rows_of

Edges = Sequence[float]
MEASURED = ("mean", "low", "high", "sd", "seed_sd", "num_scored", "num_cases", "num_patients", "num_seeds", "power_note", "note")
STRATA_COLUMNS = (*GROUP, "stratum", "above_mm3", "up_to_mm3", "edges_from", *MEASURED)
GIVEN, TESTED = "given", "tertiles of the tested references"


def strata(
    cases: pd.DataFrame,
    metric: str,
    edges: Edges | Mapping[tuple[str, str], Edges] | None = None,
    num_bootstrap: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """The means of :func:`calf.report.statistics.compare`, and their intervals, for cases of similar reference volume.

    ``stratum``: 1 the smallest, holding volumes above ``above_mm3`` and up to ``up_to_mm3``; 0 the cases without any reference,
    in which Dice and its like are undefined. ``edges_from``: whether the limits were given or are tertiles of the references
    that were tested, each case once. Limits that were set before the test, as tertiles of the training data, are to be
    preferred; run folders do not hold the volumes of training cases. Rows of pooled protocols are left out: a batch has no
    lesion. A stratum without a case has no row. Nothing is tested: that would be as many more tests as there are strata.

    Args:
        cases: rows of ``cases.csv``.
        metric: one of them.
        edges: limits in mm3, ascending, for all data sets and classes, or by (data set, class); None: tertiles.
        num_bootstrap: resamples of an interval.
        seed: of them.

    Raises:
        ValueError: edges that do not ascend or are missing for a class, only pooled rows, or rows that cannot stand in a table.
    """
    rows = rows_of(cases, metric)
    rows = rows[rows["status"] != POOLED]
    if rows.empty:
        raise ValueError("expected rows of cases, got batches of shuffled slices only, which have no lesion of a size")
    tables = []
    for (_, dataset, name), block in rows.groupby(BLOCK, sort=True):
        volumes = block.groupby("case")["reference_volume_mm3"].median()  # the same for all runs, but for rounding
        limits = _limits(volumes[volumes > 0], edges, str(dataset), str(name))
        place = np.searchsorted(limits, volumes.to_numpy(), side="left") + 1
        of_case = pd.Series(np.where(volumes > 0, place, 0), volumes.index)
        bounds = [0.0, *limits, np.inf]
        for stratum, within in block.groupby(block["case"].map(of_case), sort=True):
            number = int(str(stratum))
            low, high = (0.0, 0.0) if number == 0 else (bounds[number - 1], bounds[number])
            table = compare(within, metric, None, num_bootstrap, seed)
            source = TESTED if edges is None else GIVEN
            tables.append(table.assign(stratum=number, above_mm3=low, up_to_mm3=high, edges_from=source))
    return pd.concat(tables, ignore_index=True)[list(STRATA_COLUMNS)]


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
