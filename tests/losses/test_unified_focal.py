from __future__ import annotations

import monai.losses
import monai.losses.unified_focal_loss as monai_parts
import pytest
import torch
import torch.nn.functional as F

from calf.losses.overlap import TverskyLoss
from calf.losses.unified_focal import AsymmetricUnifiedFocalLoss, SymmetricUnifiedFocalLoss
from tests.losses.zoo import FORMS, build, value_and_gradient

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(3, 4, 7, 6, 5, generator=GENERATOR, dtype=torch.float64)
INDICES = torch.randint(0, 3, (3, 7, 6, 5), generator=GENERATOR)  # class 3 is absent
INDICES[1] = 1  # so are all others
CHANNELS = (torch.rand(3, 4, 7, 6, 5, generator=GENERATOR) > 0.8).double()
CHANNELS[0], CHANNELS[1, 1] = 0, 1  # empty, full
INPUTS = {"binary": (LOGITS[:, :1], CHANNELS[:, :1]), "multilabel": (LOGITS, CHANNELS), "exclusive": (LOGITS, INDICES)}

CLASSES = {False: AsymmetricUnifiedFocalLoss, True: SymmetricUnifiedFocalLoss}


def problems(logits, target):
    """Lists of probabilities and truths ``(B, C, voxels)``, class 0 background."""
    if target.ndim < logits.ndim:
        p, g = logits.softmax(1), F.one_hot(target, logits.shape[1]).movedim(-1, 1).double()
        return [(p.flatten(2), g.flatten(2))]
    p = logits.sigmoid()
    pairs = [(torch.stack([1 - x, x], 1), torch.stack([1 - y, y], 1)) for x, y in zip(p.unbind(1), target.unbind(1), strict=True)]
    return [(x.flatten(2), y.flatten(2)) for x, y in pairs]


def published(logits, target, symmetric, variant, weight, delta, gamma, smooth, empty):
    """The formulas written out, class by class, on probabilities."""
    paper, values = variant == "paper", []
    for p, g in problems(logits, target):
        classes = range(p.shape[1])
        focal = 0.0
        for c in classes:
            share = delta if c > 0 or (symmetric and paper) else 1 - delta
            focus = (1 - gamma if paper else gamma) if symmetric else (gamma if c == 0 else 0)
            focal = focal - (share * (1 - p[:, c]) ** focus * g[:, c] * p[:, c].log()).sum() / g[:, 0].numel()
        images = [(p.transpose(0, 1).flatten(1), g.transpose(0, 1).flatten(1))] if empty == "batch" else zip(p, g, strict=True)
        regions = []
        for x, y in images:
            found = []
            for c in classes:
                tp, fn, fp = (x[c] * y[c]).sum(), ((1 - x[c]) * y[c]).sum(), (x[c] * (1 - y[c])).sum()
                index = (tp + smooth) / (tp + delta * fn + (1 - delta) * fp + smooth)
                power = (gamma if paper else 1 - gamma) if symmetric else (1 if c == 0 else 1 - gamma)
                if empty != "skip" or y[c].sum() > 0:
                    found.append((1 - index) ** power)
            regions.append(sum(found) if paper else sum(found) / len(found))
        region = sum(regions) / len(regions)
        values.append(weight * focal + (1 - weight) * region if paper else weight * region + (1 - weight) * focal)
    return sum(values) / len(values)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("empty", ["skip", "smooth", "batch"])
@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_it_is_what_was_published(symmetric, variant, empty, form):
    settings = {"weight": 0.3, "delta": 0.7, "gamma": 0.4, "variant": variant, "smooth": 1e-3, "empty": empty}
    loss = CLASSES[symmetric](**settings)
    ours = value_and_gradient(loss, *INPUTS[form])
    theirs = value_and_gradient(lambda z, y: published(z, y, symmetric, **settings), *INPUTS[form])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    batch_of_one = [x[:1] for x in INPUTS[form]]
    torch.testing.assert_close(loss(*batch_of_one), published(*batch_of_one, symmetric, **settings))


@pytest.mark.parametrize(("delta", "gamma"), [(0.6, 0.5), (0.7, 0.2)])
def test_the_asymmetric_parts_agree_with_monai(delta, gamma):
    logits, target = INPUTS["binary"]
    p = torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1)
    g = torch.cat([1 - target, target], 1)
    options = {"delta": delta, "gamma": gamma}
    parts = [
        AsymmetricUnifiedFocalLoss(weight, **options, variant="code", smooth=1e-7, empty="smooth")(logits, target)
        for weight in (0, 1)
    ]
    # since 1.6.1 theirs is the mean over both channels of what the paper sums
    torch.testing.assert_close(parts[0], 2 * monai_parts.AsymmetricFocalLoss(**options)(p, g))
    torch.testing.assert_close(parts[1], monai_parts.AsymmetricFocalTverskyLoss(**options)(p, g))
    whole = monai.losses.AsymmetricUnifiedFocalLoss(weight=0.3, **options)(logits.sigmoid(), target)
    torch.testing.assert_close(0.3 * parts[0] / 2 + 0.7 * parts[1], whole)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_half_of_delta_and_weight_and_no_gamma_leave_dice_and_cross_entropy(form, symmetric):
    logits, target = INPUTS[form]
    loss = CLASSES[symmetric](weight=0.5, delta=0.5, gamma=0, variant="code", smooth=1e-3, empty="smooth")
    dice = TverskyLoss(0.5, 0.5, smooth=1e-3, empty="smooth", background=True)
    if form == "exclusive":
        both, cross_entropy = dice(logits, target), F.cross_entropy(logits, target)
    else:
        both = 0.5 * (dice(logits, target) + dice(-logits, 1 - target))
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(loss(logits, target), 0.5 * both + 0.25 * cross_entropy)


