"""What every YAML of conf/loss owes: a whole head, every argument spelt out, and each of them changes something."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import torch
import yaml
from hydra.utils import get_method
from omegaconf import DictConfig

from calf.catalogue import FAMILIES
from calf.losses.contract import FollowsEpochs
from tests.losses.zoo import CONF, build, certain, config, entry, every_loss, observed


@every_loss
def test_the_yaml_spells_out_every_argument(name):
    parameters = inspect.signature(get_method(config(name)["_target_"])).parameters.values()
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL}
    assert set(config(name)) - {"_target_"} == named - {"kwargs"}


@every_loss
def test_the_head_of_the_yaml_is_complete(name):
    head = entry(name)
    assert head.summary.endswith(".")
    assert head.family in FAMILIES
    assert head.formula
    assert re.search(r"\d{4}, https://\S+", head.paper)


@functools.cache
def alternatives() -> dict[str, dict[str, Any]]:
    """Other values of arguments, by loss, where the one made up below will not do."""
    files = sorted((CONF.parent / "tests" / "losses" / "alternatives").glob("*.yaml"))
    return {name: other for file in files for name, other in yaml.safe_load(file.read_text()).items()}


def another(name: str, argument: str) -> Any:
    """Another value of an argument, with which a batch of lines and blobs must score differently."""
    listed = alternatives().get(name, {})
    value = config(name)[argument]
    if argument in listed:
        return listed[argument]
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int | float):
        return 2 * value if value else 1
    raise AssertionError(
        f"which other value can loss={name} loss.{argument}={value} take? Write it into tests/losses/alternatives/"
    )


#: What cannot be seen in one process on one batch, and where it is tested.
ELSEWHERE = {
    ("calf", "ddp"),  # test_ranks.py
    ("calf_region", "ddp"),
    ("deep_supervision", "decay"),  # test_deep_supervision.py: a single tensor has one scale
    ("deep_supervision", "skip_lowest"),
}


def arguments(name: str) -> list[str]:
    """Arguments of a loss, but for the losses it is composed of, which have YAMLs of their own."""
    own = {key: value for key, value in config(name).items() if key not in ("_target_", "terms")}
    return [
        key
        for key, value in own.items()
        if (name, key) not in ELSEWHERE and not (isinstance(value, DictConfig) and "_target_" in value)
    ]


def course(loss: torch.nn.Module, form: str) -> list[float]:
    """Values of a loss over four epochs of four steps of a training that goes well."""
    classes = torch.zeros(4, 16, 16, dtype=torch.int64)
    classes[:3, 2, 2:14] = 1  # a line has no area within its contour
    classes[3, 4:10, 4:6] = 1
    classes[1:, 12, 3:9] = 2
    target = classes if form == "exclusive" else torch.stack([classes == index for index in range(3)], 1).to(torch.uint8)
    noise = 20 * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    values = []
    for epoch in range(4):
        for part in observed(loss).modules():
            if isinstance(part, FollowsEpochs):
                part.start_epoch(epoch, 4)
        for step in range(4):
            values.append(float(loss(noise + (4 * epoch + step) * certain(form, target, 1.0), target).detach()))
    return values


@every_loss
def test_every_argument_changes_something(name):
    # some arguments are for exclusive classes, some for channels
    usual = {form: course(build(name), form) for form in ("exclusive", "multilabel")}
    for argument in arguments(name):
        override = f"++loss.{argument}={another(name, argument)}"
        assert any(course(build(name, override), form) != usual[form] for form in usual), override
