"""Mean and SD of every metric over cases, for every model and loss."""

from __future__ import annotations

import pandas as pd

from calf.metrics.scores import FALSE_POSITIVE, METRICS, MISSED, POOLED, TRUE_NEGATIVE

BLOCK = ["protocol", "dataset", "class"]  # what a table is made for
GROUP = [*BLOCK, "model", "loss"]
STATUS_OF = "dice"
COUNTED = (MISSED, FALSE_POSITIVE, TRUE_NEGATIVE)
SUMMARY_COLUMNS = (
    *GROUP,
    "metric",
    "mean",
    "sd",
    "seed_sd",
    "num_scored",
    "num_cases",
    "num_patients",
    "num_seeds",
    "num_runs",
    "num_scorings",
    *COUNTED,
)


def summarise(cases: pd.DataFrame) -> pd.DataFrame:
    """One row a protocol, data set, class, model, loss and metric, from rows of ``cases.csv``.

    A case is first averaged over its seeds, then ``mean`` and ``sd`` (n - 1) are over cases, those of all folds together;
    undefined values are left out, ``num_scored`` of ``num_cases`` are not. ``seed_sd`` is the SD over seeds of the mean
    over the cases in which each of the row's seeds has a value, NaN where there is none: a fold that one seed has not finished
    must not look like a difference between seeds. An SD of a single number is NaN. ``missed``, ``false_positive`` and
    ``true_negative`` are out of ``num_scorings``, cases x seeds. In a pooled protocol the case is a batch, and batches of
    different folds are different.
    """
    cases = cases.assign(unit=cases["case"].where(cases["status"] != POOLED, cases["fold"] + "/" + cases["case"]))
    per_unit = cases.groupby([*GROUP, "metric", "unit"], sort=False)["value"].mean().groupby([*GROUP, "metric"], sort=False)
    columns = {"mean": per_unit.mean(), "sd": per_unit.std(), "num_scored": per_unit.count(), "seed_sd": _seed_sd(cases)}
    summary = pd.DataFrame(columns).reset_index().merge(_numbers(cases), on=GROUP, validate="many_to_one")
    return _sorted(summary)[list(SUMMARY_COLUMNS)]


def _seed_sd(cases: pd.DataFrame) -> pd.Series:
    """Over the units in which every seed that has a value at all has one."""
    line = [*GROUP, "metric"]
    defined = cases[cases["value"].notna()]
    seeds = defined.groupby(line, sort=False)["seed"].transform("nunique")
    common = defined[defined.groupby([*line, "unit"], sort=False)["seed"].transform("nunique") == seeds]
    sd: pd.Series = common.groupby([*line, "seed"], sort=False)["value"].mean().groupby(line, sort=False).std()
    return sd


def _numbers(cases: pd.DataFrame) -> pd.DataFrame:
    """How many cases, patients, seeds and runs a row rests on, and how often each branch of the empty rule was taken."""
    # by Dice, whose status is that of the voxels; that of a lesion-wise row is of lesions
    of_dice = cases.iloc[(cases["metric"] != STATUS_OF).to_numpy().argsort(kind="stable")]
    scored = of_dice.drop_duplicates([*GROUP, "unit", "seed", "fold"])
    scored = scored.assign(patient=scored["patient"].where(scored["patient"] != ""))  # a batch has none
    groups = scored.groupby(GROUP, sort=False)
    numbers = groups.agg(num_cases=("unit", "nunique"), num_patients=("patient", "nunique"), num_seeds=("seed", "nunique"))
    numbers["num_runs"] = scored.drop_duplicates([*GROUP, "seed", "fold"]).groupby(GROUP, sort=False).size()
    numbers["num_scorings"] = groups.size()
    for status in COUNTED:
        numbers[status] = scored["status"].eq(status).groupby([scored[column] for column in GROUP], sort=False).sum()
    return numbers.reset_index()


def _sorted(summary: pd.DataFrame) -> pd.DataFrame:
    """``per_case`` first, then by data set, class, model and loss; metrics as in ``METRICS``, others after them by name."""
    rank = {metric: f"{place:03d}" for place, metric in enumerate(METRICS)} | {"per_case": ""}
    order = summary.assign(
        **{column: summary[column].map(lambda text: rank.get(text, text)) for column in ("protocol", "metric")}
    )
    return summary.loc[order.sort_values([*GROUP, "metric"]).index].reset_index(drop=True)
