"""Sums whose weights follow the epochs, or the ratio of their terms."""

from __future__ import annotations

import math

import pytest
import torch

from calf.losses.compound import RatioBalancedSum, ScheduledSum
from calf.losses.distance import BoundaryLoss
from tests.losses.terms import INDICES, LOGITS, Given, call
from tests.losses.zoo import build


class TestSchedules:
    @pytest.mark.parametrize(
        ("schedule", "epoch", "weights"),
        [
            ("constant", 0, (1, 0.01)),
            ("constant", 99, (1, 0.01)),
            ("increase", 0, (1, 0.01)),
            ("increase", 49, (1, 0.5)),
            ("increase", 199, (1, 2)),
            ("rebalance", 0, (0.99, 0.01)),
            ("rebalance", 49, (0.5, 0.5)),
            ("rebalance", 89, (0.1, 0.9)),
            ("rebalance", 90, (0.1, 0.9)),
            ("steal", 0, (1, 0.01)),
            ("steal", 49, (0.51, 0.5)),
            ("steal", 89, (0.11, 0.9)),
            ("steal", 99, (0.1, 1)),
            ("steal", 149, (0.1, 1.5)),
        ],
    )
    def test_the_weights_of_an_epoch(self, schedule, epoch, weights):
        loss = ScheduledSum({"regional": Given(3.0), "boundary": Given(-5.0)}, schedule, alpha=0.01, step=0.01, floor=0.1)
        loss.start_epoch(epoch, 200)
        assert [float(weight) for weight in loss.weights()] == pytest.approx(weights)
        assert call(loss) == pytest.approx([3 * weights[0] - 5 * weights[1]])

    def test_stealing_is_what_a_step_an_epoch_comes_to(self):
        loss = ScheduledSum({"regional": Given(), "boundary": Given()}, "steal", alpha=0.01, step=0.01, floor=0.1)
        regional, boundary = 1.0, 0.01
        for epoch in range(120):
            loss.start_epoch(epoch, 120)
            assert [float(weight) for weight in loss.weights()] == pytest.approx([regional, boundary], abs=1e-6)
            regional, boundary = max(0.1, regional - 0.01), boundary + 0.01

    @pytest.mark.parametrize("name", ["boundary", "dice_boundary"])
    def test_the_yaml_ends_as_the_paper_does(self, name):
        loss = build(name)
        assert [float(weight) for weight in loss.weights()] == pytest.approx([0.99, 0.01])
        for epoch in (98, 99, 500):
            loss.start_epoch(epoch, 100)
            assert [float(weight) for weight in loss.weights()] == pytest.approx([0.01, 0.99], abs=1e-6)

    def test_the_weights_of_the_code_of_the_survey(self):
        loss = build("dice_boundary", "loss.alpha=0.99", "loss.step=0")
        assert [float(weight) for weight in loss.weights()] == pytest.approx([0.01, 0.99])

    def test_the_sum_is_that_of_its_terms(self):
        loss = build("dice_boundary")
        loss.start_epoch(29, 100)
        expected = 0.7 * build("dice")(LOGITS, INDICES) + 0.3 * BoundaryLoss(None, False)(LOGITS, INDICES)
        torch.testing.assert_close(loss(LOGITS, INDICES), expected)

    def test_the_epoch_is_in_the_checkpoint_and_survives_a_cast(self):
        loss, resumed = build("dice_boundary"), build("dice_boundary")
        loss.start_epoch(12, 100)
        resumed.load_state_dict(loss.state_dict())
        assert torch.equal(*(torch.stack(part.weights()) for part in (loss, resumed.bfloat16())))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"terms": {"dice": Given(), "boundary": Given()}}, r"boundary and regional, got \['boundary', 'dice'\]"),
            ({"schedule": "decrease"}, "schedule to be one of constant, increase, rebalance, steal, got 'decrease'"),
            ({"alpha": -0.1}, "got -0.1, 0.01 and 0.1"),
            ({"step": -0.1}, "got 0.01, -0.1 and 0.1"),
            ({"floor": 1.1}, "floor within 0 and 1, got 0.01, 0.01 and 1.1"),
        ],
    )
    def test_an_impossible_argument_is_named(self, changes, message):
        terms = {"regional": Given(), "boundary": Given()}
        with pytest.raises(ValueError, match=message):
            ScheduledSum(**{"terms": terms, "schedule": "constant", "alpha": 0.01, "step": 0.01, "floor": 0.1} | changes)


def balanced(hausdorff: list[float], dice: list[float], variant: str = "paper", reference: str = "hausdorff") -> RatioBalancedSum:
    return RatioBalancedSum({"hausdorff": Given(*hausdorff), "dice": Given(*dice)}, reference, variant, start=1.0)


