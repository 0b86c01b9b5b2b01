from __future__ import annotations

import itertools
import math

import monai.losses
import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from calf.losses import distance_transform
from calf.losses.contract import TakesDistanceMaps
from calf.losses.distance import BoundaryLoss, DistanceLoss, DistancePenalizedCELoss, HausdorffDTLoss
from calf.losses.distance_transform import signed_distance
from tests.losses.zoo import FORMS, SPATIAL, accelerator, build, certain, regions, value_and_gradient

GENERATOR = torch.Generator().manual_seed(0)
SHAPES = {"2d": (9, 5), "3d": (6, 3, 5)}
SPACINGS = {"2d": [0.5, 2.0], "3d": [3.0, 0.7, 1.3]}


def every_pair(mask: torch.Tensor, spacing: list[float]) -> np.ndarray:
    """The definition: the least of the distances to all voxels of the other kind."""
    signed = np.zeros(mask.shape)
    inside, outside = np.argwhere(mask.numpy()), np.argwhere(~mask.numpy())
    if len(inside) and len(outside):
        pairs = np.sqrt((((inside[:, None] - outside[None]) * np.array(spacing)) ** 2).sum(-1))
        signed[tuple(inside.T)], signed[tuple(outside.T)] = -pairs.min(1), pairs.min(0)
    return signed


