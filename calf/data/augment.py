"""Augmentation of whole training batches on the device they are on; what is drawn is apart from what is done with it.

`Augmentation.sample` draws on the host, from a seed, without looking at a pixel; `Augmentation.apply` is a function of what was
drawn and of the batch. So a batch can be repeated from a number, nothing waits for the device, and only the planes that were
chosen are worked on. Geometry and blur are kornia's functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import get_rotation_matrix2d, warp_affine
from numpy.typing import NDArray
from torch import Tensor

Parameters = dict[str, Tensor]

STREAM = 0x61756731  # keeps these numbers apart from others drawn from the same seed
# of what is drawn: the value that changes nothing, and the values that make sense
GEOMETRY = {"rotation_degrees": (0.0, -360.0, 360.0), "scale": (1.0, 0.1, 10.0)}
INTENSITY = {
    "noise_sd": (0.0, 0.0, 1.0),
    "blur_sigma": (0.0, 0.1, 20.0),
    "brightness": (1.0, 0.0, 10.0),
    "contrast": (1.0, 0.0, 10.0),
    "low_resolution": (1.0, 0.05, 1.0),
    "gamma": (1.0, 0.05, 20.0),
}


@dataclass(frozen=True)
class Chance:
    """With ``probability`` a number drawn uniformly from ``low`` to ``high``, and else the one that changes nothing."""

    probability: float
    low: float
    high: float

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...], unchanged: float) -> NDArray[np.float32]:
        """Takes as many numbers from the generator whatever the probability: the other draws do not depend on it."""
        chosen = generator.random(shape) < self.probability
        return np.where(chosen, generator.uniform(self.low, self.high, shape), unchanged).astype(np.float32)


class Augmentation:
    """Random flips, rotation, scaling, noise, blur, brightness, contrast, low resolution and gamma, in this order.

    Every argument but the first two and the last is ``{probability, low, high}``, see `Chance`. What moves is drawn for each
    sample, what changes intensities for each channel of each sample. Images are clipped to [0, 1]; a pixel that is 0 in every
    channel before its intensity is changed (padding, what is left outside a stripped skull) stays 0.

    Of volumes, (B, C, D, H, W), every plane (H, W) is moved, blurred and coarsened alike, as nnU-Net does where slices are
    thick: nothing turns out of the plane, and nothing is mirrored along D. Rotation is in pixels: where rows and columns lie
    unequally far apart, it shears.

    Args:
        flip_columns: probability of mirroring the order of the columns: left and right, in axial and coronal slices.
        flip_rows: probability of mirroring the order of the rows: front and back in axial slices, head and feet in others.
        rotation_degrees: about the centre of the plane, counter-clockwise.
        scale: above 1 what is seen grows.
        noise_sd: standard deviation of Gaussian noise, in units of the image's range.
        blur_sigma: of a Gaussian, in pixels.
        brightness: factor of the intensities.
        contrast: factor of their differences from the mean of the plane's pixels that are not background.
        low_resolution: factor of rows and columns of the coarser image that the image is read from.
        gamma: exponent of the intensities.
        per_channel: draw intensity changes for each channel; false: one for all channels of a sample, such as neighbouring
            slices.

    Raises:
        ValueError: a probability outside [0, 1], or a range that is empty or makes no sense.
    """

    def __init__(
        self,
        flip_columns: float,
        flip_rows: float,
        rotation_degrees: Mapping[str, float],
        scale: Mapping[str, float],
        noise_sd: Mapping[str, float],
        blur_sigma: Mapping[str, float],
        brightness: Mapping[str, float],
        contrast: Mapping[str, float],
        low_resolution: Mapping[str, float],
        gamma: Mapping[str, float],
        per_channel: bool,
    ) -> None:
        self.flips = {"flip_columns": flip_columns, "flip_rows": flip_rows}
        for name, probability in self.flips.items():
            _check_probability(name, probability)
        given = {"rotation_degrees": rotation_degrees, "scale": scale, "noise_sd": noise_sd, "blur_sigma": blur_sigma}
        given |= {"brightness": brightness, "contrast": contrast, "low_resolution": low_resolution, "gamma": gamma}
        self.chances = {name: _chance(name, values) for name, values in given.items()}
        self.per_channel = per_channel

    @property
    def moves(self) -> bool:
        """Whether it can move anything: what was computed from a mask before, such as its distance map, is then void."""
        return any(self.flips.values()) or any(self.chances[name].probability > 0 for name in GEOMETRY)

    def sample(self, shape: Sequence[int], seed: int) -> Parameters:
        """Draw for a batch of images of ``shape`` (B, C, ...); the same seed draws the same.

        Returns tensors on the host, which can be pickled or written as lists: ``flip_columns`` and ``flip_rows`` bool (B,),
        ``rotation_degrees`` and ``scale`` float32 (B,), the intensities' float32 (B, C), ``noise_seed`` int64 (B, C).
        """
        generator = np.random.default_rng([STREAM, seed])
        samples, channels = shape[:2]
        drawn: dict[str, NDArray] = {name: generator.random(samples) < chance for name, chance in self.flips.items()}
        for name, (unchanged, *_) in GEOMETRY.items():
            drawn[name] = self.chances[name].draw(generator, (samples,), unchanged)
        drawn_for = channels if self.per_channel else 1
        for name, (unchanged, *_) in INTENSITY.items():
            values = self.chances[name].draw(generator, (samples, drawn_for), unchanged)
            drawn[name] = np.broadcast_to(values, (samples, channels)).copy()
        drawn["noise_seed"] = generator.integers(0, 2**62, (samples, channels))
        return {name: torch.from_numpy(values) for name, values in drawn.items()}

    @torch.no_grad()
    def apply(self, parameters: Parameters, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The augmented copies of ``image`` float32 (B, C, *S) in [0, 1] and ``mask`` uint8 or bool (B, *S); S is 2-D or 3-D.

        Image values are interpolated, those of masks only moved: class indices and bit sets stay what they are. What comes
        from outside the frame is 0. A sample comes out the same alone and in any batch.
        """
        if not image.is_floating_point():
            raise ValueError(f"expected images in [0, 1] as floating point, got {image.dtype}: divide stored ones by 255")
        with torch.autocast(image.device.type, enabled=False):  # half precision has no coordinates beyond 256
            moved = _move(parameters, image.float(), "bilinear")
            _change_intensities(parameters, moved)
            return moved, self.move_mask(parameters, mask)

    @torch.no_grad()
    def move_mask(self, parameters: Parameters, mask: Tensor) -> Tensor:
        """The mask, or any other map of integers up to 255 (B, *S), moved as `apply` moves it; 0 from outside the frame."""
        with torch.autocast(mask.device.type, enabled=False):
            return _move(parameters, mask.unsqueeze(1).float(), "nearest")[:, 0].to(mask.dtype)


