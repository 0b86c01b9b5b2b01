from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

if TYPE_CHECKING:
    from calf.plan import RunPlan

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real volumes and golden values; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("CALF_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real volumes or golden values at {folder}; set CALF_SHARED to where they are")
    return folder


@pytest.fixture(scope="session")
def composed() -> Callable[..., DictConfig]:
    """The configuration of `python train.py OVERRIDES`, which then stands as that of this process."""

    def build(*overrides: str) -> DictConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name="train"):
            cfg = compose("train", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)  # names tell from it what was overridden
        return cfg

    return build


@pytest.fixture(scope="session")
def trained(composed: Callable[..., DictConfig]) -> Callable[..., RunPlan]:
    """`python train.py OVERRIDES` within this process, and where its results lie."""
    from calf import run

    def call(*overrides: str) -> RunPlan:
        cfg = composed(*overrides)
        run.run(cfg)
        return run.plan(cfg)

    return call
