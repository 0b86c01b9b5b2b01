"""Counts of slices: drawn by hand, against a literal sum, and against monai and torchmetrics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from calf.metrics.overlap import SliceCounts, count_slices


def drawn(text: str) -> Tensor:
    """A bool (1, 1, rows, columns) from a drawing; ``#`` is true."""
    return torch.tensor([[[[sign == "#" for sign in line] for line in text.split()]]])


def reference_counts(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """The four products, voxel by voxel, in float64."""
    inside = torch.ones_like(target[:, :1]) if valid is None else valid[:, None]
    p, t, v = (mask.double().flatten(2) for mask in (prediction, target, inside.expand_as(target)))
    terms = (p * t, p * (1 - t), (1 - p) * t, (1 - p) * (1 - t))
    return torch.stack([(term * v).sum(-1) for term in terms], dim=-1).long()


def masks(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction, target = (torch.rand(shape, generator=generator) > share for share in (0.6, 0.8))
    return prediction, target, torch.rand(shape[:1] + shape[2:], generator=generator) > 0.3


def test_a_drawing():
    prediction = drawn("##.. ##.. .... ....")
    target = drawn(".##. .##. .##. ....")
    assert count_slices(prediction, target).tolist() == [[[2, 2, 4, 8]]]


def test_voxels_that_are_not_valid_count_nowhere():
    prediction = drawn("##.. ##.. .... ....")
    target = drawn(".##. .##. .##. ....")
    valid = drawn("#### #### .... ....")[:, 0]
    assert count_slices(prediction, target, valid).tolist() == [[[2, 2, 2, 2]]]
    assert count_slices(prediction, target, torch.zeros_like(valid)).sum() == 0


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 1, 5, 7), (2, 3, 16, 32), (2, 2, 240, 240), (2, 2, 9, 10, 11), (1, 8, 64, 64)]
)
def test_equals_the_literal_sum(shape):
    prediction, target, valid = masks(*shape)
    counts = count_slices(prediction, target, valid)
    assert counts.dtype == torch.int64
    assert counts.tolist() == reference_counts(prediction, target, valid).tolist()
    assert count_slices(prediction, target).tolist() == reference_counts(prediction, target).tolist()


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks(value):
    target = torch.full((2, 1, 300, 300), value)
    everywhere = [90_000, 0, 0, 0] if value else [0, 0, 0, 90_000]
    assert count_slices(target, target).tolist() == [[everywhere]] * 2


def test_memory_layout_does_not_matter():
    prediction, target, valid = masks(4, 3, 16, 32)
    expected = reference_counts(prediction, target, valid)
    last = {"memory_format": torch.channels_last}
    assert torch.equal(count_slices(prediction.contiguous(**last), target.contiguous(**last), valid), expected)
    one = slice(0, 1), slice(0, 1)
    for single in (prediction[one].contiguous(**last), prediction.transpose(0, 1).contiguous().transpose(0, 1)[one]):
        assert torch.equal(count_slices(single, target[one]), reference_counts(prediction[one], target[one]))
    offset = torch.zeros(3 + prediction.numel(), dtype=torch.bool)[3:].view_as(prediction).copy_(prediction)
    assert torch.equal(count_slices(offset, target, valid), expected)
    assert torch.equal(count_slices(prediction.mT, target.mT, valid.mT), reference_counts(prediction.mT, target.mT, valid.mT))
    assert torch.equal(
        count_slices(target[:1].expand(4, -1, -1, -1), target), reference_counts(target[:1].expand(4, -1, -1, -1), target)
    )


def test_counts_the_same_alone_and_in_any_batch():
    prediction, target, valid = masks(6, 2, 20, 30)
    together = count_slices(prediction, target, valid)
    for row in range(6):
        alone = count_slices(prediction[row : row + 1], target[row : row + 1], valid[row : row + 1])
        assert torch.equal(alone[0], together[row])


def test_reads_nothing_back_to_the_host():
    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert "_local_scalar_dense" not in str(func)
            assert "nonzero" not in str(func)
            return func(*args, **(kwargs or {}))

    prediction, target, valid = masks(2, 2, 20, 30)
    with Reads():
        count_slices(prediction, target, valid)


def test_refuses_logits_other_shapes_and_a_valid_mask_with_channels():
    prediction, target, valid = masks(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"bool prediction .* torch.float32"):
        count_slices(prediction.float(), target)
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 8\).*\(1, 1, 8, 8\)"):
        count_slices(prediction, target[:1])
    with pytest.raises(ValueError, match=r"valid as bool \(2, 8, 8\), got torch.bool \(2, 1, 8, 8\)"):
        count_slices(prediction, target, valid[:, None])


