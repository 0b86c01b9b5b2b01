from __future__ import annotations

import math

import monai.losses
import numpy as np
import pytest
import segmentation_models_pytorch.losses as smp
import torch

from calf.losses.overlap import FBetaLoss, FocalTverskyLoss, LogCoshTverskyLoss, SquaredDiceLoss, TverskyLoss
from tests.losses.zoo import build, value_and_gradient

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(3, 4, 7, 6, 5, generator=GENERATOR)
INDICES = torch.randint(0, 3, (3, 7, 6, 5), generator=GENERATOR)  # class 3 is absent
CHANNELS = (torch.rand(3, 4, 7, 6, 5, generator=GENERATOR) > 0.8).float()
CHANNELS[0] = 0
S = 1e-3

LOSSES = {
    "tversky": lambda empty, background: TverskyLoss(0.3, 0.7, S, empty, background),
    "f_beta": lambda empty, background: FBetaLoss(2.0, S, empty, background),
    "focal_tversky": lambda empty, background: FocalTverskyLoss(0.3, 0.7, 4 / 3, S, empty, background),
    "log_cosh": lambda empty, background: LogCoshTverskyLoss(0.5, 0.5, S, empty, background),
    "squared_dice": lambda empty, background: SquaredDiceLoss(S, empty, background),
}


def of_one_class(name, p, g):
    """The formulas, for all probabilities ``p`` and truth ``g`` of one class."""
    tp, fp, fn = (p * g).sum(), (p * (1 - g)).sum(), ((1 - p) * g).sum()
    if name == "squared_dice":
        return 1 - (2 * tp + 2 * S) / ((p**2).sum() + (g**2).sum() + 2 * S)
    if name == "f_beta":
        return 1 - ((1 + 2**2) * tp + 5 * S) / ((1 + 2**2) * tp + 2**2 * fn + fp + 5 * S)
    alpha, beta = (0.5, 0.5) if name == "log_cosh" else (0.3, 0.7)
    loss = 1 - (tp + S) / (tp + alpha * fp + beta * fn + S)
    return {"tversky": loss, "focal_tversky": loss**0.75, "log_cosh": np.log(np.cosh(loss))}[name]


def written_out(name, target, empty, background):
    """Sample by sample and class by class, in numpy."""
    z = LOGITS.double().numpy()
    if target is CHANNELS:
        p, g, first = 1 / (1 + np.exp(-z)), CHANNELS.double().numpy(), 0
    else:
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        g, first = (INDICES.numpy()[:, None] == np.arange(4).reshape(1, 4, 1, 1, 1)).astype(float), 0 if background else 1
    if empty == "batch":
        return np.mean([of_one_class(name, p[:, c], g[:, c]) for c in range(first, 4)])
    samples = []
    for sample in range(3):
        classes = [c for c in range(first, 4) if empty == "smooth" or g[sample, c].any()]
        samples.append(np.mean([of_one_class(name, p[sample, c], g[sample, c]) for c in classes]) if classes else 0)
    return np.mean(samples)


@pytest.mark.parametrize("target", [CHANNELS, INDICES], ids=["sigmoid", "exclusive"])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("empty", ["skip", "smooth", "batch"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_its_formula(name, empty, background, target):
    ours = LOSSES[name](empty, background)(LOGITS.double(), target)
    assert ours.item() == pytest.approx(written_out(name, target, empty, background), rel=1e-12)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 0.7), (1.0, 1.0)])
@pytest.mark.parametrize("background", [True, False])
def test_tversky_agrees_with_monai(alpha, beta, batch, background):
    ours = TverskyLoss(alpha, beta, S, "batch" if batch else "smooth", background)
    options = {"alpha": alpha, "beta": beta, "smooth_nr": S, "smooth_dr": S, "batch": batch}
    sigmoid = monai.losses.TverskyLoss(sigmoid=True, **options)
    torch.testing.assert_close(ours(LOGITS, CHANNELS), sigmoid(LOGITS, CHANNELS))
    softmax = monai.losses.TverskyLoss(softmax=True, to_onehot_y=True, include_background=background, **options)
    torch.testing.assert_close(ours(LOGITS, INDICES), softmax(LOGITS, INDICES[:, None]))


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize(
    ("name", "options"), [("dice", {}), ("squared_dice", {"squared_pred": True}), ("iou", {"jaccard": True})]
)
def test_dice_squared_dice_and_jaccard_agree_with_monai(name, options, batch, background):
    ours = build(name, f"loss.empty={'batch' if batch else 'smooth'}", f"loss.background={background}")
    # their smoothing is added to 2 TP, ours to TP
    options = options | {"smooth_nr": 2e-5, "smooth_dr": 2e-5, "batch": batch}
    softmax = monai.losses.DiceLoss(softmax=True, to_onehot_y=True, include_background=background, **options)
    sigmoid = monai.losses.DiceLoss(sigmoid=True, **options)
    for peer, target, theirs in ((softmax, INDICES, INDICES[:, None]), (sigmoid, CHANNELS, CHANNELS)):
        value, gradient = value_and_gradient(ours, LOGITS, target)
        their_value, their_gradient = value_and_gradient(peer, LOGITS, theirs)
        torch.testing.assert_close(value, their_value)
        torch.testing.assert_close(gradient, their_gradient)


