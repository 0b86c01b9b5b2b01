"""The laws of running a network on images that do not fit it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calf.models.padding import run_padded


def test_images_that_fit_reach_the_network_untouched() -> None:
    images = torch.rand(2, 1, 32, 64)
    assert run_padded(lambda x: x, images, multiple=32) is images


@pytest.mark.parametrize("size", [(35, 50), (48, 40), (1, 64), (7, 16, 33)])
def test_padding_is_cropped_back(size: tuple[int, ...]) -> None:
    images = torch.rand(2, 3, *size)
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    torch.testing.assert_close(run_padded(network, images, multiple=16), images, rtol=0, atol=0)
    assert all(padded % 16 == 0 and 0 <= padded - length < 16 for padded, length in zip(seen[0].shape[2:], size, strict=True))


def test_the_border_is_repeated_at_the_end() -> None:
    seen: list[Tensor] = []
    run_padded(lambda x: seen.append(x) or x, torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), multiple=3)
    assert seen[0].tolist() == [[[[1, 2, 2], [3, 4, 4], [3, 4, 4]]]]


def test_small_images_reach_the_minimum() -> None:
    seen: list[Tensor] = []
    logits = run_padded(lambda x: seen.append(x) or x, torch.rand(1, 1, 35, 150), multiple=16, minimum=128)
    assert seen[0].shape == (1, 1, 128, 160)
    assert logits.shape == (1, 1, 35, 150)


def test_the_same_as_padding_by_hand() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3, padding=1))
    images = torch.rand(2, 1, 5, 6)
    by_hand = network(F.pad(images, (0, 2, 0, 3), mode="replicate"))[..., :5, :6]
    torch.testing.assert_close(run_padded(network, images, multiple=8), by_hand, rtol=0, atol=0)


def test_logits_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected logits of the images' size \(8, 8\), got \(4, 4\).*upsampling"):
        run_padded(nn.AvgPool2d(2), torch.rand(1, 1, 8, 8), multiple=8)
