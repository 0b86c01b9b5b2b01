"""A report on fabricated runs, as text and as rows."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from rich.console import Console

from calf.report.findings import find
from calf.report.tables import markdown, terminal


def row(summary: pd.DataFrame, loss: str, metric: str = "dice", protocol: str = "per_case") -> pd.Series:
    rows = summary[(summary["loss"] == loss) & (summary["metric"] == metric) & (summary["protocol"] == protocol)]
    assert len(rows) == 1
    return rows.iloc[0]


def add(run: Path, metric: str, value: str) -> None:
    """Rows of one more metric, with this value in every case."""
    cases = pd.read_csv(run / "cases.csv", dtype=str, keep_default_na=False)
    pd.concat([cases, cases[cases["metric"] == "dice"].assign(metric=metric, value=value)]).to_csv(run / "cases.csv", index=False)


def text_of(runs: Path) -> str:
    return markdown(find(runs))


def shown(runs: Path) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal(find(runs)))
    return console.export_text()
