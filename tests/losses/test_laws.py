"""What every loss of conf/loss owes: a new YAML is tried here without a line of test.

Where a published loss breaks a law by design, BREAKS says so and why.
"""

from __future__ import annotations

import inspect

import pytest
import torch
from hydra.utils import get_class

from tests.losses.zoo import CONF, FORMS, LOSSES, SPATIAL, accelerator, build, certain, config, regions, value_and_gradient

BREAKS = {
    ("gradient step", "calf_region"): "cells that improve lose weight to cells whose formula has higher values",
    ("permutation of voxels", "calf_region"): "a voxel belongs to a cell of the grid",
    ("independence of samples", "calf"): "the formula is chosen by the areas of the whole batch",
    ("independence of samples", "calf_region"): "the formula is chosen by the areas of the whole batch",
}

#: Options under which a loss that pools the batch is one for each sample.
PER_SAMPLE = {"dice": ["loss.batch=false"], "bce_dice": ["loss.terms.dice.batch=false"]}

every_loss = pytest.mark.parametrize("name", LOSSES)


def skip_if_broken(law: str, name: str) -> None:
    if (law, name) in BREAKS:
        pytest.skip(f"{name}: {BREAKS[law, name]}")


def random_logits(form: str, target: torch.Tensor, **kwargs: torch.dtype) -> torch.Tensor:
    return torch.randn(certain(form, target).shape, generator=torch.Generator().manual_seed(1), **kwargs)


@pytest.mark.parametrize("spatial", SPATIAL.values(), ids=SPATIAL)
@pytest.mark.parametrize("form", FORMS)
@every_loss
class TestLaws:
    def test_perfect_is_better_than_random_and_random_than_inverted(self, name, form, spatial):
        loss, target = build(name), regions(form, spatial)
        perfect = certain(form, target)
        values = [float(loss(logits, target)) for logits in (perfect, random_logits(form, target), -perfect)]
        assert values[0] < values[1] < values[2]

    def test_a_gradient_step_from_zero_lowers_the_loss(self, name, form, spatial):
        skip_if_broken("gradient step", name)
        loss, target = build(name), regions(form, spatial)
        zero = torch.zeros_like(certain(form, target))
        before, gradient = value_and_gradient(loss, zero, target)
        assert loss(zero - 0.1 * gradient / gradient.abs().max(), target) < before

    def test_the_order_of_samples_does_not_matter(self, name, form, spatial):
        loss, target = build(name), regions(form, spatial)
        logits, order = random_logits(form, target), torch.randperm(len(target))
        torch.testing.assert_close(loss(logits[order], target[order]), loss(logits, target))

    def test_the_order_of_voxels_does_not_matter(self, name, form, spatial):
        skip_if_broken("permutation of voxels", name)
        loss, target = build(name), regions(form, spatial)
        logits = random_logits(form, target)
        order = torch.randperm(logits[0, 0].numel())
        first = target.ndim - len(spatial)
        shuffled = logits.flatten(2)[..., order].view_as(logits), target.flatten(first)[..., order].view_as(target)
        torch.testing.assert_close(loss(*shuffled), loss(logits, target))

    def test_a_sample_scores_the_same_alone_and_in_any_batch(self, name, form, spatial):
        skip_if_broken("independence of samples", name)
        loss, target = build(name, *PER_SAMPLE.get(name, [])), regions(form, spatial)
        logits = random_logits(form, target)
        alone = [loss(logits[i : i + 1], target[i : i + 1]) for i in range(len(target))]
        torch.testing.assert_close(torch.stack(alone).mean(), loss(logits, target))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_the_extremes_have_finite_values_and_gradients(self, name, form, spatial, dtype):
        loss, some = build(name), regions(form, spatial)
        empty, full, one_voxel = torch.zeros_like(some), torch.ones_like(some), torch.zeros_like(some)
        one_voxel.flatten()[0] = 1
        perfect = certain(form, some)
        cases = {
            "empty": (torch.zeros_like(perfect), empty),
            "full": (torch.zeros_like(perfect), full),
            "perfect": (perfect, some),
            "inverted": (-perfect, some),
            "saturated": (perfect * 1250, some),
            "saturated and inverted": (perfect * -1250, some),
            "nothing predicted, nothing there": (torch.full_like(perfect, -1e4), empty),
            "all predicted, nothing there": (torch.full_like(perfect, 1e4), empty),
            "nothing predicted, all there": (torch.full_like(perfect, -1e4), full),
            "one voxel": (perfect, one_voxel),
            "batch of one": (perfect[:1], some[:1]),
        }
        for case, (logits, target) in cases.items():
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                value, gradient = value_and_gradient(loss, logits.to(dtype), target)
            assert value.isfinite(), case
            assert gradient.isfinite().all(), case
            assert value.dtype == torch.float32, case

    def test_half_precision_logits_are_computed_in_float32(self, name, form, spatial):
        loss, target = build(name), regions(form, spatial)
        logits = random_logits(form, target).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(logits, target)
        assert torch.equal(value, loss(logits.float(), target))

    def test_the_gradient_is_the_derivative(self, name, form, spatial):
        loss, target = build(name), regions(form, spatial, batch=3)
        logits = (2 * random_logits(form, target, dtype=torch.float64)).requires_grad_()
        assert torch.autograd.gradcheck(lambda z: loss(z, target), (logits,), fast_mode=True)

    def test_the_target_may_have_any_dtype_that_holds_it(self, name, form, spatial):
        loss, target = build(name), regions(form, spatial)
        logits = random_logits(form, target)
        dtypes = [torch.uint8, torch.int16, torch.int64] + ([] if form == "exclusive" else [torch.bool, torch.float32])
        values = [loss(logits, target.to(dtype)) for dtype in dtypes]
        assert all(torch.equal(value, values[0]) for value in values)

    def test_no_accelerator_is_waited_for(self, name, form, spatial):
        loss, target = build(name), regions(form, spatial)
        logits = torch.empty_like(certain(form, target), device="meta", requires_grad=True)
        with accelerator() as reads:
            loss(logits, target.to("meta")).backward()
        assert reads.found == []
        assert logits.grad is not None

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_on_a_gpu_it_is_the_same_and_waits_for_nothing(self, name, form, spatial):
        loss, target = build(name), regions(form, spatial)
        logits = random_logits(form, target)
        on_cpu = value_and_gradient(loss, logits, target)
        logits, target = logits.cuda(), target.cuda()
        value_and_gradient(loss, logits, target)  # CUDA's own set-up may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            on_gpu = value_and_gradient(loss, logits, target)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for ours, theirs in zip(on_gpu, on_cpu, strict=True):
            torch.testing.assert_close(ours.cpu(), theirs)


