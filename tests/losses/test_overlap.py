from __future__ import annotations

import monai.losses
import pytest
import segmentation_models_pytorch.losses as smp
import torch

from calf.losses.overlap import TverskyLoss
from tests.losses.zoo import build

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(3, 4, 7, 6, 5, generator=GENERATOR)
INDICES = torch.randint(0, 3, (3, 7, 6, 5), generator=GENERATOR)  # class 3 is absent
CHANNELS = (torch.rand(3, 4, 7, 6, 5, generator=GENERATOR) > 0.8).float()
CHANNELS[0] = 0


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 0.7), (1.0, 1.0)])
@pytest.mark.parametrize("background", [True, False])
def test_tversky_agrees_with_monai(alpha, beta, batch, background):
    ours = TverskyLoss(alpha, beta, smooth=1e-3, batch=batch, background=background)
    options = {"alpha": alpha, "beta": beta, "smooth_nr": 1e-3, "smooth_dr": 1e-3, "batch": batch}
    sigmoid = monai.losses.TverskyLoss(sigmoid=True, **options)
    torch.testing.assert_close(ours(LOGITS, CHANNELS), sigmoid(LOGITS, CHANNELS))
    softmax = monai.losses.TverskyLoss(softmax=True, to_onehot_y=True, include_background=background, **options)
    torch.testing.assert_close(ours(LOGITS, INDICES), softmax(LOGITS, INDICES[:, None]))


@pytest.mark.parametrize("batch", [True, False])
def test_dice_and_its_sum_agree_with_monai(batch):
    # their smoothing is added to 2 TP, ours to TP
    options = {"smooth_nr": 2e-5, "smooth_dr": 2e-5, "batch": batch, "include_background": False}
    ours = build("dice", f"loss.batch={batch}"), build("bce_dice", f"loss.terms.dice.batch={batch}")
    peers = (
        monai.losses.DiceLoss(softmax=True, to_onehot_y=True, **options),
        # its cross-entropy would leave the background out as well
        monai.losses.DiceCELoss(softmax=True, to_onehot_y=True, **options | {"include_background": True}),
    )
    torch.testing.assert_close(ours[0](LOGITS, INDICES), peers[0](LOGITS, INDICES[:, None]))
    with_background = build("bce_dice", f"loss.terms.dice.batch={batch}", "loss.terms.dice.background=true")
    torch.testing.assert_close(with_background(LOGITS, INDICES), peers[1](LOGITS, INDICES[:, None]))


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 0.7)])
def test_tversky_agrees_with_segmentation_models_pytorch(alpha, beta):
    ours = TverskyLoss(alpha, beta, smooth=1e-3, batch=True, background=True)
    peer = smp.TverskyLoss("multilabel", alpha=alpha, beta=beta, smooth=1e-3)
    torch.testing.assert_close(ours(LOGITS, CHANNELS), peer(LOGITS, CHANNELS))


def test_dice_of_a_mask_is_twice_the_overlap_over_both_areas():
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2, :] = 1
    predicted = torch.full_like(target, -100.0)
    predicted[..., 1, :] = 100
    assert build("dice")(predicted, target).item() == pytest.approx(1 - 2 * 4 / (4 + 8), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"), [((-1, 0.5, 1), "alpha=-1"), ((0.5, -2, 1), "beta=-2"), ((0.5, 0.5, 0), "smooth")]
)
def test_an_impossible_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TverskyLoss(*arguments, batch=True, background=True)
