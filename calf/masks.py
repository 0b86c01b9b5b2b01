"""Masks as the store holds them, as a loss and the counts want them, and as a network's logits say them. Knows no Lightning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from calf.data.cases import Target


def decode_mask(mask: Tensor, target: Target) -> Tensor:
    """Stored masks uint8 (B, *S) as the loss wants them: class indices int64 (B, *S), or channels float32 (B, C, *S)."""
    if target.exclusive:
        return mask.long()
    if len(target.names) == 1:
        return mask.unsqueeze(1).float()
    bits = torch.arange(len(target.names), device=mask.device, dtype=torch.uint8)
    return ((mask.unsqueeze(1) >> bits.view(1, -1, *[1] * (mask.ndim - 1))) & 1).float()


def foreground(mask: Tensor, target: Target) -> Tensor:
    """Stored masks uint8 (B, *S) as one boolean channel for each target name: (B, names, *S)."""
    if target.exclusive:
        return torch.stack([mask == value + 1 for value in range(len(target.names))], dim=1)
    return mask.unsqueeze(1) > 0 if len(target.names) == 1 else decode_mask(mask, target).bool()


def encode_prediction(logits: Tensor, target: Target) -> Tensor:
    """Logits (B, C, *S) as a mask in the store's encoding, uint8 (B, *S): the likeliest class, or every logit above 0."""
    if target.exclusive:
        return logits.argmax(dim=1).to(torch.uint8)
    if len(target.names) == 1:
        return (logits[:, 0] > 0).to(torch.uint8)
    positive = (logits > 0).to(torch.uint8)
    bits = torch.arange(len(target.names), device=logits.device, dtype=torch.uint8)
    return (positive << bits.view(1, -1, *[1] * (logits.ndim - 2))).sum(dim=1, dtype=torch.uint8)


def foreground_probabilities(logits: Tensor, target: Target) -> Tensor:
    """Logits (B, C, *S) as probabilities of each target name, float16 (B, names, *S): fine near 0, where most voxels are."""
    logits = logits.float()
    return (logits.softmax(dim=1)[:, 1:] if target.exclusive else logits.sigmoid()).half()


def inside(box: Tensor, size: Sequence[int]) -> Tensor:
    """Boolean (B, *size), true within each slice's box (B, 4), or each patch's (B, 6): first and end along each axis.

    What lies outside is padding and is not scored.
    """
    within = torch.ones(len(box), *[1] * len(size), dtype=torch.bool, device=box.device)
    for axis, length in enumerate(size):
        places = torch.arange(length, device=box.device)
        along = (places >= box[:, 2 * axis, None]) & (places < box[:, 2 * axis + 1, None])
        within = within & along.view(-1, *[length if other == axis else 1 for other in range(len(size))])
    return within


def in_unit_range(image: Tensor) -> Tensor:
    """Stored images, uint8, as float32 in [0, 1]; floating-point images are there already."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def finest(output: Tensor | Sequence[Tensor]) -> Tensor:
    """The logits at full resolution, of a network with or without deep supervision."""
    return output if isinstance(output, Tensor) else output[0]
