"""How unevenly the foreground is spread over samples: areas, skewness, kurtosis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)


def contour_areas(mask: Tensor) -> Tensor:
    """Area inside the contours of each mask, in pixels, measured as the authors of CALF do.

    The sum of OpenCV's ``contourArea`` over all contours of ``findContours(RETR_TREE, CHAIN_APPROX_SIMPLE)``. A contour runs
    through the centres of border pixels: areas are smaller than pixel counts, a single pixel or a line has area 0, and the
    contour of a hole *adds* to the sum. An empty mask has area 0.

    Waits for the device: the masks are copied to the host.

    Args:
        mask: ``(..., H, W)`` of any dtype, 0 or 1.

    Returns:
        ``(...)`` float64 on the mask's device.
    """
    import cv2

    images = mask.detach().reshape(-1, *mask.shape[-2:]).to("cpu", torch.uint8).numpy()
    areas = []
    for image in images:
        contours, _ = cv2.findContours(image, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        areas.append(sum(cv2.contourArea(contour) for contour in contours))
    return torch.tensor(areas, dtype=torch.float64, device=mask.device).view(mask.shape[:-2])


def skewness_and_kurtosis(areas: Array, all_ranks: bool = False) -> tuple[Array, Array]:
    """Biased skewness and excess kurtosis over the first axis, as ``scipy.stats.skew`` and ``scipy.stats.kurtosis`` give them.

    ``mean((A - mu)^3) / sigma^3`` and ``mean((A - mu)^4) / sigma^4 - 3``, in float64. A tensor stays on its device, and the host
    does not wait for it; for the few numbers of a batch numpy is several times faster than torch on the CPU.

    Args:
        areas: ``(N, ...)``, a tensor or an array; everything behind the first axis is independent.
        all_ranks: over the samples of all ranks of ``torch.distributed``, where it runs: all ranks must call it, with tensors,
            may hold different ``N``, and get the same numbers.

    Returns:
        Two ``(...)`` of the same kind; NaN where all areas are equal, hence also for a single sample.

    >>> skewness_and_kurtosis(torch.tensor([1, 2, 3]))
    (tensor(0., dtype=torch.float64), tensor(-1.5000, dtype=torch.float64))
    """
    if isinstance(areas, np.ndarray):
        with np.errstate(divide="ignore", invalid="ignore"):
            return _from_deviations(_deviations(areas.astype(np.float64)), _mean)
    # MPS has no float64
    areas = areas.detach().to(torch.float32 if areas.device.type == "mps" else torch.float64)
    if all_ranks and several_ranks():
        return _from_deviations(areas - _mean_over_ranks(areas), _mean_over_ranks)
    return _from_deviations(_deviations(areas), _mean)


def several_ranks() -> bool:
    """Whether ``torch.distributed`` runs, with more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _deviations(areas: Any) -> Any:
    # equal areas must have a variance of exactly zero: the mean of zeros is exact, whatever the areas
    shifted = areas - areas[:1]
    return shifted - shifted.mean(0)


def _from_deviations(deviation: Any, mean: Callable[[Any], Any]) -> tuple[Any, Any]:
    square = deviation * deviation
    m2, m3, m4 = mean(square), mean(square * deviation), mean(square * square)
    return m3 / m2**1.5, m4 / (m2 * m2) - 3


def _mean(x: Any) -> Any:
    return x.mean(0)


def _mean_over_ranks(x: Tensor) -> Tensor:
    """Mean over the first axis of all ranks' tensors, whose lengths may differ; exact for equal whole numbers."""
    total = torch.stack([x.sum(0), torch.full_like(x[0], x.shape[0])])
    dist.all_reduce(total)
    return total[0] / total[1]