def _check_probability(name: str, probability: float) -> None:
    if not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise ValueError(f"expected the probability of augment.{name} to be from 0 to 1, got {probability!r}")


def _chance(name: str, values: Mapping[str, float]) -> Chance:
    if set(values) != {"probability", "low", "high"}:
        raise ValueError(f"expected augment.{name} to be {{probability, low, high}}, got {dict(values)}")
    chance = Chance(**values)
    _check_probability(name, chance.probability)
    _, least, most = (GEOMETRY | INTENSITY)[name]
    if not least <= chance.low <= chance.high <= most:
        raise ValueError(f"expected augment.{name}: {least} <= low <= high <= {most}, got {chance.low} and {chance.high}")
    return chance


def _move(parameters: Parameters, planes: Tensor, mode: str) -> Tensor:
    """A copy of ``planes`` (B, C, *S), contiguous, mirrored and turned; mirroring is exact."""
    moved = planes.clone(memory_format=torch.contiguous_format)
    flat = moved.flatten(1, -3)
    for name, axis in (("flip_columns", -1), ("flip_rows", -2)):
        chosen = parameters[name].nonzero()[:, 0].to(flat.device, non_blocking=True)
        if len(chosen):
            flat.index_copy_(0, chosen, flat[chosen].flip(axis))
    angle, scale = parameters["rotation_degrees"], parameters["scale"]
    chosen = ((angle != GEOMETRY["rotation_degrees"][0]) | (scale != GEOMETRY["scale"][0])).nonzero()[:, 0]
    if len(chosen):
        rows, columns = flat.shape[-2:]
        centre = torch.tensor([[(columns - 1) / 2, (rows - 1) / 2]]).expand(len(chosen), 2)
        matrix = get_rotation_matrix2d(centre, angle[chosen], scale[chosen, None].expand(-1, 2))
        here = chosen.to(flat.device, non_blocking=True)
        matrix = matrix.to(flat.device, non_blocking=True)
        flat.index_copy_(0, here, warp_affine(flat[here], matrix, (rows, columns), mode, align_corners=False))
    return moved


