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

    Shapes: images (B, M, *S), floating point -> logits (B, C, *S).

    >>> PlainUNet(1, 1, width=4)(torch.zeros(2, 1, 20, 35)).shape
    torch.Size([2, 1, 20, 35])
    """

    def __init__(self, in_channels: int, classes: int, width: int = 64, dims: int = 2) -> None:
        super().__init__()
        if dims not in CONVOLUTION:
            raise ValueError(f"expected model.dims to be 2 (slices) or 3 (volumes), got {dims}")
        if width < 1:
            raise ValueError(f"expected model.width, the channels of the first level, to be at least 1, got {width}")
        widths = [width * 2**level for level in range(5)]
        self.pool = POOL[dims](2)
        self.encoder = nn.ModuleList(double_convolution(a, b, dims) for a, b in pairwise([in_channels, *widths]))
        upwards = [(below, above) for above, below in reversed(list(pairwise(widths)))]
        self.upsampling = nn.ModuleList(TRANSPOSED[dims](below, above, 2, stride=2) for below, above in upwards)
        self.decoder = nn.ModuleList(double_convolution(2 * above, above, dims) for _, above in upwards)
        self.head = CONVOLUTION[dims](width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return run_padded(self.logits, images, multiple=2 ** len(self.decoder))

    def logits(self, images: Tensor) -> Tensor:
        """The network proper, for images whose sides are multiples of 16."""
        maps = [self.encoder[0](images)]
        for level in self.encoder[1:]:
            maps.append(level(self.pool(maps[-1])))
        x = maps.pop()
        for upsample, level in zip(self.upsampling, self.decoder, strict=True):
            x = level(torch.cat([maps.pop(), upsample(x)], dim=1))
        return self.head(x)


def double_convolution(in_channels: int, out_channels: int, dims: int) -> nn.Sequential:
    """Twice: convolution of 3 in each direction, batch normalisation, ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        convolution = CONVOLUTION[dims](channels, out_channels, 3, padding=1, bias=False)
        layers += [convolution, NORM[dims](out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