@pytest.mark.parametrize("batch", [True, False])
def test_the_sum_of_cross_entropy_and_dice_agrees_with_monai(batch):
    empty = f"loss.terms.dice.empty={'batch' if batch else 'smooth'}"
    ours = build("dice_ce", empty, "loss.terms.dice.background=true")
    peer = monai.losses.DiceCELoss(softmax=True, to_onehot_y=True, smooth_nr=2e-5, smooth_dr=2e-5, batch=batch)
    torch.testing.assert_close(ours(LOGITS, INDICES), peer(LOGITS, INDICES[:, None]))


# theirs is 0 for a class that is absent from the truth: all of these are there, if not in every sample
@pytest.mark.parametrize(("logits", "target", "mode"), [(LOGITS, CHANNELS, "multilabel"), (LOGITS[:, :3], INDICES, "multiclass")])
def test_pooled_losses_agree_with_segmentation_models_pytorch(logits, target, mode):
    options = {"empty": "batch", "smooth": S, "background": True}
    pairs = [
        (TverskyLoss(0.5, 0.5, **options), smp.DiceLoss(mode, smooth=S)),
        (TverskyLoss(1, 1, **options), smp.JaccardLoss(mode, smooth=S)),
        (TverskyLoss(0.3, 0.7, **options), smp.TverskyLoss(mode, alpha=0.3, beta=0.7, smooth=S)),
    ]
    for ours, peer in pairs:
        torch.testing.assert_close(ours(logits, target), peer(logits, target))


def test_focal_tversky_of_one_channel_agrees_with_segmentation_models_pytorch():
    # with more channels theirs is a power of the mean
    logits, target = LOGITS[:, :1], CHANNELS[:, :1]
    peer = smp.TverskyLoss("binary", alpha=0.3, beta=0.7, gamma=0.75, smooth=S)
    torch.testing.assert_close(FocalTverskyLoss(0.3, 0.7, 4 / 3, S, "batch", False)(logits, target), peer(logits, target))


@pytest.mark.parametrize("target", [CHANNELS, INDICES], ids=["sigmoid", "exclusive"])
@pytest.mark.parametrize("empty", ["skip", "smooth", "batch"])
def test_special_cases_are_one_another(empty, target):
    rest = {"smooth": S, "empty": empty, "background": False}
    dice, tversky = TverskyLoss(0.5, 0.5, **rest), TverskyLoss(0.3, 0.7, **rest)
    same = [
        (FBetaLoss(1.0, **rest), dice),
        (FBetaLoss(1.5, **rest), TverskyLoss(4 / 13, 9 / 13, **rest)),
        (FBetaLoss(0.0, **rest), TverskyLoss(1.0, 0.0, **rest)),
        (FocalTverskyLoss(0.3, 0.7, 1.0, **rest), tversky),
    ]
    for one, other in same:
        torch.testing.assert_close(one(LOGITS, target), other(LOGITS, target))
    certain = 200 * LOGITS.round()  # half of them 0
    certain = torch.where(certain == 0, -200.0, certain)
    if target is CHANNELS:  # on certain predictions p^2 is p
        torch.testing.assert_close(SquaredDiceLoss(**rest)(certain, target), dice(certain, target))
    assert SquaredDiceLoss(**rest)(LOGITS, target) < dice(LOGITS, target)


def test_jaccard_and_dice_of_one_class_are_functions_of_each_other():
    rest = {"smooth": 1e-30, "empty": "batch", "background": False}
    dice, jaccard = (TverskyLoss(cost, cost, **rest)(LOGITS[:, :1], CHANNELS[:, :1]) for cost in (0.5, 1.0))
    torch.testing.assert_close(1 - dice, 2 * (1 - jaccard) / (2 - jaccard))


def test_the_authors_focal_tversky_is_two_options_away():
    """Abraham and Khan's code: one sigmoid channel, flattened over the whole batch, smooth 1, exponent 0.75."""
    p, g = LOGITS[:, :1].sigmoid().flatten(), CHANNELS[:, :1].flatten()
    tp, fn, fp = (g * p).sum(), (g * (1 - p)).sum(), ((1 - g) * p).sum()
    expected = (1 - (tp + 1) / (tp + 0.7 * fn + 0.3 * fp + 1)) ** 0.75
    ours = build("focal_tversky", "loss.smooth=1", "loss.empty=batch")
    torch.testing.assert_close(ours(LOGITS[:, :1], CHANNELS[:, :1]), expected)


