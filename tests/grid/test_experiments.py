from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.object_type import ObjectType

from hydra_plugins.calf_grid.experiments import ExperimentSource
from tests.grid.test_launcher import HERE, ROOT, environment


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one experiment and folders that are nobody's business."""
    for folder in ("experiments/question", "runs/other"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "run.yaml").write_text(
            "# @package _global_\nhydra: {sweeper: {params: {seed: '3,4'}}}\ngrid: asked\n"
        )
    (tmp_path / "experiments" / "question" / "results.csv").write_text("")
    (tmp_path / "experiments" / "question" / "scale").mkdir()
    (tmp_path / "experiments" / "question" / "scale" / "full.yaml").write_text("epochs: 3\n")
    return tmp_path


def test_experiments_and_nothing_else_is_seen(root: Path) -> None:
    source = ExperimentSource("test", f"experiments://{root}")
    assert source.available()
    assert source.list("", None) == source.list("", ObjectType.GROUP) == ["experiments"]
    assert source.list("", ObjectType.CONFIG) == []
    assert source.list("experiments", ObjectType.GROUP) == ["question"]
    assert source.list("experiments/question", ObjectType.CONFIG) == ["run"]
    assert source.is_config("experiments/question/run")
    # its own parts are composed and not listed
    assert source.is_config("experiments/question/scale/full")
    assert source.list("experiments/question/scale", None) == ["full"]
    assert source.list("experiments/question", ObjectType.GROUP) == []
    assert source.list("experiments/question", None) == ["run"]
    assert not source.is_group("runs")
    assert not source.is_config("runs/other/run")
    assert source.list("runs", None) == []


def test_an_experiment_is_one_word_on_the_command_line(root: Path) -> None:
    shutil.copytree(ROOT / "hydra_plugins", root / "hydra_plugins")
    command = [sys.executable, str(HERE / "app.py"), "+experiments/question=run", "--cfg", "all"]
    done = subprocess.run(
        command, env=environment(root) | {"PYTHONPATH": str(root)}, cwd=root, capture_output=True, text=True, check=True
    )
    assert "grid: asked" in done.stdout
    assert "seed: 3,4" in done.stdout
