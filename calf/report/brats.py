"""The tables under the rule of the BraTS challenge for empty masks, beside those under ``EMPTY_RULE``."""

from __future__ import annotations

import pandas as pd

from calf.metrics.scores import FALSE_POSITIVE, TRUE_NEGATIVE

OVERLAPS = ("dice", "iou")


def ruled(metric: str) -> bool:
    """Whether the rule says what this metric is in a case without reference: Dice, IoU and NSD."""
    return metric in OVERLAPS or metric.startswith("nsd_")


def under_brats_rule(cases: pd.DataFrame) -> pd.DataFrame:
    """Rows of cases in the metrics that are ``ruled``, in which a case without reference counts 1 or 0.

    1 where the prediction is empty too, 0 where it is not, as BraTS scores Dice (Isensee et al. 2020, https://arxiv.org/abs/2011.00848);
    IoU and NSD likewise. A missed case is 0 under either rule. BraTS gives HD95 of such cases 0 or 373.13 mm, the diagonal of
    its own images; rows of cases do not hold the diagonal of others, so HD95 is left out. Rows that are undefined for another
    reason, as surfaces of partly labelled volumes, stay so. Batches of pooled protocols have a rule of their own.
    """
    rows = cases[cases["metric"].map(ruled)].copy()
    rows.loc[rows["status"] == TRUE_NEGATIVE, "value"] = 1.0
    rows.loc[rows["status"] == FALSE_POSITIVE, "value"] = 0.0
    return rows


def has_empty_references(cases: pd.DataFrame) -> bool:
    """Whether the rule changes anything."""
    return bool((cases["metric"].map(ruled) & cases["status"].isin([TRUE_NEGATIVE, FALSE_POSITIVE])).any())