def _change_intensities(parameters: Parameters, image: Tensor) -> None:
    """Change ``image`` (B, C, *S), contiguous, in place; where every channel is 0 it stays so."""
    content = (image.amax(dim=1) > 0).to(image.dtype)  # booleans take three times as long
    planes = image.flatten(0, 1)
    seeds = parameters["noise_seed"].flatten()
    for name, (unchanged, *_) in INTENSITY.items():
        values = parameters[name].flatten()
        chosen = (values != unchanged).nonzero()[:, 0]
        if len(chosen):
            here = chosen.to(image.device, non_blocking=True)
            inside = content[here // image.shape[1]]
            changed = CHANGES[name](planes[here], values[chosen], inside, seeds[chosen])
            planes.index_copy_(0, here, changed.mul_(inside))


# Each takes planes (n, *S), copies it may overwrite; values (n,) on the host; where there is content, 1 or 0 (n, *S); seeds (n,).


def _noise(planes: Tensor, sd: Tensor, inside: Tensor, seeds: Tensor) -> Tensor:
    generator = torch.Generator(planes.device)
    noise = torch.empty_like(planes)
    for plane, seed in zip(noise, seeds.tolist(), strict=True):
        plane.normal_(generator=generator.manual_seed(seed))
    return planes.addcmul_(noise, _beside(sd, planes)).clamp_(0, 1)


def _blur(planes: Tensor, sigma: Tensor, inside: Tensor, seeds: Tensor) -> Tensor:
    stacks = planes.view(len(planes), -1, *planes.shape[-2:])
    blurred = torch.empty_like(stacks)
    radii = (3 * sigma).ceil().int()  # each plane has the kernel that its own sigma asks for, whoever else is in the batch
    for radius in radii.unique().tolist():
        chosen = (radii == radius).nonzero()[:, 0]
        here = chosen.to(planes.device, non_blocking=True)
        soft = gaussian_blur2d(stacks[here], 2 * radius + 1, sigma[chosen, None].expand(-1, 2), "replicate")
        blurred.index_copy_(0, here, soft)
    return blurred.view_as(planes)


def _brightness(planes: Tensor, factor: Tensor, inside: Tensor, seeds: Tensor) -> Tensor:
    return (planes * _beside(factor, planes)).clamp_(max=1)


def _contrast(planes: Tensor, factor: Tensor, inside: Tensor, seeds: Tensor) -> Tensor:
    axes = tuple(range(1, planes.ndim))
    mean = planes.sum(axes, keepdim=True) / inside.sum(axes, keepdim=True).clamp_(min=1)  # outside the planes are 0
    return torch.lerp(mean, planes, _beside(factor, planes)).clamp_(0, 1)


def _low_resolution(planes: Tensor, factor: Tensor, inside: Tensor, seeds: Tensor) -> Tensor:
    size = (planes.shape[-2], planes.shape[-1])
    coarse = torch.empty_like(planes)
    for plane, share, out in zip(planes, factor.tolist(), coarse, strict=True):
        few = [max(1, round(length * share)) for length in size]
        small = F.interpolate(plane.reshape(1, -1, *size), few, mode="nearest-exact")
        out.copy_(F.interpolate(small, size, mode="bilinear", align_corners=False).view_as(out))
    return coarse


def _gamma(planes: Tensor, exponent: Tensor, inside: Tensor, seeds: Tensor) -> Tensor:
    return planes ** _beside(exponent, planes)


def _beside(values: Tensor, planes: Tensor) -> Tensor:
    """Values (n,) on the host so that they multiply planes (n, *S)."""
    return values.to(planes.device, non_blocking=True).view(-1, *[1] * (planes.ndim - 1))


CHANGES = {
    "noise_sd": _noise,
    "blur_sigma": _blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "low_resolution": _low_resolution,
    "gamma": _gamma,
}
