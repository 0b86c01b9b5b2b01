"""The networks of segmentation_models_pytorch (smp): one function builds them all, for images of any size."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants as hub
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from torch import Tensor, nn

from calf.models.padding import run_padded

ARCHITECTURES = smp.MODEL_ARCHITECTURES_MAPPING
SET_BY_CALF = {"activation", "aux_params"}  # a loss expects logits, and nothing but logits


class AnySize(nn.Module):
    """A network of smp that takes images of any size, see :func:`calf.models.padding.run_padded`.

    Shapes: images (B, M, H, W), floating point -> logits (B, C, H, W).

    Limit: DeepLabV3, DeepLabV3+, PAN, PSPNet and UPerNet normalise maps pooled to one pixel; they cannot train on a batch of one.
    """

    def __init__(self, network: smp.base.SegmentationModel) -> None:
        super().__init__()
        self.network = network
        self.multiple = network.encoder.output_stride if network.requires_divisible_input_shape else 1
        self.minimum = 1
        if isinstance(network, smp.DPT):
            self.multiple *= 2  # its decoder halves the deepest map once more and adds it back
        if isinstance(network, smp.PAN):
            self.minimum = 8 * self.multiple  # its attention halves the deepest map three times

    def forward(self, images: Tensor) -> Tensor:
        return run_padded(self.network, images, self.multiple, self.minimum)


def build(
    architecture: str, encoder_name: str, in_channels: int, classes: int, encoder_weights: str | None = None, **options: Any
) -> AnySize:
    """A network of smp by its name; ``conf/model`` holds one YAML for each.

    Args:
        architecture: a class of smp in lower case, e.g. ``unetplusplus``.
        encoder_name: an encoder of smp, or ``tu-`` and the name of any backbone of timm.
        in_channels: modalities M.
        classes: output channels C.
        encoder_weights: ``imagenet`` and others: pretrained, from Hugging Face's local cache or its site; ``None``: random.
        options: the other arguments of the class; for a ``tu-`` encoder also those of timm's ``create_model``.

    Raises:
        ValueError: unknown architecture, encoder, weights or option, or weights that cannot be had; says what there is.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"expected model.architecture to be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    _check_encoder(encoder_name)
    _check_options(architecture, encoder_name, options)
    if encoder_weights is not None:
        _check_weights(encoder_name, encoder_weights)
    _follow_depth(architecture, options)
    try:
        network = ARCHITECTURES[architecture](
            encoder_name=encoder_name,
            # timm names the weights in the encoder's name: tu-resnet18.a1_in1k
            encoder_weights=True if encoder_weights and encoder_name.startswith("tu-") else encoder_weights,
            in_channels=in_channels,
            classes=classes,
            **options,
        )
    except OSError as error:  # all that huggingface_hub raises for a file that is neither cached nor reachable
        raise ValueError(_no_weights(encoder_name, str(encoder_weights), error)) from error
    model = AnySize(network)
    _freeze_unused(model, encoder_name, in_channels)
    return model


def _check_encoder(name: str) -> None:
    known = [*smp_encoders, *(f"tu-{model}" for model in timm.list_models() + timm.list_pretrained())]
    if name in known:
        return
    near = get_close_matches(name, known, n=5)
    raise ValueError(
        f"unknown model.encoder_name {name!r}: "
        + (f"did you mean {', '.join(near)}? " if near else "")
        + "All: segmentation_models_pytorch.encoders.get_encoder_names(), and tu-<name> for each name of timm.list_models()"
    )


def _check_options(architecture: str, encoder_name: str, options: dict[str, Any]) -> None:
    known = set(inspect.signature(ARCHITECTURES[architecture]).parameters) - SET_BY_CALF - {"kwargs"}
    unknown = set(options) - known
    if unknown & SET_BY_CALF or (unknown and not encoder_name.startswith("tu-")):
        raise ValueError(f"unknown options {sorted(unknown)} of model {architecture}: expected some of {sorted(known)}")


def _follow_depth(architecture: str, options: dict[str, Any]) -> None:
    """Let ``encoder_depth`` alone make a network shallower: the decoder keeps its last levels, FPN ends at the image's size."""
    depth = options.get("encoder_depth", 5)
    if isinstance(channels := options.get("decoder_channels"), Sequence):
        options["decoder_channels"] = list(channels)[-depth:]
    if architecture == "fpn" and options.get("upsampling") is None:
        options["upsampling"] = 2 ** (depth - 3)


def _check_weights(encoder_name: str, weights: str) -> None:
    if encoder_name.startswith("tu-"):
        if not timm.is_model_pretrained(encoder_name.removeprefix("tu-")):
            raise ValueError(f"timm has no weights for encoder {encoder_name}: expected model.encoder_weights to be null")
    elif weights not in (available := smp_encoders[encoder_name]["pretrained_settings"]):
        raise ValueError(
            f"encoder {encoder_name} has no weights {weights!r}: "
            f"expected model.encoder_weights to be {', '.join(available)} or null"
        )


def _no_weights(encoder_name: str, weights: str, error: OSError) -> str:
    """What was looked for, where, and what to do."""
    if encoder_name.startswith("tu-"):
        settings = timm.get_pretrained_cfg(encoder_name.removeprefix("tu-"))
        repository, files = str(settings and settings.hf_hub_id), "model.safetensors"
    else:
        source = smp_encoders[encoder_name]["pretrained_settings"][weights]
        repository, files = source["repo_id"], f"snapshots/{source['revision']}/ with config.json and model.safetensors"
    folder = Path(hub.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    return (
        f"the weights {weights!r} of encoder {encoder_name} cannot be had: expected {files} in {folder}, and their download from "
        f"Hugging Face's {repository} failed ({type(error).__name__}: {error}). Run the same command once on a machine "
        "with network and copy that folder here, or start from random weights with model.encoder_weights=null"
    )


def _freeze_unused(model: AnySize, encoder_name: str, in_channels: int) -> None:
    """Take the gradient from what never meets the output: a last norm, the stages behind the deepest map that is used.

    Otherwise weight decay would shrink them, distributed training would wait for them, and they would count as trained.
    Found by a pass through a copy without memory on the meta device: no values, no random numbers.
    """
    if encoder_name.startswith("tu-") and not isinstance(model.network, smp.DPT):
        return  # of these smp takes only the stages it uses
    patches = getattr(getattr(model.network.encoder, "model", None), "patch_embed", None)
    size = getattr(patches, "img_size", None) or (64, 64)  # a vision transformer may be bound to one size
    copy = deepcopy(model).to("meta").eval()
    copy(torch.empty(1, in_channels, *size, device="meta")).sum().backward()
    for parameter, seen in zip(model.parameters(), copy.parameters(), strict=True):
        parameter.requires_grad_(seen.grad is not None)
