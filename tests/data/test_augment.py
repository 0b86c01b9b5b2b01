"""Augmentation of images and masks, on the device."""

from __future__ import annotations

import json
import math
import pickle
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import instantiate
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from calf.data.augment import GEOMETRY, INTENSITY, Augmentation
from calf.module import Segmenter
from tests.conftest import ROOT
from tests.losses.zoo import accelerator

STANDARD = yaml.safe_load((ROOT / "conf" / "augment" / "standard.yaml").read_text())
VARIED = [*GEOMETRY, *INTENSITY]


def only(**probabilities: Any) -> Augmentation:
    """The standard augmentation with these alone: a probability, or ``(probability, low, high)``."""
    options: dict[str, Any] = {name: value for name, value in STANDARD.items() if name != "_target_"}
    options |= {"flip_columns": 0.0, "flip_rows": 0.0} | {name: options[name] | {"probability": 0.0} for name in VARIED}
    for name, value in probabilities.items():
        if isinstance(value, tuple):
            value = dict(zip(("probability", "low", "high"), value, strict=True))
        elif name in VARIED and not isinstance(value, dict):
            value = STANDARD[name] | {"probability": value}
        options[name] = value
    return Augmentation(**options)


@pytest.fixture(scope="module")
def standard() -> Augmentation:
    return instantiate(STANDARD)


