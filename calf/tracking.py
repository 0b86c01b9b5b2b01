"""Trackers of a run. They mirror what the run folder holds; no number lives only there."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_lightning.loggers import CSVLogger, WandbLogger

    from calf.plan import RunPlan


def wandb_logger(run: RunPlan, project: str, entity: str | None, mode: str | None) -> WandbLogger:
    """One Weights & Biases run for this run, in the group of its grid, tagged with what it is.

    ``mode``: ``online``, ``offline``, or None: the environment's ``WANDB_MODE``, else online when an API key is known.
    A run that is continued goes on under the same id.
    """
    from pytorch_lightning.loggers import WandbLogger

    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    if mode not in (None, "online", "offline"):
        raise ValueError(f"logger.mode is online, offline or null; got {mode!r}")
    mode = mode or os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
    names = run.names
    # W&B refuses tags of more than 64 and names of more than 128 characters; the options stand in the run's configuration
    tags = [names[noun].split("[")[0][:64] for noun in ("dataset", "model", "loss")]
    return WandbLogger(
        project=project,
        entity=entity,
        mode=mode,
        save_dir=str(run.folder.path),
        group=run.grid,
        name=f"{names['dataset']}/{names['model']}/{names['loss']}/{run.which}"[:128],
        id=hashlib.sha256(f"{run.grid} {run.fingerprint}".encode()).hexdigest()[:16],
        resume="allow",
        tags=[*tags, f"seed-{run.seed}"],
        config=run.config,
    )


def csv_logger(run: RunPlan) -> CSVLogger:
    """Lightning's ``csv/metrics.csv`` in the run folder."""
    from pytorch_lightning.loggers import CSVLogger

    return CSVLogger(save_dir=str(run.folder.path), name="csv", version="")


def no_logger(run: RunPlan) -> bool:
    """No tracker."""
    return False


def close(failed: bool) -> None:
    """End the tracker's run, with the exit code that tells how the run ended."""
    import sys

    if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
        wandb.finish(exit_code=1 if failed else 0)
