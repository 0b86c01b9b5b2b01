"""The 3-D U-Net of nnU-Net, in monai's implementation."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.dynunet import DynUNet


def build(in_channels: int, classes: int, channels: Sequence[int], strides: Sequence[int | Sequence[int]]) -> DynUNet:
    """Levels of two convolutions with instance norm and leaky ReLU, strided convolutions down, transposed ones up.

    Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z, without deep supervision.

    Args:
        in_channels: modalities M.
        classes: output channels C.
        channels: of each level, at least three, finest first.
        strides: by which each level divides the one before, 1 for the first; a number, or [slices, rows, columns] where voxels or
            patches are longer one way.

    Shapes: images (B, M, D, H, W), floating point, whose sides the product of the strides divides -> logits (B, C, D, H, W).

    Raises:
        ValueError: other numbers of channels than of strides, or fewer than three.
    """
    if len(channels) != len(strides) or len(channels) < 3:
        raise ValueError(
            f"expected as many model.channels as model.strides, at least three; got {list(channels)} and {list(strides)}"
        )
    network = DynUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=classes,
        kernel_size=[3] * len(strides),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=channels,
    )
    # the network keeps its blocks twice, and what is called is this one; torch.func.functional_call, by which losses try steps,
    # would put blocks of two names back wrongly
    del network.input_block, network.downsamples, network.bottleneck, network.upsamples
    return network
