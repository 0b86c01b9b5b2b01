from __future__ import annotations

import math

import monai.losses
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calf.losses.compound import DeepSupervision, RatioBalancedSum, ScheduledSum, WeightedSum, nearest
from calf.losses.contract import FollowsEpochs, TakesDistanceMaps
from calf.losses.distance import BoundaryLoss
from calf.losses.distance_transform import signed_distance
from calf.losses.pixelwise import CrossEntropyLoss
from tests.losses.zoo import accelerator, build, config, value_and_gradient

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(3, 4, 8, 6, 10, generator=GENERATOR)
INDICES = torch.randint(0, 3, (3, 8, 6, 10), generator=GENERATOR)  # class 3 is absent
INDICES[0] = 0  # in one sample all are
CHANNELS = (torch.rand(3, 4, 8, 6, 10, generator=GENERATOR) > 0.8).float()
CHANNELS[0] = 0

SUMS = {
    "bce_dice": {"bce": "bce", "dice": "dice"},
    "dice_ce": {"ce": "ce", "dice": "dice"},
    "dice_topk": {"topk": "topk", "dice": "dice"},
    "dice_focal": {"focal": "focal", "dice": "dice"},
    "hecktor": {"dice": "squared_dice", "focal": "focal"},
    "dice_boundary": {"regional": "dice"},
    "boundary": {"regional": "generalized_dice"},
    "dice_hausdorff": {"hausdorff": "hausdorff_dt", "dice": "dice"},
}
#: What a sum sets otherwise than its sibling, as its paper has it.
CHANGED = {
    "dice_focal": {"focal": {"alpha": None}, "dice": {"background": True}},
    "hecktor": {"focal": {"alpha": None}, "dice": {"smooth": 0.5, "empty": "smooth"}},
}