def test_the_authors_log_cosh_dice_is_the_default():
    """Jadon's code: one sigmoid channel, flattened over the whole batch, 1 added to 2 TP."""
    p, g = LOGITS[:, :1].sigmoid().flatten(), CHANNELS[:, :1].flatten()
    x = 1 - (2 * (g * p).sum() + 1) / (g.sum() + p.sum() + 1)
    torch.testing.assert_close(build("log_cosh_dice")(LOGITS[:, :1], CHANNELS[:, :1]), ((x.exp() + (-x).exp()) / 2).log())


#: Two samples of four voxels. First TP = FP = FN = 1; in the second the truth is empty and FP = 3.
TWO = 100 * (2 * torch.tensor([[1.0, 0, 1, 0], [1, 1, 1, 0]]).view(2, 1, 1, 4) - 1)
TWO_TRUTH = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).view(2, 1, 1, 4)


@pytest.mark.parametrize(
    ("empty", "dice", "iou"),
    [
        # (0.5 + 0.5) / (1 + 0.5 + 0.5 + 0.5); 2 / (3 + 0.5). The empty sample costs nothing and counts
        ("skip", 0.4 / 2, (4 / 7) / 2),
        # the empty sample: 1.5 / (1.5 + 0.5); 3 / (3 + 0.5)
        ("smooth", (0.4 + 0.75) / 2, (4 / 7 + 6 / 7) / 2),
        # TP 1, FP 4, FN 1
        ("batch", 2.5 / 4, 5 / 6.5),
    ],
)
def test_an_empty_sample_by_hand(empty, dice, iou):
    assert TverskyLoss(0.5, 0.5, 0.5, empty, False)(TWO, TWO_TRUTH).item() == pytest.approx(dice)
    assert TverskyLoss(1, 1, 0.5, empty, False)(TWO, TWO_TRUTH).item() == pytest.approx(iou)
    assert SquaredDiceLoss(0.5, empty, False)(TWO, TWO_TRUTH).item() == pytest.approx(dice)


def test_a_class_absent_from_a_sample_by_hand():
    """Exclusive classes: background, one that is half found, and one that is absent and predicted in one voxel."""
    target = torch.tensor([[[0, 1, 1, 0]]])
    logits = 100 * torch.nn.functional.one_hot(torch.tensor([[[0, 1, 2, 0]]]), 3).movedim(-1, 1).float()
    present, absent = 0.5 / (1 + 0.5 + 0.5), 0.5 / (0 + 0.5 + 0.5)  # FN = 1; FP = 1
    for empty, background, expected in [
        ("skip", False, present),
        ("skip", True, (0 + present) / 2),
        ("smooth", False, (present + absent) / 2),
        ("batch", True, (0 + present + absent) / 3),
    ]:
        assert TverskyLoss(0.5, 0.5, 0.5, empty, background)(logits, target).item() == pytest.approx(expected)


def test_the_gradient_of_an_absent_class_is_as_the_policy_says():
    """At logits 0, p = 1/2: FP = 2 in the empty sample; in the other, TP = FP = FN = 1."""
    logits = torch.zeros(2, 1, 1, 4)
    gradients = {
        e: value_and_gradient(TverskyLoss(0.3, 0.7, 0.1, e, False), logits, TWO_TRUTH)[1] for e in ("skip", "smooth", "batch")
    }
    assert gradients["skip"][1].tolist() == [[[0, 0, 0, 0]]]
    # half the mean, times p (1 - p), times the slope of 0.3 FP / (0.3 FP + 0.1)
    slope = 0.5 * 0.25 * 0.3 * 0.1 / (0.3 * 2 + 0.1) ** 2
    assert gradients["smooth"][1].flatten().tolist() == pytest.approx([slope] * 4)
    # pooled, TP = FN = 1, FP = 3: a false positive has the same slope wherever it is
    index = (1 + 0.1) / (1 + 0.3 * 3 + 0.7 + 0.1)
    slope = 0.25 * 0.3 * index / (1 + 0.3 * 3 + 0.7 + 0.1)
    assert gradients["batch"][1].flatten().tolist() == pytest.approx([slope] * 4)
    assert gradients["batch"][0, 0, 0, 2:].tolist() == pytest.approx([slope] * 2)
    # with little smoothing an absent class teaches nothing
    nearly_none = value_and_gradient(TverskyLoss(0.3, 0.7, 1e-5, "smooth", False), logits, TWO_TRUTH)[1][1]
    assert 0 < nearly_none.max() < 1e-5