class TestRatios:
    def test_the_weight_of_an_epoch_is_the_ratio_of_the_means_of_the_one_before(self):
        loss = balanced([8, 4, 3, 5, 7], [0.5, 0.25, 0.1, 0.2, 0.3])
        loss.start_epoch(0, 3)
        assert call(loss, 2) == pytest.approx([8 + 0.5, 4 + 0.25])
        loss.start_epoch(1, 3)
        assert call(loss, 2) == pytest.approx([3 + 16 * 0.1, 5 + 16 * 0.2])
        loss.start_epoch(2, 3)
        assert call(loss) == pytest.approx([7 + 8 / 0.3 * 0.3])

    def test_the_code_takes_the_ratio_of_each_batch_for_a_constant(self):
        x = torch.tensor([3.0, 0.5], requires_grad=True)
        loss = balanced([], [], "code")
        loss.terms["hausdorff"].forward, loss.terms["dice"].forward = (lambda z, _: z[0]), (lambda z, _: z[1])
        value = loss(x, x)
        (gradient,) = torch.autograd.grad(value, x)
        assert value.item() == pytest.approx(6, rel=1e-4)
        assert gradient.tolist() == pytest.approx([1, 3 / (0.5 + 1e-5)])

    def test_the_reference_keeps_weight_one(self):
        loss = balanced([8, 4], [0.5, 0.25], reference="dice")
        call(loss)
        loss.start_epoch(1, 2)
        assert call(loss) == pytest.approx([0.25 + 0.5 / 8 * 4])

    @pytest.mark.parametrize("epoch", [([0.0], [0.5]), ([8.0], [0.0]), ([math.inf], [0.5]), ([8.0], [math.nan]), ([], [])])
    def test_an_epoch_without_a_ratio_leaves_the_weight(self, epoch):
        loss = balanced(*epoch)
        call(loss, len(epoch[0]))
        loss.start_epoch(1, 2)
        assert loss.ratio.item() == 1

    def test_one_step_that_is_not_finite_does_not_spoil_the_epoch(self):
        loss = balanced([8, math.inf, 4], [0.5, 0.5, 0.25])
        call(loss, 3)
        loss.start_epoch(1, 2)
        assert loss.ratio.item() == pytest.approx(16)

    def test_validation_changes_nothing(self):
        loss = balanced([8, 1, 1], [0.5, 1, 1])
        call(loss)
        before = {name: value.clone() for name, value in loss.state_dict().items()}
        with torch.no_grad():
            call(loss)
        call(loss.eval())
        assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())

    def test_a_run_that_is_resumed_between_two_epochs_goes_on_the_same(self):
        loss, resumed = balanced([8, 4, 3], [0.5, 0.25, 0.1]), balanced([3], [0.1])
        call(loss, 2)
        resumed.load_state_dict(loss.state_dict())
        for part in (loss, resumed):
            part.start_epoch(1, 2)
        assert call(loss) == call(resumed) == pytest.approx([3 + 1.6])

    def test_sums_grow_after_a_cast_to_half_precision(self):
        loss = balanced([1.0] * 600, [0.5] * 600).bfloat16()
        call(loss, 600)
        assert loss.sums.tolist() == [600, 300]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"terms": {"dice": Given()}}, r"two terms .* got \['dice'\] and 'dice'"),
            ({"reference": "hd"}, r"got \['dice', 'hd2'\] and 'hd'"),
            ({"variant": "both"}, "variant to be one of paper, code, got 'both'"),
            ({"start": 0}, "start to be positive, got 0"),
        ],
    )
    def test_an_impossible_argument_is_named(self, changes, message):
        terms = {"dice": Given(), "hd2": Given()}
        with pytest.raises(ValueError, match=message):
            RatioBalancedSum(**{"terms": terms, "reference": "dice", "variant": "paper", "start": 1.0} | changes)


def test_a_schedule_without_a_step_spans_the_training():
    loss = build("boundary")
    for epoch, num_epochs, boundary in [(0, 20, 0.01), (10, 20, 0.51), (19, 20, 0.96), (50, 100, 0.51), (99, 100, 0.99)]:
        loss.start_epoch(epoch, num_epochs)
        assert float(loss.weights()[1]) == pytest.approx(boundary)
    with pytest.raises(ValueError, match=r"length is not known: set trainer.max_epochs, or loss.step"):
        loss.start_epoch(0, -1)
    build("boundary", "loss.step=0.01").start_epoch(0, -1)


def test_an_epoch_that_begins_twice_counts_once():
    loss = balanced([4.0, 1.0], [1.0, 1.0])
    call(loss)
    loss.start_epoch(1, 3)
    ratio = float(loss.ratio)
    call(loss)
    loss.start_epoch(1, 3)
    assert float(loss.ratio) == ratio == 4
    loss.start_epoch(2, 3)
    assert float(loss.ratio) == 1
