"""The plain U-Net: its size, its two kinds, its limits."""

from __future__ import annotations

import pytest
import torch

from calf.models.unet import PlainUNet


def parameters_by_hand(in_channels: int, classes: int, width: int, kernel: int, corners: int) -> int:
    """``kernel`` weights in a convolution, ``corners`` in a transposed one; two numbers a channel in each of two norms."""
    widths = [width, 2 * width, 4 * width, 8 * width, 16 * width]
    down = sum(kernel * (a * b + b * b) + 4 * b for a, b in zip([in_channels, *widths], widths, strict=False))
    up = sum(corners * 2 * a * a + a + kernel * (2 * a * a + a * a) + 4 * a for a in widths[:-1])
    return down + up + width * classes + classes


@pytest.mark.parametrize(
    ("in_channels", "classes", "width", "dims"), [(1, 1, 64, 2), (4, 3, 64, 2), (1, 1, 16, 2), (1, 1, 16, 3), (4, 3, 8, 3)]
)
def test_number_of_parameters(in_channels: int, classes: int, width: int, dims: int) -> None:
    network = PlainUNet(in_channels, classes, width=width, dims=dims)
    expected = parameters_by_hand(in_channels, classes, width, kernel=3**dims, corners=2**dims)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_the_papers_network_has_31_million_parameters() -> None:
    assert sum(parameter.numel() for parameter in PlainUNet(1, 1).parameters()) == 31_036_481


def test_volumes() -> None:
    network = PlainUNet(2, 3, width=2, dims=3)
    logits = network(torch.rand(2, 2, 17, 24, 33))
    assert logits.shape == (2, 3, 17, 24, 33)
    logits.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_each_level_doubles_the_channels_and_halves_the_image() -> None:
    network = PlainUNet(1, 1, width=4)
    x = torch.rand(2, 1, 32, 48)
    for level, (channels, size) in enumerate([(4, (32, 48)), (8, (16, 24)), (16, (8, 12)), (32, (4, 6)), (64, (2, 3))]):
        x = network.encoder[level](network.pool(x) if level else x)
        assert x.shape == (2, channels, *size)


@pytest.mark.parametrize(("option", "message"), [({"dims": 4}, "model.dims to be 2"), ({"width": 0}, "model.width.*at least 1")])
def test_impossible_options_are_refused(option: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlainUNet(1, 1, **option)
