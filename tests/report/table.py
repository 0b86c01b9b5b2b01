"""Case rows from a few numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from calf.metrics.protocol import CASE_COLUMNS

Values = Mapping[str, Sequence[float]]
NAN = float("nan")


def rows(
    values: Values,
    *,
    seed: int = 0,
    model: str = "unet",
    metric: str = "dice",
    dataset: str = "set",
    patients: Sequence[str] | None = None,
    first: int = 0,
    fold: str = "",
    volumes: Sequence[float] | None = None,
    status: str = "ok",
) -> pd.DataFrame:
    """Case rows of losses and their values; by default every case is of a patient of its own."""
    tables = []
    for loss, of_cases in values.items():
        cases = [f"c{first + number:04d}" for number in range(len(of_cases))]
        table = pd.DataFrame({"case": cases, "patient": patients or [f"p{case}" for case in cases], "value": of_cases})
        table = table.assign(loss=loss, seed=seed, model=model, metric=metric, dataset=dataset, fold=fold, status=status)
        tables.append(table.assign(reference_volume_mm3=volumes or 1000.0, predicted_volume_mm3=900.0))
    found = pd.concat(tables, ignore_index=True).assign(protocol="per_case", split="s1")
    return found.assign(**{"class": "tumour"})[list(CASE_COLUMNS)]


def pooled(values: Values) -> pd.DataFrame:
    return rows(values, patients=[""] * len(next(iter(values.values()))), status="pooled").assign(protocol="paper")


def of(table: pd.DataFrame, loss: str, model: str = "unet") -> pd.Series:
    found = table[(table["loss"] == loss) & (table["model"] == model)]
    assert len(found) == 1
    return found.iloc[0]
