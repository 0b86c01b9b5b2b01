"""What a run leaves on disk while it goes on: history, status, branch trace, predictions, pictures."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from calf.data.restore import write_mask, write_probabilities
from calf.data.store import channels_of
from calf.files import write_text
from calf.losses.contract import TakesBranches
from calf.pictures import overlay, slices_to_show

if TYPE_CHECKING:
    from calf.module import Segmenter
    from calf.runfolder import RunFolder

STATUS_EVERY_S = 2.0


class History(pl.Callback):
    """``history.csv``, one row an epoch, and ``status.json``, what the run is doing now."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.started = self.reported = 0.0
        self.lr = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]

    @property
    def seconds(self) -> float:
        """Spent in epochs so far, in this process and in those before it."""
        return sum(row["seconds"] for row in self.rows)

    def _report(self, trainer: pl.Trainer, batch: int) -> None:
        self.reported = time.monotonic()
        if trainer.is_global_zero:
            scores = {name: value for name, value in (self.rows[-1] if self.rows else {}).items() if name.startswith("val/")}
            share = batch / max(int(trainer.num_training_batches), 1)
            self.folder.write_status(
                "running", epoch=trainer.current_epoch + share, epochs=trainer.max_epochs, step=trainer.global_step, val=scores
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.perf_counter()
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]  # at the epoch's end it is already that of the next
        self._report(trainer, 0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() - self.reported > STATUS_EVERY_S:
            self._report(trainer, batch_idx + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Segmenter) -> None:  # type: ignore[override]
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        metrics = trainer.callback_metrics if validated else {}  # Lightning keeps those of the epoch before
        scores = {name: float(value) for name, value in metrics.items() if name.startswith("val/")}
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, **pl_module.train_scores(), **scores}
        row["lr"] = self.lr
        row["seconds"] = time.perf_counter() - self.started
        self.rows.append(row)
        if trainer.is_global_zero:
            write_text(self.folder.history, pd.DataFrame(self.rows).to_csv(index=False))


class Checkpoint(pl.callbacks.ModelCheckpoint):
    """Lightning's, which forgets the best score when the run folder was moved since; this one knows its files by their names."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class BranchTrace(pl.Callback):
    """``branches.csv``: which branch a conditional loss took in each training batch, with the skewness and kurtosis that chose
    it, and ``branch_histogram.csv``, how often each was taken.

    Watches every part of the loss that keeps :class:`calf.losses.contract.TakesBranches`. ``batch`` counts training batches
    from the start of the run; ``loss_part`` numbers the watched losses, ``choice`` the choices of one of them in one batch
    (channels, cells of a grid). Values stay on the device until the epoch ends.
    """

    columns = ("batch", "loss_part", "choice", "branch", "skewness", "kurtosis")

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.done: list[Tensor] = []
        self.epoch: list[list[Tensor]] = []
        self.batches = 0

    def state_dict(self) -> dict[str, Any]:
        return {"done": torch.cat(self.done) if self.done else torch.empty(0, len(self.columns)), "batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.done, self.batches = [state_dict["done"]], state_dict["batches"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Segmenter) -> None:  # type: ignore[override]
        self.watched = [part for part in pl_module.loss.modules() if isinstance(part, TakesBranches)]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.watched:
            values = [(part.last_branch, part.last_skewness, part.last_kurtosis) for part in self.watched]
            self.epoch.append([torch.stack([value.double() for value in choice], dim=1) for choice in values])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.watched:
            return
        for parts in self.epoch:
            for number, values in enumerate(parts):
                places = torch.tensor([[self.batches, number, choice] for choice in range(len(values))])
                self.done.append(torch.cat([places.double(), values.cpu()], dim=1))
            self.batches += 1
        if trainer.is_global_zero:
            self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        table = pd.DataFrame(torch.cat(self.done).numpy(), columns=list(self.columns))
        table = table.astype({"batch": int, "loss_part": int, "choice": int, "branch": int})
        names = [part.branches for part in self.watched]
        table["branch"] = [names[part][branch] for part, branch in zip(table["loss_part"], table["branch"], strict=True)]
        write_text(self.folder.path / "branches.csv", table.to_csv(index=False))
        counts = table["branch"].value_counts().reindex(list(dict.fromkeys(sum(names, ()))), fill_value=0)
        histogram = pd.DataFrame({"count": counts, "share": counts / counts.sum()})
        write_text(self.folder.path / "branch_histogram.csv", histogram.to_csv(index_label="branch"))
        shares = {f"branch/{name}": float(share) for name, share in histogram["share"].items()}
        for logger in trainer.loggers:
            logger.log_metrics(shares, step=trainer.global_step)


class Predictions(pl.Callback):
    """The tested cases, in the grid of their own files, as soon as a case is complete.

    ``predictions/<case>.nii.gz``, the masks; ``probabilities/<case>-<name>.nii.gz``, the probability of each target name in
    steps of 1/255, at least 128 of them in the mask and nowhere else, but for exclusive classes.

    Args:
        folder: of the run.
        masks, probabilities: which of the two to write.
    """

    def __init__(self, folder: RunFolder, masks: bool = True, probabilities: bool = False) -> None:
        self.folder, self.masks, self.probabilities = folder, masks, probabilities

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: Segmenter, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for number, mask, probabilities in outputs["cases"]:
            case = pl_module.data.store.cases[number]
            if self.masks:
                write_mask(self.folder.predictions / f"{case.id}.nii.gz", mask, case)
            if self.probabilities:
                target = pl_module.target
                for name, volume, found in zip(target.names, probabilities, channels_of(mask, target), strict=True):
                    path = self.folder.probabilities / f"{case.id}-{name}.nii.gz"
                    write_probabilities(path, volume, case, None if target.exclusive else found)


class Pictures(pl.Callback):
    """``pictures/<case>-<slice>.png``: a fixed handful of validation slices with truth and prediction, after training."""

    def __init__(self, folder: RunFolder, number: int) -> None:
        self.folder, self.number = folder, number

    def on_test_end(self, trainer: pl.Trainer, pl_module: Segmenter) -> None:  # type: ignore[override]
        if not trainer.is_global_zero:
            return
        from calf.data.datamodule import SliceBatches

        store = pl_module.data.store
        indices = slices_to_show(store, pl_module.data.part("val"), self.number)
        slices = SliceBatches(store, evaluation=True, neighbours=pl_module.data.neighbours)
        batch, predicted = slices[indices], []
        with torch.inference_mode():
            for index in indices:
                case = store.cases[int(store.case_of_slice[index])]
                needed = case.slices if pl_module.windows else np.array([index])  # in 3-D the network sees whole cases
                given = slices[needed]
                masks = pl_module.predict(given["image"].to(pl_module.device), given["box"])
                predicted.append(masks[int(index - needed[0])].cpu())
        pictures, captions = [], []
        for row, index in enumerate(indices.tolist()):
            case = store.cases[int(store.case_of_slice[index])]
            caption = f"{case.id}, slice {store.position[index]}"
            image, truth = (
                batch["image"][row, pl_module.data.neighbours * len(store.modalities)].numpy(),
                batch["reference"][row].numpy(),
            )
            picture = overlay(image, truth, predicted[row].numpy(), caption)
            path = self.folder.path / "pictures" / f"{case.id}-{store.position[index]:03d}.png"
            path.parent.mkdir(exist_ok=True)
            buffer = io.BytesIO()
            picture.save(buffer, "png")
            path.write_bytes(buffer.getvalue())
            pictures.append(picture)
            captions.append(caption)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("val/overlay", pictures, caption=captions)
