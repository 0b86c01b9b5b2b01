from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from calf.losses.exponential_logarithmic import ExponentialLogarithmicLoss
from tests.losses.zoo import FORMS, build, value_and_gradient

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(3, 4, 7, 6, 5, generator=GENERATOR, dtype=torch.float64)
INDICES = torch.randint(0, 3, (3, 7, 6, 5), generator=GENERATOR)  # class 3 is absent
INDICES[1] = 1  # so are all others
CHANNELS = (torch.rand(3, 4, 7, 6, 5, generator=GENERATOR) > 0.8).double()
CHANNELS[0], CHANNELS[1, 1] = 0, 1  # empty, full
INPUTS = {"binary": (LOGITS[:, :1], CHANNELS[:, :1]), "multilabel": (LOGITS, CHANNELS), "exclusive": (LOGITS, INDICES)}
AREAS = {"binary": [[10.0], [20.0]], "multilabel": [[10.0, 1, 3, 5], [20.0, 2, 4, 6]], "exclusive": [[10.0, 20, 0], [20.0, 1, 0]]}

PAPER = {"weight": 0.8, "gamma_dice": 0.3, "gamma_cross": 0.3, "smooth": 1.0, "frequencies": "batch", "empty": "smooth"}


def problems(logits, target, areas):
    """Probabilities and truths ``(B, C, voxels)``, and mean volumes in the data set, of each problem; class 0 is background."""
    voxels, areas = logits[0, 0].numel(), torch.tensor(areas).double().mean(0)
    if target.ndim < logits.ndim:
        p, g = logits.softmax(1), F.one_hot(target, logits.shape[1]).movedim(-1, 1).double()
        return [(p.flatten(2), g.flatten(2), [voxels - float(areas.sum()), *areas.tolist()])]
    p = logits.sigmoid()
    return [
        (torch.stack([1 - x, x], 1).flatten(2), torch.stack([1 - y, y], 1).flatten(2), [voxels - area, area])
        for x, y, area in zip(p.unbind(1), target.unbind(1), areas.tolist(), strict=True)
    ]


def published(logits, target, areas, weight, gamma_dice, gamma_cross, smooth, frequencies, empty):
    """Label by label and voxel by voxel, on probabilities."""
    values = []
    for p, g, volumes in problems(logits, target, areas):
        images = (
            [(p.transpose(0, 1).flatten(1), g.transpose(0, 1).flatten(1))] if empty == "batch" else list(zip(p, g, strict=True))
        )
        dice_parts, cross_parts = [], []
        for x, y in images:
            labels = [c for c in range(len(y)) if empty != "skip" or y[c].sum() > 0]
            dice = [(2 * (x[c] * y[c]).sum() + smooth) / (x[c].sum() + y[c].sum() + smooth) for c in labels]
            dice_parts.append(sum((-d.log()) ** gamma_dice for d in dice) / len(dice))
        for x, y in zip(p, g, strict=True):
            found = {"batch": g.sum((0, 2)), "sample": y.sum(1), "dataset": torch.tensor(volumes)}[frequencies].tolist()
            for c in range(len(y)):
                label = y[c] > 0
                if label.any():
                    factor = (sum(found) / found[c]) ** 0.5 if found[c] > 0 else 1
                    cross_parts.append(factor * ((-x[c][label].log()) ** gamma_cross).sum())
        values.append(weight * sum(dice_parts) / len(dice_parts) + (1 - weight) * sum(cross_parts) / g[:, 0].numel())
    return sum(values) / len(values)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("empty", ["skip", "smooth", "batch"])
@pytest.mark.parametrize("frequencies", ["batch", "sample", "dataset"])
def test_it_is_what_was_published(form, empty, frequencies):
    settings = PAPER | {"weight": 0.7, "gamma_dice": 0.4, "frequencies": frequencies, "empty": empty}
    loss = ExponentialLogarithmicLoss(**settings)
    loss.observe_dataset(torch.tensor(AREAS[form]))
    ours = value_and_gradient(loss, *INPUTS[form])
    theirs = value_and_gradient(lambda z, y: published(z, y, AREAS[form], **settings), *INPUTS[form])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_exponents_of_one_leave_the_logarithm_of_dice_and_weighted_cross_entropy():
    settings = PAPER | {"gamma_dice": 1, "gamma_cross": 1}
    counts = torch.bincount(INDICES.flatten(), minlength=4)
    weights = torch.where(counts > 0, (INDICES.numel() / counts.double()).sqrt(), 0)
    cross_entropy = F.cross_entropy(LOGITS, INDICES, weights, reduction="none").mean()
    torch.testing.assert_close(ExponentialLogarithmicLoss(**settings | {"weight": 0})(LOGITS, INDICES), cross_entropy)


def test_the_mean_area_of_a_data_set_may_be_below_one_voxel():
    loss = ExponentialLogarithmicLoss(**PAPER | {"weight": 0, "frequencies": "dataset"})
    loss.observe_dataset(torch.tensor([1.0, 0, 0, 0]))
    target = torch.zeros(1, 1, 2, 2)
    target[..., 0, 0] = 1
    expected = (3 * (4 / 3.75) ** 0.5 + (4 / 0.25) ** 0.5) * torch.tensor(2.0).log() ** 0.3 / 4
    torch.testing.assert_close(loss(torch.zeros_like(target), target), expected)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_vanishes_at_a_perfect_prediction_where_the_slopes_of_the_roots_are_infinite(form):
    target = INPUTS[form][1]
    truth = F.one_hot(target, 4).movedim(-1, 1).float() if form == "exclusive" else target.float()
    for height in (20, 88, 104, 1e4):
        value, gradient = value_and_gradient(build("exponential_logarithmic"), height * (2 * truth - 1), target)
        assert 0 <= value < 0.02
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 2}, "weight between 0 and 1, got 2"),
        ({"gamma_dice": 0}, "gamma_dice to be positive"),
        ({"gamma_cross": -1}, "gamma_cross to be positive"),
        ({"smooth": 0}, "smooth to be positive"),
        ({"frequencies": "mine"}, "frequencies to be one of batch, sample, dataset, got 'mine'"),
        ({"empty": "ignore"}, "empty to be one of"),
    ],
)
def test_an_impossible_argument_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        ExponentialLogarithmicLoss(**PAPER | change)


@pytest.mark.parametrize(
    ("areas", "message"),
    [
        (None, r"call observe_dataset\(areas\) before training"),
        ([1.0, 2.0], "areas of 1 foreground channels, these logits have 3"),
        ([[1.0, 2.0, 3.0], [1.0, 2.0, 211.0]], "images of 210 voxels, as the loss is given; got one of 211"),
    ],
)
def test_frequencies_of_a_data_set_are_those_of_images_like_these(areas, message):
    loss = ExponentialLogarithmicLoss(**PAPER | {"frequencies": "dataset"})
    if areas is not None:
        loss.observe_dataset(torch.tensor(areas))
    with pytest.raises(ValueError, match=message):
        loss(LOGITS, INDICES)


def test_areas_have_samples_and_channels():
    with pytest.raises(ValueError, match=r"\(N,\) or \(N, channels\), got \(0,\)"):
        ExponentialLogarithmicLoss(**PAPER).observe_dataset(torch.zeros(0))


def test_frequencies_of_the_data_set_are_refused_for_images_of_another_size():
    loss = ExponentialLogarithmicLoss(**(PAPER | {"frequencies": "dataset"}))
    loss.observe_dataset(torch.tensor([[40.0]]))
    loss(torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match="expected 4096, got 256; with deep supervision"):
        loss(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))
