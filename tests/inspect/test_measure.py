from __future__ import annotations

import numpy as np
import pytest

from calf.inspect.measure import components, intensities, largest_radius


def test_voxels_that_share_a_corner_are_one_component_and_those_that_do_not_are_two():
    mask = np.zeros((6, 6, 6), bool)
    mask[1, 1, 1] = mask[2, 2, 2] = True
    mask[5, 5, 4:6] = mask[5, 4, 5] = True
    assert components(mask, voxel_mm3=2.5) == {
        "components": 2,
        "component_voxels": [3, 2],
        "component_volumes_mm3": [7.5, 5.0],
        "largest_share": 0.6,
    }
    mask[3, 3, 3] = mask[4, 4, 4] = True  # a bridge
    assert components(mask, voxel_mm3=2.5)["component_voxels"] == [7]


def test_an_empty_mask_has_no_component():
    found = components(np.zeros((3, 3, 3), bool), voxel_mm3=1)
    assert found == {"components": 0, "component_voxels": [], "component_volumes_mm3": [], "largest_share": None}


def test_components_agree_with_a_flood_by_hand():
    rng = np.random.default_rng(0)
    for _ in range(10):
        mask = rng.random((7, 6, 5)) < 0.12
        assert components(mask, 1)["component_voxels"] == sorted(flooded(mask), reverse=True)


def flooded(mask: np.ndarray) -> list[int]:
    left, sizes = {tuple(voxel) for voxel in np.argwhere(mask)}, []
    while left:
        waiting, size = [left.pop()], 0
        while waiting:
            voxel = waiting.pop()
            size += 1
            near = {other for other in left if max(abs(a - b) for a, b in zip(voxel, other, strict=True)) <= 1}
            left -= near
            waiting += near
        sizes.append(size)
    return sizes


def test_the_largest_radius_is_that_of_the_thickest_slice():
    mask = np.zeros((3, 12, 12), np.uint8)
    assert largest_radius(mask.astype(bool)) == 0
    mask[0, 4, 4] = 1
    assert largest_radius(mask.astype(bool)) == 1
    mask[2, 2:9, 3:10] = 1  # 7 x 7: from the centre to the nearest pixel outside are 4
    assert largest_radius(mask.astype(bool)) == 4
    assert largest_radius(np.ones((1, 9, 9), bool)) == 5  # what lies beyond the image is outside


def test_percentiles_leave_out_the_value_of_the_corners_and_nothing_where_they_differ():
    volume = np.full((4, 4, 4), -7.0, np.float32)
    volume[1:3, 1:3, 1:3] = np.arange(8).reshape(2, 2, 2)
    found = intensities(volume)
    assert found["background"] == -7
    assert found["background_share"] == pytest.approx(56 / 64)
    assert (found["min"], found["p50"], found["max"]) == (-7, 3.5, 7)
    volume[0, 0, 0] = 5
    found = intensities(volume)
    assert (found["background"], found["background_share"], found["p50"]) == (None, 0, -7)


def test_a_constant_volume_has_no_percentiles():
    found = intensities(np.zeros((3, 3, 3), np.float32))
    assert (found["p0.5"], found["p99.5"], found["min"], found["background_share"]) == (None, None, 0, 1)