@pytest.mark.parametrize("gamma", [1.0, 4 / 3, 3.0, 50.0])
@pytest.mark.parametrize("height", [10.0, 20.0, 1e4])
def test_focal_tversky_has_a_finite_gradient_where_the_index_is_1(gamma, height):
    target = torch.zeros(2, 1, 8, 8)
    target[0, :, 2:5, 2:5] = 1
    loss = FocalTverskyLoss(0.3, 0.7, gamma, 1e-5, "smooth", False)
    value, gradient = value_and_gradient(loss, height * (2 * target - 1), target)
    assert value >= 0
    assert value.isfinite()
    assert gradient.isfinite().all()
    if gamma == 4 / 3 and height == 1e4:
        assert value < 1e-5


def test_log_cosh_is_exact_near_0_and_at_1():
    loss = LogCoshTverskyLoss(0.5, 0.5, 1e-7, "batch", False)
    target = torch.ones(1, 1, 32, 32)
    logits = torch.full_like(target, 10.0)
    x = TverskyLoss(0.5, 0.5, 1e-7, "batch", False)(logits, target).item()
    assert loss(logits, target).item() == pytest.approx(x**2 / 2, rel=1e-4, abs=0)  # 2.6e-10, less than rounding of 1
    assert loss(-1e4 * target, target).item() == pytest.approx(math.log(math.cosh(1)), rel=1e-6)


def test_squares_are_taken_of_the_probabilities_below():
    logits, half = torch.full((1, 1, 2, 2), math.log(0.3 / 0.7)), torch.tensor([[[[1.0, 1], [0, 0]]]])
    assert build("squared_dice")(logits, half).item() == pytest.approx(1 - 2 * 0.6 / (4 * 0.09 + 2), rel=1e-5)
    assert build("dice")(logits, half).item() == pytest.approx(1 - 2 * 0.6 / (4 * 0.3 + 2), rel=1e-5)


def test_dice_of_a_mask_is_twice_the_overlap_over_both_areas():
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2, :] = 1
    predicted = torch.full_like(target, -100.0)
    predicted[..., 1, :] = 100
    assert build("dice")(predicted, target).item() == pytest.approx(1 - 2 * 4 / (4 + 8), abs=1e-5)
    assert build("iou")(predicted, target).item() == pytest.approx(1 - 4 / 8, abs=1e-5)
    assert build("tversky")(predicted, target).item() == pytest.approx(1 - 4 / (4 + 0.7 * 4), abs=1e-5)
    assert build("asymmetric_similarity")(predicted, target).item() == pytest.approx(
        1 - 3.25 * 4 / (3.25 * 4 + 2.25 * 4), abs=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.bool])
@pytest.mark.parametrize("name", ["dice", "squared_dice"])
def test_the_target_is_left_alone(name, dtype):
    target = CHANNELS.to(dtype)
    value_and_gradient(build(name), LOGITS, target)
    assert torch.equal(target, CHANNELS.to(dtype))


def test_no_more_than_the_probabilities_is_kept_for_the_backward_pass():
    kept = []
    logits = LOGITS.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        build("dice")(logits, CHANNELS)
    large = {x.data_ptr() for x in kept if x.numel() >= logits.numel()} - {CHANNELS.data_ptr()}
    assert len(large) == 1


@pytest.mark.parametrize(
    ("loss", "arguments", "message"),
    [
        (TverskyLoss, {"alpha": -1}, "alpha=-1"),
        (TverskyLoss, {"beta": -2}, "beta=-2"),
        (TverskyLoss, {"alpha": 0, "beta": 0}, "one above, got alpha=0 and beta=0"),
        (TverskyLoss, {"smooth": 0}, "smooth.*got 0.*1e-7"),
        (TverskyLoss, {"empty": "zero"}, "empty.*skip, smooth, batch.*'zero'"),
        (FocalTverskyLoss, {"gamma": 0.0}, "gamma.*got 0"),
        (FBetaLoss, {"beta": -1.5}, "beta.*got -1.5"),
        (SquaredDiceLoss, {"smooth": -1}, "smooth.*got -1"),
    ],
)
def test_an_impossible_argument_is_named(loss, arguments, message):
    possible = {"smooth": 1.0, "empty": "batch", "background": True}
    if loss is not SquaredDiceLoss:
        possible["beta"] = 0.5
    if loss in (TverskyLoss, FocalTverskyLoss):
        possible["alpha"] = 0.5
    if loss is FocalTverskyLoss:
        possible["gamma"] = 1.0
    with pytest.raises(ValueError, match=message):
        loss(**possible | arguments)
