from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from calf.losses.contract import ObservesDataset, SegmentationLoss, TakesBranches, margins, one_versus_rest, probs_and_onehot
from tests.losses.zoo import LOSSES, build

LOGITS = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
INDICES = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))

# what is wrong, logits, target, what the message must name
WRONG = {
    "logits of several scales": ([LOGITS, LOGITS[..., ::2, ::2]], INDICES, "one tensor of logits, got 2.*loss=deep_supervision"),
    "no batch axis": (torch.zeros(4, 5), torch.zeros(4, 5), r"logits \(B, C, H, W\).*\(4, 5\)"),
    "integer logits": (torch.zeros(2, 1, 4, 5, dtype=torch.int64), torch.zeros(2, 1, 4, 5), "floating-point logits.*int64"),
    "empty batch": (torch.zeros(0, 1, 4, 5), torch.zeros(0, 1, 4, 5), "without an empty axis"),
    "other size": (LOGITS, torch.zeros(2, 3, 4, 6), r"channels \(2, 3, 4, 5\).*got a target \(2, 3, 4, 6\)"),
    "other number of channels": (LOGITS, torch.zeros(2, 2, 4, 5), r"channels \(2, 3, 4, 5\).*\(2, 2, 4, 5\)"),
    "indices with a channel axis": (LOGITS, INDICES[:, None], r"without a channel axis: target\[:, 0\]"),
    "indices of another size": (LOGITS, INDICES[:, :3], r"class indices \(2, 4, 5\).*\(2, 3, 5\)"),
    "indices for one channel": (LOGITS[:, :1], INDICES, r"at least 2 channels.*target\[:, None\]"),
    "floating-point indices": (LOGITS, INDICES.float(), r"integers, got torch.float32.*target.long\(\)"),
    "class beyond the channels": (LOGITS, INDICES + 1, "values 0 to 2, got 1 to 3"),
    "negative class": (LOGITS, INDICES - 1, "values 0 to 2, got -1 to 1"),
    "floating-point mask of 0 and 255": (LOGITS[:, :1], 255.0 * (INDICES[:, None] > 1), "values 0 to 1, got 0 to 255; divide"),
    "mask of 0 and 255": (LOGITS[:, :1], 255 * (INDICES[:, None] > 1).to(torch.uint8), "values 0 to 1, got 0 to 255"),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("logits", "target", "message"), WRONG.values(), ids=WRONG)
def test_what_breaks_the_contract_is_named(name, logits, target, message):
    if name == "deep_supervision" and isinstance(logits, list):
        pytest.skip("it takes several scales")
    with pytest.raises(ValueError, match=message):
        build(name)(logits, target)


def test_exclusive_classes_become_softmax_and_onehot():
    probs, onehot = probs_and_onehot(LOGITS, INDICES)
    assert torch.equal(probs, LOGITS.softmax(1))
    assert torch.equal(onehot, F.one_hot(INDICES, 3).movedim(-1, 1).float())


def test_channels_become_sigmoids():
    target = (LOGITS > 0).to(torch.uint8)
    probs, truth = probs_and_onehot(LOGITS, target)
    assert torch.equal(probs, LOGITS.sigmoid())
    assert torch.equal(truth, target.float())


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_one_versus_rest_has_the_softmax_probabilities_of_the_foreground(channels):
    logits = 5 * torch.randn(2, channels, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    target = torch.randint(0, channels, (2, 4, 5), generator=torch.Generator().manual_seed(3))
    z, y = one_versus_rest(logits, target)
    torch.testing.assert_close(z.sigmoid(), logits.softmax(1)[:, 1:])
    assert torch.equal(y, F.one_hot(target, channels).movedim(-1, 1)[:, 1:].double())


def test_one_versus_rest_is_exact_where_the_probability_rounds_to_one():
    logits = torch.tensor([0.0, 50.0]).view(1, 2, 1, 1)
    z, _ = one_versus_rest(logits, torch.ones(1, 1, 1, dtype=torch.int64))
    assert z.item() == 50


def test_margins_are_the_log_odds_against_the_truth():
    p = LOGITS.double().softmax(1).gather(1, INDICES[:, None]).squeeze(1)
    torch.testing.assert_close(margins(LOGITS.double(), INDICES), (1 - p).log() - p.log())
    p = torch.where(LOGITS > 1, LOGITS.double().sigmoid(), (-LOGITS.double()).sigmoid())
    torch.testing.assert_close(margins(LOGITS.double(), LOGITS > 1), (1 - p).log() - p.log())


class Mean(SegmentationLoss):
    """As short as a new loss can be."""

    def compute(self, logits, target):
        probs, onehot = probs_and_onehot(logits, target)
        assert not torch.is_autocast_enabled("cpu")
        return (probs - onehot).abs().mean()


def test_a_new_loss_is_one_formula():
    with torch.autocast("cpu", torch.bfloat16):
        value = Mean()(LOGITS.bfloat16(), INDICES)
    assert value.dtype == torch.float32
    assert Mean()(LOGITS.double(), INDICES).dtype == torch.float64


def test_hooks_are_found_inside_a_sum():
    loss = build("bce_dice", "+loss.terms.calf={_target_: calf.losses.calf.CALFLoss, scope: dataset, area: pixels}",
                 "+loss.terms.calf.ddp=local", "+loss.terms.calf.clamp=null", "+loss.weights.calf=1")  # fmt: skip
    (found,) = [part for part in loss.modules() if isinstance(part, ObservesDataset)]
    assert isinstance(found, TakesBranches)
    found.observe_dataset(torch.tensor([1.0, 2, 3]))
    loss(LOGITS, INDICES)
    assert found.branches[found.last_branch[0]] == "bce_dice"
    assert not isinstance(build("bce"), ObservesDataset | TakesBranches)
