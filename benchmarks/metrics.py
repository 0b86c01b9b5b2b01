"""Counting voxels of a batch, 32 x 1 x 256 x 256, against the habits of others, in the same run.

    python benchmarks/metrics.py [--device cuda] [--threads 1] [--json PATH]

Each row does what its users do at every step to have the scores of a batch; all start from the same boolean masks, in the
dtype they ask for. Rounds go over all rows in turn, so that a busy machine slows all alike; a call is timed after an untimed
one, so that no row pays for what its neighbour left in the caches; the median round counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.metrics import ConfusionMatrixMetric, DiceMetric, get_confusion_matrix
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

SHAPE = (32, 1, 256, 256)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = measure(rows(options.device), options.device, options.rounds)
    first = next(iter(measured.values()))
    table = Table(title=f"counting {' x '.join(map(str, SHAPE))}, {options.device}, {options.threads} threads")
    table.add_column("what")
    table.add_column("ms", justify="right")
    table.add_column("times calf", justify="right")
    for name, ms in measured.items():
        table.add_row(name, f"{ms:.2f}", f"{ms / first:.1f}")
    Console().print(table)
    if options.json:
        context = {"shape": SHAPE, "device": options.device, "threads": options.threads, "torch": torch.__version__}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(context | {"ms": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