@every_loss
def test_the_yaml_spells_out_every_argument(name):
    parameters = inspect.signature(get_class(config(name)["_target_"])).parameters.values()
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL}
    assert set(config(name)) - {"_target_"} == named - {"kwargs"}


@every_loss
def test_the_yaml_says_where_it_comes_from(name):
    first = (CONF / "loss" / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")


@every_loss
def test_torch_compile_takes_it_whole(name):
    loss, target = build(name), regions("binary", SPATIAL["2d"])
    logits = random_logits("binary", target)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(value_and_gradient(compiled, logits, target), value_and_gradient(loss, logits, target), strict=True):
        torch.testing.assert_close(ours, theirs)


#: For each argument another value, with which a batch of lines and blobs must score differently.
OTHER = {
    "calf": {"scope": "dataset", "area": "contour", "clamp": "null"},
    "calf_region": {"grid": "2", "area": "contour", "clamp": "null"},
    "focal": {"gamma": "1", "alpha": "null"},
    "dice": {"alpha": "0.3", "beta": "0.7", "smooth": "1", "batch": "false", "background": "true"},
    "bce_dice": {"terms": "{dice: {alpha: 0.3}}", "weights": "{bce: 0.5}"},
}

#: What cannot be seen in one process on one batch, and where it is tested.
ELSEWHERE = {("calf", "ddp"), ("calf_region", "ddp")}  # test_ranks.py


def arguments() -> list[tuple[str, str]]:
    return [(name, key) for name in LOSSES for key in config(name) if key != "_target_" and (name, key) not in ELSEWHERE]


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_every_argument_changes_something(name, argument):
    target = torch.zeros(4, 16, 16, dtype=torch.int64)
    target[:3, 2, 2:14] = 1  # a line has no area within its contour
    target[3, 4:10, 4:6] = 1
    target[1:, 12, 3:9] = 2
    logits = 20 * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    values = []
    for overrides in ([], [f"++loss.{argument}={OTHER[name][argument]}"]):
        loss = build(name, *overrides)
        if hasattr(loss, "observe_dataset"):
            loss.observe_dataset(torch.tensor([1.0, 2, 3, 3, 3]))
        values.append(float(loss(logits, target)))
    assert values[0] != values[1]
