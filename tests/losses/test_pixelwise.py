from __future__ import annotations

import monai.losses
import pytest
import segmentation_models_pytorch.losses as smp
import torch
import torch.nn.functional as F

from calf.losses.pixelwise import BCELoss, FocalLoss

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(3, 4, 7, 6, generator=GENERATOR)
INDICES = torch.randint(0, 3, (3, 7, 6), generator=GENERATOR)  # class 3 is absent
CHANNELS = (torch.rand(3, 4, 7, 6, generator=GENERATOR) > 0.8).float()
CHANNELS[0] = 0


def test_cross_entropy_is_torchs():
    assert torch.equal(BCELoss()(LOGITS, CHANNELS), F.binary_cross_entropy_with_logits(LOGITS, CHANNELS))
    assert torch.equal(BCELoss()(LOGITS, INDICES), F.cross_entropy(LOGITS, INDICES))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.25, 0.9])
def test_focal_agrees_with_monai(gamma, alpha):
    loss = FocalLoss(gamma, alpha)
    torch.testing.assert_close(loss(LOGITS, CHANNELS), monai.losses.FocalLoss(gamma=gamma, alpha=alpha)(LOGITS, CHANNELS))
    softmax = monai.losses.FocalLoss(gamma=gamma, alpha=alpha, use_softmax=True, to_onehot_y=True)
    # monai divides by the number of classes
    torch.testing.assert_close(loss(LOGITS, INDICES), 4 * softmax(LOGITS, INDICES[:, None]))


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize(("channels", "mode"), [(1, "binary"), (4, "multilabel")])
def test_focal_agrees_with_segmentation_models_pytorch(alpha, channels, mode):
    peer = smp.FocalLoss(mode, alpha=alpha, gamma=2.0)
    logits, target = LOGITS[:, :channels], CHANNELS[:, :channels]
    torch.testing.assert_close(FocalLoss(2.0, alpha)(logits, target), peer(logits, target))


def test_focal_without_focus_is_cross_entropy():
    for target in (CHANNELS, INDICES):
        torch.testing.assert_close(FocalLoss(0.0, None)(LOGITS, target), BCELoss()(LOGITS, target))


@pytest.mark.parametrize(("gamma", "alpha", "message"), [(-1.0, None, "gamma.*-1"), (2.0, 1.5, "alpha.*1.5")])
def test_an_impossible_argument_is_named(gamma, alpha, message):
    with pytest.raises(ValueError, match=message):
        FocalLoss(gamma, alpha)
