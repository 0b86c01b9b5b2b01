"""What a finished run knows, built again from its folder: the network of a checkpoint, and the layout of its data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from calf.data.cases import Case, Layout
from calf.runfolder import RunFolder

if TYPE_CHECKING:
    from torch import nn

    from calf.inference import Recipe

NETWORK = "network."  # where Segmenter keeps it
ANY = "image"  # what a network that takes any modality calls its image
#: By their whole names: what only begins so may end in another library, as calf.models.smp.torch.hub.load does.
OURS = frozenset({"calf.models.smp.build", "calf.models.unet.PlainUNet", "calf.models.unet3d.build"})


@dataclass(frozen=True)
class Trained:
    """The run of a checkpoint ``<run folder>/checkpoints/<name>.ckpt``.

    Args:
        checkpoint: the file.
        known_code: build no network but calf's own. A run's configuration names the class to be built, and so could name any
            function there is, to be called with any arguments: whose run it is decides whether that may be.

    Raises:
        ValueError: there is no such file, or it does not lie in a run folder.
    """

    checkpoint: Path
    known_code: bool = False

    def __post_init__(self) -> None:
        if not self.checkpoint.is_file():
            raise ValueError(
                f"expected a checkpoint, such as <run folder>/checkpoints/best.ckpt; {self.checkpoint} is not a file"
            )
        for needed in (self.folder.config, self.folder.path / "data.json"):
            if not needed.is_file():
                raise ValueError(
                    f"{self.checkpoint} does not lie in the folder of a finished run: expected {needed}, which says how its "
                    "images are prepared. Keep a checkpoint where training left it, or copy the whole folder"
                )

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.checkpoint.absolute().parent.parent)

    @cached_property
    def config(self) -> DictConfig:
        """The run's resolved configuration."""
        config = OmegaConf.load(self.folder.config)
        assert isinstance(config, DictConfig)
        return config

    @cached_property
    def recipe(self) -> Recipe:
        """How images become the network's input."""
        from calf.data.patches import checked_patch
        from calf.inference import Recipe
        from calf.windows import Windows

        if parts := self.config.dataset.get("parts"):
            first, *others = ({**part.preparation, "modalities": None} for part in parts.values())
            if any(other != first for other in others):
                raise ValueError(
                    "the data sets that this network was trained on were prepared differently, so there is no one way to prepare "
                    "new images: expected the same preparation in all parts of dataset"
                )
        patch = self.config.dataset.get("patch")
        windows = Windows(checked_patch(patch), **self.config.windows) if patch else None
        recipe = Recipe.of_run(self.folder, self.config.dataset.get("neighbours", 0), windows)
        if not self.one_modality:
            return recipe
        return replace(recipe, preparation=replace(recipe.preparation, modalities=(ANY,), onto=None))

    @property
    def batch_size(self) -> int:
        """Slices at once, in training."""
        return int(self.config.dataset.batch_size)

    def network(self) -> nn.Module:
        """With the checkpoint's weights, in evaluation mode, on the CPU; nothing but tensors and numbers is unpickled."""
        import torch

        options: dict[str, Any] = OmegaConf.to_container(self.config.model)  # type: ignore[assignment]
        if "encoder_weights" in options:
            options["encoder_weights"] = None  # the checkpoint has them; nothing is downloaded
        if self.known_code and (others := sorted(set(_targets(options)) - OURS)):
            raise ValueError(
                f"the network of {self.checkpoint} is built by {', '.join(others)}, which is not calf's. If you trust this run, "
                "segment with calf predict, without --known-code"
            )
        channels = self.recipe.target.num_channels
        network: nn.Module = instantiate(options, in_channels=self.recipe.in_channels, classes=channels, _convert_="all")
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        network.load_state_dict(
            {key.removeprefix(NETWORK): value for key, value in state.items() if key.startswith(NETWORK)}, strict=True
        )
        return network.eval()

    @property
    def one_modality(self) -> bool:
        """Whether every modality was a sample of its own, so that the network takes any of them, one at a time."""
        return self.config.dataset.get("samples", "slices") == "modalities"

    def cases(self, root: str) -> list[Case]:
        """Every case of the run's data set, with its files in another place; each modality by itself if it was trained so."""
        layout: Layout = instantiate(self.config.dataset.layout, root=root, _convert_="all")
        if not self.one_modality:
            return layout.cases()
        wanted = self.config.dataset.preparation.modalities or layout.modalities
        return [
            replace(case, id=f"{case.id}-{modality}", images={ANY: case.images[modality]})
            for case in layout.cases()
            for modality in wanted
            if modality in case.images
        ]


def _targets(options: Any) -> Iterator[str]:
    """Whatever would be called, at any depth, and what might become that: a run writes no interpolation."""
    if isinstance(options, dict):
        for key, value in options.items():
            yield from [str(value)] if key == "_target_" else _targets(value)
    elif isinstance(options, list):
        for value in options:
            yield from _targets(value)
    elif isinstance(options, str) and "${" in options:
        yield options
