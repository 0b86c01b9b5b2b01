"""How unevenly the foreground is spread over samples: areas, skewness, kurtosis."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

EPS = torch.finfo(torch.float64).eps


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


def skewness_and_kurtosis(areas: Tensor, all_ranks: bool = False) -> tuple[Tensor, Tensor]:
    """Biased skewness and excess kurtosis over the first axis, as ``scipy.stats.skew`` and ``scipy.stats.kurtosis`` give them.

    ``mean((A - mu)^3) / sigma^3`` and ``mean((A - mu)^4) / sigma^4 - 3``, in float64. Stays on the areas' device and does not
    wait for it.

    Args:
        areas: ``(N, ...)``; everything behind the first axis is independent.
        all_ranks: over the samples of all ranks of ``torch.distributed``, where it runs: all ranks must call it, may hold
            different ``N``, and get the same numbers.

    Returns:
        Two tensors ``(...)``; NaN where all areas are equal, hence also for a single sample.

    >>> skewness_and_kurtosis(torch.tensor([1, 2, 3]))
    (tensor(0., dtype=torch.float64), tensor(-1.5000, dtype=torch.float64))
    """
    # MPS has no float64
    areas = areas.detach().to(torch.float32 if areas.device.type == "mps" else torch.float64)
    mean = _mean_over_ranks if all_ranks and dist.is_available() and dist.is_initialized() else _mean
    # central moments in a second pass: raw ones cancel. From one of the areas and not from 0, so that equal ones, of any
    # size, have a variance of exactly zero
    shifted = areas - (areas[:1] if mean is _mean else 0)
    deviation = shifted - mean(shifted)
    square = deviation * deviation
    m2, m3, m4 = mean(torch.stack([square, square * deviation, square * square], 1))
    return m3 / m2**1.5, m4 / (m2 * m2) - 3
