"""Surface distances: known by construction, by brute force, and against monai and DeepMind's surface-distance."""

from __future__ import annotations

import itertools
import math
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial.distance import cdist

from calf.metrics import surface
from calf.metrics.surface import image_diagonal_mm, surface_distances, surface_scores

SPACINGS = {"cubes": (1.0, 1.0, 1.0), "thick slices": (0.5859375, 0.5859375, 3.3), "all different": (0.7, 1.3, 2.1)}


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.indices(shape) - np.reshape(centre, (-1, *[1] * len(shape)))
    return (grid**2).sum(axis=0) <= radius**2


def hard_pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Predictions and references on which conventions and borders matter."""
    shape = (24, 22, 20)
    one, other = np.zeros((2, *shape), bool)
    one[3, 4, 5] = other[9, 1, 12] = True
    edge, corner = np.zeros((2, *shape), bool)
    edge[:, :6, 4:9], corner[:5, :5, :5] = True, True
    several = ball(shape, (5, 5, 5), 3) | ball(shape, (17, 15, 13), 4)
    generator = np.random.default_rng(0)
    noise, sparse = generator.random(shape) > 0.5, generator.random(shape) > 0.97
    hollow = ball(shape, (11, 11, 9), 8) & ~ball(shape, (11, 11, 9), 4)
    return {
        "one voxel each": (one, other),
        "one voxel and a ball": (one, ball(shape, (12, 11, 9), 6)),
        "balls": (ball(shape, (12, 11, 9), 6), ball(shape, (11, 12, 10), 7)),
        "touching the image's border": (edge, corner),
        "a full image": (np.ones(shape, bool), corner),
        "one of two components": (ball(shape, (5, 6, 5), 3), several),
        "a component too many": (several, ball(shape, (17, 15, 12), 4)),
        "hollow": (ball(shape, (11, 11, 9), 8), hollow),
        "noise and a ball": (noise, ball(shape, (12, 11, 9), 6)),
        "noise and sparse noise": (noise, sparse),
        "equal": (several, several),
    }


HARD = hard_pairs()


def brute_force(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> list[np.ndarray]:
    """Distances of both directions, every surface voxel found by looking at its neighbours, every pair compared."""
    points = []
    for mask in (prediction, reference):
        found = []
        for voxel in np.argwhere(mask):
            for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
                beside = voxel.copy()
                beside[axis] += step
                if beside[axis] < 0 or beside[axis] >= mask.shape[axis] or not mask[tuple(beside)]:
                    found.append(voxel * np.array(spacing))
                    break
        points.append(np.array(found))
    between = cdist(*points)
    return [between.min(axis=1), between.min(axis=0)]


@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
@pytest.mark.parametrize("name", HARD)
def test_brute_force(name, spacing):
    prediction, reference = HARD[name]
    expected = brute_force(prediction, reference, spacing)
    found = surface_distances(prediction, reference, spacing)
    for side, distances in zip((found.of_prediction, found.of_reference), expected, strict=True):
        np.testing.assert_allclose(np.sort(side.distances_mm), np.sort(distances), rtol=1e-12, atol=1e-12)
    assert found.hausdorff_mm() == pytest.approx(max(map(np.max, expected)), rel=1e-12)
    assert found.hausdorff_mm(95) == pytest.approx(max(np.percentile(side, 95) for side in expected), rel=1e-12)
    assert found.average_mm() == pytest.approx(np.concatenate(expected).mean(), rel=1e-12)


@pytest.mark.parametrize("name", HARD)
def test_a_transform_finds_what_a_tree_finds(name, monkeypatch):
    scores = []
    for per_query in (0, 10**9):  # never a transform, always one
        monkeypatch.setattr(surface, "VOXELS_PER_QUERY", per_query)
        scores.append(list(surface_scores(*HARD[name], SPACINGS["all different"], 2.0).values()))
    np.testing.assert_allclose(*scores, rtol=1e-13)


def test_planes_are_as_far_apart_as_they_were_put():
    prediction, reference = np.zeros((2, 6, 7, 12), bool)
    prediction[:, :, 2], reference[:, :, 7] = True, True
    distances = surface_distances(prediction, reference, (0.8, 0.9, 0.3))
    assert distances.hausdorff_mm() == distances.hausdorff_mm(95) == distances.average_mm() == pytest.approx(1.5, rel=1e-15)
    assert distances.share_within(1.499) == 0
    assert distances.share_within(1.5) == 1  # 5 x 0.3 is no 1.5 in binary
    spacing = np.float32(0.3).astype(float)  # as in the header of a file: 0.30000001
    assert surface_distances(prediction, reference, (0.8, 0.9, spacing)).share_within(1.5) == 1


@pytest.mark.parametrize("convention", ["voxels", "elements"])
@pytest.mark.parametrize(("axis", "steps"), [(0, 1), (1, 3), (2, 2)])
def test_a_shifted_box_is_as_far_as_it_was_shifted(convention, axis, steps):
    spacing = (0.7, 1.3, 2.1)
    reference = np.zeros((24, 22, 20), bool)
    reference[5:14, 5:14, 5:14] = True
    distances = surface_distances(np.roll(reference, steps, axis), reference, spacing, convention)
    assert distances.hausdorff_mm() == distances.hausdorff_mm(95) == pytest.approx(steps * spacing[axis], rel=1e-15)
    assert distances.share_within(steps * spacing[axis]) == 1
    assert 0 < distances.share_within(steps * spacing[axis] - 0.01) < 1


# points of digital balls scatter around the surface, so that the nearest is nearer than the surface is
@pytest.mark.parametrize(("convention", "bias"), [("voxels", -0.2), ("elements", -0.5)])
def test_balls_of_one_centre(convention, bias):
    inner, outer = (ball((63, 63, 63), (31, 31, 31), radius) for radius in (17, 27))
    distances = surface_distances(inner, outer, (1.0, 1.0, 1.0), convention)
    assert distances.average_mm() == pytest.approx(10 + bias, abs=0.1)
    assert distances.hausdorff_mm() == pytest.approx(10 + bias, abs=0.9)


def test_perfect_and_swapped():
    prediction, reference = HARD["balls"]
    same = surface_scores(reference, reference, (1.0, 2.0, 3.0), 0.0)
    assert same == {"hd95_mm": 0, "hd_mm": 0, "assd_mm": 0, "nsd_0mm": 1}
    one = surface_scores(prediction, reference, (1.0, 2.0, 3.0), 1.0)
    assert surface_scores(reference, prediction, (1.0, 2.0, 3.0), 1.0) == pytest.approx(one, rel=1e-14)


def test_neither_margins_nor_memory_order_change_a_distance():
    prediction, reference = HARD["one of two components"]
    spacing = SPACINGS["all different"]
    scores = surface_scores(prediction, reference, spacing, 2.0)
    assert surface_scores(*(np.pad(mask, 9) for mask in (prediction, reference)), spacing, 2.0) == scores
    assert surface_scores(np.asfortranarray(prediction), np.asfortranarray(reference), spacing, 2.0) == scores
    views = (np.stack([mask, ~mask], axis=-1)[..., 0] for mask in (prediction, reference))
    assert surface_scores(*views, spacing, 2.0) == scores


def test_a_single_slice_is_an_image():
    prediction, reference = (mask[..., 9] for mask in HARD["balls"])
    flat = surface_scores(prediction, reference, (0.7, 1.3), 1.0)
    assert surface_scores(prediction[..., None], reference[..., None], (0.7, 1.3, 6.0), 1.0) == flat
    assert surface_scores(np.zeros_like(reference)[:, None], reference[:, None], (0.7, 9.0, 1.3), 1.0)["hd_mm"] == pytest.approx(
        math.hypot(24 * 0.7, 22 * 1.3)
    )


def test_the_empty_rule():
    empty, full = np.zeros((4, 3, 12), bool), np.ones((4, 3, 12), bool)
    assert surface_scores(empty, full, (1.0, 1.0, 1.0), 2.5) == {"hd95_mm": 13, "hd_mm": 13, "assd_mm": 13, "nsd_2.5mm": 0}
    for prediction in (empty, full):
        assert all(math.isnan(value) for value in surface_scores(prediction, empty, (1.0, 1.0, 1.0), 2.5).values())
    assert image_diagonal_mm((240, 240, 155), (1, 1, 1)) == pytest.approx(373.1287, abs=1e-4)  # BraTS's penalty


@pytest.mark.parametrize(
    ("shapes", "dtype", "spacing", "said"),
    [
        (((4, 4), (4, 5)), bool, (1, 1), "of the same shape"),
        (((4, 4), (4, 4)), np.uint8, (1, 1), "threshold the prediction"),
        (((4, 4), (4, 4)), bool, (1, 1, 1), "a positive spacing in mm for each of 2 axes"),
        (((4, 4), (4, 4)), bool, (1, 0), "a positive spacing"),
        (((4, 4), (4, 4)), bool, (1, math.nan), "a positive spacing"),
        (((4, 4, 4, 4),) * 2, bool, (1, 1, 1, 1), "2 or 3 axes"),
    ],
)
def test_what_is_refused(shapes, dtype, spacing, said):
    with pytest.raises(ValueError, match=said):
        surface_scores(*(np.ones(shape, dtype) for shape in shapes), spacing, 1.0)


def test_options_that_are_refused():
    full = np.ones((3, 3), bool)
    with pytest.raises(ValueError, match="tolerance_mm"):
        surface_scores(full, full, (1, 1), -1)
    with pytest.raises(ValueError, match="voxels or elements"):
        surface_scores(full, full, (1, 1), 1, "surfels")
    with pytest.raises(ValueError, match="an empty mask has no surface"):
        surface_distances(full, ~full, (1, 1))


def monai_scores(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> list[float]:
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    pair = [torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": spacing}
    values = [compute_hausdorff_distance(*pair, percentile=percent, **options) for percent in (95, None)]
    values.append(compute_average_surface_distance(*pair, symmetric=True, **options))
    values.append(compute_surface_dice(*pair, class_thresholds=[tolerance], **options))
    return [float(value) for value in values]


@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
@pytest.mark.parametrize("name", HARD)
def test_parity_with_monai(name, spacing):
    ours = surface_scores(*HARD[name], spacing, 2.05)
    assert list(ours.values()) == pytest.approx(monai_scores(*HARD[name], spacing, 2.05), rel=1e-6)


@pytest.mark.parametrize("name", HARD)
def test_parity_with_monai_in_two_dimensions(name):
    prediction, reference = (mask.any(axis=2) if "noise" not in name else mask[..., 9] for mask in HARD[name])
    ours = surface_scores(prediction, reference, (0.7, 1.3), 2.05)
    assert list(ours.values()) == pytest.approx(monai_scores(prediction, reference, (0.7, 1.3), 2.05), rel=1e-6)


def deepmind_scores(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> list[float]:
    import surface_distance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it calls scipy by names of long ago
        found = surface_distance.compute_surface_distances(reference, prediction, spacing)
    areas = [found["surfel_areas_gt"].sum(), found["surfel_areas_pred"].sum()]
    averages = surface_distance.compute_average_surface_distance(found)
    return [
        surface_distance.compute_robust_hausdorff(found, 95),
        surface_distance.compute_robust_hausdorff(found, 100),
        np.average(averages, weights=areas),
        surface_distance.compute_surface_dice_at_tolerance(found, tolerance),
    ]


@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
@pytest.mark.parametrize("name", HARD)
def test_parity_of_elements_with_surface_distance(name, spacing):
    ours = surface_scores(*HARD[name], spacing, 2.05, "elements")
    assert list(ours.values()) == pytest.approx(deepmind_scores(*HARD[name], spacing, 2.05), rel=1e-6)


@pytest.mark.parametrize("name", HARD)
def test_parity_of_elements_in_two_dimensions(name):
    prediction, reference = (mask.any(axis=2) if "noise" not in name else mask[..., 9] for mask in HARD[name])
    ours = surface_scores(prediction, reference, (0.7, 1.3), 2.05, "elements")
    assert list(ours.values()) == pytest.approx(deepmind_scores(prediction, reference, (0.7, 1.3), 2.05), rel=1e-6)


@pytest.mark.parametrize("name", ["balls", "hollow", "touching the image's border", "one of two components"])
def test_nsd_of_elements_is_that_of_monai_with_subvoxels(name):
    from monai.metrics import compute_surface_dice

    pair = [torch.from_numpy(mask)[None, None].float() for mask in HARD[name]]
    options = {"include_background": True, "spacing": SPACINGS["all different"], "use_subvoxels": True}
    theirs = float(compute_surface_dice(*pair, class_thresholds=[2.05], **options))
    ours = surface_distances(*HARD[name], SPACINGS["all different"], "elements").share_within(2.05)
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.fixture
def real_pairs(shared) -> list[tuple[str, np.ndarray, np.ndarray, tuple[float, ...]]]:
    """Vertebrae, discs and cord of a network beside the reference, and expert masks of tumours and lesions, varied."""
    pairs = []
    spine = [nib.load(shared / "data" / "panoptica_masks" / f"semantic_{of}.nii.gz") for of in ("pred", "ref")]
    prediction, reference = (np.asarray(image.dataobj) for image in spine)
    for value in (26, 44, 60, 100):
        pairs.append((f"spine {value}", prediction == value, reference == value, spine[1].header.get_zooms()))
    folder = shared / "data" / "brats2013_expert" / "train" / "brats_2013_pat0003_1"
    tumour = np.asarray(nib.load(folder / "OTMultiClass.nii.gz").dataobj)
    pairs.append(("tumour eroded", binary_erosion(tumour > 0), tumour > 0, (1.0, 1.0, 1.0)))
    pairs.append(("core shifted", np.roll(tumour > 2, (2, 1), (0, 1)), tumour > 2, (1.0, 1.0, 1.0)))
    lesions = np.asarray(nib.load(shared / "data" / "ms_lesions" / "patient19" / "GOLD_STANDARD.nii.gz").dataobj) > 0
    pairs.append(("MS lesions dilated", binary_dilation(lesions), lesions, (1.0, 1.0, 1.0)))
    return [(name, *masks, tuple(float(step) for step in spacing)) for name, *masks, spacing in pairs]


def test_parity_on_real_masks(real_pairs):
    for name, prediction, reference, spacing in real_pairs:
        # the peers take seconds over a whole image, which cannot change a distance
        box = tuple(slice(max(found.min() - 1, 0), found.max() + 2) for found in np.nonzero(prediction | reference))
        boxed = [np.ascontiguousarray(mask[box]) for mask in (prediction, reference)]
        ours = surface_scores(prediction, reference, spacing, 1.05)
        assert list(ours.values()) == pytest.approx(monai_scores(*boxed, spacing, 1.05), rel=1e-6), name
        elements = surface_scores(prediction, reference, spacing, 1.05, "elements")
        assert list(elements.values()) == pytest.approx(deepmind_scores(*boxed, spacing, 1.05), rel=1e-6), name
