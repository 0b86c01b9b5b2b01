"""Brain-like volumes with a tumour, generated from a seed and written as NIfTI files in the layout of BraTS 2020."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from calf.data.cases import Case
from calf.data.layouts.brats2020 import BraTS2020
from calf.data.volumes import write_volume

VERSION = 1  # of the generator: data sets of different versions lie in different folders
BRAIN_MM = (150.0, 180.0, 140.0)  # the field of view that holds every brain

_HALF_MM = 100.0  # noise is laid over +-100 mm, whatever the voxels
_MIDDLE_Z_MM = -5.0  # of the box, from the middle of the cerebrum

# relative to white matter in T1; what a radiologist expects of each tissue in each modality
_CONTRAST = {
    "t1": {"csf": 0.25, "grey": 0.66, "white": 0.90, "oedema": 0.58, "necrosis": 0.40, "rim": 0.66},
    "t1ce": {"csf": 0.25, "grey": 0.64, "white": 0.86, "oedema": 0.56, "necrosis": 0.36, "rim": 1.35},
    "t2": {"csf": 1.45, "grey": 0.80, "white": 0.55, "oedema": 1.20, "necrosis": 1.35, "rim": 1.00},
    "flair": {"csf": 0.22, "grey": 0.80, "white": 0.60, "oedema": 1.25, "necrosis": 0.80, "rim": 1.10},
}

Array = NDArray[np.floating]
Vector = tuple[float, float, float]


@dataclass
class Phantom(BraTS2020):
    """Synthetic glioma patients; reads as :class:`BraTS2020`, and writes its files the first time they are asked for.

    A folded cortex, white matter, deep grey nuclei and ventricles, each brain of its own shape; a tumour of necrotic core,
    enhancing rim and oedema that spreads in white matter and pushes the tissue aside. Bright CSF in T2, bright
    ventricle walls in FLAIR, and vessels in T1ce keep a single threshold from finding it. Background is exactly 0,
    brain at least 1; int16 images, uint8 labels, affine diag(-sx, -sy, sz) as in BraTS.

    The files lie in ``<root>/phantom-<hash of all other arguments>``: the same arguments give the same bytes, and a patient does
    not depend on how many follow.

    Args:
        root: folder under which phantoms are kept.
        patients: number of patients, one volume each.
        shape: voxels along x, y and z.
        spacing_mm: their size; shape x spacing holds a brain, at least ``BRAIN_MM``.
        seed: of everything random.
        radius_mm: median of the lognormal radius of the tumour, oedema included.
        radius_spread: standard deviation of the radius's logarithm.
        satellite_share: share of patients with one to three satellite lesions.
        low_grade_share: share of patients whose tumour does not enhance (no label 4).
        noise: sigma of the Rician noise, relative to white matter in T1.
        bias_field: standard deviation of the logarithm of the smooth multiplicative field.
        annotation_bias_mm: how far the training mask's whole tumour, tumour core and enhancing tumour each reach
            beyond (below 0: stay behind) the truth, measured between voxel centres, inside the brain; the truth is
            then written beside as ``_seg_clean`` and becomes the reference. Less than a voxel moves nothing along its axis.
    """

    patients: int = 24
    shape: tuple[int, int, int] = (64, 64, 24)
    spacing_mm: tuple[float, float, float] = (3.0, 3.0, 6.0)
    seed: int = 0
    radius_mm: float = 25.0
    radius_spread: float = 0.3
    satellite_share: float = 0.4
    low_grade_share: float = 0.1
    noise: float = 0.04
    bias_field: float = 0.1
    annotation_bias_mm: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shape) != 3 or len(self.spacing_mm) != 3:
            raise ValueError(f"expected three voxel counts and three sizes, got {self.shape} and {self.spacing_mm}")
        x, y, z = (int(size) for size in self.shape)
        dx, dy, dz = (float(size) for size in self.spacing_mm)
        self.shape, self.spacing_mm = (x, y, z), (dx, dy, dz)
        view = tuple(round(count * size, 1) for count, size in zip(self.shape, self.spacing_mm, strict=True))
        if any(got < needed for got, needed in zip(view, BRAIN_MM, strict=True)):
            raise ValueError(f"shape x spacing_mm is {view} mm; a brain needs at least {BRAIN_MM}: take more or larger voxels")
        if not 1 <= self.patients <= 999 or self.seed < 0:
            raise ValueError(f"expected 1 ... 999 patients and a seed of at least 0, got {self.patients} and {self.seed}")
        for name in ("satellite_share", "low_grade_share"):
            setattr(self, name, float(getattr(self, name)))
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share in 0 ... 1, got {getattr(self, name)}")
        for name in ("radius_mm", "radius_spread", "noise", "bias_field", "annotation_bias_mm"):
            value = float(getattr(self, name))
            if not math.isfinite(value) or (value < 0 and name != "annotation_bias_mm"):
                raise ValueError(f"{name} is at least 0 and finite, got {value}")
            setattr(self, name, value)  # 2 and 2.0 are one data set

    @property
    def folder(self) -> Path:
        """The folder of these arguments."""
        return Path(self.root).expanduser() / f"phantom-{hashlib.sha256(self._knobs().encode()).hexdigest()[:12]}"

    def _knobs(self) -> str:
        knobs = {knob.name: getattr(self, knob.name) for knob in fields(self) if knob.init and knob.name != "root"}
        return json.dumps({"version": VERSION, **knobs}, indent=1, sort_keys=True)

    def ensure(self) -> None:
        """Write the files if they are not there; a second process waits, and a killed one leaves nothing half done."""
        if self.folder.is_dir():
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_name(f".{self.folder.name}.lock")):
            if self.folder.is_dir():
                return
            partial = self.folder.with_name(f".{self.folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for patient in range(self.patients):
                self._write(partial, patient)
            (partial / "phantom.json").write_text(self._knobs() + "\n")
            os.replace(partial, self.folder)

    def cases(self) -> list[Case]:
        """Every patient, sorted by id; a ValueError when some of the folder's patients are gone."""
        cases = super().cases()
        if len(cases) != self.patients:
            raise ValueError(f"{self.folder} holds {len(cases)} of {self.patients} patients: delete it, and it is made anew")
        return cases

    def _write(self, parent: Path, patient: int) -> None:
        name = f"BraTS20_Training_{patient + 1:03d}"
        folder = parent / name
        folder.mkdir()
        affine = np.diag([-self.spacing_mm[0], -self.spacing_mm[1], self.spacing_mm[2], 1.0])
        affine[1, 3] = (self.shape[1] - 1) * self.spacing_mm[1]
        images, labels = generate_patient(self, patient)
        for modality, image in images.items():
            write_volume(folder / f"{name}_{modality}.nii.gz", image, affine)
        if self.annotation_bias_mm:
            write_volume(folder / f"{name}_seg_clean.nii.gz", labels, affine)
            labels = biased_labels(labels, images["flair"] > 0, self.annotation_bias_mm, self.spacing_mm)
        write_volume(folder / f"{name}_seg.nii.gz", labels, affine)


