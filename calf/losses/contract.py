"""The contract of every loss, and the only place where inputs are checked and turned into channels.

``loss(logits, target) -> scalar``, with spatial axes ``*S`` in 2-D or 3-D. The target's form decides, as in torch:

* ``(B, *S)`` integers: class indices, class 0 is background; softmax over ``C >= 2`` channels ("exclusive").
* ``(B, C, *S)``, the logits' own shape, values 0 or 1 of any dtype: each channel is a sigmoid of its own.

A new loss is a subclass of :class:`SegmentationLoss` and a YAML. Its ``compute`` starts from :func:`probs_and_onehot`, or, on
logits, from :func:`one_versus_rest` or :func:`margins`. What it needs beyond logits and target it takes at construction, or
through one of the optional hooks below, which the trainer looks for on every module in ``loss.modules()``, so that a loss
inside a sum is found too:

* :class:`ObservesDataset`: told the training set's foreground areas before the first step.
* :class:`FollowsEpochs`: told when an epoch begins.
* :class:`TakesDistanceMaps`: given the distance maps of the batch, where the store has them, before it is called.
* :class:`TakesBranches`: can be asked which of its branches the latest step took.
* :class:`Explores`: wants to try steps of the network with other settings of its own.

What a ratio of counts is for a class that is absent from the truth is one option everywhere, ``empty``:

* ``skip``: each sample alone; an absent class is left out of the sample's mean, and a sample without any class counts 0.
* ``smooth``: each sample alone; an absent class scores what the smoothing term makes of it.
* ``batch``: the samples of the batch, with several ranks of each rank's, are one; a class absent from all of them scores as
  with ``smooth``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from calf.losses.voxels import on_host


@runtime_checkable
class ObservesDataset(Protocol):
    """A loss that wants to know the training set before the first step."""

    def observe_dataset(self, areas: Tensor) -> None:
        """``areas``: ``(N,)``, or ``(N, C)`` for ``C`` foreground classes or regions; one row for each training sample."""


@runtime_checkable
class FollowsEpochs(Protocol):
    """A loss that changes with the epochs of the training."""

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Before the first step of each epoch, also of one that a resumed run begins with. ``epoch`` counts from 0."""


@runtime_checkable
class TakesDistanceMaps(Protocol):
    """A loss that needs distances to the truth's border, and computes them where it is given none."""

    def take_distance_maps(self, maps: Tensor) -> None:
        """``maps``: ``(B, K, *S)`` of the truth that the next call gets, for its ``K`` foreground channels.

        A voxel's distance to the nearest one of the other kind, in voxels: positive outside, negative inside, and 0
        everywhere where the channel is empty or full, since there is no border. Valid for the next call only.
        """


