"""Sums of losses whose weights follow the course of the training. Their YAMLs compose the terms, as those of compound do."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb

import torch
import torch.distributed as dist
from torch import Tensor, nn

from calf.imbalance import several_ranks
from calf.losses.contract import check_option
from calf.losses.voxels import on_host

#: Below this a loss counts as 0, by which nothing can be divided.
TINY = 1e-8


class BalancedSum(nn.Module):
    """``sum(w_k L_k)`` with weights made of earlier steps' losses; they are no part of the gradient.

    A step in training mode, and with gradients, adds its losses, averaged over the ranks of ``torch.distributed``, to what the
    next weights are made of: so all ranks have the same weights, and have to take each step together. A step with a loss that is
    not finite adds nothing. What is kept is part of the state, and a run that is resumed goes on with the same weights.
    ``last_weights`` are those of the latest training step, in the order of the terms.
    """

    last_weights: Tensor
    needs_positive = False

    def __init__(self, terms: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if len(terms) < 2:
            raise ValueError(f"expected at least two terms to balance, got {sorted(terms)}")
        self.terms = nn.ModuleDict(dict(terms))
        self.register_buffer("last_weights", torch.ones(len(terms)))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        values = term_values(self.terms, logits, target)
        if self.needs_positive:
            check_positive(values, self)
        weights = self.weights()
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                self.last_weights = weights
                self.observe(mean_over_ranks(values))
        return (weights.to(values.dtype) * values).sum()

    def weights(self) -> Tensor:
        """``(K,)``, from the steps so far."""
        raise NotImplementedError

    def observe(self, values: Tensor) -> None:
        """Take in the losses ``(K,)`` of a training step, a mean over ranks."""
        raise NotImplementedError


def term_values(terms: nn.ModuleDict, logits: Tensor, target: Tensor) -> Tensor:
    """The loss of each term, ``(K,)``."""
    return torch.stack([term(logits, target) for term in terms.values()])


def check_positive(values: Tensor, loss: nn.Module) -> None:
    """Raise a ValueError if a term is negative beyond rounding; only on the CPU, where to look is all but free."""
    if on_host(values) and bool((values < -1e-6).any()):
        terms = loss.terms
        assert isinstance(terms, nn.ModuleDict)
        found = ", ".join(f"{name} = {value:.4g}" for name, value in zip(terms, values.tolist(), strict=True) if value < 0)
        raise ValueError(
            f"{type(loss).__name__} needs terms of at least 0, got {found}: weights would leave 0 to 1, or have no bound. "
            "Use a term that is 0 at best, such as 1 - Dice, or a weighted sum"
        )


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean over the ranks of ``torch.distributed``, the same numbers on each; without gradient."""
    values = values.detach().clone()
    if several_ranks():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


