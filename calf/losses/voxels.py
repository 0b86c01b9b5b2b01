"""Going over voxels: on the CPU a few samples at a time, which stay in its cache; on other devices all at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

#: Numbers of a tensor that are gone through at once on the CPU.
CACHED = 2**19

#: F.softplus that can be told where to write.
softplus_into = torch.ops.aten.softplus.out


def on_host(x: Tensor) -> bool:
    """Whether the values of a tensor can be looked at without waiting for a device, or for what is being compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def parts(first: Tensor, *others: Any) -> Iterator[tuple[Any, ...]]:
    """The samples of some tensors, on the CPU a few at a time.

    Args:
        first: ``(B, ...)``.
        others: tensors with as many samples are cut likewise; anything else comes whole with each part.
    """
    step = max(1, CACHED // first[0].numel()) if on_host(first) else len(first)
    if step >= len(first):
        return iter([(first, *others)])
    pieces = first.split(step)
    cut = (isinstance(x, Tensor) and x.ndim > 0 and len(x) == len(first) for x in others)
    rest = (x.split(step) if some else [x] * len(pieces) for x, some in zip(others, cut, strict=True))
    return zip(pieces, *rest, strict=True)


def spread(values: Tensor, like: Tensor) -> Tensor:
    """``(B or 1, C)`` in a shape that broadcasts over the voxels of ``(B, C, *S)``."""
    return values.view(*values.shape, *[1] * (like.ndim - 2))
