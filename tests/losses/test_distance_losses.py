"""Boundary loss, Hausdorff loss by distance transforms, distance-penalised cross-entropy: by hand and against peers."""

from __future__ import annotations

import math

import monai.losses
import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from calf.losses.distance import BoundaryLoss, DistancePenalizedCELoss, HausdorffDTLoss
from calf.losses.distance_transform import signed_distance
from tests.losses.borders import GENERATOR, SHAPES, SPACINGS, every_form, exclusive, hard_masks, noise
from tests.losses.zoo import accelerator, build, certain, regions, value_and_gradient


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
