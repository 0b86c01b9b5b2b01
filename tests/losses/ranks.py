"""Two real processes that train together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_two_ranks(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``work``, a function of a module, returns for rank 0 and for rank 1, each in a process of its own, joined by gloo."""
    mp.spawn(_one_rank, args=(work, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def _one_rank(rank: int, work: Callable[[int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
    torch.save(work(rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