def biased_labels(
    labels: NDArray[np.uint8], brain: NDArray[np.bool_], bias_mm: float, spacing_mm: tuple[float, float, float]
) -> NDArray[np.uint8]:
    """Labels {0, 1, 2, 4} (X, Y, Z) whose nested regions reach ``bias_mm`` further (below 0: less far) within ``brain``.

    A region grows by the voxels whose centre is within ``bias_mm`` of one of its voxels, and shrinks by those within
    ``-bias_mm`` of a voxel outside. Growing keeps the nesting, so every region is exact. One that is empty stays so; one
    thinner than twice the bias vanishes.
    """
    biased = np.zeros_like(labels)
    for value, members in ((2, (1, 2, 4)), (1, (1, 4)), (4, (4,))):
        region = np.isin(labels, members)
        if not region.any():
            continue
        if bias_mm >= 0:
            moved = (distance_transform_edt(~region, sampling=spacing_mm) <= bias_mm) & (brain | region)
        else:
            moved = distance_transform_edt(region, sampling=spacing_mm) > -bias_mm
        biased[moved] = value
    return biased


def generate_patient(phantom: Phantom, patient: int) -> tuple[dict[str, NDArray[np.int16]], NDArray[np.uint8]]:
    """Images by modality and labels {0, 1, 2, 4} of one patient, each (X, Y, Z)."""
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(phantom.seed, spawn_key=(patient,)).spawn(4)]
    space = _Space(phantom.shape, phantom.spacing_mm)
    lesions = list(_lesions(phantom, streams[0]))
    tissue = _brain(space, lesions[0], streams[1])
    labels = _tumour(space, lesions, tissue, streams[2])
    images = {modality: space.whole(_image(phantom, space, tissue, modality, streams[3])) for modality in phantom.modalities}
    return images, space.whole(labels)


