"""A run folder that no run wrote is listed as such, and the others work."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from calf.metrics.protocol import CASE_COLUMNS
from calf.report.results import gather
from calf.report.training import branch_shares, histories, read
from calf.report.volumes import Unreadable
from calf.ui.analyses import Analyses
from calf.ui.files import CaseFiles, inside, told
from calf.ui.library import Library
from calf.ui.pages.some_runs import lines
from calf.ui.runs import run_id
from calf.ui.volumes import Cases

CONFIG = "names: {dataset: d, model: unet, loss: dice}\nseed: 0\nfold: null\n"
RESULT = {
    "names": {"dataset": "d", "model": "unet", "loss": "dice"},
    "seed": 0,
    "fold": None,
    "protocol": "per_case",
    "primary": {"metric": "dice", "value": 0.5},
    "store_key": "k",
    "split_hash": "s",
}
TARGET = {"names": ["tumour"], "labels": [[1]], "exclusive": False}
ENTRY = {"images": {"mri": ["/nowhere/scans/image.nii.gz", None]}, "mask": "/nowhere/masks/mask.nii.gz", "reference": None}
DATA = {"target": TARGET, "labels": {"0": "background", "1": "tumour"}, "test_cases": {"c": ENTRY}}


def write_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    row = {"protocol": "per_case", "dataset": "d", "split": "s", "fold": "", "seed": 0, "model": "unet", "loss": "dice"}
    row |= {"case": "c", "patient": "c", "class": "tumour", "metric": "dice", "value": 0.5, "status": "ok"}
    row |= {"reference_volume_mm3": 8.0, "predicted_volume_mm3": 8.0}
    lines = [",".join(CASE_COLUMNS), ",".join(str(row[column]) for column in CASE_COLUMNS)]
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    (folder / "result.json").write_text(json.dumps(RESULT))
    (folder / "data.json").write_text(json.dumps(DATA))
    return folder


def config(text: str) -> Callable[[Path], None]:
    return lambda run: (run / "config.yaml").write_text(text) and None


def result(**content: object) -> Callable[[Path], None]:
    return lambda run: (run / "result.json").write_text(json.dumps(RESULT | content)) and None


def in_place_of(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / name).unlink()
        make(run / name)

    return damage


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**33)


BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{{', '.join(f'k{key}: *a{level - 1}' for key in range(8))}}}\n" for level in range(1, 9)
)
HOSTILE = {
    "alias of itself": (config(CONFIG + "a: &a {b: *a}\n"), "alias"),
    "alias bomb": (config(CONFIG + BOMB), "alias"),
    "deep YAML": (config(CONFIG + "zz: " + "[" * 50_000), "50 levels"),
    "deep YAML in blocks": (config(CONFIG + "zz:\n" + "".join(" " * n + "a:\n" for n in range(1, 200))), "50 levels"),
    "much YAML": (config(CONFIG + "zz: [" + "1," * 200_000 + "]"), "parts"),
    "sexagesimal number": (config(CONFIG + "zz: 1" + ":59" * 100_000), "characters"),
    "seed of YAML": (config(CONFIG.replace("seed: 0", f"seed: {10**30}")), "64 bits"),
    "infinite seed": (config(CONFIG.replace("seed: 0", "seed: .inf")), "config.yaml"),
    "config is a pipe": (in_place_of("config.yaml", os.mkfifo), "config.yaml cannot be read: expected an ordinary file"),
    "config is endless": (in_place_of("config.yaml", endless), "config.yaml cannot be read: expected an ordinary file"),
    "config is large": (in_place_of("config.yaml", large), "config.yaml cannot be read: expected at most"),
    "config is no text": (lambda run: (run / "config.yaml").write_bytes(b"\xff" * 9), "no UTF-8 text"),
    "config leads nowhere": (in_place_of("config.yaml", lambda path: path.symlink_to("gone")), "config.yaml is missing"),
    "deep JSON": (lambda run: (run / "result.json").write_text('{"a":' + "[" * 200_000), "result.json is no JSON"),
    "result is a pipe": (in_place_of("result.json", os.mkfifo), "result.json cannot be read"),
    "seed": (result(seed=10**30), "64 bits"),
    "seed of text": (result(seed="0"), "64 bits"),
    "value": (result(primary={"metric": "dice", "value": "text"}), "expected value to be a number"),
    "infinite value": (result(primary={"metric": "dice", "value": float("inf")}), "expected value to be a number"),
    "best epoch": (result(best_epoch=[1]), "expected best_epoch to be a number"),
    "protocol": (result(protocol={}), "expected protocol to be text"),
}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "good")


@pytest.mark.parametrize(("damage", "why"), HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_run_is_listed_and_the_others_work(good, damage, why):
    damage(write_run(good.with_name("bad")))
    library = Library(good.parent)
    bad, fine = library.runs
    assert (bad.place, bad.state, fine.place, fine.state, fine.value) == ("bad", "damaged", "good", "finished", 0.5)
    assert why in bad.error
    assert str(good.parent) not in bad.error
    assert len(bad.error) < 1000
    json.dumps([run.public() for run in library.runs], ensure_ascii=False, allow_nan=False).encode()
    assert len(library.gathered().runs) == 2
    assert len(library.cases([run.id for run in library.runs])) == 1
    assert gather(good.parent).runs["state"].tolist() == ["damaged", "finished"]


@pytest.mark.parametrize(
    "status",
    [
        {"epoch": "text"},
        {"epoch": float("nan"), "pid": 10**30},
        {"epoch": float("inf")},
        {"epochs": [1]},
        {"pid": 10**30},
        {"updated": [1]},
    ],
)
def test_a_hostile_status_is_listed(good, status):
    bad = write_run(good.with_name("bad"))
    (bad / "result.json").unlink()
    (bad / "status.json").write_text(json.dumps({"state": "running", "host": os.uname().nodename} | status))
    run, fine = Library(good.parent).runs
    assert (run.finished, fine.finished) == (False, True)
    json.dumps(run.public(), allow_nan=False)


def test_case_rows_from_a_pipe(good):
    bad = write_run(good.with_name("bad"))
    in_place_of("cases.csv", os.mkfifo)(bad)
    library = Library(good.parent)
    assert len(library.cases([run.id for run in library.runs])) == 1
    assert "expected an ordinary file" in library.run(run_id("bad")).error


@pytest.mark.parametrize("name", ["history.csv", "branches.csv"])
@pytest.mark.parametrize("make", [os.mkfifo, endless, large], ids=["pipe", "endless", "large"])
def test_a_record_of_training_that_no_run_wrote(good, name, make):
    make(write_run(good.with_name("bad")) / name)
    (good / "history.csv").write_text("epoch,train/loss\n0,0.5\n")
    (good / "branches.csv").write_text("batch,branch\n0,ln\n")
    gathered = Library(good.parent).gathered()
    assert histories(gathered)["folder"].tolist() == ["good"]
    assert branch_shares(gathered)["share"].tolist() == [1.0]
    rows, odd = read(gathered, name)
    assert (rows["folder"].tolist(), list(odd)) == (["good"], ["bad"])
    assert odd["bad"].startswith(f"{name} cannot be read: expected ")


def test_names_that_are_no_text(good):
    """Two folders that look the same once they are shown stay two."""
    places = [os.fsdecode(name) for name in (b"caf\xe8", b"caf\xe9")]
    for place in places:
        try:
            write_run(good.parent / place)
        except OSError:
            pytest.skip("this file system has names of UTF-8 alone")
    (good / "result.json").write_text(json.dumps(RESULT | {"scored_on": "\ud800"}))
    library = Library(good.parent)
    shown = [library.run(run_id(place)) for place in places]
    assert [run.place for run in shown] == [f"caf? ({run.id})" for run in shown]
    assert {run.state for run in library.runs} == {"finished"}
    json.dumps([run.public() for run in library.runs], ensure_ascii=False).encode()
    assert library.gathered().cases.index.nunique() == 3
    assert library.refresh() == library.revision
    table = Analyses(library).table([run.id for run in library.runs], "d", "tumour")
    assert sorted(id for ids in table.members.values() for id in ids) == sorted(run.id for run in library.runs)
    history = pd.DataFrame({"folder": shown[0].place, "epoch": [0.0], "train/loss": [0.5]})
    assert lines(library.runs, history, "train/loss") == {shown[0].label: [(0.0, 0.5)]}


TARGETS = {
    "no exclusive": {"names": ["a"], "labels": [[1]]},
    "names": {"names": [["a"], 2], "labels": [[1], [2]], "exclusive": False},
    "labels": {"names": ["a"], "labels": [[1, 999]], "exclusive": False},
    "negative label": {"names": ["a"], "labels": [[-1]], "exclusive": False},
    "fewer labels": {"names": ["a", "b"], "labels": [[1]], "exclusive": False},
    "a name twice": {"names": ["a", "a"], "labels": [[1], [2]], "exclusive": True},
    "nine regions": {"names": list("abcdefghi"), "labels": [[1]] * 9, "exclusive": False},
    "surrogate": {"names": ["\ud800"], "labels": [[1]], "exclusive": False},
    "list": [],
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_a_target_that_no_run_wrote(good, target):
    (good / "data.json").write_text(json.dumps(DATA | {"target": target}))
    with pytest.raises(ValueError, match=r"data\.json of .* cannot be read: expected .*target"):
        Library(good.parent).data(run_id("good"))


@pytest.mark.parametrize("mask", ["/" + "a" * 5000, "a/" * 3000, "\0", "/nowhere/masks/mask.nii.gz", "/dev"])
def test_paths_that_are_none(good, mask):
    (good / "data.json").write_text(json.dumps(DATA | {"test_cases": {"c": ENTRY | {"mask": mask}}}))
    library = Library(good.parent)
    found = Cases(library).open(library.table(run_id("good"))["case_id"][0], [run_id("good")])
    with pytest.raises(Unreadable) as raised:
        _ = found.grid
    assert "/nowhere" not in str(raised.value)
    assert inside(good, mask) is None


@pytest.mark.parametrize(
    "data",
    [
        {"labels": {"300": "a"}},
        {"preparation": {"plane": "oblique"}},
        {"test_cases": {"c": ENTRY | {"images": {"mri": ["a.nii", "b"]}}}},
    ],
    ids=["label", "plane", "channel"],
)
def test_a_case_that_no_run_wrote(data):
    with pytest.raises(ValueError, match=r"data\.json"):
        CaseFiles.of(DATA | data, "c")


def test_messages_tell_no_bytes_and_no_place(good, tmp_path):
    secret = tmp_path / "secrets" / "key.txt"
    secret.parent.mkdir()
    secret.write_text("it's \"SECRET")
    for name in ("key.txt", "key.mha", "key.nrrd"):
        path = secret.rename(secret.with_name(name)) if name != secret.name else secret
        secret = path
        entry = {"images": {"mri": [str(path), None]}, "mask": str(path), "reference": None}
        (good / "data.json").write_text(json.dumps(DATA | {"test_cases": {"c": entry}}))
        library = Library(good.parent)
        found = Cases(library).open(library.table(run_id("good"))["case_id"][0], [run_id("good")])
        for ask in (lambda: found.grid, lambda: found.scan("mri"), lambda: found.truth("tumour")):  # noqa: B023
            with pytest.raises(Unreadable) as raised:
                ask()
            assert name in str(raised.value)
            assert "it's" not in str(raised.value)
            assert "secrets" not in str(raised.value)


def test_told_leaves_other_words():
    assert told(ValueError("/a/b/c.nii: it is cut"), [Path("/a/b/c.nii")]) == "c.nii: it is cut"
    assert told(OSError(36, "File name too long", "/a/b"), []) == "File name too long"
