from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from calf.cli import app
from calf.data.cases import Target
from calf.inspect import inspect
from tests.data.toy import ToyLayout
from tests.inspect.test_fingerprint import toy
from tests.tiny import tiny


def test_the_command_prepares_measures_and_writes_a_page_that_needs_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["inspect", *tiny(tmp_path), "dataset.target=regions"])
    assert result.exit_code == 0, result.output
    out = Path("inspect/phantom")
    found = json.loads((out / "fingerprint.json").read_text())
    assert (found["num_cases"], found["num_slices"], found["batch_size"]) == (6, 60, 8)
    page = (out / "index.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "@import" not in page
    assert "url(http" not in page
    assert page.count("<svg") == 3 * 3 + 4  # areas, branches and volumes of three targets, intensities of four modalities
    for remark in found["remarks"]:
        assert remark["says"].replace(">", "&gt;") in page
    assert "6 patients" in result.output
    assert f"written: {out / 'index.html'}" in result.output.replace("\n", "")


@pytest.mark.parametrize(
    ("options", "said"), [(["dataset=msd", "data_root=/nowhere"], "/nowhere"), (["dataset=joined"], "one by one")]
)
def test_what_cannot_be_inspected_is_said_in_words(options, said):
    result = CliRunner().invoke(app, ["inspect", *options])
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output


def test_names_stay_names(tmp_path):
    layout = ToyLayout(tmp_path / "toy")
    layout.targets["whole"] = Target(("<b>&$x_1$",), ((1, 2),))  # markup, and mathematics
    page = inspect("<script>alert(1)</script>", toy(tmp_path, layout), tmp_path / "out", 1).read_text()
    assert "<script" not in page
    assert "<b>&$" not in page
    assert "&lt;b&gt;&amp;$x_1$" in page


def test_the_same_data_give_the_same_page(tmp_path):
    first, second = (inspect("toy", toy(tmp_path), tmp_path / name, 2) for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
