from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from calf.catalogue import catalogue, read_entry
from tests.conftest import ROOT

HEAD = """\
# A loss for this test.
# family: region
# formula: 1 - TP
# paper: Nobody 2026, https://example.org
# breaks: gradient step: it is flat
# A further remark: this is no key.
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def test_the_head_and_the_arguments_of_a_yaml_are_read(tmp_path):
    path = write(tmp_path, "mine", HEAD + "_target_: a.B\nalpha: 0.5 # half\nsmooth: 1.0e-5\nbatch: true\nclamp: null\n")
    entry = read_entry(path, cost=1.5)
    assert (entry.name, entry.summary, entry.family) == ("mine", "A loss for this test.", "region")
    assert (entry.formula, entry.paper) == ("1 - TP", "Nobody 2026, https://example.org")
    assert entry.breaks == {"gradient step": "it is flat"}
    assert entry.defaults == "alpha=0.5 smooth=1e-05 batch=true clamp=null"


def test_a_sum_names_its_terms(tmp_path):
    text = (
        HEAD
        + "defaults:\n  - bce@terms.bce\n  - dice@terms.dice\n  - _self_\n_target_: a.Sum\nweights:\n  bce: 1.0\n  dice: 2.0\n"
    )
    assert read_entry(write(tmp_path, "sum", text)).defaults == "weights.bce=1 weights.dice=2 terms.bce=bce terms.dice=dice"


def test_a_law_that_there_is_not_is_refused_and_the_file_named(tmp_path):
    path = write(tmp_path, "mine", HEAD.replace("gradient step", "gravity") + "_target_: a.B\n")
    with pytest.raises(ValueError, match=r"mine\.yaml.*<law>.*gravity"):
        read_entry(path)


def test_losses_come_by_family_and_name_one_without_a_head_last_and_with_the_cost_that_was_measured(tmp_path):
    write(tmp_path, "b", HEAD + "_target_: a.B\n")
    write(tmp_path, "a", "_target_: a.A\n")
    write(tmp_path, "c", HEAD.replace("region", "distribution") + "_target_: a.C\n")
    costs = tmp_path / "costs.json"
    costs.write_text(json.dumps({"losses": {"b": {"times_bce": 2.5}}}))
    entries = catalogue(tmp_path, costs)
    assert [entry.name for entry in entries] == ["c", "b", "a"]
    assert [entry.cost for entry in entries] == [None, 2.5, None]
    assert [entry.cost for entry in catalogue(tmp_path)] == [None, None, None]


def test_a_term_that_is_written_out_shows_its_class_and_arguments(tmp_path):
    text = (
        HEAD
        + "defaults:\n  - dice@terms.dice\n  - _self_\n_target_: a.Sum\nterms:\n  line:\n    _target_: a.b.Line\n    width: 2\n"
    )
    assert read_entry(write(tmp_path, "sum", text)).defaults == "terms.line=Line terms.line.width=2 terms.dice=dice"


def test_the_readme_lists_every_loss_in_its_family_and_each_has_a_measured_cost():
    entries = catalogue(ROOT / "conf" / "loss", ROOT / "benchmarks" / "losses.json")
    readme = (ROOT / "README.md").read_text()
    for family in {entry.family for entry in entries}:
        (row,) = re.findall(rf"^\| {family}[^|]*\|(.*)\|$", readme, re.MULTILINE)
        assert sorted(re.findall(r"`(\w+)`", row)) == sorted(entry.name for entry in entries if entry.family == family)
    assert f"the {len(entries)} of the next section" in readme
    assert [entry.name for entry in entries if entry.cost is None] == []


def test_the_experiment_with_every_loss_has_every_loss():
    sweep = OmegaConf.load(ROOT / "experiments" / "loss_zoo" / "run.yaml").hydra.sweeper.params.loss
    # deep supervision refuses a network with one output
    expected = {path.stem for path in (ROOT / "conf" / "loss").glob("*.yaml")} - {"deep_supervision"}
    assert {name.strip() for name in sweep.split(",")} == expected
