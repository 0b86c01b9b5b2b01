"""What the builder of smp's networks refuses, and where it finds pretrained weights. Nothing here uses the network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from huggingface_hub import constants as hub
from safetensors.torch import save_file

from calf.models.smp import build


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, offline. The library reads its environment variables once, at import: so set here."""
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "unett"}, "model.architecture to be one of unet, .*got 'unett'"),
        ({"encoder_name": "resnt18"}, r"unknown model.encoder_name 'resnt18': did you mean .*\bresnet18\b"),
        ({"encoder_name": "tu-resnet18.a1_in2k"}, "did you mean .*tu-resnet18.a1_in1k"),
        ({"encoder_name": "§"}, "unknown model.encoder_name '§': All: segmentation_models_pytorch"),
        ({"decoder_chanels": [1]}, r"unknown options \['decoder_chanels'\] of model unet: .*'decoder_channels'"),
        ({"activation": "sigmoid"}, r"unknown options \['activation'\]"),
        ({"encoder_weights": "imagnet"}, "resnet18 has no weights 'imagnet': .*imagenet, ssl, swsl or null"),
        ({"encoder_name": "tu-test_vit4", "encoder_weights": "imagenet"}, "timm has no weights for encoder tu-test_vit4"),
        ({"architecture": "fpn", "upsampling": 8}, r"expected logits of the images' size \(64, 64\), got \(128, 128\)"),
    ],
)
def test_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{"architecture": "unet", "encoder_name": "resnet18", "in_channels": 1, "classes": 1, **options})


@pytest.mark.parametrize("encoder_name", ["resnet18", "tu-resnet18"])
def test_weights_that_cannot_be_had(encoder_name: str, cache: Path) -> None:
    with pytest.raises(ValueError, match=rf"'imagenet' of encoder {encoder_name} cannot be had: .*{cache}.*encoder_weights=null"):
        build("unet", encoder_name, in_channels=1, classes=1, encoder_weights="imagenet")


def test_weights_put_where_the_error_says_are_loaded(cache: Path) -> None:
    options = {"architecture": "fpn", "encoder_name": "resnet18", "encoder_weights": "imagenet", "in_channels": 3, "classes": 1}
    with pytest.raises(ValueError, match="cannot be had") as caught:
        build(**options)
    snapshot, folder = re.search(r"expected (\S+) with config.json and model.safetensors in (\S+),", str(caught.value)).groups()
    place = Path(folder, snapshot)
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    encoder = smp.encoders.get_encoder("resnet18", weights=None)
    pretrained = {name: torch.rand_like(value, dtype=torch.float32) for name, value in encoder.state_dict().items()}
    save_file(pretrained, place / "model.safetensors")

    loaded = build(**options).network.encoder.state_dict()
    torch.testing.assert_close(loaded["layer1.0.conv1.weight"], pretrained["layer1.0.conv1.weight"], rtol=0, atol=0)
    one_channel = build(**{**options, "in_channels": 1}).network.encoder.state_dict()
    torch.testing.assert_close(one_channel["conv1.weight"], pretrained["conv1.weight"].sum(1, keepdim=True))


def test_a_backbone_of_timm_takes_its_own_options() -> None:
    model = build("unet", "tu-resnet10t", in_channels=2, classes=3, drop_rate=0.5)
    assert model(torch.rand(2, 2, 35, 50)).shape == (2, 3, 35, 50)


def test_stages_behind_a_shallow_encoder_take_no_gradient() -> None:
    model = build("unet", "resnet18", in_channels=1, classes=1, encoder_depth=3, decoder_channels=[32, 16, 8])
    frozen = {name.split(".")[2] for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"layer3", "layer4"}
