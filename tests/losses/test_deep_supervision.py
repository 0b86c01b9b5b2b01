"""A loss on every scale of a network's outputs."""

from __future__ import annotations

import monai.losses
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from calf.losses.compound import DeepSupervision, nearest
from calf.losses.contract import FollowsEpochs, TakesDistanceMaps
from calf.losses.distance import BoundaryLoss
from calf.losses.distance_transform import signed_distance
from calf.losses.pixelwise import CrossEntropyLoss
from tests.losses.terms import INDICES, LOGITS
from tests.losses.zoo import accelerator, build, config


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


def test_a_spacing_is_refused_within_deep_supervision():
    with pytest.raises(ValueError, match="spacing=null within deep supervision"):
        DeepSupervision(BoundaryLoss(spacing=[2.0, 1.0], background=False), decay=0.5, skip_lowest=True)
