"""Every loss, forward and backward at 32 x 1 x 256 x 256, against torch and the best of monai, kornia and smp.

    python benchmarks/losses.py [--device cuda] [--threads 1] [--only dice calf] [--json benchmarks/losses.json]

Every timed call comes right after one of BCEWithLogits, and its time is divided by that one's, so that a busy machine slows
both alike; the median of the rounds counts. With one thread the clock is the process's own. Peak memory is what a call has
allocated at most beside its inputs; logits' gradients are part of it.
What has a peer must need no more time than the fastest and no more memory than the leanest of them. `calf losses` shows
the times that benchmarks/losses.json holds. The rows `calf: ...` are one loss on six batches whose areas choose six branches.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import kornia.losses
import monai.losses
import scipy.stats
import segmentation_models_pytorch.losses as smp
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate  # noqa: TID251 - the losses as their YAMLs have them
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from calf.losses.compound import DeepSupervision
from calf.losses.contract import TakesDistanceMaps
from calf.losses.distance_transform import signed_distance

SHAPE = (32, 1, 256, 256)
MIB = 2**20
SLOW_MS = 400
REFERENCE = "torch BCEWithLogits"

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


def peers(device: str) -> dict[str, dict[str, Callable[[Tensor, Tensor], Tensor]]]:
    """Other people's implementations of our losses, by our name; with their own defaults for what ours does not have."""
    dice = {"sigmoid": True, "batch": True}
    tversky = {"alpha": 0.3, "beta": 0.7}
    f_beta = {"alpha": 1 / 3.25, "beta": 2.25 / 3.25}
    mcc = smp.MCCLoss()
    lovasz = smp.LovaszLoss("binary", from_logits=True)
    erosion = kornia.losses.HausdorffERLoss(alpha=2.0, k=10)
    unified = monai.losses.AsymmetricUnifiedFocalLoss(to_onehot_y=False)
    found: dict[str, dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
        "weighted_bce": {"torch": torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0, device=device))},
        "focal": {"monai": monai.losses.FocalLoss(gamma=2, alpha=0.25), "smp": smp.FocalLoss("binary", gamma=2, alpha=0.25)},
        "dice": {"monai": monai.losses.DiceLoss(**dice), "smp": smp.DiceLoss("binary")},
        "squared_dice": {"monai": monai.losses.DiceLoss(squared_pred=True, **dice)},
        "iou": {"monai": monai.losses.DiceLoss(jaccard=True, **dice), "smp": smp.JaccardLoss("binary")},
        "tversky": {"monai": monai.losses.TverskyLoss(**dice, **tversky), "smp": smp.TverskyLoss("binary", **tversky)},
        "asymmetric_similarity": {"monai": monai.losses.TverskyLoss(**dice, **f_beta)},
        "focal_tversky": {"smp": smp.TverskyLoss("binary", gamma=0.75, **tversky)},
        "generalized_dice": {"monai": monai.losses.GeneralizedDiceLoss(**dice)},
        "mcc": {"monai": monai.losses.MCCLoss(**dice), "smp": lambda z, y: mcc(z.sigmoid(), y)},
        "lovasz": {"smp": lambda z, y: lovasz(z, y[:, 0])},
        "boundary": {"monai": monai.losses.BoundaryLoss(sigmoid=True)},
        "hausdorff_dt": {"monai": monai.losses.HausdorffDTLoss(sigmoid=True)},
        # theirs takes classes and counts background as one
        "hausdorff_er": {"kornia, 2 classes": lambda z, y: erosion(torch.cat([-z, z], 1).sigmoid(), y.long())},
        "cldice": {"monai": monai.losses.SoftDiceclDiceLoss(sigmoid=True, iter_=10)},
        "dice_ce": {"monai": monai.losses.DiceCELoss(**dice)},
        "bce_dice": {"monai": monai.losses.DiceCELoss(**dice)},
        "dice_focal": {"monai": monai.losses.DiceFocalLoss(**dice)},
        "hecktor": {"monai": monai.losses.DiceFocalLoss(sigmoid=True, squared_pred=True)},
        "unified_focal": {"monai": lambda z, y: unified(torch.cat([-z, z], 1).sigmoid(), torch.cat([1 - y, y], 1))},
        "calf_region": {"loop": region_loop},
    }
    return found


