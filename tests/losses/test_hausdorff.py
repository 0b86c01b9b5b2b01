from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.losses import HausdorffERLoss as KorniaERLoss
from kornia.losses import HausdorffERLoss3D as KorniaERLoss3D
from scipy import ndimage

from calf.losses.hausdorff import HausdorffCVLoss, HausdorffERLoss
from tests.losses.zoo import build, value_and_gradient

GENERATOR = torch.Generator().manual_seed(0)
SPATIAL = pytest.mark.parametrize("spatial", [(9, 14), (5, 7, 6)], ids=["2d", "3d"])


def hard(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and masks of three samples: an empty mask, a block, and a block of which the prediction says the opposite."""
    logits = 5 * torch.randn(3, *shape, generator=GENERATOR, dtype=torch.float64)
    target = torch.zeros(3, *shape)
    target[1:, :, 1:5, 1:6] = 1
    logits[2] = logits[2].sign() + 9 - 18 * target[2]
    return logits, target


def by_erosion(p: np.ndarray, y: np.ndarray, alpha: float, erosions: int, variant: str) -> float:
    """The loss of one image, as it is written."""
    cross = ndimage.generate_binary_structure(p.ndim, 1)
    error, total = (p - y) ** 2, 0.0
    for k in range(1, erosions + 1):
        error = np.maximum(ndimage.convolve(error, cross / cross.sum(), mode="constant") - 0.5, 0)
        if variant == "paper":
            error = 2 * error
        elif error.max() > error.min():
            error = (error - error.min()) / (error.max() - error.min())
        total += k**alpha * error.mean()
    return total


@SPATIAL
@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize(("alpha", "erosions"), [(2.0, 10), (0.5, 3)])
def test_erosion_agrees_with_the_formula(variant, alpha, erosions, spatial):
    logits, target = hard(2, *spatial)
    expected = [
        by_erosion(p, y, alpha, erosions, variant)
        for p, y in zip(logits.sigmoid().flatten(0, 1).numpy(), target.flatten(0, 1).numpy(), strict=True)
    ]
    assert min(expected[4:]) > 0
    loss = HausdorffERLoss(alpha, erosions, variant, background=False)
    assert loss(logits, target).item() == pytest.approx(np.mean(expected), rel=1e-9)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("peer", "spatial"), [(KorniaERLoss, (9, 14)), (KorniaERLoss, (2, 2)), (KorniaERLoss3D, (5, 7, 6))], ids=["2d", "tiny", "3d"]
)
def test_erosion_agrees_with_kornia(peer, spatial, batch):
    logits = 3 * torch.randn(batch, 4, *spatial, generator=GENERATOR, dtype=torch.float64)
    logits[-1, 1] += 9  # wrong at all voxels of two classes, and certain of it
    target = torch.randint(0, 3, (batch, *spatial), generator=GENERATOR) % 3  # class 3 is absent
    target[-1] = 2
    theirs = peer(alpha=2.0, k=10)
    theirs.kernel = (theirs.kernel > 0).double() / (theirs.kernel > 0).sum()  # theirs is of float32
    expected = value_and_gradient(lambda z, y: theirs(z.softmax(1), y[:, None]), logits, target)
    ours = value_and_gradient(HausdorffERLoss(2.0, 10, "code", background=True), logits, target)
    assert expected[0] > 0.01
    torch.testing.assert_close(ours, expected)


def test_the_gradient_follows_extremes_that_several_voxels_reach():
    # after the second erosion rounding decides which of them is the largest
    target = torch.zeros(2, 1, 8, 8)
    logits = torch.full((2, 1, 8, 8), -1.0, dtype=torch.float64)
    logits[..., 1:7, 2:8] = 2.0
    theirs = KorniaERLoss(alpha=1.0, k=2)
    theirs.kernel = (theirs.kernel > 0).double() / 5
    expected = value_and_gradient(lambda z, y: theirs.perform_erosion(z.sigmoid(), y).mean(), logits, target)
    torch.testing.assert_close(value_and_gradient(HausdorffERLoss(1.0, 2, "code", False), logits, target), expected)


def test_both_variants_agree_as_long_as_some_voxel_is_all_wrong():
    target = torch.zeros(1, 1, 16, 16)
    predicted = torch.full_like(target, -100)
    predicted[..., 4:13, 4:13] = 100  # a block of 9: its centre survives 4 erosions
    paper, code = (HausdorffERLoss(2.0, 4, variant, False)(predicted, target) for variant in ("paper", "code"))
    torch.testing.assert_close(paper, code)
    deeper = [HausdorffERLoss(2.0, 10, variant, False)(predicted, target) for variant in ("paper", "code")]
    assert code < deeper[0] < deeper[1]


def test_one_large_error_costs_more_than_many_small_ones():
    target = torch.zeros(1, 1, 24, 24)
    block, strips = (torch.full_like(target, -100) for _ in range(2))
    block[..., 6:18, 6:18] = 100
    strips[..., ::4, :] = 100
    assert (block > 0).sum() == (strips > 0).sum()
    for name in ("hausdorff_er", "hausdorff_cv"):
        assert build(name)(block, target) > build(name)(strips, target)


def test_erosion_sees_nothing_in_an_undecided_prediction():
    value, gradient = value_and_gradient(build("hausdorff_er"), torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8))
    assert value == 0
    assert (gradient == 0).all()


def by_discs(logits: torch.Tensor, y: torch.Tensor, alpha: float, radii: list[float], steepness: float | None) -> torch.Tensor:
    """The loss as it is written: convolution after convolution with the whole disc."""
    p, axes = logits.sigmoid(), y.ndim - 2
    convolution = (F.conv2d, F.conv3d)[axes - 2]

    def threshold(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x - 0.5) if steepness is None else torch.sigmoid(steepness * (x - 0.5))

    total = torch.zeros_like(p)
    for radius in radii:
        reach = int(radius)
        places = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * axes))
        disc = torch.from_numpy(np.linalg.norm(places, axis=0) <= radius).double()
        kernel = (disc / disc.sum())[None, None]
        # beyond the border is background
        padded = [F.pad(x, (reach,) * 2 * axes, value=value) for x, value in ((p, 0), (1 - p, 1), (y, 0), (1 - y, 1))]
        inside_p, outside_p, inside_y, outside_y = (
            threshold(convolution(x.flatten(0, 1)[:, None], kernel).view_as(p)) for x in padded
        )
        wrong, missed = (p - y) ** 2 * p, (p - y) ** 2 * y
        total = total + radius**alpha * ((outside_y + inside_p) * wrong + (inside_y + outside_p) * missed)
    return total.mean()


@SPATIAL
@pytest.mark.parametrize("steepness", [None, 20.0])
@pytest.mark.parametrize(("alpha", "radii"), [(2.0, [1, 2.5, 3]), (0.5, [2, 4, 8])])
def test_wide_kernels_agree_with_the_formula(alpha, radii, steepness, spatial):
    logits, target = hard(2, *spatial)
    target = target.double()
    ours = value_and_gradient(HausdorffCVLoss(alpha, radii, steepness, background=False), logits, target)
    expected = value_and_gradient(lambda z, y: by_discs(z, y, alpha, radii, steepness), logits, target)
    assert expected[0] > 0.01
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_the_farther_a_false_positive_the_more_it_costs():
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    target = ((rows - 32) ** 2 + (columns - 14) ** 2 <= 12**2)[None, None].float()
    costs = []
    for distance in (1, 7, 13, 30):
        logits = 200 * target - 100
        logits[..., 32, 26 + distance] = 100
        costs.append(float(build("hausdorff_cv")(logits, target)))
    assert costs == sorted(costs)
    assert len(set(costs)) == 4


def test_both_take_exclusive_classes_one_by_one():
    logits = 4 * torch.randn(2, 3, 9, 8, generator=GENERATOR)
    target = torch.randint(0, 3, (2, 9, 8), generator=GENERATOR)
    probabilities = logits.softmax(1)
    # sigmoid channels with the same probabilities
    channels = probabilities.logit(), F.one_hot(target, 3).movedim(-1, 1)
    for name in ("hausdorff_er", "hausdorff_cv"):
        loss = build(name)
        torch.testing.assert_close(loss(logits, target), loss(channels[0][:, 1:], channels[1][:, 1:]))
        torch.testing.assert_close(build(name, "loss.background=true")(logits, target), loss(*channels))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1.0, 10, "paper"), "alpha"), ((2.0, 0, "paper"), "erosions=0"), ((2.0, 10, "repo"), "variant to be one of paper, code")],
)
def test_an_impossible_erosion_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        HausdorffERLoss(*arguments, background=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1.0, [3], None), "alpha"), ((2.0, [], None), "radii"), ((2.0, [0.5, 3], None), "radii"), ((2.0, [3], 0.0), "steepness")],
)
def test_an_impossible_kernel_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        HausdorffCVLoss(*arguments, background=False)
