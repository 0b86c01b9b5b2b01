from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

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
    """The configuration of `python train.py OVERRIDES`."""

    def build(*overrides: str) -> DictConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name="train"):
            return compose("train", list(overrides), return_hydra_config=True)

    return build
