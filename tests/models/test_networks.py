"""The laws of every network, held for each YAML of conf/model: a new network is tested by being there."""

from __future__ import annotations

import inspect
import io
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from calf.models.smp import ARCHITECTURES

CONF = Path(__file__).parents[2] / "conf"
NETWORKS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
SMALL = {  # the smallest network of the kind; what is not named here takes a ResNet-18
    "segformer": ["model.encoder_name=mit_b0", "model.decoder_segmentation_channels=32"],
    "dpt": [
        "model.encoder_name=tu-vit_tiny_patch16_224",
        "model.encoder_output_indices=[1,2,3,4]",
        "model.decoder_fusion_channels=32",
    ],
    "unet_plain": ["model.width=4"],
    "unet3d": ["model.channels=[4,8,8]", "model.strides=[1,2,[1,2,2]]"],
}
SIZES = {"unet3d": (6, 36, 48)}  # of volumes, and those its strides divide
FROZEN = {  # what the logits do not depend on: see calf.models.smp
    "pspnet": ("network.encoder.layer3.", "network.encoder.layer4."),
    "dpt": ("network.encoder.model.norm.", *(f"network.encoder.model.blocks.{block}." for block in range(5, 12))),
}


def network(name: str, in_channels: int = 1, classes: int = 1, seed: int = 0, more: tuple[str, ...] = ()) -> nn.Module:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(f"model/{name}", overrides=[*SMALL.get(name, ["model.encoder_name=resnet18"]), *more])
    torch.manual_seed(seed)
    return instantiate(config.model, in_channels=in_channels, classes=classes)


def test_there_is_a_yaml_for_each_architecture() -> None:
    assert {*ARCHITECTURES, "unet_plain"} <= set(NETWORKS)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_yaml_spells_out_every_argument(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        spelled = set(compose(f"model/{name}").model)
    set_elsewhere = {"in_channels", "classes", "activation", "aux_params", "kwargs"}
    assert set(inspect.signature(ARCHITECTURES[name]).parameters) - set_elsewhere <= spelled


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_at_the_images_size_and_gradient_everywhere(name: str) -> None:
    model = network(name, in_channels=4, classes=3)
    size = SIZES.get(name, (35, 50))
    logits = model(torch.rand(2, 4, *size))
    assert logits.shape == (2, 3, *size)
    logits.square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.startswith(FROZEN.get(name, ())):
            assert not parameter.requires_grad, parameter_name
        else:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", NETWORKS)
def test_same_seed_same_network_and_its_state_restores_it(name: str) -> None:
    first, again, other = (network(name, seed=seed) for seed in (0, 0, 1))
    for key, value in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)

    size = SIZES.get(name, (48, 40))
    images = torch.rand(2, 1, *size)
    with torch.no_grad():
        expected = first.eval()(images)
        assert expected.shape == (2, 1, *size)
        assert not torch.equal(other.eval()(images), expected)
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        torch.testing.assert_close(other(images), expected, rtol=0, atol=0)


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("name", ["unet", "unetplusplus", "manet", "linknet", "fpn"])
def test_the_depth_of_the_encoder_alone_makes_a_shallower_network(name: str, depth: int) -> None:
    shallow = network(name, more=(f"model.encoder_depth={depth}",))
    assert shallow(torch.rand(2, 1, 35, 50)).shape == (2, 1, 35, 50)
    frozen = {parameter.split(".")[2] for parameter, value in shallow.named_parameters() if not value.requires_grad}
    assert frozen == {f"layer{stage}" for stage in range(depth, 5)}
