"""What every loss of conf/loss owes: a new YAML is tried here without a line of test.

Where a published loss breaks a law by design, the head of its YAML says so and why, and the test looks whether it is true.
Every value is that of a newly built loss, so that one that adapts is tried in its first step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from tests.losses.zoo import (
    FORMS,
    LOSSES,
    SPATIAL,
    accelerator,
    build,
    certain,
    config,
    entry,
    every_loss,
    observed,
    random_logits,
    regions,
    value_and_gradient,
)

Law = Callable[[str, str, tuple[int, ...]], None]


def in_every_setting(law: Law) -> Law:
    """Try a law of (loss, form of target, size) on every form of target in 2-D and in 3-D; what fails says where."""

    def test(name: str) -> None:
        for form, (axes, spatial) in itertools.product(FORMS, SPATIAL.items()):
            try:
                law(name, form, spatial)
            except Exception as error:
                error.add_note(f"loss={name}, {form} target, {axes}")
                raise

    test.law = law  # type: ignore[attr-defined]
    return test


def skip_if_broken(law: str, name: str) -> None:
    if law in entry(name).breaks:
        pytest.skip(f"{name}: {entry(name).breaks[law]}")


def each_sample_alone(node: Any, path: str = "loss") -> list[str]:
    """Overrides under which a loss that pools the batch is one for each sample: every ``empty`` in it becomes ``smooth``."""
    found = []
    for key, value in node.items():
        place = f"{path}.{key}"
        if isinstance(value, DictConfig):
            found += each_sample_alone(value, place)
        elif key == "empty":
            found.append(f"{place}=smooth")
        elif key == "per_sample":
            found.append(f"{place}=true")
    return found


@every_loss
@in_every_setting
def test_perfect_is_better_than_random_and_random_than_inverted(name, form, spatial):
    skip_if_broken("order of perfect, random, inverted", name)
    target = regions(form, spatial)
    perfect = certain(form, target)
    values = [float(build(name)(logits, target).detach()) for logits in (perfect, random_logits(form, target), -perfect)]
    assert values[0] < values[1] < values[2]


@every_loss
@in_every_setting
def test_a_gradient_step_from_zero_lowers_the_loss(name, form, spatial):
    skip_if_broken("gradient step", name)
    target = regions(form, spatial)
    zero = torch.zeros_like(certain(form, target))
    before, gradient = value_and_gradient(build(name), zero, target)
    assert build(name)(zero - 0.1 * gradient / gradient.abs().max(), target) < before


@every_loss
@in_every_setting
def test_the_order_of_samples_does_not_matter(name, form, spatial):
    target = regions(form, spatial)
    logits, order = random_logits(form, target), torch.randperm(len(target), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(build(name)(logits[order], target[order]), build(name)(logits, target))


@every_loss
@in_every_setting
def test_the_order_of_voxels_does_not_matter(name, form, spatial):
    skip_if_broken("permutation of voxels", name)
    target = regions(form, spatial)
    logits = random_logits(form, target)
    torch.testing.assert_close(build(name)(*shuffled(logits, target, spatial)), build(name)(logits, target))


@every_loss
@in_every_setting
def test_a_sample_scores_the_same_alone_and_in_any_batch(name, form, spatial):
    skip_if_broken("independence of samples", name)
    target = regions(form, spatial)
    logits = random_logits(form, target)
    overrides = each_sample_alone(config(name))
    alone = [build(name, *overrides)(logits[i : i + 1], target[i : i + 1]) for i in range(len(target))]
    torch.testing.assert_close(torch.stack(alone).mean(), build(name, *overrides)(logits, target))


@every_loss
@in_every_setting
def test_the_extremes_have_finite_values_and_gradients(name, form, spatial):
    some = regions(form, spatial)
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
    for (case, (logits, target)), dtype in itertools.product(cases.items(), (torch.float32, torch.bfloat16, torch.float16)):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            value, gradient = value_and_gradient(build(name), logits.to(dtype), target)
        assert value.isfinite(), (case, dtype)
        assert gradient.isfinite().all(), (case, dtype)
        assert value.dtype == torch.float32, (case, dtype)


@every_loss
@in_every_setting
def test_the_layout_of_memory_does_not_matter(name, form, spatial):
    target = regions(form, spatial)
    logits = random_logits(form, target)
    theirs = value_and_gradient(build(name), logits, target)
    for last in (len(spatial) + 1, len(spatial)):  # channels last, channels next to last
        other = logits.movedim(1, last).contiguous().movedim(last, 1)
        assert form == "binary" or not other.is_contiguous()
        for one, reference in zip(value_and_gradient(build(name), other, target), theirs, strict=True):
            torch.testing.assert_close(one, reference, msg=lambda said, last=last: f"channels on axis {last}: {said}")


@every_loss
@in_every_setting
def test_half_precision_logits_are_computed_in_float32(name, form, spatial):
    target = regions(form, spatial)
    logits = random_logits(form, target).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = build(name)(logits, target)
    assert torch.equal(value, build(name)(logits.float(), target))


@every_loss
@in_every_setting
def test_the_gradient_is_the_derivative(name, form, spatial):
    target = regions(form, spatial, batch=3)
    logits = (2 * random_logits(form, target, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: build(name).double()(z, target), (logits,), fast_mode=True)


@every_loss
@in_every_setting
def test_the_target_may_have_any_dtype_that_holds_it(name, form, spatial):
    target = regions(form, spatial)
    logits = random_logits(form, target)
    dtypes = [torch.uint8, torch.int16, torch.int64] + ([] if form == "exclusive" else [torch.bool, torch.float32])
    values = [build(name)(logits, target.to(dtype)) for dtype in dtypes]
    assert all(torch.equal(value, values[0]) for value in values)


@every_loss
@in_every_setting
def test_no_accelerator_is_waited_for(name, form, spatial):
    loss, target = build(name).to("meta"), regions(form, spatial)
    logits = torch.empty_like(certain(form, target), device="meta", requires_grad=True)
    with accelerator() as reads:
        loss(logits, target.to("meta")).backward()
    assert reads.found == []
    assert logits.grad is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_loss
@in_every_setting
def test_on_a_gpu_it_is_the_same_and_waits_for_nothing(name, form, spatial):
    target = regions(form, spatial)
    logits = random_logits(form, target)
    on_cpu = value_and_gradient(build(name), logits, target)
    logits, target = logits.cuda(), target.cuda()
    value_and_gradient(build(name).cuda(), logits, target)  # CUDA's own set-up may wait
    loss = build(name).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu = value_and_gradient(loss, logits, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs)


def shuffled(logits: torch.Tensor, target: torch.Tensor, spatial: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with their voxels in another order, the same for all samples."""
    order = torch.randperm(logits[0, 0].numel(), generator=torch.Generator().manual_seed(3))
    first = target.ndim - len(spatial)
    return logits.flatten(2)[..., order].view_as(logits), target.flatten(first)[..., order].view_as(target)


