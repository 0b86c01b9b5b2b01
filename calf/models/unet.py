"""The plain U-Net of the CALF paper, for slices and for volumes."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from calf.models.padding import run_padded

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class PlainUNet(nn.Module):
    r"""Five levels of two convolutions, max-pooling down, transposed convolutions up, the encoder's maps joined on the way.

    Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597, with padded convolutions and batch normalisation, in the widths
    64-128-256-512-1024 of the CALF paper, https://arxiv.org/abs/2504.04458: 31,036,481 parameters for one input and one output
    channel. A convolution followed by a norm has no bias. Weights start as torch's layers start.

    Images whose sides are no multiple of 16 are padded at the end and the logits cropped back (:func:`run_padded`). Training
    needs more than one value a channel for batch normalisation: an image of 16 x 16 needs a batch of at least two.

    Args:
        in_channels: modalities M.
        classes: output channels C.
        width: channels W of the first level; each level below has twice as many. Parameters and time grow with its square.
        dims: 2 for (B, M, H, W) images, 3 for (B, M, D, H, W) volumes.
        deep_supervision: extra outputs N in training mode, 0 to 3: one 1 x 1 convolution on each of the N next coarser levels of
            the decoder, as in nnU-Net, https://doi.org/10.1038/s41592-020-01008-z. For
            :class:`calf.losses.compound.DeepSupervision`. Everything else starts with the same weights as without.

    Shapes: images (B, M, *S), floating point -> logits (B, C, *S); with deep supervision, in training mode, a list of N + 1
    logits, finest first, (B, C, *S / 2^k).

    Raises:
        ValueError: an impossible argument; with deep supervision, training images whose sides 2^N does not divide.

    >>> PlainUNet(1, 1, width=4)(torch.zeros(2, 1, 20, 35)).shape
    torch.Size([2, 1, 20, 35])
    >>> [list(x.shape) for x in PlainUNet(1, 1, width=4, deep_supervision=2)(torch.zeros(2, 1, 20, 36))]
    [[2, 1, 20, 36], [2, 1, 10, 18], [2, 1, 5, 9]]
    """

    def __init__(self, in_channels: int, classes: int, width: int = 64, dims: int = 2, deep_supervision: int = 0) -> None:
        super().__init__()
        if dims not in CONVOLUTION:
            raise ValueError(f"expected model.dims to be 2 (slices) or 3 (volumes), got {dims}")
        if width < 1:
            raise ValueError(f"expected model.width, the channels of the first level, to be at least 1, got {width}")
        if not 0 <= deep_supervision <= 3:
            raise ValueError(f"expected model.deep_supervision, a number of extra outputs, to be 0 to 3, got {deep_supervision}")
        widths = [width * 2**level for level in range(5)]
        self.pool = POOL[dims](2)
        self.encoder = nn.ModuleList(double_convolution(a, b, dims) for a, b in pairwise([in_channels, *widths]))
        upwards = [(below, above) for above, below in reversed(list(pairwise(widths)))]
        self.upsampling = nn.ModuleList(TRANSPOSED[dims](below, above, 2, stride=2) for below, above in upwards)
        self.decoder = nn.ModuleList(double_convolution(2 * above, above, dims) for _, above in upwards)
        self.head = CONVOLUTION[dims](width, classes, 1)
        # last, so that they take no random number from the rest of the network
        self.extra_heads = nn.ModuleList(CONVOLUTION[dims](w, classes, 1) for w in widths[1 : 1 + deep_supervision])

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        if self.training and len(self.extra_heads):
            return self._scales(images)
        return run_padded(self.logits, images, multiple=2 ** len(self.decoder))

    def logits(self, images: Tensor, coarser: list[Tensor] | None = None) -> Tensor:
        """The network proper, for images whose sides are multiples of 16; puts the extra outputs into a list, if given one."""
        maps = [self.encoder[0](images)]
        for level in self.encoder[1:]:
            maps.append(level(self.pool(maps[-1])))
        x = maps.pop()
        for upsample, level in zip(self.upsampling, self.decoder, strict=True):
            x = level(torch.cat([maps.pop(), upsample(x)], dim=1))
            if coarser is not None and 0 < len(maps) <= len(self.extra_heads):
                coarser.insert(0, self.extra_heads[len(maps) - 1](x))
        return self.head(x)

    def _scales(self, images: Tensor) -> list[Tensor]:
        size, coarsest = images.shape[2:], 2 ** len(self.extra_heads)
        if any(length % coarsest for length in size):
            raise ValueError(
                f"with model.deep_supervision={len(self.extra_heads)} expected training images whose sides are multiples of "
                f"{coarsest}, got {tuple(size)}: else the voxels of the coarse outputs would not lie on those of the target"
            )
        coarser: list[Tensor] = []
        logits = run_padded(lambda padded: self.logits(padded, coarser), images, multiple=2 ** len(self.decoder))
        # what padding added is at the end
        crops = [[slice(None), slice(None), *(slice(length >> k) for length in size)] for k in range(1, len(coarser) + 1)]
        return [logits, *(x[tuple(crop)] for x, crop in zip(coarser, crops, strict=True))]


def double_convolution(in_channels: int, out_channels: int, dims: int) -> nn.Sequential:
    """Twice: convolution of 3 in each direction, batch normalisation, ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        convolution = CONVOLUTION[dims](channels, out_channels, 3, padding=1, bias=False)
        layers += [convolution, NORM[dims](out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
