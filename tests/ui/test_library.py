"""The index of runs: nothing is lost, nothing is rounded, and a grid that goes on is followed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from calf.report.results import gather
from calf.ui.library import Library, Unknown
from calf.ui.runs import case_id, run_id


def folder_of(library: Library, loss: str) -> Path:
    return next(run.folder for run in library.runs if run.loss == loss)


def test_runs_are_what_the_report_gathers(tiny_runs):
    library, gathered = Library(tiny_runs), gather(tiny_runs)
    assert [run.place for run in library.runs] == gathered.runs["folder"].tolist()
    assert [run.value for run in library.runs] == gathered.runs["value"].tolist()
    assert {run.state for run in library.runs} == {"finished"}
    assert sorted(run.label.split(" / ")[0] for run in library.runs) == ["bce", "dice"]
    again = library.gathered()
    pd.testing.assert_frame_equal(again.runs, gathered.runs)
    pd.testing.assert_frame_equal(again.cases, gathered.cases)
    assert again.settings == gathered.settings
    assert len(library.gathered([library.runs[0].id]).cases) == len(gathered.cases) / 2


def test_every_number_is_that_of_the_file(tiny_runs):
    library = Library(tiny_runs)
    table = library.cases([run.id for run in library.runs]).set_index(["run", "case", "class"])
    seen = 0
    for run in library.runs:
        with (run.folder / "cases.csv").open() as file:
            for row in csv.DictReader(file):
                found = table.loc[(run.id, row["case"], row["class"])]
                value = found[row["metric"]]
                assert (row["value"] == "" and pd.isna(value)) or value == float(row["value"])
                for column in ("reference_volume_mm3", "predicted_volume_mm3"):
                    assert found[column] == float(row[column])
                if row["metric"] == "dice":
                    assert found["status"] == row["status"]
                seen += 1
    assert seen == len(library.gathered().cases) > 200


def test_ids_are_stable_and_say_nothing(tiny_runs):
    first, second = Library(tiny_runs), Library(tiny_runs)
    assert [run.id for run in first.runs] == [run.id for run in second.runs] == [run_id(run.place) for run in first.runs]
    for run in first.runs:
        assert "folder" not in run.public()
        assert len(run.id) == 12
        assert int(run.id, 16) >= 0
    assert case_id("phantom[noise=0]", "a") == case_id("phantom", "a") != case_id("brats", "a")


@pytest.mark.parametrize("id", ["", "..", "../..", "%2e%2e", "\0", "a" * 5000, "runs", "/etc/passwd", "000000000000"])
def test_what_is_no_id_is_unknown(tiny_runs, id):
    library = Library(tiny_runs)
    for ask in (library.run, library.case_rows, library.table, library.data, library.settings):
        with pytest.raises(Unknown):
            ask(id)
    with pytest.raises(Unknown):
        library.cases([id])
    with pytest.raises(Unknown):
        library.case(id, [run.id for run in library.runs])


def test_a_damaged_run_is_listed_and_the_others_work(copied):
    damaged = folder_of(Library(copied), "bce")
    rows = (damaged / "cases.csv").read_text().splitlines(keepends=True)
    (damaged / "cases.csv").write_text("".join(rows[:-1]))
    library = Library(copied)
    run = next(run for run in library.runs if run.folder == damaged)
    assert run.state == "finished"  # rows are read when they are asked for
    revision = library.revision
    with pytest.raises(ValueError, match="was it cut off"):
        library.table(run.id)
    assert library.run(run.id).state == "damaged"
    assert "was it cut off" in library.run(run.id).error
    assert library.refresh() > revision
    assert library.run(run.id).state == "damaged"
    assert set(library.cases([one.id for one in library.runs])["run"]) == {one.id for one in library.runs} - {run.id}
    (damaged / "cases.csv").write_text("".join(rows))
    os.utime(damaged / "cases.csv", ns=(1, 1))
    library.refresh()
    assert library.run(run.id).state == "finished"
    (damaged / "config.yaml").write_text("names: [")
    library.refresh()
    assert [one.state for one in library.runs] == ["damaged", "finished"]
    assert "config.yaml" in library.run(run.id).error


def test_a_grid_that_goes_on_is_followed(copied):
    library = Library(copied)
    done = folder_of(library, "dice")
    running = done.with_name("seed-1-0123456789")
    running.mkdir()
    revision = library.revision
    assert library.refresh() == revision
    (running / "config.yaml").write_text((done / "config.yaml").read_text().replace("seed: 0", "seed: 1"))

    def status(**content: object) -> None:
        (running / "status.json").write_text(json.dumps({"state": "running", "host": os.uname().nodename} | content))

    status(epoch=0.25, epochs=4, pid=os.getpid())
    assert library.refresh() > revision
    run = library.run(run_id(os.path.relpath(running, copied)))
    assert (run.state, run.epoch, run.epochs, run.seed, run.value) == ("running", 0.25, 4, 1, None)
    with pytest.raises(ValueError, match="running"):
        library.table(run.id)
    assert not library.cases([run.id]).size
    status(epoch=1.5, epochs=4, pid=os.getpid())
    library.refresh()
    assert library.run(run.id).epoch == 1.5
    # it dies without a word: no file changes
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    status(epoch=1.5, epochs=4, pid=child.pid)
    library.refresh()
    assert library.run(run.id).state == "running"
    child.communicate(b"\n")
    library.refresh()
    assert library.run(run.id).state == "killed"


def test_runs_of_one_name_are_told_apart(copied):
    one = folder_of(Library(copied), "dice")
    other = one.with_name("seed-0-ffffffffff")
    other.mkdir()
    for name in ("cases.csv", "result.json", "data.json"):
        (other / name).write_bytes((one / name).read_bytes())
    (other / "config.yaml").write_text((one / "config.yaml").read_text().replace("lr: 0.01", "lr: 0.1"))
    library = Library(copied)
    labels = [run.label for run in library.runs if run.loss == "dice"]
    assert [label.rpartition(" [")[2] for label in labels] == ["optim.lr=0.01]", "optim.lr=0.1]"]
    (other / "config.yaml").write_text((one / "config.yaml").read_text())  # the same but for its data
    library.refresh()
    labels = [run.label for run in library.runs if run.loss == "dice"]
    assert labels[1].endswith("[ffffffffff]")
    assert len(set(labels)) == 2


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="is no folder: expected one that holds runs"):
        Library(tmp_path / "nowhere")
    assert Library(tmp_path).runs == []