class Given(nn.Module):
    """A loss whose values are listed, one for each call."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = list(values)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.sum() * 0 + self.values.pop(0)


def call(loss: nn.Module, times: int = 1) -> list[float]:
    return [float(loss(torch.zeros(1, requires_grad=True), torch.zeros(1)).detach()) for _ in range(times)]


class TestSums:
    @pytest.mark.parametrize("name", SUMS)
    def test_the_terms_are_those_of_the_sibling_files(self, name):
        terms = config(name).terms
        for term, sibling in SUMS[name].items():
            assert terms[term] == dict(config(sibling)) | CHANGED.get(name, {}).get(term, {})

    def test_an_argument_of_a_term_can_be_overridden(self):
        changed = build("bce_dice", "loss.terms.dice.alpha=0.3")
        expected = build("bce")(LOGITS, CHANNELS) + build("dice", "loss.alpha=0.3")(LOGITS, CHANNELS)
        torch.testing.assert_close(changed(LOGITS, CHANNELS), expected)

    def test_the_sum_is_weighted(self):
        value = build("bce_dice", "loss.weights.bce=0.25", "loss.weights.dice=3")(LOGITS, CHANNELS)
        torch.testing.assert_close(value, 0.25 * build("bce")(LOGITS, CHANNELS) + 3 * build("dice")(LOGITS, CHANNELS))

    @pytest.mark.parametrize("weights", [{}, {"bce": 1.0}, {"bce": 1.0, "dise": 1.0}])
    def test_a_term_without_weight_and_a_weight_without_term_are_named(self, weights):
        with pytest.raises(ValueError, match=r"a weight for each term, got terms \['bce', 'dice'\]"):
            WeightedSum({"bce": build("bce"), "dice": build("dice")}, weights)


class TestAgainstOthers:
    @pytest.mark.parametrize("batch", [True, False])
    def test_dice_and_cross_entropy_agree_with_monai(self, batch):
        # monai smooths 2 TP, ours is of TP; its cross-entropy would leave the background out as well
        empty = f"loss.terms.dice.empty={'batch' if batch else 'smooth'}"
        options = {"smooth_nr": 2e-5, "smooth_dr": 2e-5, "batch": batch}
        ours = build("dice_ce", empty, "loss.terms.dice.background=true")
        softmax = monai.losses.DiceCELoss(softmax=True, to_onehot_y=True, **options)
        sigmoid = monai.losses.DiceCELoss(sigmoid=True, **options)
        for loss, peer, target, theirs in (
            (ours, softmax, INDICES, INDICES[:, None]),
            (ours, sigmoid, CHANNELS[:, :1], CHANNELS[:, :1]),
            (build("bce_dice", empty), sigmoid, CHANNELS[:, :1], CHANNELS[:, :1]),
        ):
            logits = LOGITS[:, : theirs.shape[1]] if target is not INDICES else LOGITS
            for one, other in zip(
                value_and_gradient(loss, logits, target), value_and_gradient(peer, logits, theirs), strict=True
            ):
                torch.testing.assert_close(one, other)

    def test_the_background_is_left_out_of_dice_and_kept_in_cross_entropy(self):
        dice = monai.losses.DiceLoss(
            softmax=True, to_onehot_y=True, include_background=False, batch=True, smooth_nr=2e-5, smooth_dr=2e-5
        )
        expected = dice(LOGITS, INDICES[:, None]) + F.cross_entropy(LOGITS, INDICES)
        torch.testing.assert_close(build("dice_ce")(LOGITS, INDICES), expected)

    @pytest.mark.parametrize("batch", [True, False])
    def test_dice_and_focal_agree_with_monai(self, batch):
        # with softmax monai's focal part would still be of sigmoids
        ours = build("dice_focal", f"loss.terms.dice.empty={'batch' if batch else 'smooth'}")
        peer = monai.losses.DiceFocalLoss(sigmoid=True, gamma=2.0, batch=batch, smooth_nr=2e-5, smooth_dr=2e-5)
        for one, other in zip(
            value_and_gradient(ours, LOGITS, CHANNELS), value_and_gradient(peer, LOGITS, CHANNELS), strict=True
        ):
            torch.testing.assert_close(one, other)

    def test_hecktor_is_its_formula(self):
        p, y = torch.sigmoid(LOGITS[:, 0].double()).numpy(), CHANNELS[:, 0].double().numpy()
        samples = []
        for q, g in zip(p, y, strict=True):
            dice = 1 - (2 * (q * g).sum() + 1) / ((q**2).sum() + (g**2).sum() + 1)
            samples.append(dice - (g * (1 - q) ** 2 * np.log(q) + (1 - g) * q**2 * np.log(1 - q)).mean())
        ours = build("hecktor")(LOGITS[:, :1].double(), CHANNELS[:, :1])
        assert ours.item() == pytest.approx(np.mean(samples), rel=1e-12)

    def test_dice_and_topk_are_their_formulas(self):
        p, y = torch.softmax(LOGITS.double(), 1).numpy(), INDICES.numpy()
        entropy = np.sort(-np.log(np.take_along_axis(p, y[:, None], 1)).ravel())[::-1]
        dice = [2 * (p[:, c] * (y == c)).sum() / (p[:, c].sum() + (y == c).sum()) for c in (1, 2, 3)]
        ours = build("dice_topk", "loss.terms.dice.smooth=1e-12")(LOGITS.double(), INDICES)
        assert ours.item() == pytest.approx(entropy[: len(entropy) // 10].mean() + 1 - np.mean(dice), rel=1e-9)


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


def scales(form: str, number: int = 4) -> list[Tensor]:
    """Logits at 1, 1/2, 1/4, ... of (24, 16, 8), or of (24, 16) for form 2d."""
    size = (24, 16) if form == "2d" else (24, 16, 8)
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 3, *(length >> k for length in size), generator=generator) for k in range(number)]


def target_of(logits: list[Tensor], exclusive: bool) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    if exclusive:
        return torch.randint(0, 3, (2, *logits[0].shape[2:]), generator=generator)
    return torch.randint(0, 2, logits[0].shape, generator=generator, dtype=torch.uint8)


class TestDeepSupervision:
    def test_one_output_is_scored_as_by_the_loss_alone(self):
        expected, deep = build("dice_ce")(LOGITS, INDICES), build("deep_supervision")
        assert torch.equal(deep.eval()(LOGITS, INDICES), expected)
        assert torch.equal(deep.train()([LOGITS], INDICES), expected)

    def test_a_network_with_one_output_is_not_trained_by_it(self):
        with pytest.raises(ValueError, match=r"logits of several scales.*model=unet_plain model.deep_supervision=3"):
            build("deep_supervision").train()(LOGITS, INDICES)

    def test_any_loss_can_be_put_on_the_scales(self):
        assert config("deep_supervision").loss == config("dice_ce")
        assert config("deep_supervision", "loss@loss.loss=focal", "loss.loss.gamma=1").loss == config("focal", "loss.gamma=1")

    @pytest.mark.parametrize(
        ("decay", "skip_lowest", "weights"),
        [
            (0.5, True, [4 / 7, 2 / 7, 1 / 7, 0]),
            (0.5, False, [8 / 15, 4 / 15, 2 / 15, 1 / 15]),
            (1.0, False, [1 / 4, 1 / 4, 1 / 4, 1 / 4]),
            (0.1, True, [1 / 1.11, 0.1 / 1.11, 0.01 / 1.11, 0]),
        ],
    )
    def test_the_weights_sum_to_one(self, decay, skip_lowest, weights):
        deep = DeepSupervision(CrossEntropyLoss(None, 0.0), decay, skip_lowest)
        assert deep.weights(4) == pytest.approx(weights)
        assert sum(deep.weights(4)) == pytest.approx(1)
        assert deep.weights(1) == [1]
        logits, target = scales("3d"), target_of(scales("3d"), exclusive=True)
        coarse = [target] + [target[:, s // 2 :: s, s // 2 :: s, s // 2 :: s] for s in (2, 4, 8)]
        values = [F.cross_entropy(z, y) for z, y in zip(logits, coarse, strict=True)]
        torch.testing.assert_close(deep(logits, target), sum(w * v for w, v in zip(weights, values, strict=True)))

    @pytest.mark.parametrize("form", ["2d", "3d"])
    @pytest.mark.parametrize("exclusive", [True, False])
    def test_agrees_with_monai(self, exclusive, form):
        logits = [z.requires_grad_() for z in scales(form)]
        target = target_of(logits, exclusive)
        options = {"batch": True, "smooth_nr": 2e-5, "smooth_dr": 2e-5}
        peer = monai.losses.DiceLoss(softmax=True, to_onehot_y=True, include_background=False, **options)
        if not exclusive:
            peer = monai.losses.DiceLoss(sigmoid=True, **options)
        ours = DeepSupervision(build("dice"), decay=0.5, skip_lowest=False)
        theirs = monai.losses.DeepSupervisionLoss(peer, weights=ours.weights(4))
        values = ours(logits, target), theirs(logits, (target[:, None] if exclusive else target).float())
        torch.testing.assert_close(*values)
        for one, other in zip(*(torch.autograd.grad(value, logits) for value in values), strict=True):
            torch.testing.assert_close(one, other)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float32], ids=str)
    @pytest.mark.parametrize("size", [(12, 8, 4), (24, 4, 8), (7, 5, 3), (1, 16, 1)])
    def test_the_nearest_voxel_is_that_of_torch(self, size, dtype):
        target = torch.randint(0, 2, (2, 3, 24, 16, 8), generator=torch.Generator().manual_seed(0)).to(dtype)
        expected = F.interpolate(target.float(), size, mode="nearest-exact").to(dtype)
        assert torch.equal(nearest(target, size), expected)
        assert torch.equal(nearest(target[:, 0], size), expected[:, 0])

    def test_the_head_that_counts_nothing_has_a_gradient_of_zero(self):
        logits = [z.requires_grad_() for z in scales("2d", 3)]
        *counted, last = torch.autograd.grad(build("deep_supervision")(logits, target_of(logits, exclusive=True)), logits)
        assert all(gradient.abs().max() > 0 for gradient in counted)
        assert torch.equal(last, torch.zeros_like(last))

    def test_distance_maps_serve_the_finest_scale_and_the_others_find_their_own(self):
        logits = scales("2d", 2)
        target = torch.zeros(2, 24, 16, dtype=torch.int64)
        target[:, 4:12, 6:12] = 1
        deep = DeepSupervision(BoundaryLoss(None, background=False), decay=0.5, skip_lowest=False)
        alone = deep(logits, target)
        (taker,) = (part for part in deep.modules() if isinstance(part, TakesDistanceMaps))
        taker.take_distance_maps(signed_distance(torch.stack([target == 1, target == 2], 1)))
        torch.testing.assert_close(deep(logits, target), alone)

    def test_the_trainer_finds_what_follows_epochs_within(self):
        deep = build("deep_supervision", "loss@loss.loss=dice_boundary")
        (follower,) = (part for part in deep.modules() if isinstance(part, FollowsEpochs))
        follower.start_epoch(49, 100)
        torch.testing.assert_close(torch.stack(deep.loss.weights()), torch.tensor([0.5, 0.5]))

    def test_nobody_waits_and_it_compiles(self):
        logits = scales("3d")
        target = target_of(logits, exclusive=True)
        with accelerator() as reads:
            build("deep_supervision")([z.to("meta") for z in logits], target.to("meta"))
        assert reads.found == []
        torch.compiler.reset()
        compiled = torch.compile(build("deep_supervision"), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(logits, target), build("deep_supervision")(logits, target))

    def test_what_does_not_fit_is_named(self):
        deep = build("deep_supervision")
        logits = scales("2d", 2)
        target = target_of(logits, exclusive=True)
        with pytest.raises(ValueError, match="at least one scale, got none"):
            deep([], target)
        with pytest.raises(ValueError, match=r"no finer than the target's \(24, 16\), got \(48, 32\)"):
            deep([logits[0], torch.zeros(2, 3, 48, 32), logits[1]], target)
        with pytest.raises(ValueError, match=r"class indices \(2, 12, 8\) for these logits, got \(2, 24, 16\)"):
            deep([logits[1], logits[1]], target)
        with pytest.raises(ValueError, match="decay to be positive, got 0"):
            DeepSupervision(build("dice"), decay=0, skip_lowest=True)


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


def test_a_spacing_is_refused_within_deep_supervision():
    with pytest.raises(ValueError, match="spacing=null within deep supervision"):
        DeepSupervision(BoundaryLoss(spacing=[2.0, 1.0], background=False), decay=0.5, skip_lowest=True)
