from __future__ import annotations

import pytest
import torch

from calf.losses.calf import BRANCHES, CALFLoss, RegionCALFLoss
from tests.losses.published import AREAS, CLAMP, published_region_loss, squares
from tests.losses.zoo import build, regions, value_and_gradient


@pytest.mark.parametrize("size", [(12, 12), (24, 36)])
@pytest.mark.parametrize("grid", [1, 3, 4])
def test_it_equals_a_loop_over_the_published_formula(size, grid):
    y = regions("binary", size, batch=6).double()
    logits = 2 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = RegionCALFLoss(grid, "pixels", "global", CLAMP)
    ours = value_and_gradient(loss, logits, y)
    looped = value_and_gradient(lambda z, y: published_region_loss(z, y, grid), logits, y)
    torch.testing.assert_close(ours, looped, rtol=1e-9, atol=1e-13)
    assert loss.last_branch.shape == (grid**2,)


def test_each_cell_has_its_own_branch():
    quadrants = [squares(AREAS[branch]) for branch in ("fisher", "ln", "bce_dice", "log10")]
    y = torch.cat([torch.cat(quadrants[:2], dim=3), torch.cat(quadrants[2:], dim=3)], dim=2)
    loss = RegionCALFLoss(2, "pixels", "global", CLAMP)
    loss(torch.zeros_like(y), y)
    assert [BRANCHES[index] for index in loss.last_branch] == ["fisher", "ln", "bce_dice", "log10"]


def test_one_region_is_the_whole_image():
    y = squares(AREAS["logit"])
    logits = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    whole, region = CALFLoss("batch", "pixels", "global", CLAMP), RegionCALFLoss(1, "pixels", "global", CLAMP)
    torch.testing.assert_close(region(logits, y), whole(logits, y))


def test_cells_with_errors_weigh_more():
    y = torch.zeros(2, 1, 2, 2)
    logits = torch.tensor([[-3.0, 1.0], [-1.0, 0.0]]).expand(2, 1, 2, 2)  # one error in each sample; 0 predicts background
    cells = torch.nn.functional.softplus(logits[0, 0]).flatten()
    p = logits[0, 0].sigmoid().flatten()
    cells = cells + 2 * p / (2 * p + 1e-7)  # no cell has areas that differ
    weights = torch.tensor([1.0, 3, 1, 1])
    expected = (weights * cells).sum() / weights.sum()
    torch.testing.assert_close(RegionCALFLoss(2, "pixels", "global", CLAMP)(logits, y), expected)


def test_volumes_are_cut_along_all_three_axes():
    loss = build("calf_region", "loss.grid=2")
    loss(torch.zeros(2, 3, 4, 8, 6), regions("multilabel", (4, 8, 6), batch=2))
    assert loss.last_branch.shape == (3 * 2**3,)


def test_an_image_that_the_grid_does_not_divide_is_named():
    with pytest.raises(ValueError, match=r"4 cells divide along each axis, got \(8, 3\)"):
        build("calf_region")(torch.zeros(1, 1, 8, 3), torch.zeros(1, 1, 8, 3))


@pytest.mark.parametrize(
    ("override", "message"), [("grid=0", "at least one cell.*grid=0"), ("ddp=all", "global, local, got 'all'")]
)
def test_an_impossible_argument_is_named(override, message):
    with pytest.raises(Exception, match=message) as caught:
        build("calf_region", f"loss.{override}")
    assert isinstance(caught.value.__cause__, ValueError)
