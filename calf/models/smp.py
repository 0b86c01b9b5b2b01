"""The networks of segmentation_models_pytorch (smp): one function builds them all, for images of any size."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from typing import Any

import segmentation_models_pytorch as smp
import timm
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
        encoder_weights: ``imagenet`` and the like: pretrained, from the local Hugging Face cache or else the network; ``None``: random.
        options: the other arguments of the class; for a ``tu-`` encoder also those of timm's ``create_model``.

    Raises:
        ValueError: unknown architecture, encoder, weights or option, or weights that cannot be had; says what there is.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"expected model.architecture to be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    _check_encoder(encoder_name)
    _check_options(architecture, encoder_name, options)
    weights: str | bool | None = encoder_weights or None
    if weights is not None and encoder_name.startswith("tu-"):
        weights = True  # timm names the weights in the encoder's name: tu-resnet18.a1_in1k
    elif weights is not None:
        _check_weights(encoder_name, str(weights))
    try:
        network = ARCHITECTURES[architecture](
            encoder_name=encoder_name, encoder_weights=weights, in_channels=in_channels, classes=classes, **options
        )
    except OSError as error:  # all that huggingface_hub raises for a file that is neither cached nor reachable
        raise ValueError(_no_weights(encoder_name, str(encoder_weights), error)) from error
    _freeze_unused(network, options.get("encoder_depth", 5))
    return AnySize(network)


def _check_encoder(name: str) -> None:
    if name.startswith("tu-"):
        known = [f"tu-{model}" for model in timm.list_models()]
    else:
        known = [*smp_encoders, *(f"tu-{model}" for model in timm.list_models())]
    if name.split(".")[0] in known or name in smp_encoders:
        return
    near = get_close_matches(name.split(".")[0], known, n=5, cutoff=0.5)
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


def _check_weights(encoder_name: str, weights: str) -> None:
    available = smp_encoders[encoder_name]["pretrained_settings"]
    if weights not in available:
        raise ValueError(
            f"encoder {encoder_name} has no weights {weights!r}: expected model.encoder_weights to be "
            f"{', '.join(available) or 'nothing else but'} or null"
        )


def _no_weights(encoder_name: str, weights: str, error: OSError) -> str:
    """What was looked for, where, and what to do."""
    if encoder_name.startswith("tu-"):
        wanted, place = f"timm's pretrained {encoder_name.removeprefix('tu-')}", hub.HF_HUB_CACHE
    else:
        source = smp_encoders[encoder_name]["pretrained_settings"][weights]
        wanted = f"config.json and model.safetensors of the Hugging Face repository {source['repo_id']}"
        place = f"{hub.HF_HUB_CACHE}/models--{source['repo_id'].replace('/', '--')}/snapshots/{source['revision']}"
    return (
        f"the weights {weights!r} of encoder {encoder_name} cannot be had: looked for {wanted} in {place}, then online "
        f"({type(error).__name__}: {error}). Put the files there, or allow the network, or start untrained: model.encoder_weights=null"
    )


def _freeze_unused(network: smp.base.SegmentationModel, depth: int) -> None:
    """Take the gradient from what never meets the output: a ViT's classifier, the stages below a shallow encoder's last map.

    Otherwise weight decay would shrink them, distributed training would wait for them, and they would count as trained.
    An encoder that does not tell its stages (vgg, densenet, xception, inception) keeps them all.
    """
    encoder = network.encoder
    unused: list[nn.Module] = []
    if isinstance(network, smp.DPT):
        unused = [module for name, module in encoder.model.named_children() if name in ("norm", "fc_norm", "head")]
    elif depth < 5 and "get_stages" in vars(type(encoder)):
        unused = [module for stride, stage in encoder.get_stages().items() if stride > 2**depth for module in stage]
    for module in unused:
        module.requires_grad_(False)
