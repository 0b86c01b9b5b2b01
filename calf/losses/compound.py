"""Sums of losses, and a loss on several scales. A sum is a configuration, not a class: its YAML composes those of its terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from calf.losses.balancing import mean_over_ranks
from calf.losses.contract import check_option


class WeightedSum(nn.Module):
    """``sum(weights[name] * terms[name](logits, target))``.

    Args:
        terms: losses by name.
        weights: a number for each of them.

    Raises:
        ValueError: terms and weights have different names, or there are none.

    >>> from calf.losses.pixelwise import BCELoss
    >>> WeightedSum({"bce": BCELoss()}, {"bce": 2.0})(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    tensor(1.3863)
    """

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        if not terms or set(terms) != set(weights):
            raise ValueError(f"expected a weight for each term, got terms {sorted(terms)} and weights {sorted(weights)}")
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = {name: float(weight) for name, weight in weights.items()}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        total: Tensor = sum(self.weights[name] * term(logits, target) for name, term in self.terms.items())
        return total


class ScheduledSum(nn.Module):
    """``w_R L_regional + w_B L_boundary``, with weights that follow the epoch ``e``, counted from 0.

    =========  ==========================  ==============================
    schedule   ``w_R``                     ``w_B``
    =========  ==========================  ==============================
    constant   1                           ``alpha``
    increase   1                           ``alpha + e step``
    rebalance  ``1 - w_B``                 ``min(alpha + e step, 1 - floor)``
    steal      ``max(1 - e step, floor)``  ``alpha + e step``
    =========  ==========================  ==============================

    Kervadec et al. 2019, https://proceedings.mlr.press/v102/kervadec19a.html, rebalances; the journal version, 2021,
    https://arxiv.org/abs/1812.07032, compares the first three. ``steal`` is what the authors' code does instead: its weights do
    not sum to 1, and that of the boundary has no bound. The weights are those of the latest :meth:`start_epoch`, of epoch 0
    before it; the epoch is part of the state.

    Args:
        terms: ``regional`` and ``boundary``.
        schedule: a row of the table.
        alpha: weight of the boundary in epoch 0.
        step: what it gains each epoch; ``None``: 1 / number of epochs, which is the paper's 0.01 in its 100 epochs.
        floor: the least weight of the regional term, where it falls.

    Raises:
        ValueError: terms of other names; an unknown schedule; a negative number, or a weight above 1 where they sum to 1; when
            an epoch starts, a training of unknown length with ``step=None``.

    >>> from calf.losses.pixelwise import BCELoss
    >>> loss = ScheduledSum({"regional": BCELoss(), "boundary": BCELoss()}, "rebalance", alpha=0.01, step=0.01, floor=0.01)
    >>> loss.start_epoch(29, num_epochs=100)
    >>> loss.weights()
    (tensor(0.7000), tensor(0.3000))
    """

    epoch: Tensor
    num_epochs: Tensor

    def __init__(self, terms: Mapping[str, nn.Module], schedule: str, alpha: float, step: float | None, floor: float) -> None:
        super().__init__()
        if set(terms) != {"regional", "boundary"}:
            raise ValueError(f"expected terms named boundary and regional, got {sorted(terms)}")
        check_option("schedule", schedule, ("constant", "increase", "rebalance", "steal"))
        if alpha < 0 or (step is not None and step < 0) or not 0 <= floor <= 1:
            raise ValueError(f"expected alpha and step of at least 0 and floor within 0 and 1, got {alpha}, {step} and {floor}")
        self.terms = nn.ModuleDict(dict(terms))
        self.schedule, self.alpha, self.step, self.floor = schedule, alpha, step, floor
        # a whole number, since a cast of the module to half precision rounds weights; a buffer, since torch.compile
        # would compile again for each new Python number
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("num_epochs", torch.full((), 100, dtype=torch.int64))

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """The weights are those of ``epoch`` of a training of ``num_epochs`` from now on."""
        if self.step is None and self.schedule != "constant" and num_epochs < 1:
            raise ValueError("the schedule spans the training, whose length is not known: set trainer.max_epochs, or loss.step")
        self.epoch.fill_(epoch)
        self.num_epochs.fill_(num_epochs)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Of the regional and of the boundary term, on the device of the state."""
        gained = self.epoch / self.num_epochs if self.step is None else self.step * self.epoch
        rising, one = self.alpha + gained, torch.ones_like(gained)
        if self.schedule == "constant":
            return one, self.alpha * one
        if self.schedule == "increase":
            return one, rising
        if self.schedule == "steal":
            return (1 - gained).clamp(min=self.floor), rising
        boundary = rising.clamp(max=1 - self.floor)
        return 1 - boundary, boundary

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        regional, boundary = self.weights()
        total: Tensor = regional * self.terms["regional"](logits, target) + boundary * self.terms["boundary"](logits, target)
        return total


class RatioBalancedSum(nn.Module):
    """``L_reference + lambda L_other``, ``lambda = mean(L_reference) / mean(L_other)`` without gradient: both weigh the same.

    Karimi and Salcudean 2019, https://arxiv.org/abs/1904.10030, for the Hausdorff loss and Dice. They re-set ``lambda`` after
    each epoch; here the means are those of the epoch's training steps, over all ranks, which therefore have to take each step
    together. A step with a loss that is not finite does not count, and a mean of 0 leaves ``lambda`` as it was. The sums of the
    running epoch and ``lambda`` are part of the state.

    Args:
        terms: two losses by name, of values of at least 0.
        reference: the one that keeps weight 1.
        variant: ``paper``, as above; ``code``: ``lambda = L_reference / (L_other + 1e-5)`` of each batch, as in SegLossOdyssey,
            https://doi.org/10.1016/j.media.2021.102035. Its value is twice ``L_reference``, whatever the other term is.
        start: ``lambda`` of the first epoch, before there is a mean: ours. Without effect on ``variant=code``.

    Raises:
        ValueError: not two terms, or the reference is none of them; an unknown variant; ``start`` not positive.

    >>> from calf.losses.pixelwise import BCELoss, FocalLoss
    >>> terms = {"bce": BCELoss(), "focal": FocalLoss(gamma=2.0, alpha=None)}
    >>> loss = RatioBalancedSum(terms, reference="bce", variant="paper", start=1.0)
    >>> step = loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))  # ln 2 and ln 2 / 4
    >>> loss.start_epoch(1, num_epochs=2)
    >>> loss.ratio
    tensor(4.)
    """

    sums: Tensor
    ratio: Tensor
    epoch: Tensor

    def __init__(self, terms: Mapping[str, nn.Module], reference: str, variant: str, start: float) -> None:
        super().__init__()
        if len(terms) != 2 or reference not in terms:
            raise ValueError(f"expected two terms and one of their names as reference, got {sorted(terms)} and {reference!r}")
        check_option("variant", variant, ("paper", "code"))
        if not start > 0:
            raise ValueError(f"expected start to be positive, got {start}")
        self.terms = nn.ModuleDict(dict(terms))
        self.reference, self.variant = reference, variant
        self.register_buffer("sums", torch.zeros(2))
        self.register_buffer("ratio", torch.tensor(float(start)))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """Take ``lambda`` from the training steps of the epoch before; a resumed run may say twice that an epoch begins."""
        if int(self.epoch) == epoch:
            return
        self.epoch.fill_(epoch)
        reference, other = self.sums
        usable = (self.sums > 0).all()
        self.ratio = torch.where(usable, reference / other, self.ratio)
        self.sums = torch.zeros_like(self.sums)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        (name,) = set(self.terms) - {self.reference}
        reference: Tensor = self.terms[self.reference](logits, target)
        other: Tensor = self.terms[name](logits, target)
        if self.variant == "code":
            return reference + (reference / (other + 1e-5)).detach() * other
        if self.training and torch.is_grad_enabled():
            self._count(torch.stack([reference, other]))
        return reference + self.ratio * other

    def _count(self, values: Tensor) -> None:
        # in each step, not once an epoch: DDP overwrites every rank's buffers with those of the first, and so does a resume
        values = mean_over_ranks(values)
        # in the dtype of the losses, since a cast of the module to half precision would stop the sums from growing
        self.sums = self.sums.to(values.dtype) + torch.where(values.isfinite().all(), values, 0)


class DeepSupervision(nn.Module):
    """``sum_k(w_k loss(logits_k, target_k))`` over the scales of a network that predicts several, finest first.

    Lee et al. 2015, https://arxiv.org/abs/1409.5185; the weights are those of nnU-Net, Isensee et al. 2021,
    https://doi.org/10.1038/s41592-020-01008-z: ``w_k`` in proportion to ``decay ** k``, 0 for the coarsest, their sum 1. As
    there, the target is brought to each scale, by the nearest voxel, rather than the logits to the target's: coarse scales then
    cost little, and the target stays 0 or 1. What is thin may vanish from a coarse target. A single tensor is scored as by
    ``loss`` alone in eval mode, in which networks give one; in training mode it is an error, since nothing would be supervised
    but the output, under the name of deep supervision.

    The wrapped loss sees the scales one after the other, each as a step of its own: distance maps given to it are used for the
    finest, the others' are computed, in voxels of their scale; running means run over all scales; the branches it reports are
    those of the coarsest that counts.

    Args:
        loss: what is computed on each scale.
        decay: weight of a scale relative to the next finer one.
        skip_lowest: give the coarsest of several scales weight 0.

    Raises:
        ValueError: ``decay`` not positive; a loss with a spacing; no logits; a scale that is finer than the target; in training
            mode a single tensor.

    >>> from calf.losses.pixelwise import BCELoss
    >>> deep = DeepSupervision(BCELoss(), decay=0.5, skip_lowest=True)
    >>> deep.weights(4)
    [0.5714285714285714, 0.2857142857142857, 0.14285714285714285, 0.0]
    >>> deep([torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)], torch.ones(1, 1, 8, 8))
    tensor(0.6931)
    """

    def __init__(self, loss: nn.Module, decay: float, skip_lowest: bool) -> None:
        super().__init__()
        if not decay > 0:
            raise ValueError(f"expected decay to be positive, got {decay}; for the finest scale alone turn deep supervision off")
        if any(getattr(part, "spacing", None) is not None for part in loss.modules()):
            raise ValueError("a spacing holds for the finest scale only: expected spacing=null within deep supervision")
        self.loss, self.decay, self.skip_lowest = loss, decay, skip_lowest

    def weights(self, scales: int) -> list[float]:
        """Of so many scales, finest first."""
        counted = scales - 1 if self.skip_lowest and scales > 1 else scales
        powers = [self.decay**k for k in range(counted)] + [0.0] * (scales - counted)
        return [power / sum(powers) for power in powers]

    def forward(self, logits: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        if isinstance(logits, Tensor):
            if self.training:
                raise ValueError(
                    "expected the logits of several scales, finest first, got a single tensor: this network has one output. "
                    "Take one with deep supervision, such as model=unet_plain model.deep_supervision=3, or instead of "
                    "loss=deep_supervision the loss that it wraps"
                )
            return self._loss(logits, target)
        if not logits:
            raise ValueError("expected logits of at least one scale, got none")
        finest, *coarser = logits
        first, *others = self.weights(len(logits))
        # the finest comes first: distance maps are those of the next call
        total = first * self._loss(finest, target)
        for weight, scale in zip(others, coarser, strict=True):
            # a head without any gradient is an error under DDP
            value = self._loss(scale, nearest(target, scale.shape[2:])) if weight else scale.mean()
            total = total + weight * value
        return total

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        value: Tensor = self.loss(logits, target)
        return value


def nearest(target: Tensor, size: Sequence[int]) -> Tensor:
    """The last axes of a target at a smaller size: the voxel at, or just behind, the centre of each coarse one. Any dtype.

    Raises:
        ValueError: the size is larger than the target's, or of more axes.
    """
    have = target.shape[-len(size) :]
    if len(have) != len(size) or any(wanted > length for wanted, length in zip(size, have, strict=True)):
        raise ValueError(f"expected logits of scales no finer than the target's {tuple(have)}, got {tuple(size)}")
    for axis, (wanted, length) in enumerate(zip(size, have, strict=True), target.ndim - len(size)):
        if wanted != length:
            centres = (2 * torch.arange(wanted, device=target.device) + 1) * length // (2 * wanted)
            target = target.index_select(axis, centres)
    return target