class SoftAdapt(BalancedSum):
    r"""``sum(w_k L_k)`` with ``w_k = exp(beta s_k) / sum_j(exp(beta s_j))``, ``s_k`` the slope of a loss over its latest points.

    Heydari et al. 2019, https://arxiv.org/abs/1912.12355. With ``beta > 0`` the term that does worst gets most. The slope is
    the finite difference of highest order through the latest points, ``history`` of them or as many as there are. As in the
    authors' package it is that at the *oldest* of them, whose stencil for 5 points multiplies noise by 6; two points are the
    paper's ``L(n) - L(n-1)``. The package forgets its points each time it has computed the weights; here the oldest makes way
    for the newest. Until there are two points all weights are 1, and sum to K; later they sum to 1.

    With the paper's ``beta = 0.1`` and terms between 0 and 1 weights hardly leave ``1 / K``: raise ``beta``, or normalize.

    Args:
        terms: losses by name, at least two; for ``variant=loss_weighted`` of values of at least 0.
        beta: how much slopes count; 0 weighs all alike, and below 0 the term that does best gets most.
        variant: ``original``, as above. ``normalized``: slopes are divided by the sum of their absolute values first.
            ``normalized_signed``: by their plain sum, as in the authors' package; where all terms fall, as they do in training,
            this turns slopes positive, and the term that does best gets most. ``loss_weighted``: weights as in ``original`` are
            multiplied with the mean of the term over the points, then divided by their sum; if that is 0, as in ``original``.
        history: points that the slope is taken from, at least 2.
        every: training steps whose mean is a point, or ``epoch``: a point is the mean of an epoch, for which the trainer has to
            call :meth:`start_epoch`.

    Raises:
        ValueError: fewer than two terms, an unknown variant, ``history`` below 2, ``every`` neither ``epoch`` nor at least 1;
            with ``variant=loss_weighted`` and logits on the CPU, a negative term. On other devices it counts as 0.

    >>> from calf.losses.pixelwise import BCELoss, FocalLoss
    >>> terms = {"bce": BCELoss(), "focal": FocalLoss(gamma=2.0, alpha=None)}
    >>> loss = SoftAdapt(terms, beta=10.0, variant="original", history=2, every=1)
    >>> mask = torch.ones(1, 1, 2, 2)
    >>> for logit in (0.0, -1.0, -1.0):
    ...     value = loss(logit * mask, mask)
    >>> loss.last_weights  # both terms rose, the focal one by less
    tensor([0.7141, 0.2859])
    """

    points: Tensor
    num_points: Tensor
    sums: Tensor
    num_steps: Tensor
    epoch: Tensor
    stencils: Tensor

    def __init__(self, terms: Mapping[str, nn.Module], beta: float, variant: str, history: int, every: int | str) -> None:
        super().__init__(terms)
        check_option("variant", variant, ("original", "normalized", "normalized_signed", "loss_weighted"))
        if history < 2:
            raise ValueError(f"expected history to be at least 2 points, got {history}: one has no slope")
        if every != "epoch" and not (isinstance(every, int) and every >= 1):
            raise ValueError(f"expected every to be epoch or a number of steps of at least 1, got {every!r}")
        self.beta, self.variant, self.history = beta, variant, history
        self.every = every if isinstance(every, int) else None
        self.needs_positive = variant == "loss_weighted"
        self.register_buffer("points", torch.zeros(history, len(terms)))  # oldest first
        self.register_buffer("num_points", torch.zeros((), dtype=torch.int64))
        self.register_buffer("sums", torch.zeros(len(terms)))  # of the steps of the next point
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("epoch", torch.full((), -1))  # of those steps
        rows = [[0.0] * (history - n) + first_derivative(n) for n in range(history + 1)]
        self.register_buffer("stencils", torch.tensor(rows), persistent=False)

    def weights(self) -> Tensor:
        # an index on the device that the host need not know
        stencil = self.stencils.index_select(0, self.num_points.view(1))
        weights = softadapt_weights(self.points, stencil.squeeze(0), self.beta, self.variant)
        return torch.where(self.num_points < 2, torch.ones_like(weights), weights)

    def observe(self, values: Tensor) -> None:
        finite = values.isfinite().all()
        self.sums = self.sums + torch.where(finite, values.clamp(min=0) if self.needs_positive else values, 0)
        self.num_steps = self.num_steps + finite
        if self.every is not None:
            self._add_point(self.num_steps >= self.every)

    @torch.no_grad()
    def start_epoch(self, epoch: int, num_epochs: int) -> None:
        """With ``every=epoch``, make a point of the epoch before; a resumed run may say twice that an epoch begins."""
        if self.every is None:
            self._add_point(self.epoch != epoch)
            self.epoch = torch.full_like(self.epoch, epoch)

    def _add_point(self, complete: Tensor) -> None:
        """Put the mean of the steps so far behind the points, if it is ``complete``, and begin the next."""
        complete = complete & (self.num_steps > 0)
        newer = torch.cat([self.points[1:], (self.sums / self.num_steps.clamp(min=1)).unsqueeze(0)])
        self.points = torch.where(complete, newer, self.points)
        self.num_points = (self.num_points + complete).clamp(max=self.history)
        self.sums = torch.where(complete, 0, self.sums)
        self.num_steps = torch.where(complete, 0, self.num_steps)


def first_derivative(num_points: int) -> list[float]:
    """Weights of equidistant points, oldest first, whose sum is the slope at the oldest, in the highest order; zeros below 2.

    >>> first_derivative(2), first_derivative(3)
    ([-1.0, 1.0], [-1.5, 2.0, -0.5])
    """
    if num_points < 2:
        return [0.0] * num_points
    order = num_points - 1
    later = [(-1) ** (point + 1) * comb(order, point) / point for point in range(1, num_points)]
    return [-sum(later), *later]


def softadapt_weights(points: Tensor, stencil: Tensor, beta: float, variant: str) -> Tensor:
    """Weights ``(K,)`` from points ``(n, K)``, oldest first, and the stencil ``(n,)`` of their slope.

    Points whose stencil is 0 throughout at the beginning are not there yet.
    """
    slopes = (stencil.unsqueeze(1) * points).sum(0)
    if variant == "normalized":
        slopes = slopes / slopes.abs().sum().clamp(min=TINY)
    elif variant == "normalized_signed":
        total = slopes.sum()
        slopes = slopes / torch.where(total.abs() < TINY, TINY, total)
    weights = (beta * slopes).softmax(0)
    if variant != "loss_weighted":
        return weights
    # the sum will do for the mean: all terms have as many points
    weighted = weights * points.sum(0)
    total, tiny = weighted.sum(), torch.finfo(weighted.dtype).tiny
    return torch.where(total < tiny, weights, weighted / total.clamp(min=tiny))


