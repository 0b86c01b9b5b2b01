"""Distances between the surfaces of two masks in mm: HD95, HD, ASSD and NSD.

Two conventions are in use, and their numbers do not belong in one table: HD95 and ASSD differ by up to about a voxel, NSD by 0.2
and more where the tolerance is about a voxel. In both, distances are Euclidean, in mm, from every point of one surface to the
nearest point of the other, what lies outside the image is background, HD95 is the greater of the 95th percentiles of both
directions, and ASSD and NSD pool both directions.

``voxels``, the default: the points are the centres of the surface voxels, which have a background voxel beside them (sharing a
face in 3-D, an edge in 2-D), each weighs the same, and the percentile is interpolated linearly. Equal to monai's metrics, to
their single precision.

``elements``: the points are the corners that voxels share, wherever foreground and background meet in one, each weighs by the
area (in 2-D the length) of the surface there, and the percentile is the first distance at which 95 % of the area is reached.
Equal to DeepMind's surface-distance, and in NSD to monai with ``use_subvoxels``. For numbers beside published ones of that kind,
and for voxels that are far from cubes, whose surface voxels stand for unequal areas. Corners lie on either side of a curved
surface, so distances come out short, by half a voxel between concentric balls (of surface voxels: by a fifth).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from calf.metrics.pairs import Mask, check_pair, crop_pair
from calf.metrics.scores import Floats

Convention = Literal["voxels", "elements"]
ROUNDING = 1e-6  # relative; spacings in file headers are single precision, and 10 voxels of 0.3 mm are within 3 mm
VOXELS_PER_QUERY = 20  # a distance transform of so many voxels takes as long as one query of a tree
MOST_TRANSFORMED = 100_000_000  # voxels; a transform takes 12 bytes for each


@dataclass(frozen=True)
class Side:
    """One direction: from every point of a surface to the other surface; the order of the points has no meaning.

    ``distances_mm``: float64, one a point, at least one. ``areas``: of the points, or None where all weigh the same.
    """

    distances_mm: Floats
    areas: Floats | None = None

    def percentile_mm(self, percent: float) -> float:
        if self.areas is None:
            return float(np.percentile(self.distances_mm, percent))
        order = np.argsort(self.distances_mm, kind="stable")
        reached = np.cumsum(self.areas[order])
        first = np.searchsorted(reached / reached[-1], percent / 100)
        return float(self.distances_mm[order[min(int(first), len(order) - 1)]])

    def total(self, of: Floats | Mask) -> float:
        """Sum of something over the points, each by its weight."""
        return float(of.sum() if self.areas is None else (self.areas * of).sum())

    def weight(self) -> float:
        """Number of the points, or their area."""
        return float(len(self.distances_mm) if self.areas is None else self.areas.sum())


@dataclass(frozen=True)
class SurfaceDistances:
    """Both directions between two surfaces."""

    of_prediction: Side
    of_reference: Side

    def hausdorff_mm(self, percent: float = 100) -> float:
        """The greater of both directions' percentile: 100 is the Hausdorff distance HD, 95 is HD95."""
        return max(self.of_prediction.percentile_mm(percent), self.of_reference.percentile_mm(percent))

    def average_mm(self) -> float:
        """ASSD, the average symmetric surface distance: the mean over both surfaces together."""
        sides = self.of_prediction, self.of_reference
        return sum(side.total(side.distances_mm) for side in sides) / sum(side.weight() for side in sides)

    def share_within(self, tolerance_mm: float) -> float:
        """NSD, the normalised surface distance (surface Dice): the share of both surfaces at most ``tolerance_mm`` apart.

        Nikolov et al. 2018, https://arxiv.org/abs/1809.04430. A distance that exceeds the tolerance by rounding only is within.
        """
        check_tolerance(tolerance_mm)
        limit = tolerance_mm * (1 + ROUNDING)
        sides = self.of_prediction, self.of_reference
        return sum(side.total(side.distances_mm <= limit) for side in sides) / sum(side.weight() for side in sides)


def check_tolerance(tolerance_mm: float) -> None:
    """ValueError unless NSD can be computed with it."""
    if not 0 <= tolerance_mm < math.inf:
        raise ValueError(f"tolerance_mm: expected at least 0 mm, got {tolerance_mm}")


def check_convention(convention: str) -> None:
    """ValueError unless it is one of this module."""
    if convention not in get_args(Convention):
        raise ValueError(f"expected surfaces of {' or '.join(get_args(Convention))}, got {convention!r}")


