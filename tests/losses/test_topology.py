from __future__ import annotations

import monai.losses
import numpy as np
import pytest
import torch
from scipy import ndimage

from calf.losses.topology import SoftCLDiceLoss, soft_skeleton
from tests.losses.zoo import build, value_and_gradient

GENERATOR = torch.Generator().manual_seed(0)
SPATIAL = pytest.mark.parametrize("spatial", [(9, 14), (5, 7, 6)], ids=["2d", "3d"])


def hard(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits with the same few values again and again, and masks; the first sample is empty."""
    logits = torch.randint(-3, 4, (3, *shape), generator=GENERATOR).double()
    target = (torch.rand(3, *shape, generator=GENERATOR) > 0.3).double()
    target[0] = 0
    return logits, target


def skeleton(x: np.ndarray, iterations: int) -> np.ndarray:
    """Of one image, as the paper's algorithm 1 has it."""
    cross = ndimage.generate_binary_structure(x.ndim, 1)

    def erode(x: np.ndarray) -> np.ndarray:
        return ndimage.minimum_filter(x, footprint=cross, mode="constant", cval=np.inf)

    def opened(x: np.ndarray) -> np.ndarray:
        return ndimage.maximum_filter(erode(x), 3, mode="constant", cval=-np.inf)

    found = np.maximum(x - opened(x), 0)
    for _ in range(iterations):
        x = erode(x)
        found = found + (1 - found) * np.maximum(x - opened(x), 0)
    return found


@SPATIAL
@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_the_skeleton_agrees_with_the_algorithm(iterations, spatial):
    x = torch.rand(3, 2, *spatial, generator=GENERATOR, dtype=torch.float64)
    expected = [skeleton(image, iterations) for image in x.flatten(0, 1).numpy()]
    torch.testing.assert_close(soft_skeleton(x, iterations).flatten(0, 1), torch.from_numpy(np.stack(expected)))


def test_the_skeleton_of_a_bar_is_its_centreline():
    picture = """
        .........      .........
        .#######.      .........
        .#######.  ->  ..#####..
        .#######.      .........
        .........      .........
    """
    rows = [row.replace("->", "").split() for row in picture.strip().splitlines()]
    bar, line = (torch.tensor([[character == "#" for character in row[side]] for row in rows]) for side in (0, 1))
    assert torch.equal(soft_skeleton(bar[None, None].float(), 3)[0, 0], line.float())
    assert (soft_skeleton(bar[None, None].float(), 0) == 0).all()  # too few erosions for its radius


@SPATIAL
@pytest.mark.parametrize("iterations", [0, 3, 10])
@pytest.mark.parametrize("batch", [1, 3])
def test_cldice_agrees_with_monai(batch, iterations, spatial):
    logits, target = (x[-batch:] for x in hard(1, *spatial))
    # monai adds its smooth to P + T, on top of smooth_nr and smooth_dr
    theirs = monai.losses.SoftclDiceLoss(iterations, smooth=1e-12, sigmoid=True)
    ours = SoftCLDiceLoss(iterations, smooth=1.0, background=False, empty="smooth")
    torch.testing.assert_close(value_and_gradient(ours, logits, target), value_and_gradient(theirs, logits, target))


@pytest.mark.parametrize("empty", ["skip", "smooth", "batch"])
@pytest.mark.parametrize("background", [True, False])
def test_cldice_agrees_with_the_formula(background, empty):
    logits = 2 * torch.randn(3, 4, 8, 11, generator=GENERATOR, dtype=torch.float64)
    target = torch.randint(0, 3, (3, 8, 11), generator=GENERATOR)  # class 3 is absent
    target[0] = 0
    first = 0 if background else 1
    p = logits.softmax(1).numpy()[:, first:]
    y = (target.numpy()[:, None] == np.arange(first, 4)[:, None, None]).astype(float)
    s_p, s_y = (np.stack([[skeleton(image, 2) for image in channels] for channels in x]) for x in (p, y))

    def cldice(sums: list[float]) -> float:
        precision, sensitivity = (sums[0] + 0.5) / (sums[1] + 0.5), (sums[2] + 0.5) / (sums[3] + 0.5)
        return 1 - 2 * precision * sensitivity / (precision + sensitivity)

    sums = np.stack([x.sum((-2, -1)) for x in (s_p * y, s_p, s_y * p, s_y)])
    if empty == "batch":
        expected = np.mean([cldice(sums[:, :, c].sum(1)) for c in range(4 - first)])
    else:
        counted = [[empty == "smooth" or y[i, c].any() for c in range(4 - first)] for i in range(3)]
        rows = [[cldice(sums[:, i, c]) for c in range(4 - first) if counted[i][c]] for i in range(3)]
        expected = np.mean([np.mean(row) if row else 0 for row in rows])
    loss = SoftCLDiceLoss(2, smooth=0.5, background=background, empty=empty)
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-9)


def test_a_gap_costs_more_than_a_rim():
    target = torch.zeros(1, 1, 15, 40)
    target[..., 5:10, :] = 1
    gap, rim = target.clone(), target.clone()
    gap[..., 18:22] = 0  # 20 voxels that cut the tube
    rim[..., 5, ::2] = 0  # 20 voxels of its border
    loss = SoftCLDiceLoss(5, smooth=1.0, background=False, empty="smooth")
    assert (gap != target).sum() == (rim != target).sum()
    assert loss(200 * gap - 100, target) > 5 * loss(200 * rim - 100, target)


def test_the_loss_is_half_dice_and_half_cldice():
    logits, target = hard(2, 9, 14)
    pure = SoftCLDiceLoss(10, smooth=1.0, background=False, empty="batch")
    torch.testing.assert_close(build("cldice")(logits, target), (build("dice")(logits, target) + pure(logits, target)) / 2)


@pytest.mark.parametrize("override", ["iterations=1", "smooth=2", "empty=skip", "background=true"])
def test_every_argument_of_the_term_counts(override):
    logits = torch.randn(3, 3, 12, 12, generator=GENERATOR)
    target = torch.zeros(3, 12, 12, dtype=torch.int64)
    target[1:, 2:8, 1:11] = 1
    assert build("cldice", f"loss.terms.cldice.{override}")(logits, target) != build("cldice")(logits, target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 1.0, False, "skip"), "iterations"),
        ((3, 0.0, False, "skip"), "smooth"),
        ((3, 1.0, False, "drop"), "empty to be"),
    ],
)
def test_an_impossible_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftCLDiceLoss(*arguments)
