from __future__ import annotations

import itertools

import kornia.losses
import numpy as np
import pytest
import segmentation_models_pytorch.losses as smp
import torch

from calf.losses.contract import EMPTY
from calf.losses.lovasz import RADIX, LovaszLoss, lovasz_extension
from tests.losses.zoo import value_and_gradient

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(3, 3, 7, 6, generator=GENERATOR)
INDICES = torch.randint(0, 2, (3, 7, 6), generator=GENERATOR)
INDICES[0, 3:] = 2  # absent from the other two
CHANNELS = (torch.rand(3, 3, 7, 6, generator=GENERATOR) > 0.8).float()
CHANNELS[0, 0] = 0
CHANNELS[1, 1] = 1


def jaccard_loss(wrong, truth):
    """Of a set of voxels that are wrong."""
    union = (truth | wrong).sum()
    return (wrong.sum() / union) if union else 0.0


def extension(errors, truth):
    """Sum over sorted errors of what each adds to the Jaccard loss of the set so far."""
    wrong, total, before = np.zeros(len(errors), bool), 0.0, 0.0
    for place in np.argsort(-errors, kind="stable"):
        if errors[place] <= 0:
            break
        wrong[place] = True
        after = jaccard_loss(wrong, truth)
        total, before = total + errors[place] * (after - before), after
    return total


def expected(errors, truth, empty):
    """Mean over images and classes, of (B, C, n)."""
    if empty == "batch":
        errors, truth = (np.concatenate(list(x), axis=-1)[None] for x in (errors, truth))
    images = []
    for e, y in zip(errors, truth.astype(bool), strict=True):
        values = [extension(*row) for row in zip(e, y, strict=True) if row[1].any() or empty != "skip"]
        images.append(np.mean(values) if values else 0)
    return np.mean(images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["digit by digit", "any device"])
@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("form", ["hinge", "sigmoid", "exclusive"])
def test_it_is_what_the_definition_says(form, empty, dtype):
    z = LOGITS.double()
    if form == "exclusive":
        y = torch.nn.functional.one_hot(INDICES, 3).movedim(-1, 1)
        errors, target = (y - z.softmax(1)).abs(), INDICES
    else:
        y = target = CHANNELS
        errors = 1 - z * (2 * y - 1) if form == "hinge" else (y - z.sigmoid()).abs()
    loss = LovaszLoss("sigmoid" if form == "sigmoid" else "hinge", empty)
    value = loss(LOGITS.to(dtype), target).item()
    assert value == pytest.approx(expected(errors.flatten(2).numpy(), y.flatten(2).numpy(), empty), rel=1e-5)


@pytest.mark.parametrize("truth", [[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0]])
def test_it_is_the_largest_sum_over_all_orders(truth):
    """The Jaccard loss is submodular, so that no order of its steps gives more than that of the errors."""
    errors = torch.tensor([0.3, 0.9, 0.1, 0.5, 0.7])
    sums = []
    for order in itertools.permutations(range(5)):
        wrong, total, before = np.zeros(5, bool), 0.0, 0.0
        for place in order:
            wrong[place] = True
            after = jaccard_loss(wrong, np.array(truth, bool))
            total, before = total + errors[place].item() * (after - before), after
        sums.append(total)
    assert lovasz_extension(errors, torch.tensor(truth).float()).item() == pytest.approx(max(sums))


def test_errors_of_0_and_1_give_the_jaccard_loss():
    wrong, truth = (torch.rand(2, 50, generator=GENERATOR) > 0.6).float()
    values = jaccard_loss(wrong.bool().numpy(), truth.bool().numpy())
    assert lovasz_extension(wrong, truth).item() == pytest.approx(values)


@pytest.mark.parametrize("shape", [(2, 100), (2, RADIX // 2), (1, RADIX + 7)], ids=["short", "filled up", "long"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0], ids=["none positive", "some", "all"])
def test_the_fast_path_equals_that_of_other_devices(shape, share):
    errors = torch.rand(shape, generator=GENERATOR) - (1 - share)
    errors = errors.mul(100).round().div(100)  # with ties, whose order is that of the voxels
    truth = (torch.rand(shape, generator=GENERATOR) > 0.7).float()
    found = [
        value_and_gradient(lambda e, y: lovasz_extension(e, y).sum(), errors.to(d), truth.to(d)) for d in (None, torch.float64)
    ]
    for ours, reference in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), reference, rtol=1e-5, atol=1e-9)


def test_it_agrees_with_segmentation_models_pytorch():
    for channel in range(3):
        z, y = LOGITS[:, channel : channel + 1], CHANNELS[:, channel : channel + 1]
        for empty, per_image in (("batch", False), ("smooth", True)):
            torch.testing.assert_close(
                value_and_gradient(LovaszLoss("hinge", empty), z, y),
                value_and_gradient(smp.LovaszLoss("binary", per_image=per_image), z, y),
                rtol=1e-4,  # theirs are differences of float32 sums
                atol=1e-6,
            )
    # all classes are in the batch
    softmax = smp.LovaszLoss("multiclass", per_image=False)
    torch.testing.assert_close(LovaszLoss("hinge", "batch")(LOGITS, INDICES), softmax(LOGITS, INDICES))
    # theirs leaves out what an image has not
    softmax = smp.LovaszLoss("multiclass", per_image=True)
    torch.testing.assert_close(LovaszLoss("hinge", "skip")(LOGITS, INDICES), softmax(LOGITS, INDICES))


def test_it_agrees_with_kornia():
    softmax = kornia.losses.LovaszSoftmaxLoss()
    torch.testing.assert_close(LovaszLoss("hinge", "smooth")(LOGITS, INDICES), softmax(LOGITS, INDICES))
    hinge = kornia.losses.LovaszHingeLoss()
    ours = LovaszLoss("hinge", "smooth")(LOGITS[:, :1], CHANNELS[:, :1])
    torch.testing.assert_close(ours, hinge(LOGITS[:, :1], CHANNELS[:, 0]))


def test_an_absent_class_costs_its_largest_error():
    logits = torch.tensor([[[[-3.0, 0.5], [2.0, 1.0]]]])
    value, gradient = value_and_gradient(LovaszLoss("hinge", "smooth"), logits, torch.zeros_like(logits))
    assert value == 3
    assert gradient.flatten().tolist() == [0, 0, 1, 0]
    assert LovaszLoss("hinge", "skip")(logits, torch.zeros_like(logits)) == 0


def test_the_form_matters_for_sigmoid_channels():
    values = [LovaszLoss(form, "smooth")(LOGITS, CHANNELS) for form in ("hinge", "sigmoid")]
    assert values[0] != values[1]


def test_what_is_not_a_number_reaches_the_loss():
    logits = LOGITS.clone()
    logits[1, 1, 2, 3] = torch.nan
    for dtype in (torch.float32, torch.float64):
        assert LovaszLoss("hinge", "batch")(logits.to(dtype), CHANNELS).isnan()


@pytest.mark.parametrize(
    ("arguments", "message"), [(("softmax", "skip"), "expected form"), (("hinge", "never"), "expected empty")]
)
def test_an_impossible_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LovaszLoss(*arguments)


def test_pooled_classes_that_the_whole_batch_lacks_are_left_out_as_by_the_authors():
    indices = INDICES.clamp(max=1)  # nobody has class 2
    theirs = smp.LovaszLoss("multiclass", per_image=False)(LOGITS, indices)
    torch.testing.assert_close(LovaszLoss(form="hinge", empty="batch")(LOGITS, indices), theirs)
    assert LovaszLoss(form="hinge", empty="smooth")(LOGITS, indices) > theirs
