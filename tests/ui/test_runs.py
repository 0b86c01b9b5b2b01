"""The page Runs in a real browser: a grid at work, damaged runs, curves, settings, and the tables of the report."""

from __future__ import annotations

import json
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest

from calf.report.findings import Block, find, find_in
from calf.report.grids import Cell, Grid, comparisons, scores
from calf.report.results import gather
from calf.ui.library import Library
from calf.ui.pages.report_tables import html
from calf.ui.pages.runs import progress, summary
from calf.ui.pages.some_runs import differences, shown_runs
from tests.ui.conftest import started
from tests.ui.test_analysis import OPTION

NAME = "whole_tumour"


def status(folder: Path, **content: Any) -> None:
    said = {"state": "running", "epochs": 4, "pid": os.getpid(), "host": socket.gethostname(), "updated": "now"}
    (folder / "status.json").write_text(json.dumps(said | content))


@pytest.fixture
def grid(copied: Path) -> tuple[Path, Path]:
    """A folder with two finished runs, one at work, and one that is damaged; and that of the one at work."""
    first = next(run.folder for run in Library(copied).runs if run.loss == "bce")
    running = first.with_name("seed-1-0123456789")
    shutil.copytree(first, running)
    (running / "result.json").unlink()
    (running / "cases.csv").unlink()
    config = running / "config.yaml"
    config.write_text(config.read_text().replace("\nseed: 0\n", "\nseed: 1\n"))
    history = pd.read_csv(first / "history.csv")
    history.iloc[:2].to_csv(running / "history.csv", index=False)
    pd.DataFrame({"batch": [0, 1, 2, 3], "branch": ["ln", "ln", "log10", "ln"]}).to_csv(running / "branches.csv", index=False)
    status(running, epoch=2.5)
    (copied / "broken").mkdir()
    (copied / "broken" / "config.yaml").write_text("names: [")
    return copied, running


@pytest.fixture(scope="module")
def whole(tiny_runs: Path) -> Block:
    """The block of the whole report."""
    return next(block for block in find(tiny_runs).blocks if block.name == NAME)


def line(page: Any, key: str) -> dict[str, list[list[float]]]:
    return {one["name"]: one["data"] for one in page.evaluate(OPTION, key)["series"]}


def test_a_grid_at_work_is_followed(grid, browser):
    folder, running = grid
    with started(folder, "--port", 0) as (url, _):
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.get_by_role("cell", name="2.5 of 4").wait_for()
        page.get_by_text("4 runs: 2 finished, 1 running, 1 damaged").wait_for()
        broken = page.get_by_role("row").filter(has=page.get_by_role("cell", name="damaged"))
        assert "broken" in broken.inner_text()
        assert "expected the configuration of a run" in broken.inner_text()
        status(running, epoch=3.25)
        page.get_by_role("cell", name="3.2 of 4").wait_for()

        # ticked runs go along to the other views, and into the address
        page.get_by_role("row").filter(has_text="running").get_by_role("checkbox").click()
        page.wait_for_url("**runs=*")
        page.get_by_role("tab", name="Learning curves").click()
        page.locator("[data-chart='curves'] svg text").first.wait_for()
        assert parse_qs(urlsplit(page.url).query)["view"] == ["curves"]
        history = pd.read_csv(running / "history.csv")
        (drawn,) = line(page, "curves").values()
        assert drawn == history[["epoch", "val/dice"]].to_numpy().tolist()
        pd.concat([history, history.iloc[1:].assign(epoch=2, **{"val/dice": 0.625})]).to_csv(running / "history.csv", index=False)
        status(running, epoch=3.5)
        key = "Number(document.querySelector(\"[data-chart='curves']\").id.slice(1))"
        page.wait_for_function(f"getElement({key}).chart.getOption().series[0].data.length === 3")
        (drawn,) = line(page, "curves").values()
        assert drawn[2] == [2, 0.625]

        # the trace of branches of a run that is still at work
        page.goto(f"{url}analysis?class={NAME}")
        page.locator("[data-chart='branches'] svg text").first.wait_for()
        shares = {one["name"]: sum(p["value"] for p in one["data"]) / 4 for one in page.evaluate(OPTION, "branches")["series"]}
        assert shares == {"ln": 0.75, "log10": 0.25}

        page.goto(url)
        status(running, state="failed", error="CUDA out of memory")
        page.get_by_role("cell", name="CUDA out of memory").wait_for()
        page.get_by_text("4 runs: 2 finished, 1 damaged, 1 failed").wait_for()
        assert {urlsplit(address).netloc for address in asked if address.startswith("http")} == {urlsplit(url).netloc}
        assert said == []
        page.close()


def test_the_tables_are_the_report_s(served, browser, whole):
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.goto(f"{served}?view=tables&class={NAME}")
    page.get_by_role("heading", name=NAME).wait_for()
    for number, grid in enumerate((scores(whole, whole.main_metrics), comparisons(whole))):
        table = page.locator("table").nth(number)
        assert table.locator("th").all_inner_texts() == grid.header
        shown = [cell for row in grid.rows for cell in row]
        assert table.locator("td").all_inner_texts() == [(cell.text + cell.rest).strip() for cell in shown]
        assert table.locator("b").all_inner_texts() == [cell.text for cell in shown if cell.best]
    page.get_by_role("tab", name="Settings").click()
    page.get_by_role("cell", name="loss._target_").wait_for()
    page.close()


def test_one_block_is_that_of_the_whole_report(tiny_runs, whole):
    found = find_in(gather(tiny_runs), table=(whole.dataset, NAME))
    (own,) = found.blocks
    pd.testing.assert_frame_equal(own.summary.reset_index(drop=True), whole.summary.reset_index(drop=True))
    pd.testing.assert_frame_equal(own.compared, whole.compared)
    assert own.rows == whole.rows
    with pytest.raises(ValueError, match="tested nothing of"):
        find_in(gather(tiny_runs), table=(whole.dataset, "nothing"))


def test_names_are_no_markup():
    grid = Grid(["<th>"], [[Cell("<script>", "<i>", best=True)]], 1)
    shown = str(html(grid))
    assert "<b>&lt;script&gt;</b>&lt;i&gt;" in shown
    assert "&lt;th&gt;" in shown


def test_what_is_said_of_the_runs(grid):
    library = Library(grid[0])
    assert summary([]) == "0 runs"
    assert progress(library.runs) == pytest.approx((1 + 1 + 2.5 / 4) / 3)
    waits = replace(library.runs[0], id="waits", state="waiting", epoch=None, epochs=4)
    assert progress([*library.runs, waits]) == pytest.approx((1 + 1 + 2.5 / 4) / 4)
    assert progress([run for run in library.runs if run.finished]) is None
    assert [run.state for run in shown_runs(library.runs, [], 2)] == ["running", "finished"]
    finished = [run for run in library.runs if run.finished]
    table, num_same = differences(finished, {run.id: library.settings(run.id) for run in finished})
    assert "loss._target_" in [row[0].text for row in table.rows]
    assert num_same > 50