def law_holds(law: str, name: str, form: str, spatial: tuple[int, ...]) -> bool:
    """Whether a law that the head of a YAML calls broken happens to hold in one setting."""
    case = {
        "order of perfect, random, inverted": test_perfect_is_better_than_random_and_random_than_inverted,
        "gradient step": test_a_gradient_step_from_zero_lowers_the_loss,
        "permutation of voxels": test_the_order_of_voxels_does_not_matter,
        "independence of samples": test_a_sample_scores_the_same_alone_and_in_any_batch,
    }[law]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "skip_if_broken", lambda law, name: None)
        try:
            case.law(name, form, spatial)
        except AssertionError:
            return False
    return True


@pytest.mark.parametrize(("name", "law"), [(name, law) for name in LOSSES for law in entry(name).breaks])
def test_a_law_that_is_called_broken_is_broken(name, law):
    assert not all(law_holds(law, name, form, spatial) for form in FORMS for spatial in SPATIAL.values())


#: Loops are unrolled by torch.compile, which takes a second for each time that these go round.
SHORTER = {"cldice": ["loss.terms.cldice.iterations=2"]}


@every_loss
def test_torch_compile_takes_it_whole(name):
    target = regions("binary", SPATIAL["2d"])
    logits = random_logits("binary", target)
    torch.compiler.reset()
    loss, plain = (build(name, *SHORTER.get(name, ())) for _ in range(2))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, theirs = value_and_gradient(compiled, logits, target), value_and_gradient(plain, logits, target)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@every_loss
def test_what_a_loss_remembers_goes_through_a_checkpoint(name):
    """Two steps, saved, loaded into a new loss: the third step is the same."""
    target = regions("exclusive", SPATIAL["2d"])
    kept = observed(build(name))
    for step in range(2):
        kept(random_logits("exclusive", target) * (step + 1), target)
    resumed = observed(build(name))
    resumed.load_state_dict(kept.state_dict())
    assert torch.equal(*(loss(random_logits("exclusive", target), target) for loss in (kept, resumed)))
