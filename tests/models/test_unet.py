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


@pytest.mark.parametrize("extra", [1, 2, 3])
@pytest.mark.parametrize(("dims", "size"), [(2, (24, 40)), (3, (16, 8, 24))])
def test_deep_supervision_gives_each_level_an_output_while_training(dims: int, size: tuple[int, ...], extra: int) -> None:
    network = PlainUNet(1, 3, width=2, dims=dims, deep_supervision=extra)
    images = torch.rand(2, 1, *size)
    outputs = network(images)
    assert [tuple(x.shape) for x in outputs] == [(2, 3, *(length >> k for length in size)) for k in range(extra + 1)]
    sum(x.square().mean() for x in outputs).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    assert network.eval()(images).shape == (2, 3, *size)


def test_deep_supervision_changes_nothing_else() -> None:
    networks = []
    for extra in (0, 3):
        torch.manual_seed(0)
        networks.append(PlainUNet(1, 2, width=2, deep_supervision=extra))
    plain, deep = networks
    extra_weights = {f"extra_heads.{k}.{name}" for k in range(3) for name in ("weight", "bias")}
    assert set(deep.state_dict()) - set(plain.state_dict()) == extra_weights
    assert all(torch.equal(weight, deep.state_dict()[name]) for name, weight in plain.state_dict().items())
    images = torch.rand(2, 1, 40, 24)
    assert torch.equal(plain(images), deep(images)[0])
    assert torch.equal(plain.eval()(images), deep.eval()(images))


def test_the_coarse_outputs_come_from_the_decoder_and_are_cropped_as_the_fine_one() -> None:
    network = PlainUNet(1, 1, width=2, deep_supervision=2)
    seen: dict[int, torch.Tensor] = {}
    for level, head in enumerate(network.extra_heads):
        head.register_forward_hook(lambda _, inputs, output, level=level: seen.update({level: output}))
    _, half, quarter = network(torch.rand(2, 1, 36, 20))  # padded to 48 x 32
    assert [tuple(seen[level].shape[1:]) for level in (0, 1)] == [(1, 24, 16), (1, 12, 8)]
    assert torch.equal(half, seen[0][..., :18, :10])
    assert torch.equal(quarter, seen[1][..., :9, :5])


def test_deep_supervision_refuses_images_whose_voxels_do_not_fit_together() -> None:
    network = PlainUNet(1, 1, width=2, deep_supervision=3)
    with pytest.raises(ValueError, match=r"model.deep_supervision=3 expected .* multiples of 8, got \(36, 24\)"):
        network(torch.rand(2, 1, 36, 24))
    assert network.eval()(torch.rand(2, 1, 36, 24)).shape == (2, 1, 36, 24)
    with pytest.raises(ValueError, match=r"model.deep_supervision, .* to be 0 to 3, got 4"):
        PlainUNet(1, 1, deep_supervision=4)