def hard_masks(shape: tuple[int, ...]) -> torch.Tensor:
    """``(8, 1, *S)``: empty, full, one voxel, one hole, a corner, a slab from side to side, and two of noise."""
    masks = torch.zeros(8, *shape, dtype=torch.bool)
    masks[1] = True
    masks[2][tuple(n // 2 for n in shape)] = True
    masks[3] = ~masks[2]
    masks[4][tuple(slice(0, 2) for _ in shape)] = True
    masks[5][1:3] = True
    masks[6] = torch.rand(shape, generator=GENERATOR) > 0.5
    masks[7] = torch.rand(shape, generator=GENERATOR) > 0.95
    return masks.unsqueeze(1)


def exclusive(masks: torch.Tensor) -> torch.Tensor:
    """Class indices from masks: class 1, and class 2 where a mask meets the next one; class 3 is absent."""
    return masks[:, 0].long() + (masks & masks.roll(1, 0))[:, 0].long()


def noise(shape: torch.Size) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def losses(background: bool = False) -> dict[str, DistanceLoss]:
    return {
        "boundary": BoundaryLoss(None, background),
        "hausdorff": HausdorffDTLoss(2.0, False, "none", None, background),
        "one-sided": HausdorffDTLoss(2.0, True, "none", None, background),
        "penalized": DistancePenalizedCELoss(None),
    }


every_loss = pytest.mark.parametrize("name", losses())
every_form = pytest.mark.parametrize(("form", "spatial"), list(itertools.product(FORMS, SPATIAL.values())))


class TestSignedDistance:
    @pytest.mark.parametrize("transform", [distance_transform._by_scipy, distance_transform._by_shifts])
    @pytest.mark.parametrize("unit", [True, False])
    @pytest.mark.parametrize("axes", SHAPES)
    def test_it_is_the_distance_to_the_nearest_voxel_of_the_other_kind(self, axes, unit, transform):
        masks, spacing = hard_masks(SHAPES[axes]), [1.0] * len(SHAPES[axes]) if unit else SPACINGS[axes]
        expected = np.stack([every_pair(mask[0], spacing) for mask in masks])[:, None]
        found = transform(masks, spacing)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        given = None if unit else spacing
        np.testing.assert_allclose(signed_distance(masks, given), expected, rtol=1e-6)

    def test_channels_are_transformed_alone(self):
        masks = hard_masks(SHAPES["2d"]).view(2, 4, *SHAPES["2d"])
        both = signed_distance(masks)
        for sample, channel in itertools.product(range(2), range(4)):
            alone = signed_distance(masks[sample : sample + 1, channel : channel + 1])
            assert torch.equal(both[sample, channel], alone[0, 0])

    def test_an_image_of_its_usual_size(self):
        masks = torch.zeros(2, 1, 200, 160, dtype=torch.bool)
        masks[0, 0, 30:90, 100:130] = masks[1, 0, :, 3] = True
        inside, outside = (np.stack([distance_transform_edt(side[0]) for side in sides]) for sides in (masks, ~masks))
        np.testing.assert_allclose(signed_distance(masks)[:, 0], outside - inside, rtol=1e-6)
        np.testing.assert_allclose(distance_transform._by_shifts(masks, [1.0, 1.0])[:, 0], outside - inside, rtol=1e-6)

    def test_masks_in_any_memory_layout(self):
        masks = hard_masks((6, 8)).view(4, 2, 6, 8)
        assert torch.equal(signed_distance(masks.contiguous(memory_format=torch.channels_last)), signed_distance(masks))
        assert torch.equal(signed_distance(masks.mT), signed_distance(masks).mT)

    def test_no_accelerator_is_waited_for(self):
        with accelerator() as reads:
            maps = distance_transform._by_shifts(torch.empty(2, 3, 8, 6, dtype=torch.bool, device="meta"), [1.0, 2.0])
        assert reads.found == []
        assert maps.shape == (2, 3, 8, 6)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_on_a_gpu_it_is_the_same(self):
        masks = hard_masks(SHAPES["3d"])
        torch.testing.assert_close(signed_distance(masks.cuda(), SPACINGS["3d"]).cpu(), signed_distance(masks, SPACINGS["3d"]))

    @pytest.mark.parametrize("spacing", [[1.0], [1.0, 1.0, 1.0], [1.0, 0.0], [1.0, -1.0], [1.0, math.inf], [1.0, math.nan]])
    def test_an_impossible_spacing_is_named(self, spacing):
        with pytest.raises(ValueError, match="spacing to be 2 positive numbers"):
            signed_distance(torch.ones(1, 1, 4, 4, dtype=torch.bool), spacing)

    def test_probabilities_are_no_masks(self):
        with pytest.raises(ValueError, match=r"boolean masks, got torch\.float32"):
            signed_distance(torch.rand(1, 1, 4, 4))


@every_loss
class TestGivenMaps:
    @pytest.mark.parametrize("background", [False, True])
    @every_form
    def test_they_give_the_number_that_computed_ones_give(self, name, form, spatial, background):
        loss, target = losses(background)[name], regions(form, spatial)
        logits = noise(certain(form, target).shape)
        computed = value_and_gradient(loss, logits, target)
        masks = torch.stack([target == c for c in range(1, FORMS[form])], 1) if form == "exclusive" else target > 0
        maps = signed_distance(masks)
        before = maps.clone()
        loss.take_distance_maps(maps)
        for ours, expected in zip(value_and_gradient(loss, logits, target), computed, strict=True):
            assert torch.equal(ours, expected)
        assert torch.equal(maps, before)

    def test_they_are_used_and_once(self, name):
        loss, target = losses()[name], hard_masks((9, 5)).float()
        logits, maps = noise(target.shape), signed_distance(target > 0)
        computed = loss(logits, target)
        loss.take_distance_maps(maps**3)
        assert loss(logits, target) != computed
        assert loss(logits, target) == computed

    def test_none_outlives_a_call_that_failed(self, name):
        loss, target = losses()[name], hard_masks((9, 5)).float()
        logits, maps = noise(target.shape), signed_distance(target > 0)
        computed = loss(logits, target)
        loss.take_distance_maps(maps**3)
        with pytest.raises(ValueError, match="expected class indices"):
            loss(logits, target[..., :3])
        assert loss(logits, target) == computed

    def test_half_precision_is_enough(self, name):
        loss, target = losses()[name], hard_masks((30, 20)).float()
        logits = noise(target.shape)
        computed = loss(logits, target)
        loss.take_distance_maps(signed_distance(target > 0).half())
        torch.testing.assert_close(loss(logits, target), computed, rtol=2e-3, atol=0)

    def test_of_another_shape_they_are_refused(self, name):
        loss, target = losses()[name], exclusive(hard_masks((9, 5)))
        logits = noise(torch.Size((8, 4, 9, 5)))
        for shape in [(8, 4, 9, 5), (8, 3, 5, 9), (4, 3, 9, 5), (8, 9, 5)]:
            loss.take_distance_maps(torch.zeros(shape))
            with pytest.raises(ValueError, match=r"maps \(8, 3, 9, 5\), one for each foreground channel, got"):
                loss(logits, target)

    def test_of_another_target_they_are_refused(self, name):
        loss, target = losses()[name], hard_masks((40, 60)).float()
        maps = signed_distance(target > 0)
        for other in (-maps, maps.roll(1, 0), maps.flip(-1), maps.abs(), torch.zeros_like(maps), maps.clamp(max=0)):
            loss.take_distance_maps(other)
            with pytest.raises(ValueError, match="of another batch, another order of channels, or"):
                loss(noise(target.shape), target)

    def test_the_contract_knows_the_loss(self, name):
        assert isinstance(losses()[name], TakesDistanceMaps)

    def test_torch_compile_takes_them(self, name):
        loss, target = losses()[name], hard_masks((9, 5)).float()
        logits, maps = noise(target.shape), signed_distance(target > 0)
        expected = value_and_gradient(loss, logits, target)
        torch.compiler.reset()
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        for given in (False, True, True, False):
            if given:
                loss.take_distance_maps(maps)
            for ours, theirs in zip(value_and_gradient(compiled, logits, target), expected, strict=True):
                torch.testing.assert_close(ours, theirs)
            assert loss._next_maps is None


@pytest.mark.parametrize(
    "build_loss",
    [lambda s: BoundaryLoss(s, False), lambda s: HausdorffDTLoss(1.0, True, "none", s, False), DistancePenalizedCELoss],
)
class TestSpacing:
    def test_maps_in_voxels_are_not_taken_for_millimetres(self, build_loss):
        loss, target = build_loss([1.0, 3.0]), hard_masks((9, 5)).float()
        logits = noise(target.shape)
        computed = loss(logits, target)
        loss.take_distance_maps(signed_distance(target > 0))
        assert loss(logits, target) == computed != build_loss(None)(logits, target)

    def test_a_spacing_of_one_changes_nothing(self, build_loss):
        target = hard_masks((4, 5, 3)).float()
        logits = noise(target.shape)
        assert build_loss([1, 1, 1])(logits, target) == build_loss(None)(logits, target)

    def test_one_that_does_not_fit_is_named(self, build_loss):
        with pytest.raises(ValueError, match=r"positive numbers, got \[1\.0, 0\.0\]"):
            build_loss([1, 0])
        target = hard_masks((9, 5)).float()
        with pytest.raises(ValueError, match="spacing to be 2 positive numbers"):
            build_loss([1, 1, 1])(target, target)


class TestBoundary:
    @pytest.mark.parametrize("shape", [(9, 5), (6, 3, 5)])
    def test_it_agrees_with_monai(self, shape):
        masks = hard_masks(shape)
        channels = torch.cat([masks, masks.roll(3, 0)], 1).float()
        logits = noise(channels.shape)
        torch.testing.assert_close(
            BoundaryLoss(None, False)(logits, channels), monai.losses.BoundaryLoss(sigmoid=True)(logits, channels)
        )
        for background in (False, True):
            logits, target = noise(torch.Size((8, 4, *shape))), exclusive(masks)
            peer = monai.losses.BoundaryLoss(softmax=True, to_onehot_y=True, include_background=background)
            torch.testing.assert_close(BoundaryLoss(None, background)(logits, target), peer(logits, target[:, None]))

    def test_by_hand(self):
        target = torch.tensor([[[[0, 0, 1, 1, 1, 0]]]])
        p = torch.tensor([[[[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]]]], dtype=torch.float64)
        expected = (2 * 0.1 + 0.2 + 0 * 0.3 - 0.4 + 0 * 0.5 + 0.6) / 6
        assert BoundaryLoss(None, False)(p.logit(), target).item() == pytest.approx(expected, rel=1e-12)
        # distances double along the row; the finest spacing, across it, is taken off inside
        spaced = (2 * 2 * 0.1 + 2 * 0.2 - 1.5 * 0.3 - 3.5 * 0.4 - 1.5 * 0.5 + 2 * 0.6) / 6
        assert BoundaryLoss([0.5, 2.0], False)(p.logit(), target).item() == pytest.approx(spaced, rel=1e-12)

    def test_with_a_spacing_it_is_scipys_distance_in_millimetres(self):
        masks, spacing = hard_masks(SHAPES["3d"]), SPACINGS["3d"]
        probs = torch.rand(masks.shape, generator=GENERATOR, dtype=torch.float64)
        total = 0.0
        for p, mask in zip(probs[2:, 0].numpy(), masks[2:, 0].numpy(), strict=True):
            inside, outside = (distance_transform_edt(side, sampling=spacing) for side in (mask, ~mask))
            total += (p * np.where(mask, -(inside - min(spacing)), outside)).sum()
        assert BoundaryLoss(spacing, False)(probs.logit(), masks.double()).item() == pytest.approx(
            total / probs.numel(), rel=1e-6
        )

    @every_form
    def test_the_truth_is_best_and_a_gradient_step_lowers_the_loss(self, form, spatial):
        loss, target = BoundaryLoss(None, False), regions(form, spatial)
        perfect = certain(form, target, 30.0)
        values = [loss(logits, target) for logits in (perfect, noise(perfect.shape), -perfect)]
        assert values[0] < values[1] < values[2]
        zero = torch.zeros_like(perfect)
        before, gradient = value_and_gradient(loss, zero, target)
        assert loss(zero - 0.1 * gradient / gradient.abs().max(), target) < before

    @every_form
    def test_the_gradient_is_the_derivative(self, form, spatial):
        loss, target = BoundaryLoss(None, True), regions(form, spatial, batch=3)
        logits = noise(certain(form, target).shape).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda z: loss(z, target), (logits,), fast_mode=True)

    def test_it_is_finite_at_the_extremes(self):
        masks = hard_masks((9, 5)).float()
        for logits in (torch.zeros_like(masks), 1e4 * (2 * masks - 1), -1e4 * (2 * masks - 1)):
            for target in (masks, torch.zeros_like(masks), torch.ones_like(masks)):
                value, gradient = value_and_gradient(BoundaryLoss(None, False), logits, target)
                assert value.isfinite()
                assert gradient.isfinite().all()

    def test_no_accelerator_is_waited_for(self):
        logits = torch.empty(2, 3, 8, 6, device="meta", requires_grad=True)
        loss = BoundaryLoss(None, True)
        with accelerator() as reads:
            loss.take_distance_maps(torch.empty(2, 2, 8, 6, device="meta"))
            loss(logits, torch.empty(2, 8, 6, device="meta", dtype=torch.int64)).backward()
        assert reads.found == []


class TestHausdorff:
    @pytest.mark.parametrize("alpha", [2.0, 1.0, 0.5])
    @pytest.mark.parametrize("shape", [(9, 5), (6, 3, 5)])
    @pytest.mark.parametrize(
        ("scale", "peer"), [("none", monai.losses.HausdorffDTLoss), ("log", monai.losses.LogHausdorffDTLoss)]
    )
    def test_it_agrees_with_monai(self, shape, alpha, scale, peer):
        masks = hard_masks(shape)
        channels = torch.cat([masks, masks.roll(3, 0)], 1).float()
        ours = HausdorffDTLoss(alpha, False, scale, None, False)
        theirs = peer(alpha=alpha, sigmoid=True, include_background=True)
        # the certain ones make predictions that are empty, full or one voxel
        for logits in (noise(channels.shape), certain("multilabel", channels.roll(1, 0)), torch.zeros_like(channels)):
            torch.testing.assert_close(ours(logits, channels), theirs(logits, channels))
        logits, target = noise(torch.Size((8, 4, *shape))), exclusive(masks)
        for background in (False, True):
            ours = HausdorffDTLoss(alpha, False, scale, None, background)
            theirs = peer(alpha=alpha, softmax=True, to_onehot_y=True, include_background=background)
            torch.testing.assert_close(ours(logits, target), theirs(logits, target[:, None]))

    @pytest.mark.parametrize("one_sided", [False, True])
    def test_by_hand(self, one_sided):
        target = torch.tensor([[[[0, 0, 1, 1]]]])
        q = torch.tensor([[[[0.1, 0.2, 0.3, 0.6]]]], dtype=torch.float64)
        d_p, d_q = [2, 1, 1, 2], [0, 0, 0, 0] if one_sided else [3, 2, 1, 1]
        errors = [0.1, 0.2, 0.7, 0.4]
        for alpha in (1.0, 2.0):
            terms = [e**2 * (a**alpha + b**alpha) for e, a, b in zip(errors, d_p, d_q, strict=True)]
            loss = HausdorffDTLoss(alpha, one_sided, "none", None, False)
            assert loss(q.logit(), target).item() == pytest.approx(sum(terms) / 4, rel=1e-7)

    @pytest.mark.parametrize("spacing", [None, [3.0, 0.7, 1.3]])
    @pytest.mark.parametrize("alpha", [1.0, 2.0])
    def test_parts_of_the_diagonal_do_not_depend_on_the_unit(self, alpha, spacing):
        masks = hard_masks(SHAPES["3d"]).float()
        logits = noise(masks.shape)
        in_parts = HausdorffDTLoss(alpha, False, "diagonal", spacing, False)(logits, masks)
        diagonal = math.hypot(*(n * step for n, step in zip(SHAPES["3d"], spacing or [1, 1, 1], strict=True)))
        plain = HausdorffDTLoss(alpha, False, "none", spacing, False)(logits, masks)
        torch.testing.assert_close(in_parts, plain / diagonal**alpha)
        finer = HausdorffDTLoss(alpha, False, "diagonal", [step / 10 for step in spacing or [1, 1, 1]], False)
        torch.testing.assert_close(finer(logits, masks), in_parts)

    def test_the_predictions_distance_has_no_gradient(self):
        masks = hard_masks((9, 5)).float()
        logits = noise(masks.shape)
        _, gradient = value_and_gradient(HausdorffDTLoss(2.0, False, "none", None, False), logits, masks)
        q = logits.sigmoid()
        weight = signed_distance(masks > 0) ** 2 + signed_distance(q > 0.5) ** 2
        torch.testing.assert_close(gradient, 2 * (q - masks) * q * (1 - q) * weight / masks.numel())

    @pytest.mark.parametrize(("arguments", "message"), [((0.0, "none"), "alpha to be positive, got 0"), ((2.0, "mm"), "'mm'")])
    def test_an_impossible_argument_is_named(self, arguments, message):
        alpha, scale = arguments
        with pytest.raises(ValueError, match=message):
            HausdorffDTLoss(alpha, False, scale, None, False)


class TestDistancePenalizedCE:
    def test_golden_numbers(self):
        loss = DistancePenalizedCELoss(None)
        target = torch.tensor([[[[0, 0, 0, 1, 1, 1, 1, 0]]]])
        z = torch.tensor([[[[-1.0, 0.5, 0.0, 2.0, -0.5, 1.0, 0.3, -2.0]]]], dtype=torch.float64)
        # distances 3 2 1 | 1 2 2 1 | 1
        weights = [1, 1.5, 2, 2, 1, 1, 2, 2]
        entropy = [0.313262, 0.974077, 0.693147, 0.126928, 0.974077, 0.313262, 0.554355, 0.126928]
        expected = sum(w * e for w, e in zip(weights, entropy, strict=True)) / 8
        assert expected == pytest.approx(0.758054, abs=1e-6)
        assert loss(z, target).item() == pytest.approx(expected, abs=1e-6)
        # softmax over (0, z) is the same problem
        assert loss(torch.cat([torch.zeros_like(z), z], 1), target[:, 0]).item() == pytest.approx(expected, abs=1e-6)

    def test_each_class_is_a_side_of_its_own(self):
        loss, target = DistancePenalizedCELoss(None), torch.tensor([[[0, 0, 0, 1, 1, 1, 2, 2, 0]]])
        # distances 3 2 1 | 1 2 1 | 1 1 | 1: from class 1 to 2 it is as far as to the background
        weights = torch.tensor([[[1, 1.5, 2, 2, 1, 2, 2, 2, 2]]], dtype=torch.float64)
        logits = noise(torch.Size((1, 4, 1, 9))).double()
        entropy = -logits.log_softmax(1).gather(1, target[:, None])[:, 0]
        torch.testing.assert_close(loss(logits, target), (weights * entropy).mean(), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("axes", SHAPES)
    def test_weights_are_those_of_the_formula(self, axes):
        masks, spacing = hard_masks(SHAPES[axes]), SPACINGS[axes]
        logits = noise(masks.shape).double()
        expected = 0.0
        for z, mask in zip(logits[:, 0].numpy(), masks[:, 0].numpy(), strict=True):
            phi = np.zeros(mask.shape)
            for side in (mask, ~mask):
                if side.any() and not side.all():
                    inverse = distance_transform_edt(side, sampling=spacing)[side]
                    inverse = inverse.max() - inverse
                    phi[side] = inverse / inverse.max() if inverse.max() > 1e-9 else 1
            expected += ((1 + phi) * np.log1p(np.exp(np.where(mask, -z, z)))).sum()
        value = DistancePenalizedCELoss(spacing)(logits, masks.double())
        assert value.item() == pytest.approx(expected / logits.numel(), rel=1e-6)

    def test_without_a_border_it_is_cross_entropy(self):
        loss, ce = DistancePenalizedCELoss(None), torch.nn.functional.cross_entropy
        logits = noise(torch.Size((2, 3, 6, 5)))
        for index in range(3):
            target = torch.full((2, 6, 5), index)
            torch.testing.assert_close(loss(logits, target), ce(logits, target))
        for value in (0.0, 1.0):
            target = torch.full_like(logits, value)
            expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
            torch.testing.assert_close(loss(logits, target), expected)

    def test_a_line_is_all_border(self):
        loss, target = DistancePenalizedCELoss(None), torch.zeros(1, 1, 3, 5)
        target[..., 1, :] = 1
        torch.testing.assert_close(loss(torch.zeros_like(target), target), torch.tensor(2 * math.log(2)))


def test_the_yamls_are_the_published_losses():
    target = hard_masks((9, 5)).float()
    logits = noise(target.shape)
    hausdorff, peer = build("hausdorff_dt"), monai.losses.HausdorffDTLoss(sigmoid=True, include_background=True)
    torch.testing.assert_close(hausdorff(logits, target), peer(logits, target))
    assert build("distance_penalized_ce")(logits, target) == DistancePenalizedCELoss(None)(logits, target)