@pytest.mark.parametrize("shape", [(5, 1, 24, 24), (4, 3, 10, 12, 14)])
def test_parity_with_monai_and_torchmetrics(shape):
    from monai.metrics import get_confusion_matrix
    from torchmetrics.functional.classification import binary_stat_scores

    prediction, target, _ = masks(*shape)
    prediction[0], target[1] = False, False
    counts = count_slices(prediction, target)
    tp, fp, tn, fn = get_confusion_matrix(prediction.float(), target.float(), include_background=True).unbind(-1)
    assert torch.equal(counts, torch.stack((tp, fp, fn, tn), dim=-1).long())
    flat = (mask.flatten(0, 1).flatten(1) for mask in (prediction, target))
    tp, fp, tn, fn, _ = binary_stat_scores(*(mask.long() for mask in flat), multidim_average="samplewise").unbind(-1)
    assert torch.equal(counts.flatten(0, 1), torch.stack((tp, fp, fn, tn), dim=-1))


def counts_of(*numbers: int) -> Tensor:
    """Distinct counts of a 100-voxel slice for each number below 40, two channels."""
    return torch.tensor([[[n, 40 - n, n + 1, 59 - n], [n, 0, 0, 100 - n]] for n in numbers])


def test_slices_come_back_sorted():
    metric = SliceCounts()
    metric.update(torch.tensor([7, 2]), counts_of(7, 2))
    metric.update(torch.tensor([5]), counts_of(5))
    index, counts = metric.compute()
    assert index.tolist() == [2, 5, 7]
    assert index.dtype == torch.int64
    assert torch.equal(counts, counts_of(2, 5, 7))
    metric.reset()
    metric.update(torch.tensor([1]), counts_of(1))
    assert torch.equal(metric.compute()[1], counts_of(1))


def test_a_repeated_slice_counts_once():
    metric = SliceCounts()
    metric.update(torch.tensor([3, 1, 3]), counts_of(3, 1, 3))
    metric.update(torch.tensor([3, 0]), counts_of(3, 0))
    index, counts = metric.compute()
    assert index.tolist() == [0, 1, 3]
    assert torch.equal(counts, counts_of(0, 1, 3))


def test_a_repeated_slice_must_agree():
    def repeated(second: list[int], tolerance: float = 1e-3) -> Tensor:
        metric = SliceCounts(tolerance)
        metric.update(torch.tensor([4, 9]), torch.tensor([[[500, 100, 100, 9300]], [[1, 0, 0, 9999]]]))
        metric.update(torch.tensor([4]), torch.tensor([[second]]))
        return metric.compute()[1][0, 0]

    assert repeated([505, 104, 95, 9296]).tolist() == [500, 100, 100, 9300]  # the first is kept
    for other in ([505, 106, 95, 9294], [501, 100, 100, 9299], [500, 101, 100, 9300]):
        with pytest.raises(ValueError, match=r"slices \[4\] were counted twice"):
            repeated(other)
    with pytest.raises(ValueError, match="counted twice"):
        repeated([501, 100, 99, 9300], tolerance=0)


def test_without_any_slice_there_is_an_error():
    with pytest.warns(UserWarning, match="before the ``update``"), pytest.raises(ValueError, match="no slice was counted"):
        SliceCounts().compute()


def shards() -> list[list[Tensor]]:
    """Slices 0 to 6 for two processes, in batches: four and five of them, 2 and 5 repeated to fill up."""
    return [[torch.tensor([0, 2]), torch.tensor([4, 6])], [torch.tensor([1, 3]), torch.tensor([5]), torch.tensor([2, 5])]]


def collect(rank: int, world: int, folder: str) -> None:
    """What each of two processes does with its shard."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    metric = SliceCounts()
    for batch in shards()[rank]:
        metric.update(batch, counts_of(*batch.tolist()))
    torch.save(metric.compute(), f"{folder}/rank-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path):
    torch.multiprocessing.spawn(collect, args=(2, str(tmp_path)), nprocs=2)
    alone = SliceCounts()
    alone.update(torch.arange(7), counts_of(*range(7)))
    for rank in range(2):
        index, counts = torch.load(tmp_path / f"rank-{rank}.pt")
        assert torch.equal(index, alone.compute()[0])
        assert torch.equal(counts, alone.compute()[1])
