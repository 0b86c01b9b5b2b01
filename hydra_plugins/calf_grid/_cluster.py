"""Ray: started quietly or joined, and how a machine is shared among jobs."""

from __future__ import annotations

import logging
import math
import os
import sys
from dataclasses import dataclass
from typing import Any

from hydra.errors import CompactHydraException

GIB = 2**30
# jobs exchange nothing through Ray's object store
OBJECT_STORE_BYTES = 100 * 2**20
# side by side on a machine without a GPU: each holds a batch, a network and a Python with torch in memory
MOST_CPU_JOBS = 8


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster offers."""

    cpus: int
    gpus: float
    memory_bytes: float = math.inf


@dataclass(frozen=True)
class Share:
    """What one job holds."""

    cpus: int
    gpus: float
    memory_bytes: int | None = None


def share(nodes: list[Node], cpus: int | None, gpus: float | None, memory_gb: float | None, at_once: int | None) -> Share:
    """One job's part of `nodes`; None asks for the default.

    GPUs: 1 where there are any, otherwise 0. CPUs: with GPUs an equal part of the machine for each job that its GPUs can take;
    without, for `at_once` jobs or as many as half its cores, at least 2 and at most 8 (2 cores: 2 jobs of 1 thread, 16: 8 of 2).
    Depends on nothing but the machine and the options. A job that fits on no machine is a ValueError: Ray would wait for ever.
    """
    if gpus is None:
        gpus = 1 if any(node.gpus >= 1 for node in nodes) else 0
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"gpus_per_job: expected a fraction of one GPU or a whole number, got {gpus}")
    memory = None if memory_gb is None else int(memory_gb * GIB)
    fit = [node for node in nodes if node.gpus >= gpus and node.cpus >= (cpus or 1) and node.memory_bytes >= (memory or 0)]
    if not fit:
        offer = "; ".join(f"{node.cpus} CPUs, {node.gpus:g} GPUs, {node.memory_bytes / GIB:.1f} GiB" for node in nodes)
        raise ValueError(
            f"No machine has room for one job of cpus_per_job={cpus}, gpus_per_job={gpus:g}, memory_per_job_gb={memory_gb}; "
            f"Ray sees {offer}. Lower hydra.launcher.cpus_per_job, gpus_per_job or memory_per_job_gb."
        )
    if cpus is None:
        cpus = min(max(1, node.cpus // _slots(node, gpus, at_once, len(fit))) for node in fit)
    return Share(cpus, gpus, memory)


def _slots(node: Node, gpus: float, at_once: int | None, num_nodes: int) -> int:
    """Number of jobs side by side that `node`'s cores are divided among."""
    most = int(node.gpus / gpus) if gpus else min(MOST_CPU_JOBS, max(2, node.cpus // 2))
    if at_once is None:
        return most
    wanted = math.ceil(at_once / num_nodes)
    return min(wanted, most) if gpus else wanted


def start(address: str | None) -> list[Node]:
    """Joins the cluster at `address` or $RAY_ADDRESS, or starts a private Ray on this machine; returns its machines."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # under `uv run` Ray would pack the working directory and build every worker's environment anew
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    # Ray runs its workers at the lowest priority but four; the training is what this machine is for
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    # the one behaviour announced in a warning; _worker.environment sets the devices of a job without GPU anyway
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    address = address or os.environ.get("RAY_ADDRESS")
    if not ray.is_initialized():
        # never "auto": it would join the private Ray of another grid on this machine, and end with that one
        own: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        try:
            ray.init(address=address or "local", log_to_driver=False, configure_logging=False, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CompactHydraException(f"Could not use Ray at {address or 'this machine'}: {error}") from error
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(int(found.get("CPU", 0)), found.get("GPU", 0), found.get("memory", 0)) for found in alive]


def stop() -> None:
    """Leaves Ray, if it was ever used. What it still has to say about dead workers it says before this returns."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