class _Space:
    """Voxel centres in mm, x to the right, y to the front, z up, of the box in the middle that holds the brain."""

    def __init__(self, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> None:
        self.shape = shape
        self.edge_mm = max(1.0, min(spacing_mm))
        self.axes: list[Array] = []
        self.box: list[slice] = []
        for count, size, sign, box_mm in zip(shape, spacing_mm, (-1, -1, 1), BRAIN_MM, strict=True):
            centres = (np.arange(count) - (count - 1) / 2) * size * sign
            inside = np.flatnonzero(np.abs(centres) <= box_mm / 2)
            self.box.append(slice(inside[0], inside[-1] + 1))
            self.axes.append(centres[inside].astype(np.float32))
        self.axes[2] = self.axes[2] + np.float32(_MIDDLE_Z_MM)
        self.points = [axis.reshape([-1 if i == j else 1 for j in range(3)]) for i, axis in enumerate(self.axes)]

    def whole(self, box: NDArray[Any]) -> NDArray[Any]:
        """The box in a volume that is 0 elsewhere."""
        volume = np.zeros(self.shape, box.dtype)
        volume[tuple(self.box)] = box
        return volume

    def noise(self, rng: np.random.Generator, scale_mm: float) -> Array:
        """Smooth noise of mean 0 and variance 1: a cubic B-spline through normal numbers ``scale_mm`` apart.

        The same numbers whatever the voxels, so that a patient looks alike at every resolution.
        """
        knots = math.ceil(2 * _HALF_MM / scale_mm) + 4
        values: Array = rng.standard_normal((knots, knots, knots), dtype=np.float32) * np.float32((315 / 151) ** 1.5)
        for axis, centres in enumerate(self.axes):
            place = (centres + np.float32(_HALF_MM)) / np.float32(scale_mm)
            first = place.astype(np.intp)
            t = place - first.astype(np.float32)
            taps = ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
            along = [-1 if other == axis else 1 for other in range(3)]
            blend = np.take(values, first, axis) * taps[0].reshape(along)
            for step in (1, 2, 3):
                blend += np.take(values, first + step, axis) * taps[step].reshape(along)
            values = blend
        return values

    def share(self, depth_mm: Array) -> Array:
        """Share of a voxel that lies inside a surface, from its depth below it."""
        return np.clip(depth_mm / self.edge_mm + 0.5, 0, 1)


def _reach(points: list[Array], centre: Vector, semi_axes: Vector) -> Array:
    """Distance from a centre in units of the semi-axes: 1 on the ellipsoid."""
    x, y, z = ((p - c) / s for p, c, s in zip(points, centre, semi_axes, strict=True))
    return np.sqrt(x * x + y * y + z * z)


def _depth(points: list[Array], centre: Vector, semi_axes: Vector) -> Array:
    """Depth in mm below an ellipsoid's surface along its shortest axis; negative outside."""
    return (1 - _reach(points, centre, semi_axes)) * min(semi_axes)


@dataclass(frozen=True)
class _Lesion:
    """Radii in mm, the outer including the oedema; ``stretch`` is the length of its axes relative to a ball."""

    centre: Vector
    outer_mm: float
    core_mm: float
    necrosis_mm: float
    stretch: Vector
    enhancing: bool


def _lesions(phantom: Phantom, rng: np.random.Generator) -> Iterator[_Lesion]:
    """The tumour first, then its satellites."""

    def lesion(centre: NDArray[np.float64], outer_mm: float, enhancing: bool) -> _Lesion:
        core_mm = outer_mm * rng.uniform(0.5, 0.8)
        necrosis_mm = core_mm * rng.uniform(0.5, 0.85) - 1
        x, y, z = np.exp(0.15 * rng.standard_normal(3)).tolist()
        return _Lesion(tuple(centre.tolist()), outer_mm, core_mm, necrosis_mm, (x, y, z), enhancing)

    radius = min(max(phantom.radius_mm * math.exp(phantom.radius_spread * rng.standard_normal()), 4.0), 50.0)
    middle = np.array([rng.choice((-1, 1)) * 32, -2, 14])
    # a large tumour has less room to lie off the middle of its hemisphere
    centre = middle + rng.uniform(-1, 1, 3) * (16, 50, 28) * max(0.25, 1 - radius / 60)
    enhancing = bool(rng.random() >= phantom.low_grade_share)
    yield lesion(centre, radius, enhancing)
    for _ in range(rng.integers(1, 4) if rng.random() < phantom.satellite_share else 0):
        away = rng.standard_normal(3)
        place = centre + away / np.linalg.norm(away) * (radius + rng.uniform(6, 20))
        yield lesion(np.clip(place, (-45, -60, -15), (45, 60, 45)), rng.uniform(5, 9), enhancing)


def _brain(space: _Space, tumour: _Lesion, rng: np.random.Generator) -> dict[str, Array]:
    """Shares of ``csf``, ``grey`` and ``white`` matter; 1 in the ``brain``; and what confuses: ``walls``, ``vessels``."""
    wide, long, high, roomy = np.exp((0.03, 0.03, 0.03, 0.2) * rng.standard_normal(4)).tolist()
    bent = [p + 1.8 * space.noise(rng, 50.0) for p in space.points]
    head = [np.abs(bent[0]) / wide, bent[1] / long, bent[2] / high]
    flattened = [*head[:2], np.where(head[2] > 0, head[2], head[2] * 1.8)]  # a flat base
    cerebrum = _depth(flattened, (0, 0, 0), (65, 80, 57))
    temporal = _depth(head, (40, 8, -22), (21, 38, 21))
    cerebellum = _depth(head, (14, -46, -42), (36, 29, 23))
    stem = _depth(head, (0, -18, -42), (13, 13, 25))
    *_, second, depth = np.sort([cerebrum, temporal, cerebellum, stem], axis=0)

    # the tumour pushes what is inside the skull: look up the anatomy nearer to its centre
    reach = _reach(space.points, tumour.centre, tumour.stretch)
    push = 0.35 * tumour.core_mm * np.exp(-reach / tumour.outer_mm) / np.maximum(reach, 1) * np.clip(depth / 20, 0, 1)
    pushed = [b - push * (p - c) for b, p, c in zip(bent, space.points, tumour.centre, strict=True)]
    inner = [np.abs(pushed[0]) / wide, pushed[1] / long, pushed[2] / high]

    # distance to the fluid on the surface, in the fissures between and within the lobes, and in the folds
    fissure = depth - second + np.maximum(0, depth - 18)
    falx = inner[0] + np.maximum(0, depth - 22) * 0.5 + np.maximum(0, -8 - inner[2])
    folds = np.where(cerebellum >= depth, np.abs(space.noise(rng, 4.0)) * 3, np.abs(space.noise(rng, 6.5)) * 6)
    outside = np.minimum.reduce([depth, fissure, falx, folds + np.maximum(0, depth - 15) * 0.4])

    curved = [inner[0] - (inner[1] / 16) ** 2, *inner[1:]]  # the horns turn outwards in front and behind
    horns = [((5, 18, 10), (4.5, 17, 7)), ((7, -6, 19), (5, 25, 5)), ((12, -38, 8), (6, 16, 8)), ((32, -16, -15), (4, 15, 4))]
    middle = [((0, -8, 3), (2.5, 12, 8)), ((0, -33, -38), (5, 5, 8))]
    cavities = [(curved, *horn) for horn in horns] + [(inner, *cavity) for cavity in middle]
    ventricle = np.maximum.reduce([_depth(at, centre, (a * roomy, b, c * roomy)) for at, centre, (a, b, c) in cavities])
    nuclei = [((10, -16, 6), (9, 14, 9)), ((26, 2, 2), (6, 18, 9)), ((15, 16, 10), (5, 10, 8))]
    deep = np.maximum.reduce([_depth(inner, c, s) for c, s in nuclei])

    csf = np.maximum(space.share(0.8 - outside), space.share(ventricle))
    grey = np.maximum(space.share(3.6 - outside), space.share(deep)) * (1 - csf)
    walls = np.clip(1 + ventricle / 4, 0, 1) * (1 - csf) * rng.uniform(0.4, 1.0)
    tubes = 1.2 - np.hypot(space.noise(rng, 14.0), space.noise(rng, 14.0)) * 9
    vessels = np.minimum(space.share(tubes), space.share(10 - outside))
    plexus = space.share(_depth(inner, (21, -34, 7), (3, 6, 3)))
    sinus = space.share(3 - inner[0] - 0.5 * depth) * (inner[2] > 0)
    return {
        "brain": (depth > 0).astype(np.float32),
        "csf": csf,
        "grey": grey,
        "white": 1 - csf - grey,
        "walls": walls,
        "vessels": np.maximum.reduce([vessels, plexus, sinus]),
    }


def _tumour(space: _Space, lesions: list[_Lesion], tissue: dict[str, Array], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Put the lesions into the tissue (shares ``oedema``, ``rim``, ``necrosis``) and return their labels."""
    coarse, fine, finest = space.noise(rng, 15.0), space.noise(rng, 7.0), space.noise(rng, 4.0)
    resistance = 0.45 * tissue["csf"] + 0.2 * tissue["grey"]  # oedema spreads in white matter
    surfaces: list[list[Array]] = []
    for lesion in lesions:
        reach = _reach(space.points, lesion.centre, lesion.stretch)
        rough = (0.2 * coarse + 0.1 * fine) * min(1.0, lesion.outer_mm / 12)
        core = lesion.core_mm - reach * (1 + 0.6 * rough + 0.08 * finest)
        oedema = np.maximum(core, lesion.outer_mm - reach * (1 + rough + resistance))
        cavity = np.minimum(core - 1, lesion.necrosis_mm - reach * (1 - 0.8 * rough + 0.15 * fine))
        surfaces.append([oedema, core, cavity if lesion.enhancing else core])
    oedema, core, necrosis = (np.maximum.reduce(same) for same in zip(*surfaces, strict=True))
    tissue |= {"oedema": np.clip(oedema / 4 + 0.5, 0, 1), "rim": space.share(core), "necrosis": space.share(necrosis)}
    labels = np.zeros(oedema.shape, np.uint8)
    for value, surface in ((2, oedema), (4, core), (1, necrosis)):
        labels[(surface > 0) & (tissue["brain"] > 0)] = value
    return labels


def _image(
    phantom: Phantom, space: _Space, tissue: dict[str, Array], modality: str, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Tissue shares to intensities: contrast, texture, bias field, Rician noise, scanner gain."""
    level = {name: value * math.exp(0.03 * rng.standard_normal()) for name, value in _CONTRAST[modality].items()}
    signal = tissue["csf"] * level["csf"] + tissue["grey"] * level["grey"] + tissue["white"] * level["white"]
    if modality == "flair":
        signal += tissue["walls"] * 0.7
    if modality == "t1ce":
        signal += tissue["vessels"] * (1.1 - signal)
    texture = 1 + 0.1 * space.noise(rng, 7.0)
    for name in ("oedema", "rim", "necrosis"):
        signal += tissue[name] * (level[name] * texture - signal)
    signal *= np.exp(0.05 * space.noise(rng, 5.0) + phantom.bias_field * space.noise(rng, 80.0))
    real, imaginary = (rng.standard_normal(signal.shape, dtype=np.float32) * phantom.noise for _ in range(2))
    gain = 350 * math.exp(0.25 * rng.standard_normal())
    magnitude = np.hypot(signal + real, imaginary) * gain * tissue["brain"]
    return np.clip(np.rint(magnitude), tissue["brain"], 32767).astype(np.int16)
