"""The adaptive focal loss: the paper's formula and the authors' code."""

from __future__ import annotations

import monai.losses
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from calf.losses.adaptive import AdaptiveFocalLoss, smoothness
from tests.losses.region_cases import every_empty, every_form, every_shape, one_against_the_rest, over_samples, random_case
from tests.losses.zoo import regions


def roughness(mask):
    return np.sqrt(sum(np.gradient(mask, axis=axis) ** 2 for axis in range(mask.ndim))).mean()


def focal(p, y, gamma, of_foreground, of_background):
    p_t = np.where(y > 0, p, 1 - p)
    return (np.where(y > 0, of_foreground, of_background) * (1 - p_t) ** gamma * -np.log(p_t)).mean()


class TestAdaptiveFocalLoss:
    @every_form
    @every_shape
    @every_empty
    def test_it_is_the_formula_of_the_paper(self, form, spatial, empty):
        def loss(p, y):
            alpha = 1 - y.mean()
            return focal(p, y, y.mean() + np.mean([roughness(mask) for mask in y]), alpha, 1 - alpha)

        logits, target = random_case(form, spatial)
        expected = over_samples(loss, *one_against_the_rest(logits, target), empty)
        assert_allclose(AdaptiveFocalLoss("paper", empty)(logits, target), expected)

    @every_shape
    def test_the_paper_is_monais_focal_loss_with_that_gamma_and_alpha(self, spatial):
        for logits, target in zip(*random_case("binary", spatial), strict=True):
            y = target.numpy().astype(float)
            peer = monai.losses.FocalLoss(gamma=y.mean() + roughness(y[0]), alpha=1 - y.mean())
            ours = AdaptiveFocalLoss("paper", "batch")(logits[None].float(), target[None])
            torch.testing.assert_close(ours, peer(logits[None].float(), target[None]))

    @pytest.mark.parametrize("classes", [2, 3])
    @every_shape
    def test_the_repo_is_monais_focal_loss_with_the_weights_on_whole_channels(self, spatial, classes):
        target = regions("exclusive", spatial).clamp(max=classes - 1)
        logits = torch.randn(len(target), classes, *spatial, generator=torch.Generator().manual_seed(1))
        for z, index in zip(logits, target, strict=True):
            mask = (index > 0).numpy().astype(float)
            weight = [float((index == c).float().mean()) for c in range(classes)]
            peer = monai.losses.FocalLoss(to_onehot_y=True, gamma=mask.mean() + roughness(mask), weight=weight)
            ours = AdaptiveFocalLoss("repo", "batch")(z[None], index[None])
            torch.testing.assert_close(ours, peer(z[None], index[None, None]))

    def test_of_two_classes_the_authors_weights_are_the_shares_the_other_way_round(self):
        fg, bg = 30, 70
        inverse = np.array([1 / (fg / 100), 1 / (bg / 100)])
        assert_allclose(inverse / inverse.sum(), [bg / 100, fg / 100])  # for the channels background, foreground

    @every_shape
    def test_the_repo_on_one_channel_is_that_on_a_channel_and_its_mirror(self, spatial):
        logits, target = random_case("binary", spatial)
        y = target[4].numpy().astype(float)
        weight = [1 - y.mean(), y.mean()]
        peer = monai.losses.FocalLoss(to_onehot_y=True, gamma=y.mean() + roughness(y[0]), weight=weight)
        mirrored = torch.cat([-logits[4:], logits[4:]], 1).float()
        ours = AdaptiveFocalLoss("repo", "batch")(logits[4:].float(), target[4:])
        torch.testing.assert_close(ours, peer(mirrored, target[4:]))

    @pytest.mark.parametrize("spatial", [(7, 5), (2, 6), (1, 6), (3, 4, 5), (1, 2, 9)], ids=str)
    def test_smoothness_is_numpys_gradient(self, spatial):
        mask = (torch.rand(2, 2, *spatial, generator=torch.Generator().manual_seed(0)) > 0.6).double()
        # numpy refuses an axis of one voxel, along which nothing can change
        expected = [[roughness(channel.squeeze().numpy()) for channel in sample] for sample in mask]
        assert_allclose(smoothness(mask), expected)

    def test_gamma_of_a_small_lesion_is_next_to_nothing(self):
        grid = torch.meshgrid(*(torch.arange(n) - n // 2 for n in (160, 128, 24)), indexing="ij")
        ball = (sum(x**2 for x in grid) <= 4**2).float()[None, None]
        assert float(ball.mean() + smoothness(ball)) == pytest.approx(9e-4, abs=1e-4)

    @every_empty
    def test_an_empty_or_full_mask_weighs_nothing_in_the_paper(self, empty):
        loss, logits = AdaptiveFocalLoss("paper", empty), torch.randn(2, 1, 4, 4)
        assert loss(logits, torch.zeros_like(logits)) == 0
        assert loss(logits, torch.ones_like(logits)) == 0

    def test_an_empty_mask_leaves_the_repo_its_background_channel(self):
        logits = torch.randn(2, 2, 4, 4)
        expected = torch.nn.functional.softplus(-logits[:, 0]).mean() / 2
        torch.testing.assert_close(AdaptiveFocalLoss("repo", "smooth")(logits, torch.zeros(2, 4, 4).long()), expected)
        assert AdaptiveFocalLoss("repo", "skip")(logits, torch.zeros(2, 4, 4).long()) == 0

    @pytest.mark.parametrize("arguments", [("code", "batch"), ("paper", "mean")])
    def test_an_unknown_option_is_named(self, arguments):
        with pytest.raises(ValueError, match="expected"):
            AdaptiveFocalLoss(*arguments)
