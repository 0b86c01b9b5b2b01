"""Binary, softmax and weighted cross-entropy; extremes and bad arguments of all losses of single voxels."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch.losses as smp
import torch
import torch.nn.functional as F

from calf.losses.calf import BRANCHES, CALFLoss
from calf.losses.pixelwise import BCELoss, CrossEntropyLoss, FocalLoss, TopKLoss, WeightedBCELoss
from tests.losses.pixels import CHANNELS, INDICES, LOGITS, case, every_form, every_shape, foreground
from tests.losses.published import AREAS, CLAMP
from tests.losses.zoo import certain, value_and_gradient

# ---- bce


@every_shape
@every_form
def test_binary_cross_entropy_is_its_formula(form, spatial):
    logits, target = case(form, spatial)
    p, y = foreground(logits, target)
    torch.testing.assert_close(BCELoss()(logits, target), -(y * p.log() + (1 - y) * (1 - p).log()).mean())


@every_shape
@every_form
def test_binary_cross_entropy_is_the_natural_log_branch_of_calf(form, spatial):
    logits, target = case(form, spatial)
    branch = CALFLoss("dataset", "pixels", "global", CLAMP)
    branch.observe_dataset(torch.tensor(AREAS["ln"]).float())
    torch.testing.assert_close(value_and_gradient(BCELoss(), logits, target), value_and_gradient(branch, logits, target))
    assert {BRANCHES[index] for index in branch.last_branch} == {"ln"}


def test_binary_cross_entropy_is_softmax_cross_entropy_for_two_classes_only():
    two = INDICES.clamp(max=1)
    torch.testing.assert_close(BCELoss()(LOGITS[:, :2], two), F.cross_entropy(LOGITS[:, :2], two))
    assert BCELoss()(LOGITS, INDICES) < 0.9 * F.cross_entropy(LOGITS, INDICES)


# ---- ce


@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 3.0, 7.0]], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(weights, smoothing):
    tensor = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(LOGITS, INDICES, tensor, label_smoothing=smoothing)
    assert torch.equal(CrossEntropyLoss(weights, smoothing)(LOGITS, INDICES), expected)
    assert expected.isfinite()


@pytest.mark.parametrize("weights", [None, [1.0, 1.0], [0.5, 4.0]], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_a_sigmoid_channel_is_that_of_two_classes(weights, smoothing):
    tensor = None if weights is None else torch.tensor(weights)
    two = [torch.stack([torch.zeros_like(channel), channel], 1) for channel in LOGITS.unbind(1)]
    each = [F.cross_entropy(z, y.long(), tensor, label_smoothing=smoothing) for z, y in zip(two, CHANNELS.unbind(1), strict=True)]
    torch.testing.assert_close(CrossEntropyLoss(weights, smoothing)(LOGITS, CHANNELS), torch.stack(each).mean())


def test_cross_entropy_without_weights_is_binary_cross_entropy_on_channels():
    assert torch.equal(CrossEntropyLoss(None, 0.0)(LOGITS, CHANNELS), BCELoss()(LOGITS, CHANNELS))


def test_only_ratios_of_class_weights_count():
    for target, weights in ((CHANNELS, [0.5, 2.0]), (INDICES, [0.5, 2.0, 3.0, 1.0])):
        tenfold = CrossEntropyLoss([10 * weight for weight in weights], 0.0)
        torch.testing.assert_close(CrossEntropyLoss(weights, 0.0)(LOGITS, target), tenfold(LOGITS, target))


def test_class_weights_are_no_state_and_move_with_the_loss():
    loss = CrossEntropyLoss([1, 2], 0.0)
    assert loss.state_dict() == {}
    assert loss.to("meta").class_weights.device.type == "meta"


def test_class_weights_for_another_number_of_classes_are_refused():
    loss = CrossEntropyLoss([1.0, 2.0, 3.0], 0.0)
    with pytest.raises(ValueError, match="each of 4 classes, got 3"):
        loss(LOGITS, INDICES)
    with pytest.raises(ValueError, match="background and foreground of sigmoid channels, got 3"):
        loss(LOGITS, CHANNELS)


@pytest.mark.parametrize("height", [5, 8, 10, 12, 15, 20, 30, 40])
@pytest.mark.parametrize("loss", [BCELoss(), CrossEntropyLoss(None, 0.0), CrossEntropyLoss([1.0, 3.0], 0.0)])
def test_right_voxels_are_exact_in_float32(loss, height):
    """Torch's own loses a part of them that grows with the logit, and at 20 all of it."""
    y = (torch.arange(64) % 2).float()
    logits = (2 * y - 1) * (height + torch.rand(64, generator=torch.Generator().manual_seed(0)))
    for z, truth in zip(logits.view(-1, 1, 1, 1, 1), y.view(-1, 1, 1, 1, 1), strict=True):
        (value, gradient), exact = value_and_gradient(loss, z, truth), value_and_gradient(loss, z.double(), truth)
        assert value.item() == pytest.approx(exact[0].item(), rel=3e-7, abs=0)
        assert gradient.item() == pytest.approx(exact[1].item(), abs=1.2e-7)  # p - y


# ---- weighted_bce


