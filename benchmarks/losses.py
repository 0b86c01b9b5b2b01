"""Losses, forward and backward at 32 x 1 x 256 x 256, against torch and the fastest of monai and segmentation_models_pytorch.

    python benchmarks/losses.py [--device cuda] [--threads 1] [--json PATH]

Every timed call comes right after one of BCEWithLogits, and its time is divided by that one's, so that a busy machine slows
both alike; the median of the rounds counts. With one thread the clock is the process's own. Peak memory is what a call has
allocated at most beside its inputs; logits' gradients are part of it.
The rows `calf: ...` are one loss on six batches whose foreground areas choose six branches.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import monai.losses
import scipy.stats
import segmentation_models_pytorch.losses as smp
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate  # noqa: TID251 - the losses as their YAMLs have them
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

SHAPE = (32, 1, 256, 256)
MIB = 2**20

#: Foreground areas of four samples, in parts of the image, for which each branch of CALF is chosen.
BRANCHES = {
    "fisher": (0.01, 0.50, 0.52, 0.51),
    "logit": (0.10, 0.28, 0.40, 0.45),
    "arcsine": (0.10, 0.22, 0.31, 0.40),
    "log10": (0.05, 0.06, 0.07, 0.60),
    "ln": (0.05, 0.12, 0.20, 0.40),
    "bce_dice": (0.20, 0.20, 0.20, 0.20),
}


@dataclass(frozen=True)
class Row:
    """A loss, its inputs, and the row it is compared with beside BCEWithLogits: the fastest of those that name the same peer."""

    loss: Callable[[Tensor, Tensor], Tensor]
    target: Tensor
    logits: Tensor
    peer: str | None = None

    def step(self) -> None:
        self.logits.grad = None
        self.loss(self.logits, self.target).backward()


def discs(areas: tuple[float, ...], device: str) -> Tensor:
    """One disc in each image, at a place of its own, of an area given in parts of the image."""
    rows, columns = (torch.arange(length, device=device).view(shape) for length, shape in ((256, (1, -1, 1)), (256, (1, 1, -1))))
    generator = torch.Generator(device).manual_seed(0)
    centre = torch.randint(96, 160, (32, 2), generator=generator, device=device)
    radius = (torch.tensor(areas).repeat(32 // len(areas)) / math.pi).sqrt().to(device) * 256
    distance = (rows - centre[:, :1, None]) ** 2 + (columns - centre[:, 1:, None]) ** 2
    return (distance < radius.view(-1, 1, 1) ** 2).float().unsqueeze(1)


def logits_for(target: Tensor, scale: float) -> Tensor:
    """What a network in training might say: mostly right, its logits spread by ``scale``."""
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(1)).to(target.device)
    return (scale * (2 * target - 1 + noise)).requires_grad_()


def region_loop(logits: Tensor, target: Tensor) -> Tensor:
    """Region-specific CALF as one would write it down: cell by cell on probabilities, scipy for the moments."""
    total, weights = torch.zeros((), device=logits.device), 0.0
    probs = logits.sigmoid().clamp(1e-7, 1 - 1e-7)
    for top in range(0, 256, 64):
        for left in range(0, 256, 64):
            p, y = probs[..., top : top + 64, left : left + 64], target[..., top : top + 64, left : left + 64]
            areas = y.sum((1, 2, 3)).tolist()
            skewness, kurtosis = scipy.stats.skew(areas), scipy.stats.kurtosis(areas)
            weight = 1 + (p.round() != y).sum().item()
            total = total + weight * on_probabilities(p, y, skewness, kurtosis)
            weights += weight
    return total / weights


def on_probabilities(p: Tensor, y: Tensor, skewness: float, kurtosis: float) -> Tensor:
    """CALF in one cell as the paper writes it."""
    f = torch.log
    if skewness <= -1:
        f = torch.atanh
    elif skewness <= -0.5:
        f = torch.logit
    elif skewness < 0:
        f = torch.asin  # of the square root, taken below
    elif skewness >= 1 or (0 < skewness < 0.5 and kurtosis < 0):
        f = torch.log10
    elif not 0.5 <= skewness < 1:
        dice = 1 - (2 * (p * y).sum() + 1e-7) / (p.sum() + y.sum() + 1e-7)
        return dice - (y * p.log() + (1 - y) * (1 - p).log()).mean()
    if f is torch.asin:
        return -(y * p.sqrt().asin() + (1 - y) * (1 - p).sqrt().asin()).mean()
    return -(y * f(p) + (1 - y) * f(1 - p)).mean()


def rows(device: str) -> dict[str, Row]:
    """What is timed, by name; the first row is BCEWithLogits."""
    with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "conf"), version_base="1.3"):
        names = ("bce", "focal", "dice", "bce_dice", "calf", "calf_region")
        ours = {name: instantiate(compose(f"loss/{name}").loss).to(device) for name in names}
    target = discs((0.0, 0.0, 0.002, 0.004, 0.01, 0.02, 0.04, 0.16), device)
    peers = {
        "focal": {"monai": monai.losses.FocalLoss(gamma=2, alpha=0.25), "smp": smp.FocalLoss("binary", gamma=2, alpha=0.25)},
        "dice": {"monai": monai.losses.DiceLoss(sigmoid=True, batch=True), "smp": smp.DiceLoss("binary")},
        "bce_dice": {"monai": monai.losses.DiceCELoss(sigmoid=True, batch=True)},
        "calf_region": {"loop": region_loop},
    }
    found = {"torch BCEWithLogits": Row(binary_cross_entropy_with_logits, target, logits_for(target, 2.0))}
    for name, loss in ours.items():
        if name == "calf":
            for branch, areas in BRANCHES.items():
                y = discs(areas, device)
                found[f"calf: {branch}"] = Row(loss, y, logits_for(y, 2.0))
            found["calf: log10, clamped"] = Row(loss, target, logits_for(target, 8.0))
            continue
        found[name] = Row(loss, target, logits_for(target, 2.0), name if name in peers else None)
        for peer, theirs in peers.get(name, {}).items():
            found[f"{name}, {peer}"] = Row(theirs, target, logits_for(target, 2.0))
    return found


def measure(timed: dict[str, Row], device: str, rounds: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds of each, and median ratio to the first."""
    # as in a training process, the allocator has seen larger tensors; else it hands memory back after each call, and
    # it is the page faults that are timed
    torch.zeros(31 * MIB // 4)
    first = next(iter(timed.values()))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, row in timed.items():
            reference, own = milliseconds(first, device), milliseconds(row, device)
            taken[name].append((own, own / reference))
    medians = {name: tuple(statistics.median(column) for column in zip(*pairs, strict=True)) for name, pairs in taken.items()}
    return {name: (ms, ratio) for name, (ms, ratio) in medians.items()}


def milliseconds(row: Row, device: str) -> float:
    """One step, after another that has warmed caches and allocator."""
    row.step()
    if device == "cpu":
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        began = clock()
        row.step()
        return 1000 * (clock() - began)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    row.step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def peak_memory(row: Row, device: str) -> float:
    """MiB allocated at most during a step."""
    row.step()
    row.logits.grad = None
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        row.step()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        row.step()
    events = profile.profiler.kineto_results.events()
    used = peak = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        used += event.nbytes()
        peak = max(peak, used)
    return peak / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    timed = rows(options.device)
    measured = measure(timed, options.device, options.rounds)
    table = Table(title=f"forward + backward, {' x '.join(map(str, SHAPE))}, {options.device}, {options.threads} threads")
    for column in ("loss", "ms", "times BCE", "times fastest peer", "peak MiB"):
        table.add_column(column, justify="left" if column == "loss" else "right", no_wrap=True)
    results = {}
    for name, row in timed.items():
        ms, ratio = measured[name]
        peers = [measured[other][1] for other in measured if row.peer and other.startswith(f"{row.peer}, ")]
        of_peer = ratio / min(peers) if peers else None
        memory = peak_memory(row, options.device)
        results[name] = {"ms": ms, "times_bce": ratio, "times_peer": of_peer, "peak_mib": memory}
        table.add_row(name, f"{ms:.2f}", f"{ratio:.2f}", f"{of_peer:.2f}" if of_peer else "", f"{memory:.1f}")
    Console().print(table)
    if options.json:
        context = {"shape": SHAPE, "device": options.device, "threads": options.threads, "torch": torch.__version__}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(context | {"losses": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
