"""Every loss of conf/loss, built as a run builds it, and the inputs that the laws are tried on."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from calf.catalogue import Entry, read_entry
from calf.losses.compound import DeepSupervision
from calf.losses.contract import ObservesDataset

CONF = Path(__file__).resolve().parents[2] / "conf"
LOSSES = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))
every_loss = pytest.mark.parametrize("name", LOSSES)

#: The three forms of a target: one sigmoid channel, several, exclusive classes. Channels of the logits by form.
FORMS = {"binary": 1, "multilabel": 3, "exclusive": 3}
SPATIAL = {"2d": (12, 8), "3d": (4, 4, 8)}


@functools.cache
def config(name: str, *overrides: str) -> DictConfig:
    """``conf/loss/<name>.yaml`` with overrides such as ``loss.gamma=1``."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loss: DictConfig = compose(f"loss/{name}", list(overrides)).loss
    return loss


@functools.cache
def entry(name: str) -> Entry:
    """What the head of its YAML says."""
    return read_entry(CONF / "loss" / f"{name}.yaml")


def build(name: str, *overrides: str) -> nn.Module:
    """The loss itself, new at every call."""
    return copy.deepcopy(_built(name, *overrides))


@functools.cache
def _built(name: str, *overrides: str) -> nn.Module:
    """What is copied and never called: building a loss by Hydra takes several times as long as copying it."""
    loss: nn.Module = instantiate(config(name, *overrides))
    # the laws are tried on one tensor, which it takes in eval mode only
    return loss.eval() if isinstance(loss, DeepSupervision) else loss


def regions(form: str, spatial: tuple[int, ...], batch: int = 5, seed: int = 0) -> Tensor:
    """A target of some form: in each sample half-spaces of other sizes, a class absent here and there."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.rand(batch, 1, *spatial, generator=generator)
    # shares of the volume by sample: right-skewed, the first sample empty
    share = torch.linspace(0, 1, batch).view(batch, 1, *[1] * len(spatial)) ** 2 * 0.8
    if form == "exclusive":
        classes = torch.bucketize(position, torch.tensor([0.5, 1.0])) + 1
        return torch.where(torch.rand(batch, 1, *spatial, generator=generator) < share, classes, 0).squeeze(1)
    return (torch.rand(batch, FORMS[form], *spatial, generator=generator) < share).to(torch.uint8)


def certain(form: str, target: Tensor, height: float = 8.0) -> Tensor:
    """Logits of ``+-height`` that say exactly what the target says."""
    if form != "exclusive":
        return height * (2 * target.float() - 1)
    classes = torch.arange(FORMS[form]).view(1, -1, *[1] * (target.ndim - 1))
    return height * (2 * (target.unsqueeze(1) == classes).float() - 1)


def random_logits(form: str, target: Tensor, **kwargs: torch.dtype) -> Tensor:
    return torch.randn(certain(form, target).shape, generator=torch.Generator().manual_seed(1), **kwargs)


def value_and_gradient(loss: nn.Module, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both, detached."""
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, target)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


def observed(loss: nn.Module) -> nn.Module:
    """The loss, told of the areas of a training set."""
    for part in loss.modules():
        if isinstance(part, ObservesDataset):
            part.observe_dataset(torch.tensor([1.0, 2, 3, 3, 3]))
    return loss


class HostReads(TorchDispatchMode):
    """Counts the operations for which the host has to wait for a device."""

    WAITING = ("aten._local_scalar_dense", "aten.item", "aten.nonzero", "aten.is_nonzero", "aten.equal", "aten._to_cpu")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).startswith(self.WAITING):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def accelerator() -> Iterator[HostReads]:
    """Losses on the meta device, which takes the accelerators' path and has no values: reading one raises. It has no autocast."""
    with mock.patch("torch.autocast", return_value=nullcontext()), HostReads() as reads:
        yield reads
