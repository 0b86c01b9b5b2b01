"""Augmentation of a batch, 32 x 4 x 256 x 256 with its mask, by `augment=standard`, beside the same steps of others.

    python benchmarks/augment.py [--device cuda] [--threads 1] [--rounds 9] [--json PATH]

monai's transforms, sample by sample as its data sets run them, torchvision's, likewise, and kornia's containers, on the whole
batch. Same probabilities and ranges; kornia and torchvision have no low resolution, so theirs is less work. Rounds go over all
in turn; every round draws anew, and the median round counts. On a CPU with one thread it is the time of this process alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import kornia.augmentation
import torch
import yaml
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from calf.data.augment import Augmentation

SHAPE = (32, 4, 256, 256)
STANDARD = Path(__file__).parents[1] / "conf" / "augment" / "standard.yaml"
MOVED = 0.36  # of the samples are turned or scaled: 1 - (1 - 0.2)^2, for those who do both in one step


def ours(image: Tensor, mask: Tensor) -> Callable[[], object]:
    options = yaml.safe_load(STANDARD.read_text())
    del options["_target_"]
    augment, seeds = Augmentation(**options), iter(range(10**9))
    return lambda: augment.apply(augment.sample(image.shape, next(seeds)), image, mask)


def with_monai(image: Tensor, mask: Tensor) -> Callable[[], object]:
    both = ("image", "mask")
    chain = Compose(
        [
            RandFlipd(both, prob=0.5, spatial_axis=1),
            RandAffined(both, SHAPE[2:], MOVED, 3.14, scale_range=0.35, mode=("bilinear", "nearest"), padding_mode="zeros"),
            RandGaussianNoised("image", prob=0.1, std=0.07),
            RandGaussianSmoothd("image", (0.5, 1), (0.5, 1), prob=0.1),
            RandScaleIntensityd("image", factors=0.25, prob=0.15),
            RandScaleIntensityFixedMeand("image", factors=0.25, prob=0.15),
            RandSimulateLowResolutiond("image", 0.125, "nearest", "bilinear", (0.5, 1)),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        ]
    )

    def run() -> object:
        done = [chain({"image": i, "mask": m[None]}) for i, m in zip(image, mask, strict=True)]
        return torch.stack([sample["image"] for sample in done]), torch.stack([sample["mask"] for sample in done])

    return run


def with_torchvision(image: Tensor, mask: Tensor) -> Callable[[], object]:
    def sometimes(share: float, step: object) -> v2.Transform:
        return v2.RandomApply([step], share)

    moving = v2.Compose([v2.RandomHorizontalFlip(0.5), sometimes(MOVED, v2.RandomAffine(180, scale=(0.7, 1.4)))])
    changing = v2.Compose(
        [
            sometimes(0.1, v2.GaussianNoise(sigma=0.07)),
            sometimes(0.1, v2.GaussianBlur(7, (0.5, 1))),
            sometimes(0.15, v2.Lambda(lambda x: x * float(torch.empty(1).uniform_(0.75, 1.25)))),
            sometimes(
                0.15, v2.Lambda(lambda x: torch.lerp(x.mean((-2, -1), True), x, float(torch.empty(1).uniform_(0.75, 1.25))))
            ),
            sometimes(0.3, v2.Lambda(lambda x: x ** float(torch.empty(1).uniform_(0.7, 1.5)))),
        ]
    )

    def run() -> object:
        done = [moving(tv_tensors.Image(i), tv_tensors.Mask(m[None])) for i, m in zip(image, mask, strict=True)]
        return torch.stack([changing(i) for i, _ in done]), torch.stack([m for _, m in done])

    return run


def with_kornia(image: Tensor, mask: Tensor) -> Callable[[], object]:
    chain = kornia.augmentation.AugmentationSequential(
        kornia.augmentation.RandomHorizontalFlip(p=0.5),
        kornia.augmentation.RandomAffine(180, scale=(0.7, 1.4), p=MOVED),
        kornia.augmentation.RandomGaussianNoise(std=0.07, p=0.1),
        kornia.augmentation.RandomGaussianBlur((7, 7), (0.5, 1), p=0.1),
        kornia.augmentation.RandomBrightness((0.75, 1.25), p=0.15),
        kornia.augmentation.RandomContrast((0.75, 1.25), p=0.15),
        kornia.augmentation.RandomGamma((0.7, 1.5), p=0.3),
        data_keys=["input", "mask"],
    )
    return lambda: chain(image, mask[:, None].float())


def measure(steps: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Median milliseconds of a batch."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            start = clock()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append((clock() - start) * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    image, mask = torch.rand(SHAPE).to(arguments.device), torch.randint(0, 8, (32, 256, 256), dtype=torch.uint8)
    mask = mask.to(arguments.device)
    makers = {"calf": ours, "monai": with_monai, "torchvision": with_torchvision, "kornia": with_kornia}
    found = measure({name: make(image, mask) for name, make in makers.items()}, arguments.rounds, arguments.device)
    table = Table("", "ms a batch", "x calf", title=f"{' x '.join(map(str, SHAPE))}, {arguments.device}")
    for name, milliseconds in found.items():
        table.add_row(name, f"{milliseconds:.0f}", f"{milliseconds / found['calf']:.2f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"ms_a_batch": found, "shape": SHAPE, "device": arguments.device}, indent=1))


if __name__ == "__main__":
    main()
