"""A report replaces and takes away an older report's files, and no other."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from calf.cli import app
from calf.report import report
from calf.report.drawing import Drawn


@pytest.fixture
def paper(make, tmp_path) -> Path:
    """A folder of the user's own beside runs of two losses."""
    for loss in ("bce", "calf"):
        (make(loss, 0, cases=(0, 2)) / "history.csv").write_text("epoch,val/dice\n0,0.1\n1,0.2\n")
    folder = tmp_path / "paper"
    for name in ("figures/my_own_diagram.pdf", "figures/flowchart.png", "brats.csv", "challengeR/mine.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def listed(folder: Path) -> set[str]:
    return set(json.loads((folder / "report.json").read_text())["files"])


def unfinished(runs: Path) -> Path:
    """The same runs without results: a report of few files, and none of figures."""
    for path in runs.rglob("result.json"):
        path.unlink()
    return runs


def test_an_older_report_is_taken_away_and_files_of_the_user_stay(paper, runs):
    mine = content(paper)
    report(runs, paper)
    before = listed(paper)
    assert {"strata.csv", "figures/per_case-phantom-learning.pdf", "challengeR/dice.csv"} <= before
    assert before == set(content(paper)) - set(mine) - {"report.json"}
    report(unfinished(runs), paper)
    assert listed(paper) < before
    assert listed(paper) == set(content(paper)) - set(mine) - {"report.json"}
    assert content(paper).items() >= mine.items()


def test_a_file_that_would_be_replaced_is_refused(paper, runs):
    (paper / "strata.csv").write_text("mine")
    (paper / "figures" / "per_case-phantom-learning.png").symlink_to(paper / "gone")
    mine = content(paper)
    done = CliRunner().invoke(app, ["report", str(runs), "--out", str(paper)])
    assert done.exit_code == 1
    assert "strata.csv" in done.output
    assert "--out" in done.output
    (paper / "strata.csv").unlink()
    with pytest.raises(ValueError, match=r"per_case-phantom-learning\.png"):
        report(runs, paper)
    del mine["strata.csv"]
    assert content(paper) == mine
    assert not (paper / "gone").exists()


def test_an_interrupted_report_keeps_its_list(paper, runs, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    mine = content(paper)
    monkeypatch.setattr(Drawn, "write", full)
    with pytest.raises(OSError, match="No space"):
        report(runs, paper)
    written = set(content(paper)) - set(mine) - {"report.json"}
    assert "strata.csv" in written
    assert written < listed(paper)
    report(unfinished(runs), paper)
    assert set(content(paper)) == listed(paper) | set(mine) | {"report.json"}
    assert content(paper).items() >= mine.items()


def test_a_report_without_a_list_is_replaced(paper, runs):
    out = report(unfinished(runs))
    (out / "report.json").unlink()
    stale = ["brats.csv", "challengeR/dice.csv", "figures/per_case-gone-unet-panel.png", "figures/gone-branches.pdf"]
    mine = ["figures/flowchart.png", "notes.csv", "report.docx"]
    for name in (*stale, *mine):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).touch()
    assert report(runs) == out
    assert set(content(out)) == listed(out) | set(mine) | {"report.json"}
    (out / "report.json").unlink()
    (out / "index.html").write_text("<!doctype html><title>Results of my own</title>")
    with pytest.raises(ValueError, match="no report is known to have written"):
        report(runs)


@pytest.mark.parametrize("text", ["{", "[]", '{"files": ["a"]}', '{"made_by": "calf report", "files": [1]}'])
def test_a_list_that_is_none_is_refused(paper, runs, text):
    (paper / "report.json").write_text(text)
    mine = content(paper)
    with pytest.raises(ValueError, match=r"report\.json is no list of a report's files.*--out"):
        report(unfinished(runs), paper)
    assert content(paper) == mine


def test_a_list_leads_to_nothing_outside(paper, runs, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("a.csv", "b.csv"):
        (outside / name).write_text("mine")
    (paper / "sub").mkdir()
    (paper / "sub" / "c.csv").write_text("mine")
    (paper / "link.csv").symlink_to(outside / "b.csv")
    shutil.rmtree(paper / "challengeR")
    (paper / "challengeR").symlink_to(outside)
    names = [
        str(outside / "a.csv"),
        "../outside/a.csv",
        "figures/../../outside/a.csv",
        "challengeR/a.csv",
        "link.csv",
        "sub/c.csv",
    ]
    names += ["..", ".", "", "\0", "a" * 5000]
    (paper / "report.json").write_text(json.dumps({"made_by": "calf report", "files": names}))
    with pytest.raises(ValueError, match="challengeR"):
        report(runs, paper)
    (paper / "challengeR").unlink()
    report(unfinished(runs), paper)
    assert set(content(outside)) == {"a.csv", "b.csv"}
    assert os.path.islink(paper / "link.csv")
    assert (paper / "sub" / "c.csv").exists()
    assert listed(paper).isdisjoint(names)
