"""Counting voxels of a batch and scoring a volume, against the habits of others, in the same run.

    python benchmarks/metrics.py [--device cuda] [--threads 1] [--json PATH]

The batch is 32 x 1 x 256 x 256, and each row does what its users do at every step to have the scores of a batch; all start from
the same boolean masks, in the dtype they ask for. The volume is 240 x 240 x 155 voxels of 1 mm with a tumour of about 50 mL and
its prediction, always on the CPU: HD95, HD, ASSD and NSD in one call, against what others need for HD95 alone or for all. Rounds
go over all rows in turn, so that a busy machine slows all alike; a call is timed after an untimed one, so that no row pays for
what its neighbour left in the caches; the median round counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import surface_distance
import torch
from monai.metrics import (
    ConfusionMatrixMetric,
    DiceMetric,
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
    get_confusion_matrix,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryF1Score,
    BinaryJaccardIndex,
    BinaryPrecision,
    BinaryRecall,
    BinarySpecificity,
    BinaryStatScores,
)

from calf.metrics.overlap import SliceCounts, count_slices
from calf.metrics.surface import Convention, surface_scores
from calf.metrics.volumetric import VolumeScores

SHAPE = (32, 1, 256, 256)
VOLUME, SPACING_MM, TOLERANCE_MM = (240, 240, 155), (1.0, 1.0, 1.0), 2.0


def plain_sums(prediction: Tensor, target: Tensor) -> Tensor:
    """The four boolean products, each summed by torch."""
    products = (prediction & target, prediction & ~target, ~prediction & target, ~(prediction | target))
    return torch.stack([product.flatten(2).sum(-1) for product in products], dim=-1)


def rows(device: str) -> dict[str, Callable[[], object]]:
    """What is timed, by name; the first row is what the others are compared with."""
    generator = torch.Generator().manual_seed(0)
    prediction, target = ((torch.rand(SHAPE, generator=generator) > share).to(device) for share in (0.9, 0.95))
    index, whole = torch.arange(SHAPE[0], device=device), (prediction.long(), target.long())
    real = (prediction.float(), target.float())
    # nothing is kept from round to round, so that every round does the same work
    collected = SliceCounts().to(device)
    scores = (BinaryF1Score, BinaryJaccardIndex, BinaryRecall, BinarySpecificity, BinaryPrecision, BinaryAccuracy)
    collection = MetricCollection([score() for score in scores]).to(device)
    checked, unchecked = BinaryStatScores().to(device), BinaryStatScores(validate_args=False).to(device)
    dice, confusion = DiceMetric(), ConfusionMatrixMetric(metric_name=["sensitivity", "specificity", "precision"])

    def collect() -> None:
        collected.update(index, count_slices(prediction, target))
        collected.reset()

    def monai_dice() -> None:
        dice(*real)
        dice.reset()

    def monai_confusion() -> None:
        confusion(*real)
        confusion.reset()

    return {
        "calf count_slices": lambda: count_slices(prediction, target),
        "calf count_slices + SliceCounts.update": collect,
        "torch, four boolean sums": lambda: plain_sums(prediction, target),
        "monai get_confusion_matrix": lambda: get_confusion_matrix(*real),
        "monai DiceMetric": monai_dice,
        "monai ConfusionMatrixMetric": monai_confusion,
        "torchmetrics BinaryStatScores, unchecked": lambda: unchecked.update(*whole),
        "torchmetrics BinaryStatScores": lambda: checked.update(*whole),
        "torchmetrics MetricCollection of 6, forward": lambda: collection(*whole),
    }


def tumour() -> tuple[np.ndarray, np.ndarray]:
    """A lobed mask of about 50 mL and a prediction of it, displaced and with lobes of its own."""
    grid = np.indices(VOLUME, dtype=np.float32)
    lobes = [(110, 90, 80, 18), (125, 100, 85, 14), (105, 108, 74, 12), (118, 84, 95, 10)]
    balls = [sum((axis - at) ** 2 for axis, at in zip(grid, lobe[:3], strict=True)) <= lobe[3] ** 2 for lobe in lobes]
    reference = np.logical_or.reduce(balls)
    return np.roll(balls[0] | balls[1] | balls[3], (2, 1), (0, 1)), reference


def volume_rows() -> dict[str, Callable[[], object]]:
    """What is timed on a volume, by name; the first row is what the others are compared with."""
    prediction, reference = tumour()
    masks = prediction[None], reference[None]
    levels = np.where(prediction, np.uint8(230), np.uint8(5))[None]
    pair = tuple(torch.from_numpy(mask)[None, None] for mask in (prediction, reference))
    options = {"include_background": True, "spacing": SPACING_MM}
    scores = VolumeScores(TOLERANCE_MM)

    def surfaces(convention: Convention) -> object:
        return surface_scores(prediction, reference, SPACING_MM, TOLERANCE_MM, convention)

    def deepmind() -> None:
        found = surface_distance.compute_surface_distances(reference, prediction, SPACING_MM)
        surface_distance.compute_robust_hausdorff(found, 95)
        surface_distance.compute_average_surface_distance(found)
        surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE_MM)

    def monai_all() -> None:
        compute_hausdorff_distance(*pair, percentile=95, **options)
        compute_average_surface_distance(*pair, symmetric=True, **options)
        compute_surface_dice(*pair, class_thresholds=[TOLERANCE_MM], **options)

    return {
        "calf HD95, HD, ASSD, NSD": lambda: surfaces("voxels"),
        "calf HD95, HD, ASSD, NSD of surface elements": lambda: surfaces("elements"),
        "calf, every row of a case": lambda: scores.rows("a", "p", *masks, ("tumour",), SPACING_MM, levels),
        "monai HD95": lambda: compute_hausdorff_distance(*pair, percentile=95, **options),
        "monai HD95, ASSD, NSD": monai_all,
        "surface-distance HD95, ASSD, NSD": deepmind,
    }


def measure(timed: dict[str, Callable[[], object]], device: str, rounds: int) -> dict[str, float]:
    """Median milliseconds of each."""
    finish = torch.cuda.synchronize if device != "cpu" else int
    taken: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, call in timed.items():
            call()
            finish()
            began = time.perf_counter()
            call()
            finish()
            taken[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(times) for name, times in taken.items()}


def show(title: str, measured: dict[str, float]) -> None:
    first = next(iter(measured.values()))
    table = Table(title=title)
    table.add_column("what")
    table.add_column("ms", justify="right")
    table.add_column("times calf", justify="right")
    for name, ms in measured.items():
        table.add_row(name, f"{ms:.2f}", f"{ms / first:.1f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # of old names that the peers use
    measured = measure(rows(options.device), options.device, options.rounds)
    of_volume = measure(volume_rows(), "cpu", options.rounds)
    show(f"counting {' x '.join(map(str, SHAPE))}, {options.device}, {options.threads} threads", measured)
    show(f"a volume of {' x '.join(map(str, VOLUME))}, cpu, {options.threads} threads", of_volume)
    if options.json:
        context = {"shape": SHAPE, "device": options.device, "threads": options.threads, "torch": torch.__version__}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        found = context | {"ms": measured, "volume": VOLUME, "volume_ms": of_volume}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
