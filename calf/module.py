"""Segmenter, the one LightningModule: any network and any loss; binary, multi-class or multi-label; slices or volumes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from calf.data.cases import Target
from calf.data.joined import JoinedStore
from calf.data.restore import CaseCollector, Restored
from calf.losses.contract import Explores, FollowsEpochs, ObservesDataset, TakesDistanceMaps
from calf.masks import decode_mask, encode_prediction, finest, foreground, foreground_probabilities, in_unit_range, inside
from calf.metrics.overlap import SliceCounts, count_slices
from calf.metrics.protocol import Protocol
from calf.metrics.scores import POOLED
from calf.tested import VolumeRows
from calf.windows import Windows, as_volume

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from calf.data.augment import Augmentation
    from calf.data.datamodule import Batch, SliceData


class Segmenter(pl.LightningModule):
    """Trains ``network`` with ``loss`` and scores it by ``protocol``.

    Nothing of a batch is read back to the host within a training step: the loss and the counts of the epoch are summed on
    the device and read when the epoch ends, and the logger is given a step's loss every ``log_every_n_steps``.

    Args:
        network: images (B, C, *S) in [0, 1] to logits (B, ``target.num_channels``, *S), S being (H, W) or, with ``windows``,
            (D, H, W); in training it may give a list of them, finest first, to a loss that takes a list.
        loss: the contract of ``calf.losses.contract``.
        optimizer: called with the network's and the loss's parameters.
        scheduler: called with the optimizer; stepped once an epoch.
        target: what is segmented.
        protocol: turns counts of slices into scores, for validation as for the test.
        seed: with epoch and batch, seeds every random choice of a training step, so that a resumed run repeats it.
        channels_last: memory format of the batches.
        augment: how training batches are varied, if they are; what is drawn follows from seed, epoch, batch and rank alone.
        windows: how a network in 3-D sees a whole case; None: the network takes slices.
        keep_probabilities: whether tested cases come with their probabilities also where the protocol needs none.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler],
        target: Target,
        protocol: Protocol,
        seed: int = 0,
        channels_last: bool = False,
        augment: Augmentation | None = None,
        windows: Windows | None = None,
        keep_probabilities: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.loss = network, loss
        self.optimizer, self.scheduler = optimizer, scheduler
        self.target, self.protocol, self.seed, self.augment = target, protocol, seed, augment
        self.windows, self.keep_probabilities = windows, keep_probabilities
        formats = (torch.contiguous_format, torch.channels_last if windows is None else torch.channels_last_3d)
        self.memory_format = formats[channels_last]
        self.takers = [part for part in loss.modules() if isinstance(part, TakesDistanceMaps)]
        self.explorers = [part for part in loss.modules() if isinstance(part, Explores)]
        self.slice_counts = SliceCounts()
        self.test_rows: pd.DataFrame | None = None

    def forward(self, image: Tensor) -> Any:
        """Logits of images (B, C, *S), stored uint8 or in [0, 1]; a list of them from deep supervision in training."""
        return self.network(in_unit_range(image).contiguous(memory_format=self.memory_format))

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([weight for weight in self.parameters() if weight.requires_grad])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "epoch"}}

    @property
    def data(self) -> SliceData:
        """The data module of the running trainer."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        if self.augment is not None and self.augment.moves and self.data.distance_maps:
            raise ValueError("distance maps of the stored masks do not fit masks that augmentation moves: do without them")
        areas = torch.from_numpy(self.data.train_areas).float().to(self.device)
        for part in self.loss.modules():
            if isinstance(part, ObservesDataset):
                part.observe_dataset(areas)

    def on_train_epoch_start(self) -> None:
        for part in self.loss.modules():
            if isinstance(part, FollowsEpochs):
                part.start_epoch(self.current_epoch, self.trainer.max_epochs or -1)
        # no buffers: DDP would overwrite every rank's with those of the first
        self.epoch_loss = torch.zeros((), device=self.device)
        self.epoch_counts = torch.zeros(len(self.target.names), 4, dtype=torch.int64, device=self.device)
        self.epoch_steps = 0

    def _step_seed(self, batch_index: int) -> int:
        place = (self.current_epoch * 1_000_000 + batch_index) * 65_537 + self.global_rank
        return (self.seed * 1_000_003 + place) % 2**63

    def _seed_step(self, batch_index: int) -> None:
        """Let dropout and the like follow from seed, epoch and batch alone: the same after a resume, whoever else drew."""
        seed = self._step_seed(batch_index)
        # torch.manual_seed costs 0.13 ms: it goes through every kind of device there might be
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _trial(self, batch: Batch, batch_index: int) -> tuple[Tensor, Tensor]:
        """Logits and target of a batch after a plain gradient step on a copy of the weights; see ``contract.Explores``.

        Every trial of a step has the same dropout, or it would be that which is compared. The step is of this rank's gradient.
        """
        target = decode_mask(batch["mask"], self.target)
        # the loss may keep statistics of its steps and hold this batch's distance maps: a trial must not use them up
        loss_function = copy.deepcopy(self.loss)
        # copies, so that batch statistics are not told of steps that were not taken
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        weights: dict[str, Tensor] = {name: weight for name, weight in self.network.named_parameters() if weight.requires_grad}
        image = batch["image"].contiguous(memory_format=self.memory_format)
        self._seed_step(batch_index)
        with torch.enable_grad():
            loss = loss_function(functional_call(self.network, weights | buffers, (image,)), target)
            gradients = torch.autograd.grad(loss, list(weights.values()))
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self._seed_step(batch_index)
        with torch.no_grad():
            moved = {name: weight - rate * step for (name, weight), step in zip(weights.items(), gradients, strict=True)}
            return finest(functional_call(self.network, moved | buffers, (image,))), target

    def _prepare_loss(self, batch: Batch, batch_index: int) -> None:
        """Give the loss what it takes through hooks before a step."""
        if "distance" in batch:
            for taker in self.takers:
                taker.take_distance_maps(batch["distance"].float())
        for explorer in self.explorers:
            explorer.explore(partial(self._trial, batch, batch_index))
            self._seed_step(batch_index)

    def _learnt_from(self, batch: Batch, batch_index: int) -> Batch:
        """The batch to train on: ``image`` in [0, 1], augmented with ``mask``, and ``valid`` (B, *S), false in padding."""
        image, mask = in_unit_range(batch["image"]), batch["mask"]
        valid = inside(batch["box"], mask.shape[1:])
        if self.augment is not None:
            drawn = self.augment.sample(image.shape, self._step_seed(batch_index))
            image, mask = self.augment.apply(drawn, image, mask)
            valid = self.augment.move_mask(drawn, valid)
        return batch | {"image": image, "mask": mask, "valid": valid}

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        self._seed_step(batch_index)
        batch = self._learnt_from(batch, batch_index)
        self._prepare_loss(batch, batch_index)
        output = self(batch["image"])
        loss: Tensor = self.loss(output, decode_mask(batch["mask"], self.target))
        with torch.no_grad():
            logits = finest(output)
            predicted = foreground(encode_prediction(logits, self.target), self.target)
            self.epoch_counts += count_slices(predicted, foreground(batch["mask"], self.target), batch["valid"]).sum(dim=0)
            self.epoch_loss += loss.detach()
        self.epoch_steps += 1
        if self.logger is not None and (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.logger.log_metrics({"train/loss_of_step": float(loss.detach())}, step=self.global_step)
        return loss

    def train_scores(self) -> dict[str, float]:
        """Mean loss and pooled Dice of the epoch's training batches, over all ranks."""
        reduce = self.trainer.strategy.reduce
        loss = float(reduce(self.epoch_loss / max(self.epoch_steps, 1), reduce_op="mean"))
        tp, fp, fn, _ = reduce(self.epoch_counts.sum(dim=0), reduce_op="sum").tolist()
        return {"train/loss": loss, "train/dice": 2 * tp / max(2 * tp + fp + fn, 1)}

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.train_scores(), sync_dist=False)

    def logits_of_slices(self, image: Tensor, box: Tensor) -> Tensor:
        """Logits of slices (B, C, H, W) with their boxes (B, 4); in 3-D these are all slices of one case."""
        if self.windows is None:
            logits: Tensor = self(image)
            return logits
        windowed = partial(self.windows, self, batch_size=self.data.batch_size)
        return as_volume(windowed, in_unit_range(image), box[0].tolist())

    def predict(self, image: Tensor, box: Tensor) -> Tensor:
        """Masks, uint8 (B, H, W), of the slices that :meth:`logits_of_slices` takes."""
        return encode_prediction(self.logits_of_slices(image, box), self.target)

    def _count(self, batch: Batch, predicted: Tensor) -> None:
        """Count a batch of slices with the predicted masks, uint8 (B, H, W)."""
        truth, labelled = batch["reference"], batch["labelled"]
        valid = inside(batch["box"], truth.shape[1:])
        counts = count_slices(foreground(predicted, self.target), foreground(truth, self.target), valid)
        self.slice_counts.update(batch["slice"][labelled], counts[labelled])

    @property
    def by_case(self) -> bool:
        """Whether stored pixels are not the voxels that are scored, so that a case is brought back before it is counted."""
        return self.protocol.original_grid and not self.data.store.unchanged

    def _collect(self, batch: Batch, predicted: Tensor, probabilities: Tensor | None = None) -> list[Restored]:
        """The cases that this batch completes, in the voxels of their own files, counted if they have to be."""
        channels = None if probabilities is None else probabilities.cpu().numpy()
        done = list(self.collector.add(batch["slice"].cpu().numpy(), predicted.cpu().numpy(), channels))
        if self.by_case:
            for case in done:
                self._count_case(case.number, case.mask)
        return done

    def _count_case(self, number: int, mask: NDArray[np.uint8]) -> None:
        store = self.data.store
        annotated = store.cases[number].annotated
        valid = None if annotated is None else torch.from_numpy(np.broadcast_to(annotated, mask.shape).copy())[None]
        predicted, truth = (foreground(torch.from_numpy(x)[None], self.target) for x in (mask, store.truth(number)))
        counts = count_slices(predicted, truth, valid)
        self.slice_counts.update(torch.tensor([number], device=self.device), counts.to(self.device))

    def _rows(self) -> pd.DataFrame:
        slice_index, counts = self.slice_counts.compute()
        self.slice_counts.reset()
        store = self.data.store
        cases = store.case_table(stored=not self.protocol.original_grid)
        # the table of what was counted: whole cases, or their annotated slices
        units = pd.DataFrame({"case": cases.index}) if self.by_case else store.slice_table[store.labelled]
        if not isinstance(store, JoinedStore):
            return self.protocol.rows(slice_index, counts, units, cases, self.target.names)
        part_of_unit = units["case"].map(store.part_of_case).reindex(slice_index.reshape(-1).numpy()).to_numpy()
        found = []
        for part in dict.fromkeys(part_of_unit):  # tested apart: a batch of pooled slices never mixes data sets
            own = torch.from_numpy(part_of_unit == part)
            rows = self.protocol.rows(slice_index.reshape(-1)[own], counts[own], units, cases, self.target.names)
            pooled = rows["status"] == POOLED
            found.append(rows.assign(part=part, case=rows["case"].where(~pooled, f"{part}:" + rows["case"])))
        return pd.concat(found, ignore_index=True)

    def on_validation_start(self) -> None:
        self.collector = CaseCollector(self.data.store)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        predicted = self.predict(batch["image"], batch["box"])
        if self.by_case:
            self._collect(batch, predicted)
        else:
            self._count(batch, predicted)

    def on_validation_epoch_end(self) -> None:
        scores = self.protocol.summarise(self._rows())
        # every rank has gathered the same counts
        self.log_dict({f"val/{name}": value for name, value in scores.items()}, rank_zero_only=False, sync_dist=False)

    def on_test_start(self) -> None:
        self.collector = CaseCollector(self.data.store)
        self.volume_rows = VolumeRows(self.data.store, self.target, self.protocol.volumes)

    def test_step(self, batch: Batch, batch_index: int) -> dict[str, list[Restored]]:
        """``cases``: those that this batch completes."""
        logits = self.logits_of_slices(batch["image"], batch["box"])
        predicted = encode_prediction(logits, self.target)
        if not self.by_case:
            self._count(batch, predicted)
        wanted = self.keep_probabilities or self.protocol.volumes is not None
        done = self._collect(batch, predicted, foreground_probabilities(logits, self.target) if wanted else None)
        for case in done:
            self.volume_rows.score(case)
        return {"cases": done}

    def on_test_epoch_end(self) -> None:
        self.test_rows = self.volume_rows.beside(self._rows())
        scores = self.protocol.summarise(self.test_rows)
        self.log_dict({f"test/{name}": value for name, value in scores.items()}, sync_dist=False)