class CoVWeighting(BalancedSum):
    r"""``sum(w_k L_k)`` with ``w_k`` in proportion to ``std(l_k) / mean(l_k)``, ``l_k = L_k / mean(L_k)``; the weights sum to 1.

    Groenendijk et al. 2021, https://arxiv.org/abs/2009.01717: a term that still varies, measured by its coefficient of variation,
    has more to give than one that has settled. In each step ``l_k`` is taken by the mean of ``L_k`` over the steps *before* it,
    and so are the weights; the first two steps weigh all terms ``1 / K``. Running means and variances go over the whole training.
    In eval mode the terms are summed without weights, as in the authors' code, so that values compare across epochs.

    A mean of 0 (below 1e-8) gives a ratio of 1, where the authors' code has 0 / 0: a term that begins at 0 spoils nothing.

    Args:
        terms: losses by name, at least two, of values of at least 0.
        decay: ``None``: means over all steps. A number of at least 0 and below 1: ``mean = decay mean + (1 - decay) new``.

    Raises:
        ValueError: fewer than two terms; ``decay`` out of range; with logits on the CPU, a negative term. On other devices it
            counts as 0 for the weights.

    >>> from calf.losses.pixelwise import BCELoss, FocalLoss
    >>> loss = CoVWeighting({"bce": BCELoss(), "focal": FocalLoss(gamma=2.0, alpha=None)}, decay=None)
    >>> mask = torch.ones(1, 1, 2, 2)
    >>> for logit in (0.0, 1.0, 1.0):
    ...     value = loss(logit * mask, mask)
    >>> loss.last_weights  # the focal term fell by more
    tensor([0.3293, 0.6707])
    """

    mean_loss: Tensor
    mean_ratio: Tensor
    squares: Tensor
    steps: Tensor
    needs_positive = True

    def __init__(self, terms: Mapping[str, nn.Module], decay: float | None) -> None:
        super().__init__(terms)
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"expected decay of at least 0 and below 1, or null for the mean over all steps, got {decay}")
        self.decay = decay
        for name in ("mean_loss", "mean_ratio", "squares"):
            self.register_buffer(name, torch.zeros(len(terms)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def weights(self) -> Tensor:
        if not self.training:
            return torch.ones_like(self.squares)
        std = (self.squares / self.steps.clamp(min=1) + 1e-8).sqrt()
        variation = std / self.mean_ratio.clamp(min=TINY)
        return torch.where(self.steps < 2, 1 / len(self.terms), variation / variation.sum())

    def observe(self, values: Tensor) -> None:
        finite = values.isfinite().all()
        values = torch.where(finite, values, 0).clamp(min=0)
        first = self.steps == 0
        reference = torch.where(first, values, self.mean_loss)
        ratio = torch.where(reference < TINY, 1.0, values / reference.clamp(min=TINY))
        keep = 1 - 1 / (self.steps.to(values.dtype) + 1)
        if self.decay is not None:
            keep = torch.where(first, 0.0, self.decay)
        # Welford's update
        mean_ratio = keep * self.mean_ratio + (1 - keep) * ratio
        squares = self.squares + (ratio - self.mean_ratio) * (ratio - mean_ratio)
        mean_loss = keep * self.mean_loss + (1 - keep) * values
        self.squares = torch.where(finite, squares, self.squares)
        self.mean_ratio = torch.where(finite, mean_ratio, self.mean_ratio)
        self.mean_loss = torch.where(finite, mean_loss, self.mean_loss)
        self.steps = self.steps + finite


class UncertaintyWeighting(nn.Module):
    r"""``sum(exp(-s_k) L_k + s_k)`` with learned ``s_k``, the logarithm of the variance of each term's noise, 0 at first.

    Kendall et al. 2018, https://arxiv.org/abs/1705.07115. The paper halves parts of it, by the kind of likelihood: ``s`` for
    cross-entropy, ``L`` and ``s`` for squared errors. Without the halves, as in the code of Groenendijk et al. 2021, no kind is
    assumed. Where losses stand still the best ``s_k`` is ``ln L_k``, at which each term weighs ``1 / L_k``: so the value falls
    below 0 as the terms do, and a term that reaches 0 gains weight without end. The optimizer must be given this loss's
    parameters, and its weight decay pulls the weights towards 1.

    Args:
        terms: losses by name, at least two, of values of at least 0: with a negative one ``s_k`` has no best value.

    Raises:
        ValueError: fewer than two terms; with logits on the CPU, a negative term. On other devices nothing guards against it.

    ``last_weights`` are ``exp(-s_k)``, in the order of the terms.

    >>> from calf.losses.pixelwise import BCELoss, FocalLoss
    >>> loss = UncertaintyWeighting({"bce": BCELoss(), "focal": FocalLoss(gamma=2.0, alpha=None)})
    >>> loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))  # 0.6931 + 0.1733
    tensor(0.8664, grad_fn=<SumBackward0>)
    """

    def __init__(self, terms: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if len(terms) < 2:
            raise ValueError(f"expected at least two terms to balance, got {sorted(terms)}")
        self.terms = nn.ModuleDict(dict(terms))
        self.log_variances = nn.Parameter(torch.zeros(len(terms)))

    @property
    def last_weights(self) -> Tensor:
        """What the terms weigh now."""
        return self.log_variances.detach().neg().exp()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        values = term_values(self.terms, logits, target)
        check_positive(values, self)
        return ((-self.log_variances).exp() * values + self.log_variances).sum()
