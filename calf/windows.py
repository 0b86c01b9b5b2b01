"""Networks in 3-D on whole cases: by windows of the size they were trained on, and checked before anything is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calf.data.patches import Patch

BLENDINGS = ("constant", "gaussian")


@dataclass(frozen=True)
class Windows:
    """How a network sees a volume that is larger than the patches it was trained on.

    Args:
        patch: slices, rows and columns of a window.
        overlap: share of a window's sides by which neighbouring ones overlap, at least 0 and below 1.
        blending: where windows overlap their logits are averaged, ``constant``: each weighs the same; ``gaussian``: the less the
            farther from the window's centre, with a deviation of an eighth of its sides, as in nnU-Net (Isensee et al. 2021,
            https://doi.org/10.1038/s41592-020-01008-z).
    """

    patch: Patch
    overlap: float = 0.5
    blending: str = "gaussian"

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ValueError(f"windows.overlap is at least 0 and below 1; got {self.overlap}")
        if self.blending not in BLENDINGS:
            raise ValueError(f"windows.blending is one of {', '.join(BLENDINGS)}; got {self.blending!r}")

    def __call__(self, network: Callable[[Tensor], Tensor], volume: Tensor, batch_size: int) -> Tensor:
        """Logits float32 (1, C, D, H, W) of a volume float32 (1, M, D, H, W), ``batch_size`` windows at a time.

        A volume that is smaller than a window lies in its centre, zeros around it, as in training.
        """
        from monai.inferers.utils import sliding_window_inference  # takes seconds to import

        def logits(windows: Tensor) -> Tensor:
            return network(windows).float()  # weighed and added in float32, whatever autocast does

        blended = sliding_window_inference(volume, self.patch, batch_size, logits, overlap=self.overlap, mode=self.blending)
        assert isinstance(blended, Tensor)
        return blended

    def num_batches(self, size: Sequence[int], batch_size: int) -> int:
        """How often a network is called for a volume of this size (slices, rows, columns), one volume at a time."""
        num_windows = 1
        for length, window in zip(size, self.patch, strict=True):
            step = max(int(window * (1 - self.overlap)), 1)
            num_windows *= math.ceil(max(length - window, 0) / step) + 1
        return math.ceil(num_windows / batch_size)


def as_volume(predict: Callable[[Tensor], Tensor], slices: Tensor, box: Sequence[int]) -> Tensor:
    """Logits (S, C, H, W) of all slices of a case, (S, M, H, W), by ``predict``, which takes and gives volumes (1, ., D, H, W).

    ``box``: first and end row and column of what is no padding. In the padding logits are 0, which means background.
    """
    top, bottom, left, right = box
    logits = predict(slices[:, :, top:bottom, left:right].transpose(0, 1)[None])[0].transpose(0, 1)
    rows, columns = slices.shape[2:]
    return F.pad(logits, (left, columns - right, top, rows - bottom))


def check_network(network: nn.Module, in_channels: int, classes: int, batch_size: int, patch: Patch | None) -> None:
    """Raise a ValueError for a network that does not fit the data: 3-D without patches, 2-D with them, or patches it cannot take.

    Patches are tried on the meta device: nothing is computed, and no random number is drawn.
    """
    in_3d = any(isinstance(layer, nn.Conv3d) for layer in network.modules())
    if patch is None:
        if in_3d:
            raise ValueError("the network takes volumes: give dataset.patch=[slices, rows, columns], or take a network of slices")
        return
    if not in_3d:
        raise ValueError(f"dataset.patch={list(patch)} makes volumes, the network takes slices: take model=unet3d, or patch=null")
    images = torch.empty(batch_size, in_channels, *patch, device="meta")
    try:
        output = copy.deepcopy(network).to("meta")(images)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the network cannot be trained on batches of {batch_size} patches of dataset.patch={list(patch)}: each side must be "
            f"a multiple of what the network divides it by, and more than one voxel must be left. It says: {error}"
        ) from error
    logits = output if isinstance(output, Tensor) else output[0]
    if logits.shape != (batch_size, classes, *patch):
        raise ValueError(
            f"expected logits {(batch_size, classes, *patch)} of patches dataset.patch={list(patch)}, got {tuple(logits.shape)}: "
            "each side must be a multiple of what the network divides it by"
        )