def balanced(logits, target, max_weight, per_sample):
    """Voxel by voxel, with the weight of each channel looked up in a loop."""
    p, y = foreground(logits, target)
    weight = torch.ones_like(y)
    for sample in range(len(y)):
        for channel in range(y.shape[1]):
            counted = y[sample, channel] if per_sample else y[:, channel]
            present, absent = int((counted == 1).sum()), int((counted == 0).sum())
            if present and absent:
                weight[sample, channel] = min(absent / present, max_weight)
    return -(weight * y * p.log() + (1 - y) * (1 - p).log()).mean()


@pytest.mark.parametrize("max_weight", [None, 2.0])
@pytest.mark.parametrize("per_sample", [True, False])
@every_shape
@every_form
def test_balanced_cross_entropy_is_its_formula(form, spatial, per_sample, max_weight):
    logits, target = case(form, spatial)
    ours = value_and_gradient(WeightedBCELoss("balanced", max_weight, per_sample), logits, target)
    expected = value_and_gradient(lambda z, y: balanced(z, y, max_weight or float("inf"), per_sample), logits, target)
    torch.testing.assert_close(ours, expected)


def test_balanced_is_the_ratio_of_xie_and_tu():
    y = CHANNELS[2:, :1].double()
    p = LOGITS[2:, :1].double().sigmoid()
    beta = 1 - y.mean()
    theirs = -(beta * y * p.log() + (1 - beta) * (1 - y) * (1 - p).log()).mean()
    torch.testing.assert_close(WeightedBCELoss("balanced", None, True)(LOGITS[2:, :1].double(), y) * (1 - beta), theirs)


def test_an_empty_and_a_full_sample_are_not_weighted():
    loss = WeightedBCELoss("balanced", 1000.0, True)
    for y in (torch.zeros_like(CHANNELS), torch.ones_like(CHANNELS)):
        torch.testing.assert_close(loss(LOGITS, y), BCELoss()(LOGITS, y))


@pytest.mark.parametrize("weight", [0.3, 1, 20.0])
def test_a_given_weight_is_torchs_pos_weight(weight):
    pos_weight = torch.tensor(float(weight))
    loss = WeightedBCELoss(weight, None, per_sample=True)
    torch.testing.assert_close(
        value_and_gradient(loss, LOGITS, CHANNELS),
        value_and_gradient(torch.nn.BCEWithLogitsLoss(pos_weight=pos_weight), LOGITS, CHANNELS),
    )
    torch.testing.assert_close(loss(LOGITS, CHANNELS), smp.SoftBCEWithLogitsLoss(pos_weight=pos_weight)(LOGITS, CHANNELS))
    if weight == 1:
        torch.testing.assert_close(loss(LOGITS, INDICES), BCELoss()(LOGITS, INDICES))


# ---- all of them


OPTIONS = {
    "ce, weighted and smoothed": lambda classes: CrossEntropyLoss([1.0, 5.0, 2.0][:classes], 0.1),
    "weighted_bce, no bound": lambda classes: WeightedBCELoss("balanced", None, True),
    "weighted_bce, batch": lambda classes: WeightedBCELoss("balanced", 10.0, False),
    "weighted_bce, number": lambda classes: WeightedBCELoss(50, None, False),
    "topk, per sample": lambda classes: TopKLoss(5, True),
    "focal, small gamma": lambda classes: FocalLoss(0.1, 0.75),
}


@every_form
@pytest.mark.parametrize("build", OPTIONS.values(), ids=OPTIONS)
def test_extremes_are_finite_and_derivatives_true_with_other_options_too(build, form):
    loss = build(3 if form == "exclusive" else 2)
    logits, target = case(form)
    one_voxel = torch.zeros_like(target)
    one_voxel.flatten()[3] = 1
    for y in (target, torch.zeros_like(target), torch.ones_like(target), one_voxel):
        for z in (torch.zeros_like(logits), certain(form, y, 1e4), -certain(form, y, 1e4)):
            value, gradient = value_and_gradient(loss, z.float(), y)
            assert value.isfinite()
            assert gradient.isfinite().all()
        assert torch.autograd.gradcheck(lambda z, y=y: loss(z, y), (logits.clone().requires_grad_(),), fast_mode=True)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CrossEntropyLoss([1.0, 0.0], 0.0), r"class_weights to be positive.*\[1.0, 0.0\]"),
        (lambda: CrossEntropyLoss([1.0], 0.0), r"class_weights.*\[1.0\]"),
        (lambda: CrossEntropyLoss(None, 1.0), "label_smoothing.*1.0"),
        (lambda: WeightedBCELoss("inverse", None, True), "weight to be a positive number or balanced, got 'inverse'"),
        (lambda: WeightedBCELoss(0, None, True), "weight.*got 0"),
        (lambda: WeightedBCELoss("balanced", 0.5, True), "max_weight.*0.5"),
        (lambda: TopKLoss(0, True), "k to be a percentage.*0"),
        (lambda: TopKLoss(101, True), "k to be a percentage.*101"),
        (lambda: FocalLoss(-1.0, None), "gamma.*-1"),
        (lambda: FocalLoss(2.0, 1.5), "alpha.*1.5"),
    ],
)
def test_an_impossible_argument_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
