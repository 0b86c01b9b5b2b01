from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import nn

from calf.data.cases import Target
from calf.masks import decode_mask, encode_prediction, foreground, inside
from calf.module import Segmenter
from tests.losses.zoo import accelerator, build

BINARY = Target(("whole",), ((1, 2),))
CLASSES = Target(("rim", "core"), ((1,), (2,)), exclusive=True)
REGIONS = Target(("whole", "core"), ((1, 2), (2,)))


def test_masks_are_decoded_as_the_loss_wants_them():
    mask = torch.tensor([[[0, 1], [2, 3]]], dtype=torch.uint8)
    assert decode_mask(mask % 2, BINARY).tolist() == [[[[0, 1], [0, 1]]]]
    assert decode_mask(mask, CLASSES).tolist() == mask.tolist()
    assert decode_mask(mask, CLASSES).dtype == torch.int64
    assert decode_mask(mask, REGIONS).tolist() == [[[[0, 1], [0, 1]], [[0, 0], [1, 1]]]]


@pytest.mark.parametrize("target", [BINARY, CLASSES, REGIONS])
@pytest.mark.parametrize("size", [(4, 5), (3, 4, 5)])
def test_a_confident_prediction_of_a_mask_is_that_mask(target, size):
    generator = torch.Generator().manual_seed(0)
    top = 3 if target is CLASSES else 2 ** len(target.names)
    mask = torch.randint(0, top, (2, *size), generator=generator, dtype=torch.uint8)
    if target.exclusive:
        logits = 10 * nn.functional.one_hot(mask.long(), 3).movedim(-1, 1).float()
    else:
        logits = 20 * decode_mask(mask, target) - 10
    assert torch.equal(encode_prediction(logits, target), mask)
    channels = foreground(mask, target)
    assert channels.shape == (2, len(target.names), *size)
    if target.exclusive:
        assert not (channels[:, 0] & channels[:, 1]).any()


def test_padding_is_outside():
    valid = inside(torch.tensor([[1, 3, 0, 2], [0, 4, 1, 3]], dtype=torch.int32), (4, 3))
    assert valid[0].int().tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert valid[1].int().tolist() == [[0, 1, 1]] * 4


def test_images_are_scaled_to_the_unit_interval():
    module = Segmenter(nn.Identity(), nn.MSELoss(), partial(torch.optim.SGD, lr=1), None, BINARY, None)  # type: ignore[arg-type]
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    assert module(image).flatten().tolist() == pytest.approx([0, 0.2, 1])


@pytest.mark.parametrize("name", ["calf", "calf_region", "bce_dice", "boundary", "softadapt"])
@pytest.mark.parametrize("target", [BINARY, CLASSES, REGIONS])
def test_a_training_step_waits_for_no_accelerator(name, target):
    network = nn.Conv2d(2, target.num_channels, 1, device="meta")
    module = Segmenter(network, build(name).to("meta"), partial(torch.optim.SGD, lr=1), None, target, None).to("meta")  # type: ignore[arg-type]
    batch = {
        "image": torch.zeros(4, 2, 32, 32, dtype=torch.uint8, device="meta"),
        "mask": torch.zeros(4, 32, 32, dtype=torch.uint8, device="meta"),
        "box": torch.zeros(4, 4, dtype=torch.int32, device="meta"),
        "distance": torch.zeros(4, len(target.names), 32, 32, dtype=torch.float16, device="meta"),
    }
    with mock.patch.object(Segmenter, "trainer", SimpleNamespace(max_epochs=3)):
        module.on_train_epoch_start()
    with accelerator() as reads:
        module.training_step(batch, 0).backward()
    assert reads.found == []
    assert network.weight.grad is not None
