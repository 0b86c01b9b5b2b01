"""Losses that look at the worst voxels: top-k cross-entropy and focal loss."""

from __future__ import annotations

from unittest import mock

import kornia.losses
import monai.losses
import pytest
import segmentation_models_pytorch.losses as smp
import torch
import torch.nn.functional as F

from calf.losses.pixelwise import CrossEntropyLoss, FocalLoss, TopKLoss
from tests.losses.pixels import CHANNELS, INDICES, LOGITS, case, every_form, every_shape, true_probability
from tests.losses.zoo import value_and_gradient

# ---- topk


def worst(logits, target, k, per_sample):
    """nnU-Net's rule, for each channel."""
    losses = -true_probability(logits, target).log().flatten(2)
    groups = losses.flatten(0, 1) if per_sample else losses.transpose(0, 1).flatten(1)
    count = max(1, int(groups.shape[1] * k / 100))
    return torch.stack([group.sort(descending=True).values[:count].mean() for group in groups]).mean()


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("k", [0.01, 10, 37.5, 100])
@every_shape
@every_form
def test_the_worst_voxels_are_those_that_a_sort_finds(form, spatial, k, per_sample):
    logits, target = case(form, spatial)
    expected = value_and_gradient(lambda z, y: worst(z, y, k, per_sample), logits, target)
    torch.testing.assert_close(value_and_gradient(TopKLoss(k, per_sample), logits, target), expected)
    # the path of accelerators
    with mock.patch("torch.compiler.is_compiling", return_value=True):
        torch.testing.assert_close(value_and_gradient(TopKLoss(k, per_sample), logits, target), expected)


@pytest.mark.parametrize("per_sample", [True, False])
def test_the_worst_hundred_per_cent_are_cross_entropy(per_sample):
    for target in (CHANNELS, INDICES):
        ours = value_and_gradient(TopKLoss(100, per_sample), LOGITS, target)
        torch.testing.assert_close(ours, value_and_gradient(CrossEntropyLoss(None, 0.0), LOGITS, target))


def test_equally_bad_voxels_share_the_places_left():
    # one voxel is worse than three, of which two have a place; the fifth is better
    logits, target = torch.tensor([-2.0, -1.0, -1.0, -1.0, 1.0]).view(1, 1, 1, 5), torch.ones(1, 1, 1, 5)
    value, gradient = value_and_gradient(TopKLoss(60, False), logits, target)
    slope = -torch.sigmoid(-logits[0, 0, 0]) / 3
    torch.testing.assert_close(value, F.softplus(torch.tensor([2.0, 1.0, 1.0])).mean())
    torch.testing.assert_close(gradient[0, 0, 0], slope * torch.tensor([1, 2 / 3, 2 / 3, 2 / 3, 0]))


# ---- focal


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.0, 0.25, 1.0])
@every_shape
@every_form
def test_focal_is_its_formula(form, spatial, gamma, alpha):
    def published(logits, target):
        p = true_probability(logits, target)
        y = (target.unsqueeze(1) if form == "exclusive" else target) > 0
        weight = 1.0 if alpha is None else torch.where(y, alpha, 1 - alpha)
        return -(weight * (1 - p) ** gamma * p.log()).mean()

    logits, target = case(form, spatial)
    ours = value_and_gradient(FocalLoss(gamma, alpha), logits, target)
    torch.testing.assert_close(ours, value_and_gradient(published, logits, target))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.25, 0.9])
@pytest.mark.parametrize("samples", [slice(0, 1), slice(None)], ids=["batch of one", "batch"])
def test_focal_agrees_with_monai_and_kornia(gamma, alpha, samples):
    loss, logits, channels, indices = FocalLoss(gamma, alpha), LOGITS[samples], CHANNELS[samples], INDICES[samples]
    for peer in (
        monai.losses.FocalLoss(gamma=gamma, alpha=alpha)(logits, channels),
        kornia.losses.binary_focal_loss_with_logits(logits, channels, alpha, gamma, "mean"),
    ):
        torch.testing.assert_close(loss(logits, channels), peer)
    for peer in (
        monai.losses.FocalLoss(gamma=gamma, alpha=alpha, use_softmax=True, to_onehot_y=True)(logits, indices[:, None]),
        kornia.losses.focal_loss(logits, indices, alpha, gamma, "mean"),
    ):
        # both divide by the number of classes
        torch.testing.assert_close(loss(logits, indices), 4 * peer)


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize(("channels", "mode"), [(1, "binary"), (4, "multilabel")])
def test_focal_agrees_with_segmentation_models_pytorch(alpha, channels, mode):
    peer = smp.FocalLoss(mode, alpha=alpha, gamma=2.0)
    logits, target = LOGITS[:, :channels], CHANNELS[:, :channels]
    torch.testing.assert_close(
        value_and_gradient(FocalLoss(2.0, alpha), logits, target), value_and_gradient(peer, logits, target)
    )


def test_focal_without_focus_is_cross_entropy():
    for target in (CHANNELS, INDICES):
        torch.testing.assert_close(FocalLoss(0.0, None)(LOGITS, target), CrossEntropyLoss(None, 0.0)(LOGITS, target))


@pytest.mark.parametrize("gamma", [0.0, 0.1, 2.0])
def test_focal_is_exact_where_probabilities_round(gamma):
    right = torch.tensor([-1e4, -200.0, -40.0, 40.0, 200.0]).view(1, 1, 1, 5)
    for target, logits in ((torch.ones_like(right), right), (torch.zeros_like(right), -right)):
        value, gradient = value_and_gradient(FocalLoss(gamma, None), logits, target)
        assert value == pytest.approx((1e4 + 200 + 40) / 5, rel=1e-6)
        # exp(-40) to the power of 1 + gamma, times what is left of the derivative, is all that the fourth voxel has
        small = torch.exp(torch.tensor(-40.0 * (1 + gamma))) * (1 + gamma) / 5
        expected = (1 - 2 * target.flatten()) * torch.tensor([1 / 5, 1 / 5, 1 / 5, small, 0])
        # without focus it is cross-entropy, whose slope is p - y
        torch.testing.assert_close(gradient.flatten(), expected, rtol=1e-5, atol=1e-37 if gamma else 1.2e-7)
        two_classes = torch.cat([torch.zeros_like(logits), logits], 1)
        torch.testing.assert_close(FocalLoss(gamma, None)(two_classes, target[:, 0].long()), value)
