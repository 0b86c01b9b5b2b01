from __future__ import annotations

import json
from pathlib import Path

import pytest

from calf.catalogue import catalogue, read_entry

HEAD = """\
# A loss for this test.
# family: region
# formula: 1 - TP
# paper: Nobody 2026, https://example.org
# breaks: gradient step: it is flat
# reads on the host: it asks the user
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
    assert entry.reads_on_the_host == "it asks the user"
    assert entry.defaults == "alpha=0.5 smooth=1e-05 batch=true clamp=null"


def test_a_sum_names_its_terms(tmp_path):
    text = (
        HEAD
        + "defaults:\n  - bce@terms.bce\n  - dice@terms.dice\n  - _self_\n_target_: a.Sum\nweights:\n  bce: 1.0\n  dice: 2.0\n"
    )
    assert read_entry(write(tmp_path, "sum", text)).defaults == "terms.bce=bce terms.dice=dice weights.bce=1 weights.dice=2"


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