def test_the_ends_of_weight_and_gamma_are_weighted_cross_entropy_and_tversky():
    tversky = 4 * TverskyLoss(0.3, 0.7, smooth=1e-3, empty="smooth", background=True)(LOGITS, INDICES)
    voxels = F.cross_entropy(LOGITS, INDICES, reduction="none")
    settings = {"delta": 0.7, "variant": "paper", "smooth": 1e-3, "empty": "smooth"}
    for weight, gamma, loss, expected in (
        (1, 0, AsymmetricUnifiedFocalLoss, (voxels * torch.where(INDICES > 0, 0.7, 0.3)).mean()),
        (0, 0, AsymmetricUnifiedFocalLoss, tversky),
        (1, 1, SymmetricUnifiedFocalLoss, 0.7 * voxels.mean()),
        (0, 1, SymmetricUnifiedFocalLoss, tversky),
    ):
        torch.testing.assert_close(loss(weight, gamma=gamma, **settings)(LOGITS, INDICES), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["unified_focal", "unified_focal_symmetric", "mixed_focal"])
def test_two_exclusive_classes_are_one_sigmoid_channel(name):
    z, y = INPUTS["binary"]
    two = torch.cat([torch.zeros_like(z), z], 1)
    torch.testing.assert_close(build(name)(two, y[:, 0].long()), build(name)(z, y))


def test_mixed_focal_is_what_was_published():
    for form in FORMS:
        logits, target = INPUTS[form]
        values = []
        for p, g in problems(logits, target):
            focal = -(g * (1 - p) ** 2 * p.log()).sum(1).mean()
            tp, fp, fn = (p * g).sum(2), (p * (1 - g)).sum(2), ((1 - p) * g).sum(2)
            root = (1 - (tp + 1e-7) / (tp + 0.7 * fn + 0.3 * fp + 1e-7)) ** 0.75
            values.append(focal + root.mean())
        ours = build("mixed_focal", "loss.terms.focal_dice.empty=smooth")(logits, target)
        torch.testing.assert_close(ours, sum(values) / len(values))


@pytest.mark.parametrize("name", ["unified_focal", "unified_focal_symmetric"])
def test_an_absent_class_costs_a_constant_that_teaches_nothing_unless_it_is_left_out(name):
    logits, empty = LOGITS[:, :1], torch.zeros_like(LOGITS[:, :1])
    published_value, gradient = value_and_gradient(build(name, "loss.empty=smooth"), logits, empty)
    value, same = value_and_gradient(build(name, "loss.empty=skip"), logits, empty)
    torch.testing.assert_close(published_value - value, torch.tensor(0.5, dtype=torch.float64))
    torch.testing.assert_close(gradient, same, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["unified_focal", "unified_focal_symmetric", "mixed_focal"])
def test_float32_holds_near_a_perfect_prediction(name):
    target = torch.zeros(2, 1, 64, 64)
    target[:, :, 3:9, 5:8] = 1
    logits = 7 * (2 * target - 1) + torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    loss = build(name)
    for one, other in zip(
        value_and_gradient(loss, logits, target), value_and_gradient(loss, logits.double(), target), strict=True
    ):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(
    ("loss", "change", "message"),
    [
        (AsymmetricUnifiedFocalLoss, {"weight": 1.5}, "weight between 0 and 1, got 1.5"),
        (AsymmetricUnifiedFocalLoss, {"delta": -1}, "delta between 0 and 1, got -1"),
        (AsymmetricUnifiedFocalLoss, {"gamma": 1}, "gamma at least 0 and below 1, got 1"),
        (SymmetricUnifiedFocalLoss, {"gamma": 0}, "gamma above 0 and at most 1 with variant=paper, got 0"),
        (SymmetricUnifiedFocalLoss, {"gamma": 1, "variant": "code"}, "gamma at least 0 and below 1 with variant=code, got 1"),
        (SymmetricUnifiedFocalLoss, {"variant": "mine"}, "variant to be one of paper, code, got 'mine'"),
        (AsymmetricUnifiedFocalLoss, {"smooth": 0}, "smooth to be positive"),
        (AsymmetricUnifiedFocalLoss, {"empty": "ignore"}, "empty to be one of"),
    ],
)
def test_an_impossible_argument_is_named(loss, change, message):
    fine = {"weight": 0.5, "delta": 0.6, "gamma": 0.5, "variant": "paper", "smooth": 1e-7, "empty": "skip"}
    with pytest.raises(ValueError, match=message):
        loss(**fine | change)
