"""Exponential logarithmic loss: powers of the logarithms of Dice and of the voxels' probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from calf.losses.contract import EMPTY, SegmentationLoss, check_option, is_exclusive, mean_over_classes
from calf.losses.counts import errors_of_classes
from calf.losses.cross_entropy import Side, mean_cross_entropy


class ExponentialLogarithmicLoss(SegmentationLoss):
    r"""``weight mean_c((-ln Dice_c)^a) + (1 - weight) mean_i(w_l (-ln p_l)^b)``, ``l`` the true class of voxel ``i``.

    Wong et al. 2018, https://arxiv.org/abs/1809.00076. ``Dice_c = (2 TP + e) / (2 TP + FP + FN + e)`` and ``w_l = sqrt(n / n_l)``
    where ``n_l`` of ``n`` voxels are of class ``l``. Background is a class like the others; a sigmoid channel has two, itself and
    its complement, and the mean over channels counts. Exponents below 1 raise what is nearly right. Their slopes in ``p`` and
    ``Dice`` are infinite at 1; in the logits the gradient goes to 0 there, and so it does here. With exponents of 1 these are
    the mean logarithm of Dice and weighted cross-entropy.

    The paper takes frequencies from the training set. Those of a batch come close, and a sample's share then depends on its
    batch; with ``sample`` it does not. A class absent from the truth costs ``ln(1 + FP / e)^a``, which teaches as long as ``e``
    is not small: that is what the paper has ``e = 1`` for.

    Args:
        weight: share of the Dice part, 0 to 1.
        gamma_dice: ``a``, positive.
        gamma_cross: ``b``, positive.
        smooth: ``e`` above, which is added to 2 TP.
        frequencies: those of the ``batch``, of each ``sample``, or of the ``dataset``, for which :meth:`observe_dataset` must be
            called before the first step.
        empty: ``skip``, ``smooth`` or ``batch``: an absent class in the Dice part, see :mod:`calf.losses.contract`.

    Raises:
        ValueError: a number outside its range, an unknown option, or ``frequencies=dataset`` without the data set's areas.

    >>> loss = ExponentialLogarithmicLoss(0.8, gamma_dice=0.3, gamma_cross=0.3, smooth=1.0, frequencies="batch", empty="skip")
    >>> loss(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))  # 0.8 ln(25 / 17)^0.3 + 0.2 ln(2)^0.3
    tensor(0.7803)
    """

    def __init__(self, weight: float, gamma_dice: float, gamma_cross: float, smooth: float, frequencies: str, empty: str) -> None:
        super().__init__()
        check_option("frequencies", frequencies, ("batch", "sample", "dataset"))
        check_option("empty", empty, EMPTY)
        if not 0 <= weight <= 1:
            raise ValueError(f"expected weight between 0 and 1, got {weight}")
        for name, value in (("gamma_dice", gamma_dice), ("gamma_cross", gamma_cross), ("smooth", smooth)):
            if not value > 0:
                raise ValueError(f"expected {name} to be positive, got {value}")
        self.weight, self.gamma_dice, self.gamma_cross, self.smooth = weight, gamma_dice, gamma_cross, smooth
        self.frequencies, self.empty = frequencies, empty
        self._areas: Tensor | None = None
        self._voxels: int | None = None  # of the images that the areas were counted in

    def observe_dataset(self, areas: Tensor) -> None:
        """Fix the weights of ``frequencies=dataset`` from now on; without effect else.

        Args:
            areas: foreground pixels of every training sample, ``(N, K)`` for ``K`` foreground classes or sigmoid channels, or
                ``(N,)`` for one, in images as large as those that the loss is given; all of them have one size.
        """
        if areas.ndim not in (1, 2) or areas.numel() == 0:
            raise ValueError(f"expected the areas of the training samples, (N,) or (N, channels), got {tuple(areas.shape)}")
        areas = areas.reshape(areas.shape[0], -1).float()
        self._areas, self._largest, self._voxels = areas.mean(0), float(areas.max()), None

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        counts = errors_of_classes(logits, target, "smooth")
        background, foreground = self._sides(logits, target, counts[2])
        cross = mean_cross_entropy(logits, target, background, foreground, self.gamma_cross)
        return self.weight * self._dice_part(*counts) + (1 - self.weight) * cross

    def _dice_part(self, fp: Tensor, fn: Tensor, volume: Tensor) -> Tensor:
        if self.empty == "batch":
            fp, fn, volume = (count.sum(0, keepdim=True) for count in (fp, fn, volume))
        # -ln Dice: exact where Dice is next to 1, and finite where it is next to 0
        loss = torch.log1p((fp + fn) / (2 * (volume - fn).clamp_min(0) + self.smooth))
        # the slope of a root is infinite at 0, and times a slope of 0 that is NaN: held where it is rounding
        loss = loss.clamp_min(torch.finfo(loss.dtype).eps) ** self.gamma_dice
        return mean_over_classes(loss.flatten(0, 1), volume.flatten(0, 1), self.empty)

    def _sides(self, logits: Tensor, target: Tensor, volume: Tensor) -> tuple[Side, Side]:
        """Weights of the voxels by their true class; ``volume``: ``(B, K, C)``."""
        if self.frequencies == "dataset":
            volume = self._volume_in_dataset(logits, is_exclusive(logits, target))
        elif self.frequencies == "batch":
            volume = volume.sum(0, keepdim=True)
        weights = torch.where(volume > 0, (volume.sum(2, keepdim=True) / volume).sqrt(), 1)
        if not is_exclusive(logits, target):
            background, foreground = weights.view(*weights.shape, *[1] * (logits.ndim - 2)).unbind(2)
            return Side(background), Side(foreground)
        index = target.long().flatten(1)
        side = Side(weights[:, 0].expand(len(index), -1).gather(1, index).view_as(target).unsqueeze(1))
        return side, side

    def _volume_in_dataset(self, logits: Tensor, exclusive: bool) -> Tensor:
        """Mean volume of each class in an image, ``(1, K, C)``."""
        if self._areas is None:
            raise ValueError("frequencies=dataset needs the training set's areas: call observe_dataset(areas) before training")
        areas = self._areas = self._areas.to(logits.device)
        voxels, expected = logits[0, 0].numel(), logits.shape[1] - exclusive
        self._voxels = self._voxels or voxels
        if voxels != self._voxels:
            raise ValueError(
                f"frequencies=dataset counts voxels of images of one size: expected {self._voxels}, got {voxels}; with deep "
                "supervision, which has several, take frequencies=batch"
            )
        if len(areas) != expected:
            raise ValueError(f"observe_dataset was given areas of {len(areas)} foreground channels, these logits have {expected}")
        if self._largest > voxels:
            raise ValueError(f"expected areas in images of {voxels} voxels, as the loss is given; got one of {self._largest:g}")
        areas = areas.to(logits.dtype)
        if exclusive:
            return torch.cat([voxels - areas.sum(0, keepdim=True), areas]).view(1, 1, -1)
        return torch.stack([voxels - areas, areas], 1).unsqueeze(0)
