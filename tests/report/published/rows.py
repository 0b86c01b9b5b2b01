"""Rows of a file of published numbers, runs changed for them, and what is shown of both."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
from rich.console import Console
from typer.testing import CliRunner

from calf.cli import app
from calf.report.published import Beside
from calf.report.tables import terminal

HEADER = ("dataset", "model", "loss", "metric", "value", "source", "note")
ROW = ("phantom", "unet", "calf", "dice", "0.9577", "Table 1", "")


def renamed(run: Path, old: str, new: str) -> None:
    """Give a run that was made another data set or loss, in every file."""
    for path in (run / "cases.csv", run / "config.yaml", run / "result.json"):
        path.write_text(re.sub(rf"\b{old}\b", new, path.read_text()))


def second_class(run: Path, name: str = "oedema") -> None:
    cases = pd.read_csv(run / "cases.csv", dtype=str, keep_default_na=False)
    worse = (cases["metric"] == "dice") & (cases["value"] != "")
    other = cases.assign(**{"class": name, "value": cases["value"].mask(worse, "0.25")})
    pd.concat([cases, other]).to_csv(run / "cases.csv", index=False)


def shown(found, beside: Beside) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal(found, beside))
    return console.export_text()


def only(beside: Beside, **values: str) -> pd.Series:
    rows = beside.rows
    for column, value in values.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1, rows
    return rows.iloc[0]


def invoke(runs: Path, *options: str):
    return CliRunner().invoke(app, ["report", str(runs), *options])