def surface_distances(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float], convention: Convention = "voxels"
) -> SurfaceDistances:
    """Distances between the surfaces of two masks that both have foreground.

    Args:
        prediction: bool, 2-D or 3-D. An axis of one voxel is dropped: a volume of one slice is scored as the image it is.
        reference: bool, of the same shape.
        spacing_mm: distance of voxel centres along each axis.
        convention: see above.

    Raises:
        ValueError: an empty mask, other dtypes than bool, or shapes that differ.

    >>> masks = np.zeros((2, 9, 9), bool)
    >>> masks[0, 1, 1] = masks[1, 4, 5] = True
    >>> surface_distances(*masks, spacing_mm=(1.0, 2.0)).hausdorff_mm()
    8.54400374531753
    """
    check_pair(prediction, reference, spacing_mm)
    check_convention(convention)
    if not prediction.any() or not reference.any():
        raise ValueError("expected foreground in the prediction and in the reference: an empty mask has no surface")
    spacing = np.array([step for step, size in zip(spacing_mm, reference.shape, strict=True) if size > 1])
    cropped = crop_pair(prediction.squeeze(), reference.squeeze())
    assert cropped is not None
    areas: tuple[Floats | None, Floats | None] = (None, None)
    if convention == "voxels":
        surfaces = surface_voxels(cropped[0]), surface_voxels(cropped[1])
    else:
        elements = [surface_elements(mask, spacing) for mask in cropped]
        surfaces, areas = (elements[0] > 0, elements[1] > 0), (elements[0][elements[0] > 0], elements[1][elements[1] > 0])
    return SurfaceDistances(
        Side(_to_nearest(*surfaces, spacing), areas[0]), Side(_to_nearest(*surfaces[::-1], spacing), areas[1])
    )


def surface_voxels(mask: Mask) -> Mask:
    """Foreground voxels with background beside them along an axis, the outside of the array being background."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for beside in (slice(None, -2), slice(2, None)):
            inside &= padded[tuple(beside if other == axis else slice(1, -1) for other in range(mask.ndim))]
    return mask & ~inside


def surface_elements(mask: Mask, spacing_mm: Floats) -> Floats:
    """Area in mm2 (length in mm) of the surface in each corner that voxels share, one larger than the mask along each axis.

    The surface is that of marching cubes (squares), 0 where a corner's voxels are all alike.
    """
    from monai.metrics.utils import get_code_to_measure_table  # seconds to import, and only this convention needs it

    table, kernel = get_code_to_measure_table(spacing_mm.tolist())
    padded = np.pad(mask, 1)
    code = np.zeros([size + 1 for size in mask.shape], np.uint8)
    for corner, bit in zip(itertools.product((0, 1), repeat=mask.ndim), kernel.flatten().tolist(), strict=True):
        code |= padded[tuple(slice(start, start + size) for start, size in zip(corner, code.shape, strict=True))] * np.uint8(bit)
    return np.asarray(table, np.float64)[code]


def _to_nearest(surface: Mask, other: Mask, spacing_mm: Floats) -> Floats:
    """Distance in mm of every true point of ``surface``, in their order, to the nearest one of ``other``."""
    apart = surface & ~other  # the rest is 0 away
    distances = np.zeros(np.count_nonzero(surface))
    if apart.any():
        points = np.argwhere(apart)
        # whichever way the nearest is found, the distance follows from whole steps along the axes
        steps = points - _nearest(points, apart, other, spacing_mm)
        distances[apart[surface]] = np.sqrt(np.square(steps * spacing_mm).sum(axis=1))
    return distances


def _nearest(points: npt.NDArray[np.intp], apart: Mask, other: Mask, spacing_mm: Floats) -> npt.NDArray[np.integer]:
    """Index of the true point of ``other`` that is nearest to each of the ``points``, the true ones of ``apart``."""
    # Masks of organs and lesions have few surface points in their box; the noise of an untrained network has millions.
    if len(points) * VOXELS_PER_QUERY > other.size and other.size <= MOST_TRANSFORMED:
        indices = distance_transform_edt(~other, sampling=spacing_mm, return_distances=False, return_indices=True)
        return np.asarray(indices)[:, apart].T
    candidates = np.argwhere(other)
    # a tree that is not balanced is built in half the time and, for points on surfaces, searched as fast or faster
    tree = KDTree(candidates * spacing_mm, leafsize=32, balanced_tree=False, compact_nodes=False)
    return candidates[tree.query(points * spacing_mm)[1]]


def image_diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Length of the diagonal of the whole image, edge to edge: 373.13 mm for 240 x 240 x 155 voxels of 1 mm, as in BraTS.

    No distance within the image exceeds it. An axis of one voxel is left out, as in ``surface_distances``.
    """
    return math.hypot(*(size * spacing for size, spacing in zip(shape, spacing_mm, strict=True) if size > 1))


def surface_scores(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float], tolerance_mm: float, convention: Convention = "voxels"
) -> dict[str, float]:
    """``hd95_mm``, ``hd_mm``, ``assd_mm`` and ``nsd_<tolerance>mm`` of one case and class, under ``EMPTY_RULE``.

    Without a reference all are NaN, whatever was predicted. A miss scores the diagonal of the image and an NSD of 0.
    """
    check_pair(prediction, reference, spacing_mm)
    if not reference.any():
        values = [math.nan] * 4
    elif not prediction.any():
        values = [image_diagonal_mm(reference.shape, spacing_mm)] * 3 + [0.0]
    else:
        distances = surface_distances(prediction, reference, spacing_mm, convention)
        values = [distances.hausdorff_mm(95), distances.hausdorff_mm(), distances.average_mm()]
        values.append(distances.share_within(tolerance_mm))
    return dict(zip(surface_metrics(tolerance_mm), values, strict=True))


def surface_metrics(tolerance_mm: float) -> tuple[str, ...]:
    """The names of ``surface_scores``; NSD carries its tolerance, so that two of them are never averaged together."""
    return "hd95_mm", "hd_mm", "assd_mm", f"nsd_{tolerance_mm:g}mm"