@runtime_checkable
class Explores(Protocol):
    """A loss that chooses settings of its own by trial steps of the network."""

    def explore(self, trial: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """Before a training step. ``trial()`` takes one gradient step on the coming batch with the loss as it then is, on a copy
        of the weights, and returns the logits and the target of that batch after it, without gradient."""


@runtime_checkable
class TakesBranches(Protocol):
    """A loss that computes one of several formulas, and can be asked which.

    ``branches``: the formulas' names. ``last_branch``: int64 index into them; ``last_skewness``, ``last_kurtosis``: what they
    were chosen by. All three are 1-D, one entry for each choice of the latest step, empty before it, and stay on the logits'
    device: writing them makes nobody wait, reading them on the host does.
    """

    branches: tuple[str, ...]
    last_branch: Tensor
    last_skewness: Tensor
    last_kurtosis: Tensor


class SegmentationLoss(nn.Module):
    """A loss that keeps the contract; subclasses write ``compute``.

    Everything is computed in at least float32 with autocast off: half precision overflows in sums over voxels and rounds
    ``1 - 1e-7`` to 1. float64 logits stay float64.

    Raises:
        ValueError: logits or target have a shape or dtype outside the contract, or on the CPU an impossible value: integers are
            looked at in every call, floating-point masks in the first.
    """

    _knows_its_targets = False

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        check(logits, target)
        if not self._knows_its_targets and on_host(target):
            _check_channels(target)
            self._knows_its_targets = True
        with torch.autocast(logits.device.type, enabled=False):
            return self.compute(logits.to(torch.promote_types(logits.dtype, torch.float32)), target)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of checked float32 or float64 ``logits``; ``target`` in either form."""
        raise NotImplementedError


def is_exclusive(logits: Tensor, target: Tensor) -> bool:
    """Whether the target holds class indices, so that channel 0 is background; else all channels are foreground."""
    return target.ndim == logits.ndim - 1


def counted(logits: Tensor, target: Tensor, background: bool = False) -> slice:
    """The channels that count: of exclusive classes all but class 0, unless background counts as well; all sigmoid channels."""
    return slice(1 if is_exclusive(logits, target) and not background else 0, None)


def check(logits: Tensor, target: Tensor) -> None:
    """Raise a ValueError unless logits and target keep the contract.

    Values are looked at only where that is all but free: integers on the CPU.
    """
    if isinstance(logits, (list, tuple)):
        raise ValueError(
            f"expected one tensor of logits, got {len(logits)}: a network with deep supervision needs loss=deep_supervision, "
            "which wraps another loss"
        )
    if logits.ndim not in (4, 5) or not logits.is_floating_point() or logits.numel() == 0:
        raise ValueError(
            f"expected floating-point logits (B, C, H, W) or (B, C, D, H, W) without an empty axis, "
            f"got {logits.dtype} {tuple(logits.shape)}"
        )
    if is_exclusive(logits, target):
        _check_indices(logits, target)
        top = logits.shape[1] - 1
    elif target.shape == logits.shape:
        top = 1
    else:
        raise ValueError(
            f"expected class indices {_without_channel(logits)} or channels {tuple(logits.shape)} for these logits, "
            f"got a target {tuple(target.shape)}{_shape_hint(logits, target)}"
        )
    _check_values(target, top)


def _check_indices(logits: Tensor, target: Tensor) -> None:
    if target.shape != _without_channel(logits):
        raise ValueError(f"expected class indices {_without_channel(logits)} for these logits, got {tuple(target.shape)}")
    if logits.shape[1] < 2:
        raise ValueError(
            f"class indices need logits of at least 2 channels, got {tuple(logits.shape)}; "
            "for a single sigmoid channel give the target the logits' shape: target[:, None]"
        )
    if target.is_floating_point():
        raise ValueError(f"class indices are integers, got {target.dtype}; convert with target.long()")


def _check_values(target: Tensor, top: int) -> None:
    if target.is_floating_point() or target.dtype == torch.bool or not on_host(target):
        return
    low, high = (int(value) for value in target.aminmax())
    if low < 0 or high > top:
        raise ValueError(f"expected target values 0 to {top}, got {low} to {high}; map the labels to classes first")


def _check_channels(target: Tensor) -> None:
    """Raise a ValueError if a floating-point target is not 0 and 1: a mask of 0 and 255 can score like a good one."""
    if target.is_floating_point():
        low, high = (float(value) for value in target.aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"expected target values 0 to 1, got {low:g} to {high:g}; divide or threshold the mask first")


def _without_channel(logits: Tensor) -> tuple[int, ...]:
    return (logits.shape[0], *logits.shape[2:])


def _shape_hint(logits: Tensor, target: Tensor) -> str:
    if target.ndim == logits.ndim and target.shape[1] == 1:
        return "; exclusive classes take indices without a channel axis: target[:, 0]"
    return ""


def check_option(name: str, value: str, options: tuple[str, ...]) -> None:
    """Raise a ValueError unless the argument ``name`` has one of its possible values."""
    if value not in options:
        raise ValueError(f"expected {name} to be one of {', '.join(options)}, got {value!r}")


EMPTY = ("skip", "smooth", "batch")


def voxel_sums(x: Tensor, empty: str) -> Tensor:
    """Sums of ``(B, C, *S)`` over voxels: ``(B, C)``, or ``(1, C)`` over the whole batch with ``empty=batch``."""
    axes = tuple(range(2, x.ndim))
    return x.sum((0, *axes)).unsqueeze(0) if empty == "batch" else x.sum(axes)


def mean_over_classes(losses: Tensor, volumes: Tensor, empty: str) -> Tensor:
    """Mean over classes, then over samples, of ``(B, C)`` losses.

    With ``empty=skip`` only over the classes whose volume in the truth, ``(B, C)``, is not 0; a sample without any counts 0.
    """
    if empty != "skip":
        return losses.mean()
    present = volumes > 0
    return (torch.where(present, losses, 0).sum(1) / present.sum(1).clamp(min=1)).mean()


def probs_and_onehot(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and truth of every channel, both ``(B, C, *S)`` in the logits' dtype; background included."""
    if is_exclusive(logits, target):
        return logits.softmax(1), onehot(target, range(logits.shape[1]), logits.dtype)
    return logits.sigmoid(), target.to(logits.dtype)


def one_versus_rest(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Every foreground channel as a yes/no question: logits ``z`` and truth ``y``, both ``(B, K, *S)`` in the logits' dtype.

    Sigmoid channels are that already. For exclusive classes ``z_c = logit_c - logsumexp(the others)``, whose sigmoid is exactly
    the softmax probability of class ``c``, also where it rounds to 0 or 1; ``K = C - 1`` without background.
    """
    if not is_exclusive(logits, target):
        return logits, target.to(logits.dtype)
    foreground = range(1, logits.shape[1])
    channels = logits.unbind(1)
    rest = [torch.stack(channels[:c] + channels[c + 1 :], 1).logsumexp(1) for c in foreground]
    return logits[:, 1:] - torch.stack(rest, 1), onehot(target, foreground, logits.dtype)


def margins(logits: Tensor, target: Tensor) -> Tensor:
    """What speaks against the truth: ``sigmoid(-margin)`` is the true class's probability, also where that rounds to 0 or 1.

    Sigmoid channels: ``(1 - 2y) logit``, ``(B, C, *S)``. Exclusive classes: ``logsumexp(the other logits) - logit`` of the true
    class, ``(B, *S)``.
    """
    if not is_exclusive(logits, target):
        return logits * (1 - 2 * target.to(logits.dtype))
    index = target.long().unsqueeze(1)
    return logits.scatter(1, index, -torch.inf).logsumexp(1) - logits.gather(1, index).squeeze(1)


def onehot(target: Tensor, classes: range, dtype: torch.dtype) -> Tensor:
    """Where ``(B, *S)`` class indices are each of some classes: ``(B, len(classes), *S)``, 0 or 1."""
    # compared in the dtype of the result: several times faster than by way of integers and booleans
    numbers = torch.arange(classes.start, classes.stop, dtype=dtype, device=target.device).view(-1, *[1] * (target.ndim - 1))
    return target.to(dtype).unsqueeze(1).repeat(1, len(classes), *[1] * (target.ndim - 1)).eq_(numbers)
