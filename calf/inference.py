"""A trained network on new images, slices or volumes, optionally mirrored; the masks back in the grid of the patient's files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations, count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calf.data.cases import Case, Target
from calf.data.geometry import Geometry, slice_grid
from calf.data.prepare import Preparation, cut
from calf.data.volumes import read_images
from calf.masks import encode_prediction, finest, in_unit_range
from calf.runfolder import RunFolder
from calf.windows import Windows, as_volume

MULTIPLE = 32  # what networks with five stages divide images by

Network = Callable[[Tensor], Any]
Progress = Callable[[int, int], None]  # batches done, and of how many


@dataclass(frozen=True)
class Recipe:
    """What a network was trained to be given and to find; in 3-D ``windows`` says how."""

    preparation: Preparation
    target: Target
    neighbours: int = 0
    windows: Windows | None = None

    @classmethod
    def of_run(cls, folder: RunFolder, neighbours: int, windows: Windows | None = None) -> Recipe:
        """Of a run folder's ``data.json``."""
        data: dict[str, Any] = json.loads((folder.path / "data.json").read_text())
        settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data["preparation"].items()
        }
        target = data["target"]
        labels = tuple(tuple(values) for values in target["labels"])
        return cls(Preparation(**settings), Target(tuple(target["names"]), labels, target["exclusive"]), neighbours, windows)

    @property
    def in_channels(self) -> int:
        """Channels of the network's input."""
        assert self.preparation.modalities is not None
        return len(self.preparation.modalities) * (2 * self.neighbours + 1)


def predict_case(
    network: nn.Module,
    case: Case,
    recipe: Recipe,
    device: torch.device,
    batch_size: int,
    mirror: bool,
    progress: Progress | None = None,
) -> tuple[NDArray[np.uint8], Geometry]:
    """The mask of a case in the voxels of its own files, uint8 (X, Y, Z) in RAS order, in the store's encoding.

    Images are prepared as for training; slices larger than those of training get a larger plane instead of an error.

    Args:
        network: in evaluation mode, on ``device``.
        case: needs images alone.
        recipe: of the run that trained the network.
        device: where the network is.
        batch_size: slices, or windows of a volume, at once.
        mirror: average the probabilities over the slice and its three mirror images, or the volume and its seven.
        progress: told after each batch of slices or windows how many are done, mirror images included, and of how many.

    Raises:
        VolumeError: an image is missing or cannot be read.
    """
    preparation = recipe.preparation
    assert preparation.modalities is not None
    assert preparation.size is not None
    images, grid = read_images(case, preparation.modalities, preparation.onto)
    slices = cut(images, [], grid, _without_size(preparation))
    size = _size(preparation, slice_grid(slices.resampled, preparation.plane))
    planes = slices.planes(size, preparation.fit)
    geometry = slices.geometry(grid, preparation, size)
    if recipe.windows is None:
        num_flips, num_batches = 4, math.ceil(len(planes) / batch_size)
    else:
        top, bottom, left, right = geometry.box
        num_flips, num_batches = 8, recipe.windows.num_batches((len(planes), bottom - top, right - left), batch_size)
    counted = _counted(network, num_batches * (num_flips if mirror else 1), progress)
    if recipe.windows is None:
        batches = _batches(planes, recipe.neighbours, batch_size, device)
        logits: Iterable[Tensor] = (_logits(counted, batch, recipe.target, mirror) for batch in batches)
    else:
        windowed = partial(recipe.windows, counted, batch_size=batch_size)
        predict = partial(_logits, windowed, target=recipe.target, mirror=mirror)
        logits = [as_volume(predict, torch.from_numpy(planes).to(device), geometry.box)]
    masks = [encode_prediction(part, recipe.target).cpu().numpy() for part in logits]
    return geometry.restore(np.concatenate(masks)), geometry


def _counted(network: Network, total: int, progress: Progress | None) -> Network:
    """The network, which tells ``progress`` after each call."""
    if progress is None:
        return network
    calls = count(1)

    def call(image: Tensor) -> Any:
        output = network(image)
        progress(next(calls), total)
        return output

    return call


def _without_size(preparation: Preparation) -> Preparation:
    """So that slices may be larger than those of training."""
    return Preparation(**(vars(preparation) | {"size": None}))


def _size(preparation: Preparation, grid: tuple[int, int, int]) -> tuple[int, int]:
    """Rows and columns of a plane: those of training, or more if a padded slice needs more."""
    assert preparation.size is not None
    if preparation.fit == "resize":
        return preparation.size
    rows, columns = (
        known if need <= known else -(-need // MULTIPLE) * MULTIPLE
        for known, need in zip(preparation.size, grid[1:], strict=True)
    )
    return rows, columns


def _batches(planes: NDArray[np.uint8], neighbours: int, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Slices (B, C, H, W) in order, each with its neighbours' channels as ``calf.data.datamodule`` orders them."""
    last = len(planes) - 1
    for start in range(0, len(planes), batch_size):
        own = np.arange(start, min(start + batch_size, len(planes)))
        around = [planes[np.clip(own + step, 0, last)] for step in range(-neighbours, neighbours + 1)]
        yield torch.from_numpy(np.concatenate(around, axis=1)).to(device)


@torch.inference_mode()
def _logits(network: Network, image: Tensor, target: Target, mirror: bool) -> Tensor:
    """Logits of stored images uint8 (B, C, *S); of the mean probabilities if mirrored along every combination of axes."""
    scaled = in_unit_range(image)
    if not mirror:
        return finest(network(scaled))
    total = torch.zeros((), device=image.device)
    spatial = range(2, image.ndim)
    flips = list(chain.from_iterable(combinations(spatial, count) for count in range(len(spatial) + 1)))
    for axes in flips:
        logits = finest(network(scaled.flip(axes))).float().flip(axes)
        total = total + (logits.softmax(1) if target.exclusive else logits.sigmoid())
    mean = total / len(flips)
    return mean.log() if target.exclusive else torch.logit(mean)