def batch(*size: int, samples: int = 6, channels: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A smooth image in a frame of padding, and a mask of every value there is."""
    generator = torch.Generator().manual_seed(seed)
    size = size or (40, 32)
    image, mask = torch.zeros(samples, channels, *size), torch.zeros(samples, *size, dtype=torch.uint8)
    inner = (..., slice(4, size[-2] - 4), slice(5, size[-1] - 5))
    image[inner] = torch.rand(image[inner].shape, generator=generator) * 0.6 + 0.3
    mask[inner] = torch.randint(0, 256, mask[inner].shape, generator=generator, dtype=torch.uint8)
    return image, mask


def test_with_probability_0_nothing_changes_and_the_batch_is_copied():
    image, mask = batch()
    nothing = only()
    for seed in range(3):
        changed = nothing.apply(nothing.sample(image.shape, seed), image, mask)
        assert torch.equal(changed[0], image)
        assert torch.equal(changed[1], mask)
    changed[0].zero_()
    assert image.any()
    assert not nothing.moves


@pytest.mark.parametrize("name", [*VARIED, "flip_columns", "flip_rows"])
def test_each_does_something_of_its_own(name):
    image, mask = batch()
    one = only(**{name: 1.0})
    moved, moved_mask = one.apply(one.sample(image.shape, 0), image, mask)
    assert not any(torch.equal(before, after) for before, after in zip(image, moved, strict=True))
    assert torch.equal(moved_mask, mask) == (name in INTENSITY) == (not one.moves)


def test_what_goes_in_is_not_changed(standard):
    image, mask = batch()
    before = image.clone(), mask.clone()
    standard.apply(standard.sample(image.shape, 0), image, mask)
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])


def test_what_was_drawn_is_applied_the_same_again_also_after_it_was_written_down(standard):
    image, mask = batch()
    drawn = standard.sample(image.shape, 7)
    once = standard.apply(drawn, image, mask)
    lists = json.loads(json.dumps({name: values.tolist() for name, values in drawn.items()}))
    read = {name: torch.tensor(values, dtype=drawn[name].dtype) for name, values in lists.items()}
    torch.manual_seed(123)
    for again in (drawn, standard.sample(image.shape, 7), pickle.loads(pickle.dumps(drawn)), read):
        assert all(torch.equal(*pair) for pair in zip(once, standard.apply(again, image, mask), strict=True))
    assert not torch.equal(once[0], standard.apply(standard.sample(image.shape, 8), image, mask)[0])


def test_the_global_random_numbers_are_neither_used_nor_advanced(standard):
    image, mask = batch()
    before = torch.get_rng_state()
    standard.apply(standard.sample(image.shape, 7), image, mask)
    assert torch.equal(before, torch.get_rng_state())


def test_one_thing_less_leaves_the_other_draws_as_they_were():
    without, both = only(gamma=0.5).sample((16, 2), 3), only(gamma=0.5, rotation_degrees=0.5, noise_sd=0.5).sample((16, 2), 3)
    assert torch.equal(without["gamma"], both["gamma"])
    assert both["noise_sd"].any()


def test_a_sample_comes_out_the_same_alone_and_in_a_batch():
    everything = only(**dict.fromkeys(VARIED, 0.7), flip_columns=0.5)
    image, mask = batch()
    drawn = everything.sample(image.shape, 5)
    together = everything.apply(drawn, image, mask)
    for i in range(len(image)):
        own = {name: values[i : i + 1] for name, values in drawn.items()}
        alone = everything.apply(own, image[i : i + 1], mask[i : i + 1])
        torch.testing.assert_close(alone[0][0], together[0][i], rtol=0, atol=1e-6)
        assert torch.equal(alone[1][0], together[1][i])


def test_as_many_are_chosen_as_the_probability_says_and_values_keep_to_their_range(standard):
    drawn = standard.sample((20_000, 1), 0)
    for name, (unchanged, *_) in (GEOMETRY | INTENSITY).items():
        chosen = drawn[name][drawn[name] != unchanged]
        said = STANDARD[name]
        assert len(chosen) / 20_000 == pytest.approx(said["probability"], abs=0.015)
        assert said["low"] <= chosen.min()
        assert chosen.max() <= said["high"]
        assert chosen.double().mean() == pytest.approx((said["low"] + said["high"]) / 2, abs=0.05 * (said["high"] - said["low"]))
    assert drawn["flip_columns"].float().mean() == pytest.approx(0.5, abs=0.015)
    assert not drawn["flip_rows"].any()


def test_channels_are_drawn_apart_or_together():
    apart, together = only(gamma=1.0).sample((4, 3), 0), only(gamma=1.0, per_channel=False).sample((4, 3), 0)
    assert len(apart["gamma"].unique()) == 12
    assert len(together["gamma"].unique()) == 4
    assert torch.equal(together["gamma"], together["gamma"][:, :1].expand(4, 3))


@pytest.mark.parametrize("values", [(0, 1), (0, 1, 2, 3), (0, 1, 2, 4, 5, 7, 129, 255)], ids=["binary", "classes", "bit sets"])
def test_a_mask_keeps_its_kind_of_values(values):
    mask = torch.tensor(values, dtype=torch.uint8)[torch.randint(0, len(values), (8, 40, 32))]
    moving = only(rotation_degrees=1.0, scale=1.0, flip_columns=0.5)
    image = torch.zeros(8, 1, 40, 32)
    _, moved = moving.apply(moving.sample(image.shape, 0), image, mask)
    assert moved.dtype == torch.uint8
    assert set(moved.unique().tolist()) <= set(values)
    assert len(moved.unique()) == len(values)


def test_image_and_mask_move_together():
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(48.0), indexing="ij")
    disc = ((rows - 22) ** 2 + (columns - 30) ** 2 < 81).float().expand(12, 1, 64, 48)
    moving = only(rotation_degrees=1.0, scale=1.0, flip_columns=0.5, flip_rows=0.5)
    image, mask = moving.apply(moving.sample(disc.shape, 1), disc, disc[:, 0].to(torch.uint8))
    seen = image[:, 0] > 0.5
    assert not torch.equal(seen, disc[:, 0] > 0.5)
    overlap = 2 * (seen & (mask > 0)).sum((1, 2)) / (seen.sum((1, 2)) + (mask > 0).sum((1, 2)))
    assert overlap.min() > 0.97


def applied(name: str, value: Any, image: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Nothing but this value, for every sample."""
    drawn = only().sample(image.shape, 0)
    drawn[name] = torch.full_like(drawn[name], value)
    return only().apply(drawn, image, mask if mask is not None else torch.zeros_like(image[:, 0], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("rotation_degrees", 90, (12, 6)),
        ("rotation_degrees", -90, (20, 10)),
        ("rotation_degrees", 180, (18, 4)),
        ("scale", 2, (12, 16)),
        ("scale", 0.5, (15, 10)),
        ("flip_columns", True, (14, 4)),
        ("flip_rows", True, (18, 12)),
    ],
)
def test_a_landmark_goes_where_it_should(name, value, place):
    image = torch.zeros(1, 1, 33, 17)
    image[0, 0, 14, 12] = 1  # two rows above the centre (16, 8) and four columns to the right of it
    moved, mask = applied(name, value, image, (image[:, 0] * 5).to(torch.uint8))
    assert divmod(int(moved.argmax()), 17) == place
    assert moved.max() == pytest.approx(1, abs=1e-4)
    assert mask[0][place] == 5


def test_what_comes_from_outside_the_frame_is_neither_seen_nor_labelled():
    image, mask = torch.full((1, 2, 40, 40), 0.5), torch.full((1, 40, 40), 3, dtype=torch.uint8)
    moved, moved_mask = applied("scale", 0.5, image, mask)
    assert not moved[..., :9].any()
    assert not moved_mask[..., :9].any()
    assert (moved_mask[0, 11:29, 11:29] == 3).all()


def test_a_map_of_what_is_no_padding_moves_as_the_mask_does(standard):
    image, mask = batch()
    drawn = only(rotation_degrees=1.0, scale=1.0, flip_columns=0.5).sample(image.shape, 0)
    valid = standard.move_mask(drawn, mask > 0)
    assert valid.dtype == torch.bool
    assert torch.equal(valid, standard.apply(drawn, image, mask)[1] > 0)


@pytest.mark.parametrize("size", [(40, 32), (3, 40, 32)], ids=["slices", "volumes"])
def test_images_stay_in_range_and_padding_stays_0(size):
    image, mask = batch(*size)
    inside = image[:, :1] > 0
    wild = only(noise_sd=(1, 0.3, 0.5), brightness=(1, 0.2, 3), contrast=(1, 0.2, 3), blur_sigma=1, low_resolution=1, gamma=1)
    changed, _ = wild.apply(wild.sample(image.shape, 0), image, mask)
    assert changed.min() == 0
    assert changed.max() <= 1
    assert not changed[~inside.expand_as(changed)].any()
    assert torch.isfinite(changed).all()


def test_a_pixel_that_only_one_modality_shows_is_no_background():
    image = torch.zeros(1, 2, 8, 8)
    image[0, 0, 4, 4] = 0.5
    changed, _ = applied("noise_sd", 0.3, image)
    assert changed[0, :, 4, 4].max() > 0
    assert not changed[0, :, :4].any()


def test_intensities_follow_their_formulas():
    image = torch.rand(3, 2, 24, 20) * 0.4 + 0.1
    assert torch.allclose(applied("brightness", 1.25, image)[0], image * 1.25)
    assert torch.allclose(applied("gamma", 0.7, image)[0], image**0.7)
    mean = image.mean((2, 3), keepdim=True)
    assert torch.allclose(applied("contrast", 1.25, image)[0], mean + 1.25 * (image - mean), atol=1e-6)
    framed = torch.nn.functional.pad(image, (7, 9, 3, 5))
    torch.testing.assert_close(applied("contrast", 0.75, framed)[0][..., 3:-5, 7:-9], applied("contrast", 0.75, image)[0])
    noise = applied("noise_sd", 0.02, torch.full((2, 1, 256, 256), 0.5))[0] - 0.5
    assert noise.std() == pytest.approx(0.02, rel=0.01)
    assert noise.mean() == pytest.approx(0, abs=3e-4)
    assert abs(np.corrcoef(noise.flatten(1))[0, 1]) < 0.02
    blurred = applied("blur_sigma", 0.9, image)[0]
    expected = gaussian_filter(image.numpy(), (0, 0, 0.9, 0.9), mode="nearest", radius=(0, 0, 3, 3))
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_low_resolution_reads_a_coarser_image():
    image = torch.arange(8.0).div(10).add(0.1).expand(1, 1, 8, 8)
    coarse = applied("low_resolution", 0.5, image)[0][0, 0, 0]
    # columns 1, 3, 5, 7 are kept (nearest of their pairs' centres), and read between by straight lines
    expected = torch.tensor([1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7]) / 10 + 0.1
    torch.testing.assert_close(coarse, expected)
    assert applied("low_resolution", 0.05, torch.rand(1, 1, 8, 8))[0].unique().numel() == 1


def test_every_plane_of_a_volume_is_treated_as_a_slice_would_be():
    image, mask = batch(3, 40, 32)
    for name in VARIED:
        if name in ("noise_sd", "contrast"):  # noise differs from plane to plane; the mean is the volume's
            continue
        one = only(**{name: 1.0})
        drawn = one.sample(image.shape, 0)
        volume, volume_mask = one.apply(drawn, image, mask)
        for depth in range(3):
            plane, plane_mask = one.apply(drawn, image[:, :, depth], mask[:, depth])
            torch.testing.assert_close(volume[:, :, depth], plane, rtol=0, atol=1e-6)
            assert torch.equal(volume_mask[:, depth], plane_mask)


def test_mixed_precision_and_memory_format_change_nothing(standard):
    image, mask = batch(300, 260)
    drawn = only(**dict.fromkeys(VARIED, 0.7)).sample(image.shape, 0)
    plain = standard.apply(drawn, image, mask)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = standard.apply(drawn, image.contiguous(memory_format=torch.channels_last), mask)
    assert all(torch.equal(*pair) for pair in zip(plain, mixed, strict=True))


def test_nothing_is_read_back_from_the_device():
    image, mask = (part.to("meta") for part in batch())  # has no values: reading one raises; nor a generator
    everything = only(**{name: 0.7 for name in VARIED if name != "noise_sd"}, flip_columns=0.5)
    with accelerator():
        moved, moved_mask = everything.apply(everything.sample(image.shape, 0), image, mask)
    assert (moved.device.type, moved_mask.device.type) == ("meta", "meta")


def test_an_empty_slice_stays_empty():
    everything = only(**dict.fromkeys(VARIED, 1.0))
    image, mask = everything.apply(everything.sample((2, 1, 32, 32), 0), torch.zeros(2, 1, 32, 32), torch.zeros(2, 32, 32).byte())
    assert not image.any()
    assert not mask.any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gamma": (1.5, 0.7, 1.5)}, "expected the probability of augment.gamma to be from 0 to 1, got 1.5"),
        ({"flip_rows": -0.5}, "expected the probability of augment.flip_rows to be from 0 to 1, got -0.5"),
        ({"scale": (0.2, 1.4, 0.7)}, "expected augment.scale: 0.1 <= low <= high <= 10.0, got 1.4 and 0.7"),
        ({"scale": (0.2, 0.0, 1.0)}, "expected augment.scale: 0.1 <= low"),
        ({"noise_sd": (0.2, 0.0, math.nan)}, "expected augment.noise_sd: 0.0 <= low"),
        ({"contrast": {"probability": 0.1, "high": 2}}, "expected augment.contrast to be {probability, low, high}"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ValueError, match=said.replace("{", r"\{")):
        only(**options)


def test_stored_integers_are_refused(standard):
    with pytest.raises(ValueError, match="divide stored ones by 255"):
        standard.apply(standard.sample((2, 1, 8, 8), 0), torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, 8, 8).byte())


def test_a_module_given_both_refuses_them_too():
    module = Segmenter(nn.Identity(), nn.MSELoss(), None, None, None, None, augment=only(scale=1.0))  # type: ignore[arg-type]
    with (
        mock.patch.object(Segmenter, "data", SimpleNamespace(distance_maps=True)),
        pytest.raises(ValueError, match="do not fit masks that augmentation moves"),
    ):
        module.on_fit_start()
