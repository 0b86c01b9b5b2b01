"""Images of any size for networks that halve them several times."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def run_padded(network: Callable[[Tensor], Tensor], images: Tensor, multiple: int, minimum: int = 1) -> Tensor:
    """The logits of ``network`` at the images' own size, whatever size the network works with.

    Each spatial axis is padded at its end, by repeating the border, to a multiple of ``multiple`` that is at least ``minimum``;
    the logits are cropped back. Images that fit go through as they are, without a copy.

    Args:
        network: (B, M, *P) -> (B, C, *P) for spatial sizes P that fit.
        images: (B, M, *S), floating point, 2-D or 3-D.
        multiple: what the network divides each spatial axis by.
        minimum: the least size along a spatial axis.

    Returns:
        Logits (B, C, *S).

    Raises:
        ValueError: the network returns another size than it was given.
    """
    size = images.shape[2:]
    fit = [-(-max(length, minimum) // multiple) * multiple for length in size]
    missing = [wanted - length for wanted, length in zip(fit, size, strict=True)]
    if any(missing):
        ends = [amount for gap in reversed(missing) for amount in (0, gap)]  # F.pad counts from the last axis
        images = F.pad(images, ends, mode="replicate")
    logits = network(images)
    if logits.shape[2:] != images.shape[2:]:
        raise ValueError(
            f"expected logits of the images' size {tuple(images.shape[2:])}, got {tuple(logits.shape[2:])}: "
            "model.upsampling must undo what the decoder leaves of model.encoder_depth and model.encoder_output_stride"
        )
    crop = tuple(slice(length) for length in size)
    return logits[(slice(None), slice(None), *crop)] if any(missing) else logits
