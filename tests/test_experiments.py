from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from tests.conftest import ROOT

SWEEPS = sorted(
    path.relative_to(ROOT).with_suffix("") for path in (ROOT / "experiments").glob("*/*.yaml") if path.stem != "shared"
)


@pytest.mark.parametrize("sweep", SWEEPS, ids=str)
def test_every_cell_of_an_experiment_composes_to_a_whole_configuration(sweep):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name="train"):
        chosen = f"+{sweep.parent}={sweep.name}"
        swept = compose("train", [chosen], return_hydra_config=True).hydra.sweeper.params
        for key, values in OmegaConf.to_container(swept).items():
            for value in str(values).split(","):
                cfg = compose("train", [chosen, f"{key}={value}"], return_hydra_config=True)
                assert OmegaConf.select(cfg, key, default="absent") != "absent"
                assert cfg.name in (sweep.parent.name, "demo")
