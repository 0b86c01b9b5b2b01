"""What Lightning, metrics, progress and W&B cost beside the training itself.

    python benchmarks/trainer.py [--json PATH]

The same batches from the same store go through a bare loop (forward, loss, backward, step) and through the trainer with the
module, history, branch trace, progress bar and W&B offline of a run, but without checkpoints and pictures. Timed are the training
batches of an epoch, not validation. Two networks: one convolution, whose step costs next to nothing, gives the fixed cost in
milliseconds a step; a U-Net gives the ratio of an epoch. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from pytorch_lightning.loggers import WandbLogger
from rich.console import Console
from rich.table import Table
from torch import nn

from calf import tracking
from calf.callbacks import BranchTrace, History
from calf.data.datamodule import SliceData
from calf.data.phantom import Phantom
from calf.data.prepare import Preparation
from calf.data.splits import Holdout
from calf.losses.pixelwise import BCELoss
from calf.masks import decode_mask
from calf.metrics.protocol import PerCase
from calf.module import Segmenter
from calf.runfolder import RunFolder

ROUNDS = 5


class Clock(pl.Callback):
    """Seconds between the start of an epoch and the end of its last batch, without validation."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == trainer.num_training_batches:
            self.seconds.append(time.perf_counter() - self.start)


def data_in(folder: Path, batch_size: int) -> SliceData:
    layout = Phantom(folder / "data", patients=16, shape=(64, 64, 24))
    split = Holdout(val=0.1, test=0.1)
    return SliceData(layout, "whole_tumour", Preparation(), split, None, 0, batch_size, str(folder / "stores"))


def bare_epochs(network: nn.Module, data: SliceData, epochs: int) -> list[float]:
    loss, optimizer = BCELoss(), torch.optim.Adam(network.parameters(), lr=1e-3)
    loader, seconds = data.train_dataloader(), []
    for _ in range(epochs):
        start = time.perf_counter()
        for batch in loader:
            optimizer.zero_grad()
            value = loss(network(batch["image"].float() / 255), decode_mask(batch["mask"], data.target))
            value.backward()
            optimizer.step()
            value.item()
        seconds.append(time.perf_counter() - start)
    return seconds


def trained_epochs(network: nn.Module, data: SliceData, epochs: int, folder: Path) -> list[float]:
    clock, run = Clock(), RunFolder(folder / f"run-{time.time_ns()}")
    optimizer, scheduler = partial(torch.optim.Adam, lr=1e-3), partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)
    module = Segmenter(network, BCELoss(), optimizer, scheduler, data.target, PerCase())
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=WandbLogger(project="benchmark", save_dir=str(folder), mode="offline"),
        callbacks=[History(run), BranchTrace(run), clock],
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        deterministic="warn",
    )
    trainer.fit(module, datamodule=data)
    tracking.close(failed=False)
    return clock.seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = {
            "one convolution": (partial(nn.Conv2d, 4, 1, 1), data_in(folder, 2), 3),
            "unet, resnet18": (partial(smp.Unet, "resnet18", encoder_weights=None, in_channels=4), data_in(folder, 16), 2),
        }
        for network, (build, data, epochs) in cases.items():
            bare: list[float] = []
            trained: list[float] = []
            for _ in range(ROUNDS):
                # the first epoch of each warms up
                bare += bare_epochs(build(), data, epochs)[1:]
                trained += trained_epochs(build(), data, epochs, folder)[1:]
            steps = len(data.train_dataloader())
            bare_ms, trained_ms = (1000 * statistics.median(values) / steps for values in (bare, trained))
            ratio = statistics.median(t / b for t, b in zip(trained, bare, strict=True))
            results[network] = {"steps": steps, "bare_ms": bare_ms, "trainer_ms": trained_ms, "ratio": ratio}
    table = Table("network", "steps an epoch", "bare loop, ms", "trainer, ms", "difference, ms a step", "ratio")
    for network, row in results.items():
        difference = row["trainer_ms"] - row["bare_ms"]
        cells = [f"{row['bare_ms']:.2f}", f"{row['trainer_ms']:.2f}", f"{difference:.2f}", f"{row['ratio']:.3f}"]
        table.add_row(network, f"{row['steps']:.0f}", *cells)
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
