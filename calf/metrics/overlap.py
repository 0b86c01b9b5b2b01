"""Voxel counts of slices on the device, and their collection over an epoch and over processes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def _true_voxels(mask: Tensor) -> Tensor:
    """Number of true voxels along the last axis of a bool ``(B, C, N)``, as int64 ``(B, C)``."""
    # A bool is a byte that holds 0 or 1: eight are added at once as one integer, 64 times, so that no byte can overflow.
    # Torch's own sum of bools first widens each of them to 8 bytes and takes 10 to 30 times as long on a CPU.
    padded = F.pad(mask, (0, -mask.shape[-1] % 512))  # also moves a view to the start of a buffer of its own, as view needs
    words = padded.flatten().view(torch.int64).view(*mask.shape[:2], -1, 64)
    return words.sum(-1).view(torch.uint8).sum(-1)


def count_slices(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """True positive, false positive, false negative and true negative voxels of each sample and channel.

    Args:
        prediction: bool ``(B, C, *S)``, one channel a name (foreground only; ``*S`` is 2-D or 3-D).
        target: bool ``(B, C, *S)``.
        valid: bool ``(B, *S)``, voxels that count (all of them if None); the others enter none of the four.

    Returns:
        int64 ``(B, C, 4)`` in the order tp, fp, fn, tn, on the device of ``prediction``; no host synchronisation.

    Raises:
        ValueError: other dtypes than bool, or shapes that differ (they are never broadcast).

    >>> count_slices(torch.tensor([[[[True, True, False]]]]), torch.tensor([[[[True, False, False]]]]))
    tensor([[[1, 1, 0, 1]]])
    """
    if prediction.shape != target.shape or prediction.dtype != torch.bool or target.dtype != torch.bool:
        raise ValueError(
            "expected a bool prediction and a bool target of the same shape (B, C, *S), got "
            f"{tuple(prediction.shape)} {prediction.dtype} and {tuple(target.shape)} {target.dtype}; threshold the logits first"
        )
    if valid is not None:
        if valid.shape != target.shape[:1] + target.shape[2:] or valid.dtype != torch.bool:
            raise ValueError(
                f"expected valid as bool {tuple(target.shape[:1] + target.shape[2:])}, got {valid.dtype} {tuple(valid.shape)}"
            )
        prediction, target = prediction & valid.unsqueeze(1), target & valid.unsqueeze(1)
    prediction, target = prediction.flatten(2), target.flatten(2)
    tp, predicted, reference = _true_voxels(prediction & target), _true_voxels(prediction), _true_voxels(target)
    total = prediction.shape[-1] if valid is None else _true_voxels(valid.flatten(1).unsqueeze(1))
    return torch.stack((tp, predicted - tp, reference - tp, total - predicted - reference + tp), dim=-1)


class SliceCounts(Metric):
    """Collects the counts of slices over an epoch and, under DDP, over processes, each slice once.

    A distributed sampler repeats slices so that every process gets equally many; the repetitions are dropped. Kernels may
    round differently in batches of different size, so a repetition may differ a little in its prediction, never in its
    reference.

    Args:
        tolerance: share of a slice's voxels by which the prediction of a repeated slice may differ (0 demands equality).

    Limits: every process must have seen at least one slice before ``compute``.
    """

    full_state_update = False
    slice_index: list[Tensor]
    counts: list[Tensor]

    def __init__(self, tolerance: float = 1e-3) -> None:
        super().__init__()
        self.tolerance = tolerance
        self.add_state("slice_index", default=[], dist_reduce_fx="cat")
        self.add_state("counts", default=[], dist_reduce_fx="cat")

    def update(self, slice_index: Tensor, counts: Tensor) -> None:
        """Keep int64 ``(B,)`` and ``(B, C, 4)`` where they are; nothing is checked or moved here."""
        self.slice_index.append(slice_index)
        self.counts.append(counts)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Slice numbers ``(N,)``, ascending and unique, and their counts ``(N, C, 4)``; both int64, on the host.

        The number of a lone slice comes as a scalar, because torchmetrics squeezes results; protocols take it either way.

        Raises:
            ValueError: no slice was counted, or two counts of one slice disagree.
        """
        if isinstance(self.slice_index, list) and not self.slice_index:
            raise ValueError("no slice was counted before compute(): is the split empty?")
        index, counts = dim_zero_cat(self.slice_index).cpu(), dim_zero_cat(self.counts).cpu()
        index, order = index.sort(stable=True)
        counts = counts[order]
        repeated = torch.zeros_like(index, dtype=torch.bool)
        repeated[1:] = index[1:] == index[:-1]
        self._check_repetitions(index[repeated], counts[repeated.roll(-1)], counts[repeated])
        return index[~repeated], counts[~repeated]

    def _check_repetitions(self, index: Tensor, first: Tensor, second: Tensor) -> None:
        tp, fp, fn, tn = (second - first).unbind(-1)
        other_reference = (tp + fn != 0) | (fp + tn != 0)
        # With the same reference, |tp| + |fp| is the least number of voxels in which the two predictions differ.
        other_prediction = tp.abs() + fp.abs() > self.tolerance * first.sum(-1)
        wrong = (other_reference | other_prediction).any(-1)
        if wrong.any():
            raise ValueError(
                f"slices {sorted(set(index[wrong].tolist()))[:10]} were counted twice with different results: expected a slice "
                "to score the same wherever it is predicted; is the network in training mode, or not the same in all processes?"
            )
