"""What every conf/dataset/*.yaml promises."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from calf.data.datamodule import SliceData
from calf.data.prepare import Preparation
from tests.conftest import ROOT

YAMLS = sorted((ROOT / "conf/dataset").glob("*.yaml"))
ONES_OWN = ("phantom", "manifest", "nnunet_raw", "spine_manifest", "joined")  # made up, or of no source of ours
ELSEWHERE = {"name", "sampling", "filter"}  # the run gives the name, groups of their own the others


@pytest.fixture(params=YAMLS, ids=lambda path: path.stem)
def yaml(request: pytest.FixtureRequest) -> Path:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def dataset(yaml: Path, tmp_path: Path) -> Any:
    """The data set as it stands under the keys that train.yaml gives it; one of a single layout."""
    config = OmegaConf.load(yaml)
    if "layout" not in config:
        pytest.skip(f"{yaml.name} puts other data sets together")
    outside = {"data_root": str(tmp_path), "stores_dir": "stores", "seed": 0, "fold": None}
    return OmegaConf.create(outside | {"dataset": config}).dataset


def test_its_head_says_where_the_data_come_from(yaml: Path) -> None:
    head = yaml.read_text().split("_target_")[0]
    assert head.startswith("# ")
    assert yaml.stem in ONES_OWN or "http" in head or "doi" in head.lower() or "medicaldecathlon.com" in head


def test_it_spells_out_every_argument(dataset: Any) -> None:
    layout = get_class(dataset.layout._target_)
    for part, wanted in (
        (dataset, set(inspect.signature(SliceData).parameters)),
        (dataset.preparation, {field.name for field in fields(Preparation)}),
        (dataset.layout, set(inspect.signature(layout).parameters)),
    ):
        assert set(part) - {"_target_", "defaults"} - ELSEWHERE == wanted - ELSEWHERE


def test_its_layout_and_preparation_are_built_and_fit_each_other(dataset: Any, tmp_path: Path) -> None:
    preparation = instantiate(dataset.preparation, _convert_="all")
    layout = instantiate(dataset.layout, _convert_="all")
    assert isinstance(preparation, Preparation)
    try:
        modalities, targets = layout.modalities, layout.targets
    except ValueError as error:  # the data themselves say which there are
        if str(tmp_path) in str(error):
            pytest.skip(f"the data say what there is: {error}")
        raise
    assert set(preparation.modalities or ()) <= set(modalities)
    assert dataset.target in targets
    used = {value for target in targets.values() for values in target.labels for value in values}
    assert used <= set(layout.labels) - {0}
