"""What the phantom shows: tumours built like gliomas, their sizes, contrasts, noise and annotation bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import label
from scipy.stats import skew

from calf.data.phantom import BRAIN_MM, Phantom, biased_labels, generate_patient
from calf.data.volumes import read_case
from tests.data.test_phantom import COARSE


@pytest.fixture(scope="module")
def masks(default_phantom: Phantom) -> list[np.ndarray]:
    return [read_case(case, ("flair",), default_phantom.labels).mask for case in default_phantom.cases()]


# --- what is in them ------------------------------------------------------------------------------------------------


def test_areas_are_skewed_and_half_of_the_slices_are_empty(masks: list[np.ndarray]) -> None:
    areas = np.stack([(mask > 0).sum((0, 1)) for mask in masks])
    assert skew(areas.ravel()) > 1
    assert skew(areas[areas > 0]) > 0.5
    assert skew(areas.sum(1)) > 0.5
    assert 0.4 < (areas == 0).mean() < 0.6
    assert areas.sum(1).min() > 50


def test_tumours_are_built_like_gliomas(masks: list[np.ndarray]) -> None:
    without_enhancement = sum(4 not in mask for mask in masks)
    assert 0 < without_enhancement < 6
    assert all(set(np.unique(mask)) <= {0, 1, 2, 4} for mask in masks)
    assert all((mask == 2).any() for mask in masks)
    shares = np.mean([[(mask == value).sum() / (mask > 0).sum() for value in (1, 2, 4)] for mask in masks], axis=0)
    assert shares[1] > shares[2] > shares[0] > 0.03
    steps = [(axis, step) for axis in (0, 1) for step in (1, -1)]
    for mask in (mask for mask in masks if 4 in mask):  # necrosis lies behind the rim
        beside = np.stack([np.roll(mask, step, axis)[mask == 1] for axis, step in steps])
        assert (beside == 0).mean() < 0.05


def test_satellites_and_grades_follow_their_shares() -> None:
    def large_parts(phantom: Phantom) -> float:
        parts = 0
        for patient in range(8):
            core = np.isin(generate_patient(phantom, patient)[1], (1, 4))
            _, count = label(core)
            parts += count
        return parts / 8

    alone, together = (Phantom("x", radius_mm=20, radius_spread=0, satellite_share=share) for share in (0.0, 1.0))
    assert large_parts(together) > large_parts(alone) + 0.7
    for share in (0.0, 1.0):
        grades = Phantom("x", low_grade_share=share)
        assert all((4 in generate_patient(grades, patient)[1]) == (share == 0) for patient in range(8))


def test_sizes_follow_their_distribution() -> None:
    def radii(**arguments: float) -> np.ndarray:
        phantom = Phantom("x", satellite_share=0, **arguments)  # type: ignore[arg-type]
        volumes = [(generate_patient(phantom, patient)[1] > 0).sum() * 54.0 for patient in range(12)]
        return np.cbrt(np.array(volumes) * 3 / (4 * np.pi))

    small, large, alike = radii(radius_mm=15), radii(radius_mm=30), radii(radius_mm=20, radius_spread=0)
    assert 1.6 < np.median(large) / np.median(small) < 2.3
    assert 0.8 < np.median(small) / 15 < 1.2
    assert np.log(small).std() > 2 * np.log(alike).std()


def test_contrasts_are_those_of_glioma() -> None:
    phantom = Phantom("x", noise=0, bias_field=0, low_grade_share=0)
    for patient in range(4):
        images, labels = generate_patient(phantom, patient)
        brain = images["t1"] > 0
        level = {name: {value: image[labels == value].mean() for value in (1, 2, 4)} for name, image in images.items()}
        healthy = {name: np.median(image[brain & (labels == 0)]) for name, image in images.items()}
        assert level["flair"][2] > 1.3 * healthy["flair"]
        assert level["t2"][2] > 1.3 * healthy["t2"]
        assert level["t1"][2] < healthy["t1"]
        assert level["t1ce"][4] > 1.3 * healthy["t1ce"]
        assert level["t1ce"][4] > 1.3 * max(level["t1ce"][1], level["t1ce"][2])


def test_no_single_threshold_finds_the_tumour(default_phantom: Phantom) -> None:
    best = 0.0
    volumes = [read_case(case, ("flair", "t2"), default_phantom.labels) for case in default_phantom.cases()]
    for channel in (0, 1):
        scaled = [volume.images[channel] / np.percentile(volume.images[channel], 99.5) for volume in volumes]
        for threshold in np.linspace(0.3, 1, 36):
            found = [image > threshold for image in scaled]
            dice = [2 * (f & (v.mask > 0)).sum() / (f.sum() + (v.mask > 0).sum()) for f, v in zip(found, volumes, strict=True)]
            best = max(best, float(np.mean(dice)))
    assert 0.5 < best < 0.8


def test_the_background_is_zero_and_nothing_touches_the_border(default_phantom: Phantom) -> None:
    for case in default_phantom.cases():
        volumes = read_case(case, default_phantom.modalities, default_phantom.labels)
        brain = volumes.images > 0
        assert (brain == brain[0]).all()
        assert not (volumes.mask[~brain[0]]).any()
        assert 0.12 < brain[0].mean() < 0.3
        for face in (brain[0][0], brain[0][-1], brain[0][:, 0], brain[0][:, -1], brain[0][..., 0], brain[0][..., -1]):
            assert not face.any()


def test_noise_and_bias_field_do_what_they_say() -> None:
    quiet = Phantom("x", noise=0, bias_field=0)
    clean = generate_patient(quiet, 0)[0]["t1"].astype(float)
    brain = clean > 0
    noisy = generate_patient(replace(quiet, noise=0.05), 0)[0]["t1"][brain] - clean[brain]
    assert 0.7 < noisy.std() / (0.05 * np.percentile(clean[brain], 75)) < 1.3
    field = np.ones(clean.shape)
    field[brain] = generate_patient(replace(quiet, bias_field=0.3), 0)[0]["t1"][brain] / clean[brain]
    assert 0.05 < np.log(field[brain]).std() < 0.5
    assert np.median(np.abs(np.diff(np.log(field), axis=0))[brain[1:] & brain[:-1]]) < 0.03  # smooth


def test_a_patient_looks_alike_at_every_resolution() -> None:
    coarse, fine = Phantom("x"), Phantom("x", shape=(128, 128, 48), spacing_mm=(1.5, 1.5, 3))
    (_, labels), (_, fine_labels) = (generate_patient(phantom, 1) for phantom in (coarse, fine))
    blocks = (fine_labels > 0).reshape(64, 2, 64, 2, 24, 2).mean((1, 3, 5)) > 0.5
    whole = labels > 0
    assert 2 * (blocks & whole).sum() / (blocks.sum() + whole.sum()) > 0.85


def test_the_size_of_brats() -> None:
    images, labels = generate_patient(Phantom("x", shape=(240, 240, 155), spacing_mm=(1, 1, 1)), 0)
    assert images["flair"].shape == labels.shape == (240, 240, 155)
    litres = (images["flair"] > 0).sum() / 1e6
    assert 1.0 < litres < 1.6
    assert all(count * size >= needed for count, size, needed in zip((240, 240, 155), (1, 1, 1), BRAIN_MM, strict=True))


# --- annotation bias ------------------------------------------------------------------------------------------------


def test_annotation_bias_is_in_mm() -> None:
    """One voxel grows to the offsets whose length in mm is at most the bias: 1 x 2 x 5 mm voxels."""
    labels = np.zeros((11, 11, 5), np.uint8)
    labels[5, 5, 2] = 2
    spacing_mm = (1.0, 2.0, 5.0)
    for bias_mm in (0.9, 1.0, 2.0, 3.0, 5.0):
        grown = biased_labels(labels, np.ones(labels.shape, bool), bias_mm, spacing_mm)
        offset = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in labels.shape), indexing="ij"), -1) * spacing_mm
        np.testing.assert_array_equal(grown == 2, np.sqrt((offset**2).sum(-1)) <= bias_mm)
    box = np.zeros((11, 11, 5), np.uint8)
    box[2:9, 2:9, 1:4] = 2
    shrunk = biased_labels(box, np.ones(box.shape, bool), -2.0, spacing_mm)
    expected = np.zeros_like(box)
    expected[4:7, 3:8, 1:4] = 2  # two voxels of 1 mm, one of 2 mm, none of 5 mm
    np.testing.assert_array_equal(shrunk, expected)


@pytest.mark.parametrize("bias_mm", [-6.0, 6.0])
def test_every_region_of_the_mask_is_biased_and_stays_in_the_brain(bias_mm: float) -> None:
    phantom = Phantom("x", low_grade_share=0)
    images, labels = generate_patient(phantom, 4)
    brain = images["flair"] > 0
    biased = biased_labels(labels, brain, bias_mm, phantom.spacing_mm)
    for members in ((1, 2, 4), (1, 4), (4,)):
        region, moved = np.isin(labels, members), np.isin(biased, members)
        alone = biased_labels(np.where(region, 4, 0).astype(np.uint8), brain, bias_mm, phantom.spacing_mm)
        np.testing.assert_array_equal(moved, alone == 4)
        assert (region <= moved).all() if bias_mm > 0 else (moved <= region).all()
        assert moved.sum() != region.sum()
    assert not biased[~brain].any()


READ: dict[float, Callable[[np.ndarray, np.ndarray], bool]] = {
    6.0: lambda mask, truth: mask.sum() > truth.sum(),
    -6.0: lambda mask, truth: mask.sum() < truth.sum(),
}


@pytest.mark.parametrize("bias_mm", READ)
def test_the_clean_truth_is_kept_beside(tmp_path: Path, bias_mm: float) -> None:
    plain, biased = Phantom(tmp_path, **COARSE), Phantom(tmp_path, **COARSE, annotation_bias_mm=bias_mm)
    for before, after in zip(plain.cases(), biased.cases(), strict=True):
        assert before.reference is None
        assert after.reference is not None
        assert after.reference.name == f"{after.id}_seg_clean.nii.gz"
        old = read_case(before, plain.modalities, plain.labels)
        new = read_case(after, biased.modalities, biased.labels)
        np.testing.assert_array_equal(old.images, new.images)
        assert new.reference is not None
        np.testing.assert_array_equal(old.mask, new.reference)
        assert READ[bias_mm](new.mask > 0, new.reference > 0)