def rows(device: str, only: list[str]) -> dict[str, Row]:
    """What is timed, by name; the first row is BCEWithLogits."""
    conf = Path(__file__).resolve().parents[1] / "conf"
    names = [path.stem for path in sorted((conf / "loss").glob("*.yaml")) if not only or path.stem in only]
    if unknown := set(only) - set(names):
        raise SystemExit(f"no loss is called {', '.join(sorted(unknown))}; conf/loss has the names")
    with initialize_config_dir(str(conf), version_base="1.3"):
        ours = {name: instantiate(compose(f"loss/{name}").loss).to(device) for name in names}
    for loss in ours.values():
        if isinstance(loss, DeepSupervision):
            loss.eval()  # in which it takes one tensor
    target = discs((0.0, 0.0, 0.002, 0.004, 0.01, 0.02, 0.04, 0.16), device)
    others = peers(device)
    found = {REFERENCE: Row(binary_cross_entropy_with_logits, target, logits_for(target, 2.0))}
    for name, loss in ours.items():
        found[name] = Row(loss, target, logits_for(target, 2.0), name if name in others else None)
        for peer, theirs in others.get(name, {}).items():
            found[f"{name}, {peer}"] = Row(theirs, target, logits_for(target, 2.0))
        if name == "calf":
            for branch, areas in BRANCHES.items():
                y = discs(areas, device)
                found[f"calf: {branch}"] = Row(loss, y, logits_for(y, 2.0))
            # on logits as wide as these torch's own takes longer as well
            found["calf: log10, clamped"] = Row(loss, target, logits_for(target, 8.0), "calf: log10, clamped")
            wide = Row(binary_cross_entropy_with_logits, target, logits_for(target, 8.0))
            found["calf: log10, clamped, BCEWithLogits"] = wide
        if name == "boundary":
            maps = signed_distance(target.bool())
            found["boundary: given maps"] = Row(partial(with_maps, loss, maps), target, logits_for(target, 2.0))
    return found


def with_maps(loss: torch.nn.Module, maps: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """A loss that is given its distance maps, as from the store."""
    for part in loss.modules():
        if isinstance(part, TakesDistanceMaps):
            part.take_distance_maps(maps)
    value: Tensor = loss(logits, target)
    return value


def measure(timed: dict[str, Row], device: str, rounds: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds of each, and median ratio to the first."""
    # as in a training process, the allocator has seen larger tensors; else it hands memory back after each call, and
    # it is the page faults that are timed
    torch.zeros(31 * MIB // 4)
    first = timed[REFERENCE]
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    for done in track(range(rounds), description="rounds", transient=True):
        for name, row in timed.items():
            # what takes seconds is timed three times
            if done >= 3 and statistics.median(own for own, _ in taken[name]) > SLOW_MS:
                continue
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
    parser.add_argument("--only", nargs="*", default=[], help="names of losses; default: all of conf/loss")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    timed = rows(options.device, options.only)
    measured = measure(timed, options.device, options.rounds)
    table = Table(title=f"forward + backward, {' x '.join(map(str, SHAPE))}, {options.device}, {options.threads} threads")
    for column in ("loss", "ms", "times BCE", "times fastest peer", "peak MiB", "times leanest peer"):
        table.add_column(column, justify="left" if column == "loss" else "right", no_wrap=True)
    memory = {name: peak_memory(row, options.device) for name, row in timed.items()}
    results = {}
    for name, row in timed.items():
        ms, ratio = measured[name]
        rivals = [other for other in measured if row.peer and other.startswith(f"{row.peer}, ")]
        of_fastest = ratio / min(measured[other][1] for other in rivals) if rivals else None
        of_leanest = memory[name] / min(memory[other] for other in rivals) if rivals else None
        results[name] = {"ms": ms, "times_bce": ratio, "times_peer": of_fastest}
        results[name] |= {"peak_mib": memory[name], "times_peer_memory": of_leanest}
        written = [f"{ms:.2f}", f"{ratio:.2f}", of_fastest and f"{of_fastest:.2f}", f"{memory[name]:.1f}"]
        table.add_row(name, *(text or "" for text in written), f"{of_leanest:.2f}" if of_leanest else "")
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
    if options.json:
        context = {"shape": SHAPE, "device": options.device, "threads": options.threads, "torch": torch.__version__}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(context | {"losses": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
