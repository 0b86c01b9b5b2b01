from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import scipy.stats
import torch

from calf.imbalance import contour_areas, skewness_and_kurtosis

# one drawing each, and the area within OpenCV's contours
DRAWINGS = {
    "empty": ("....|....|....", 0),
    "one pixel": ("....|.#..|....", 0),
    "line": ("####|....|....", 0),
    "square": ("###.|###.|###.", 4),
    "two parts": ("##.##|##.##|.....", 2),
    "hole": ("#####|#...#|#...#|#...#|#####", 16 + 14),
}


@pytest.mark.parametrize(("text", "area"), DRAWINGS.values(), ids=DRAWINGS)
def test_areas_of_drawings(text, area):
    mask = torch.tensor([[symbol == "#" for symbol in row] for row in text.split("|")])
    assert contour_areas(mask.float()).item() == area


def test_each_sample_and_channel_has_its_own_area():
    mask = torch.rand(3, 2, 6, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    alone = [[contour_areas(channel).item() for channel in sample] for sample in mask]
    assert contour_areas(mask).tolist() == alone


def test_a_contour_runs_through_the_centres_of_border_pixels():
    disc = np.zeros((101, 101), np.uint8)
    cv2.circle(disc, (50, 50), 40, 1, thickness=-1)
    # half a pixel within the border
    assert contour_areas(torch.from_numpy(disc)).item() == pytest.approx(np.pi * 39.5**2, rel=0.01)


@pytest.mark.parametrize("count", [2, 3, 32, 1000])
def test_moments_are_scipys(count):
    areas = torch.from_numpy(np.random.default_rng(count).lognormal(5, 1, (count, 3)).round())
    skewness, kurtosis = skewness_and_kurtosis(areas)
    np.testing.assert_allclose(skewness, scipy.stats.skew(areas.numpy()), rtol=1e-12)
    np.testing.assert_allclose(kurtosis, scipy.stats.kurtosis(areas.numpy()), rtol=1e-12)
    assert skewness.dtype == torch.float64
    for tensor, array in zip((skewness, kurtosis), skewness_and_kurtosis(areas.numpy()), strict=True):
        np.testing.assert_allclose(tensor, array, rtol=1e-12)


@pytest.mark.parametrize("areas", [[5.0], [0.0, 0, 0], [7.0, 7, 7, 7], [0.1, 0.1, 0.1], [16777216.0, 16777216]], ids=str)
def test_equal_areas_have_no_skewness(areas):
    for moments in (skewness_and_kurtosis(torch.tensor(areas)), skewness_and_kurtosis(np.array(areas))):
        assert all(math.isnan(moment) for moment in moments)


def test_symmetric_areas_have_a_skewness_of_exactly_zero():
    assert skewness_and_kurtosis(torch.tensor([10, 20, 20, 30]))[0].item() == 0


def test_moments_have_no_unit():
    areas = torch.tensor([1.0, 5, 7, 30])
    for ours, scaled in zip(skewness_and_kurtosis(areas), skewness_and_kurtosis(areas * 0.37), strict=True):
        torch.testing.assert_close(ours, scaled)
