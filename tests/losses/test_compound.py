"""Sums of losses: their terms, weights and peers."""

from __future__ import annotations

import monai.losses
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from calf.losses.compound import WeightedSum
from tests.losses.terms import CHANNELS, INDICES, LOGITS
from tests.losses.zoo import build, config, value_and_gradient

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
