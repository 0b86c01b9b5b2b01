"""A file of published numbers, and its rows beside fabricated runs."""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import pandas as pd
import pytest

from calf.report.findings import find
from calf.report.published import Beside, read_published, set_beside
from tests.report.published.rows import HEADER


@pytest.fixture
def write(tmp_path):
    """Write a file of published numbers; rows are cells, the first line the columns."""

    def to(*rows: tuple[str, ...], header: tuple[str, ...] = HEADER, name: str = "published.csv") -> Path:
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return tmp_path / name

    return to


@pytest.fixture
def make(make):
    """Run folders with few metrics: each costs an interval and tests."""

    def few(*arguments, **options) -> Path:
        if (run := make(*arguments, **options) / "cases.csv").exists():
            cases = pd.read_csv(run, dtype=str, keep_default_na=False)
            cases[cases["metric"].isin(["dice", "iou", "mae"])].to_csv(run, index=False)
        return run.parent

    return few


@pytest.fixture
def found(runs):
    """What the runs say at the first call."""
    return functools.cache(lambda: find(runs))


@pytest.fixture
def beside(write, found):
    """Rows of the file beside the runs of ``make``, all of which are made by then."""

    def of(*rows: tuple[str, ...], header: tuple[str, ...] = HEADER) -> Beside:
        path = write(*rows, header=header)
        return set_beside(path, read_published(path), found())

    return of
