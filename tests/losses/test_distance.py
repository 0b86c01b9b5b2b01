"""Distance maps: computed, given, with a spacing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from calf.losses import distance_transform
from calf.losses.contract import TakesDistanceMaps
from calf.losses.distance import BoundaryLoss, DistancePenalizedCELoss, HausdorffDTLoss
from calf.losses.distance_transform import signed_distance
from tests.losses.borders import SHAPES, SPACINGS, every_form, every_loss, exclusive, hard_masks, losses, noise
from tests.losses.zoo import FORMS, accelerator, certain, regions, value_and_gradient


def every_pair(mask: torch.Tensor, spacing: list[float]) -> np.ndarray:
    """The definition: the least of the distances to all voxels of the other kind."""
    signed = np.zeros(mask.shape)
    inside, outside = np.argwhere(mask.numpy()), np.argwhere(~mask.numpy())
    if len(inside) and len(outside):
        pairs = np.sqrt((((inside[:, None] - outside[None]) * np.array(spacing)) ** 2).sum(-1))
        signed[tuple(inside.T)], signed[tuple(outside.T)] = -pairs.min(1), pairs.min(0)
    return signed


class TestSignedDistance:
    @pytest.mark.parametrize("transform", [distance_transform._by_scipy, distance_transform._by_shifts])
    @pytest.mark.parametrize("unit", [True, False])
    @pytest.mark.parametrize("axes", SHAPES)
    def test_it_is_the_distance_to_the_nearest_voxel_of_the_other_kind(self, axes, unit, transform):
        masks, spacing = hard_masks(SHAPES[axes]), [1.0] * len(SHAPES[axes]) if unit else SPACINGS[axes]
        expected = np.stack([every_pair(mask[0], spacing) for mask in masks])[:, None]
        found = transform(masks, spacing)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        given = None if unit else spacing
        np.testing.assert_allclose(signed_distance(masks, given), expected, rtol=1e-6)

    def test_channels_are_transformed_alone(self):
        masks = hard_masks(SHAPES["2d"]).view(2, 4, *SHAPES["2d"])
        both = signed_distance(masks)
        for sample, channel in itertools.product(range(2), range(4)):
            alone = signed_distance(masks[sample : sample + 1, channel : channel + 1])
            assert torch.equal(both[sample, channel], alone[0, 0])

    def test_an_image_of_its_usual_size(self):
        masks = torch.zeros(2, 1, 200, 160, dtype=torch.bool)
        masks[0, 0, 30:90, 100:130] = masks[1, 0, :, 3] = True
        inside, outside = (np.stack([distance_transform_edt(side[0]) for side in sides]) for sides in (masks, ~masks))
        np.testing.assert_allclose(signed_distance(masks)[:, 0], outside - inside, rtol=1e-6)
        np.testing.assert_allclose(distance_transform._by_shifts(masks, [1.0, 1.0])[:, 0], outside - inside, rtol=1e-6)

    def test_masks_in_any_memory_layout(self):
        masks = hard_masks((6, 8)).view(4, 2, 6, 8)
        assert torch.equal(signed_distance(masks.contiguous(memory_format=torch.channels_last)), signed_distance(masks))
        assert torch.equal(signed_distance(masks.mT), signed_distance(masks).mT)

    def test_no_accelerator_is_waited_for(self):
        with accelerator() as reads:
            maps = distance_transform._by_shifts(torch.empty(2, 3, 8, 6, dtype=torch.bool, device="meta"), [1.0, 2.0])
        assert reads.found == []
        assert maps.shape == (2, 3, 8, 6)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_on_a_gpu_it_is_the_same(self):
        masks = hard_masks(SHAPES["3d"])
        torch.testing.assert_close(signed_distance(masks.cuda(), SPACINGS["3d"]).cpu(), signed_distance(masks, SPACINGS["3d"]))

    @pytest.mark.parametrize("spacing", [[1.0], [1.0, 1.0, 1.0], [1.0, 0.0], [1.0, -1.0], [1.0, math.inf], [1.0, math.nan]])
    def test_an_impossible_spacing_is_named(self, spacing):
        with pytest.raises(ValueError, match="spacing to be 2 positive numbers"):
            signed_distance(torch.ones(1, 1, 4, 4, dtype=torch.bool), spacing)

    def test_probabilities_are_no_masks(self):
        with pytest.raises(ValueError, match=r"boolean masks, got torch\.float32"):
            signed_distance(torch.rand(1, 1, 4, 4))


@every_loss
class TestGivenMaps:
    @pytest.mark.parametrize("background", [False, True])
    @every_form
    def test_they_give_the_number_that_computed_ones_give(self, name, form, spatial, background):
        loss, target = losses(background)[name], regions(form, spatial)
        logits = noise(certain(form, target).shape)
        computed = value_and_gradient(loss, logits, target)
        masks = torch.stack([target == c for c in range(1, FORMS[form])], 1) if form == "exclusive" else target > 0
        maps = signed_distance(masks)
        before = maps.clone()
        loss.take_distance_maps(maps)
        for ours, expected in zip(value_and_gradient(loss, logits, target), computed, strict=True):
            assert torch.equal(ours, expected)
        assert torch.equal(maps, before)

    def test_they_are_used_and_once(self, name):
        loss, target = losses()[name], hard_masks((9, 5)).float()
        logits, maps = noise(target.shape), signed_distance(target > 0)
        computed = loss(logits, target)
        loss.take_distance_maps(maps**3)
        assert loss(logits, target) != computed
        assert loss(logits, target) == computed

    def test_none_outlives_a_call_that_failed(self, name):
        loss, target = losses()[name], hard_masks((9, 5)).float()
        logits, maps = noise(target.shape), signed_distance(target > 0)
        computed = loss(logits, target)
        loss.take_distance_maps(maps**3)
        with pytest.raises(ValueError, match="expected class indices"):
            loss(logits, target[..., :3])
        assert loss(logits, target) == computed

    def test_half_precision_is_enough(self, name):
        loss, target = losses()[name], hard_masks((30, 20)).float()
        logits = noise(target.shape)
        computed = loss(logits, target)
        loss.take_distance_maps(signed_distance(target > 0).half())
        torch.testing.assert_close(loss(logits, target), computed, rtol=2e-3, atol=0)

    def test_of_another_shape_they_are_refused(self, name):
        loss, target = losses()[name], exclusive(hard_masks((9, 5)))
        logits = noise(torch.Size((8, 4, 9, 5)))
        for shape in [(8, 4, 9, 5), (8, 3, 5, 9), (4, 3, 9, 5), (8, 9, 5)]:
            loss.take_distance_maps(torch.zeros(shape))
            with pytest.raises(ValueError, match=r"maps \(8, 3, 9, 5\), one for each foreground channel, got"):
                loss(logits, target)

    def test_of_another_target_they_are_refused(self, name):
        loss, target = losses()[name], hard_masks((40, 60)).float()
        maps = signed_distance(target > 0)
        for other in (-maps, maps.roll(1, 0), maps.flip(-1), maps.abs(), torch.zeros_like(maps), maps.clamp(max=0)):
            loss.take_distance_maps(other)
            with pytest.raises(ValueError, match="of another batch, another order of channels, or"):
                loss(noise(target.shape), target)

    def test_the_contract_knows_the_loss(self, name):
        assert isinstance(losses()[name], TakesDistanceMaps)

    def test_torch_compile_takes_them(self, name):
        loss, target = losses()[name], hard_masks((9, 5)).float()
        logits, maps = noise(target.shape), signed_distance(target > 0)
        expected = value_and_gradient(loss, logits, target)
        torch.compiler.reset()
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        for given in (False, True, True, False):
            if given:
                loss.take_distance_maps(maps)
            for ours, theirs in zip(value_and_gradient(compiled, logits, target), expected, strict=True):
                torch.testing.assert_close(ours, theirs)
            assert loss._next_maps is None


@pytest.mark.parametrize(
    "build_loss",
    [lambda s: BoundaryLoss(s, False), lambda s: HausdorffDTLoss(1.0, True, "none", s, False), DistancePenalizedCELoss],
)
class TestSpacing:
    def test_maps_in_voxels_are_not_taken_for_millimetres(self, build_loss):
        loss, target = build_loss([1.0, 3.0]), hard_masks((9, 5)).float()
        logits = noise(target.shape)
        computed = loss(logits, target)
        loss.take_distance_maps(signed_distance(target > 0))
        assert loss(logits, target) == computed != build_loss(None)(logits, target)

    def test_a_spacing_of_one_changes_nothing(self, build_loss):
        target = hard_masks((4, 5, 3)).float()
        logits = noise(target.shape)
        assert build_loss([1, 1, 1])(logits, target) == build_loss(None)(logits, target)

    def test_one_that_does_not_fit_is_named(self, build_loss):
        with pytest.raises(ValueError, match=r"positive numbers, got \[1\.0, 0\.0\]"):
            build_loss([1, 0])
        target = hard_masks((9, 5)).float()
        with pytest.raises(ValueError, match="spacing to be 2 positive numbers"):
            build_loss([1, 1, 1])(target, target)
