"""What every loss of conf/loss owes: a new YAML is tried here without a line of test.

Where a published loss breaks a law by design, the head of its YAML says so and why, and the test looks whether it is true.
Every value is that of a newly built loss, so that one that adapts is tried in its first step.
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_method
from omegaconf import DictConfig

from calf.catalogue import FAMILIES, Entry, read_entry
from calf.losses.contract import FollowsEpochs, ObservesDataset
from tests.losses.zoo import CONF, FORMS, LOSSES, SPATIAL, accelerator, build, certain, config, regions, value_and_gradient

every_loss = pytest.mark.parametrize("name", LOSSES)


@functools.cache
def entry(name: str) -> Entry:
    return read_entry(CONF / "loss" / f"{name}.yaml")


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


def random_logits(form: str, target: torch.Tensor, **kwargs: torch.dtype) -> torch.Tensor:
    return torch.randn(certain(form, target).shape, generator=torch.Generator().manual_seed(1), **kwargs)


@pytest.mark.parametrize("spatial", SPATIAL.values(), ids=SPATIAL)
@pytest.mark.parametrize("form", FORMS)
@every_loss
class TestLaws:
    def test_perfect_is_better_than_random_and_random_than_inverted(self, name, form, spatial):
        skip_if_broken("order of perfect, random, inverted", name)
        target = regions(form, spatial)
        perfect = certain(form, target)
        values = [float(build(name)(logits, target).detach()) for logits in (perfect, random_logits(form, target), -perfect)]
        assert values[0] < values[1] < values[2]

    def test_a_gradient_step_from_zero_lowers_the_loss(self, name, form, spatial):
        skip_if_broken("gradient step", name)
        target = regions(form, spatial)
        zero = torch.zeros_like(certain(form, target))
        before, gradient = value_and_gradient(build(name), zero, target)
        assert build(name)(zero - 0.1 * gradient / gradient.abs().max(), target) < before

    def test_the_order_of_samples_does_not_matter(self, name, form, spatial):
        target = regions(form, spatial)
        logits, order = random_logits(form, target), torch.randperm(len(target), generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(build(name)(logits[order], target[order]), build(name)(logits, target))

    def test_the_order_of_voxels_does_not_matter(self, name, form, spatial):
        skip_if_broken("permutation of voxels", name)
        target = regions(form, spatial)
        logits = random_logits(form, target)
        torch.testing.assert_close(build(name)(*shuffled(logits, target, spatial)), build(name)(logits, target))

    def test_a_sample_scores_the_same_alone_and_in_any_batch(self, name, form, spatial):
        skip_if_broken("independence of samples", name)
        target = regions(form, spatial)
        logits = random_logits(form, target)
        overrides = each_sample_alone(config(name))
        alone = [build(name, *overrides)(logits[i : i + 1], target[i : i + 1]) for i in range(len(target))]
        torch.testing.assert_close(torch.stack(alone).mean(), build(name, *overrides)(logits, target))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_the_extremes_have_finite_values_and_gradients(self, name, form, spatial, dtype):
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
        for case, (logits, target) in cases.items():
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                value, gradient = value_and_gradient(build(name), logits.to(dtype), target)
            assert value.isfinite(), case
            assert gradient.isfinite().all(), case
            assert value.dtype == torch.float32, case

    @pytest.mark.parametrize("layout", ["channels last", "channels next to last"])
    def test_the_layout_of_memory_does_not_matter(self, name, form, spatial, layout):
        target = regions(form, spatial)
        logits = random_logits(form, target)
        last = len(spatial) + 1
        other = logits.movedim(1, last if layout == "channels last" else last - 1).contiguous()
        other = other.movedim(last if layout == "channels last" else last - 1, 1)
        assert form == "binary" or not other.is_contiguous()
        ours, theirs = (value_and_gradient(build(name), z, target) for z in (other, logits))
        for one, reference in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, reference)

    def test_half_precision_logits_are_computed_in_float32(self, name, form, spatial):
        target = regions(form, spatial)
        logits = random_logits(form, target).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            value = build(name)(logits, target)
        assert torch.equal(value, build(name)(logits.float(), target))

    def test_the_gradient_is_the_derivative(self, name, form, spatial):
        target = regions(form, spatial, batch=3)
        logits = (2 * random_logits(form, target, dtype=torch.float64)).requires_grad_()
        assert torch.autograd.gradcheck(lambda z: build(name).double()(z, target), (logits,), fast_mode=True)

    def test_the_target_may_have_any_dtype_that_holds_it(self, name, form, spatial):
        target = regions(form, spatial)
        logits = random_logits(form, target)
        dtypes = [torch.uint8, torch.int16, torch.int64] + ([] if form == "exclusive" else [torch.bool, torch.float32])
        values = [build(name)(logits, target.to(dtype)) for dtype in dtypes]
        assert all(torch.equal(value, values[0]) for value in values)

    def test_no_accelerator_is_waited_for(self, name, form, spatial):
        loss, target = build(name).to("meta"), regions(form, spatial)
        logits = torch.empty_like(certain(form, target), device="meta", requires_grad=True)
        with accelerator() as reads:
            loss(logits, target.to("meta")).backward()
        assert reads.found == []
        assert logits.grad is not None

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_on_a_gpu_it_is_the_same_and_waits_for_nothing(self, name, form, spatial):
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
        "order of perfect, random, inverted": TestLaws.test_perfect_is_better_than_random_and_random_than_inverted,
        "gradient step": TestLaws.test_a_gradient_step_from_zero_lowers_the_loss,
        "permutation of voxels": TestLaws.test_the_order_of_voxels_does_not_matter,
        "independence of samples": TestLaws.test_a_sample_scores_the_same_alone_and_in_any_batch,
    }[law]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "skip_if_broken", lambda law, name: None)
        try:
            case(TestLaws(), name, form, spatial)
        except AssertionError:
            return False
    return True


@pytest.mark.parametrize(("name", "law"), [(name, law) for name in LOSSES for law in entry(name).breaks])
def test_a_law_that_is_called_broken_is_broken(name, law):
    assert not all(law_holds(law, name, form, spatial) for form in FORMS for spatial in SPATIAL.values())


@every_loss
def test_the_yaml_spells_out_every_argument(name):
    parameters = inspect.signature(get_method(config(name)["_target_"])).parameters.values()
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL}
    assert set(config(name)) - {"_target_"} == named - {"kwargs"}


@every_loss
def test_the_head_of_the_yaml_is_complete(name):
    head = entry(name)
    assert head.summary.endswith(".")
    assert head.family in FAMILIES
    assert head.formula
    assert re.search(r"\d{4}, https://\S+", head.paper)


@every_loss
def test_torch_compile_takes_it_whole(name):
    target = regions("binary", SPATIAL["2d"])
    logits = random_logits("binary", target)
    torch.compiler.reset()
    compiled = torch.compile(build(name), fullgraph=True, backend="aot_eager")
    ours, theirs = value_and_gradient(compiled, logits, target), value_and_gradient(build(name), logits, target)
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


@functools.cache
def alternatives() -> dict[str, dict[str, Any]]:
    """Other values of arguments, by loss, where the one made up below will not do."""
    files = sorted((CONF.parent / "tests" / "losses" / "alternatives").glob("*.yaml"))
    return {name: other for file in files for name, other in yaml.safe_load(file.read_text()).items()}


def another(name: str, argument: str) -> Any:
    """Another value of an argument, with which a batch of lines and blobs must score differently."""
    listed = alternatives().get(name, {})
    value = config(name)[argument]
    if argument in listed:
        return listed[argument]
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int | float):
        return 2 * value if value else 1
    raise AssertionError(
        f"which other value can loss={name} loss.{argument}={value} take? Write it into tests/losses/alternatives/"
    )


#: What cannot be seen in one process on one batch, and where it is tested.
ELSEWHERE = {
    ("calf", "ddp"),  # test_ranks.py
    ("calf_region", "ddp"),
    ("deep_supervision", "decay"),  # test_compound.py: a single tensor has one scale
    ("deep_supervision", "skip_lowest"),
}


def arguments() -> list[tuple[str, str]]:
    """Arguments of each loss, but for the losses it is composed of, which have YAMLs of their own."""
    own = [(name, key, value) for name in LOSSES for key, value in config(name).items() if key != "_target_"]
    return [
        (name, key)
        for name, key, value in own
        if (name, key) not in ELSEWHERE and not (isinstance(value, DictConfig) and "_target_" in value) and key != "terms"
    ]


def observed(loss: torch.nn.Module) -> torch.nn.Module:
    for part in loss.modules():
        if isinstance(part, ObservesDataset):
            part.observe_dataset(torch.tensor([1.0, 2, 3, 3, 3]))
    return loss


def course(loss: torch.nn.Module, form: str) -> list[float]:
    """Values of a loss over four epochs of four steps of a training that goes well."""
    classes = torch.zeros(4, 16, 16, dtype=torch.int64)
    classes[:3, 2, 2:14] = 1  # a line has no area within its contour
    classes[3, 4:10, 4:6] = 1
    classes[1:, 12, 3:9] = 2
    target = classes if form == "exclusive" else torch.stack([classes == index for index in range(3)], 1).to(torch.uint8)
    noise = 20 * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    values = []
    for epoch in range(4):
        for part in observed(loss).modules():
            if isinstance(part, FollowsEpochs):
                part.start_epoch(epoch, 4)
        for step in range(4):
            values.append(float(loss(noise + (4 * epoch + step) * certain(form, target, 1.0), target).detach()))
    return values


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_every_argument_changes_something(name, argument):
    override = f"++loss.{argument}={another(name, argument)}"
    # some arguments are for exclusive classes, some for channels
    assert any(course(build(name), form) != course(build(name, override), form) for form in ("exclusive", "multilabel"))
