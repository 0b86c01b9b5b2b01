"""One run, from the seed to the result."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from calf.outcome import PRIMARY, json_number, result_of
from calf.plan import RunPlan, open_samples, plan
from calf.provenance import commit
from calf.runfolder import RunFolder

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from calf.data.augment import Augmentation
    from calf.data.datamodule import SliceData
    from calf.module import Segmenter


def run(cfg: DictConfig) -> float:
    """Train and test; a finished run is not run again, an interrupted one goes on.

    Returns the primary metric on the validation data, of the checkpoint that was tested: a search by it leaves the test alone.
    """
    try:
        check_sweep()
        planned = plan(cfg)
        if not planned.finished:
            # refuse their options before data are prepared and a folder is made
            instantiate(cfg.loss, _convert_="all")
            _augmentation(cfg)
        open_samples(cfg, planned.store, divided=True)
    except (ValueError, InstantiationException) as error:
        raise SystemExit(f"calf: {_in_words(error)}") from None  # a stack trace would bury what it says
    before = planned.finished
    if not before:
        with _alone(planned.folder):
            if not planned.finished:  # by another process, since the plan was made
                _run_planned(cfg, planned)
    assert planned.value is not None
    assert planned.objective is not None
    print(f"finished{' before' if before else ''}: {planned.folder.path}, test {PRIMARY} {planned.value:.4f}")
    return planned.objective


def check_sweep() -> None:
    """An experiment whose losses stand in a sweep would else train the defaults where ``-m`` was forgotten."""
    hydra = HydraConfig.get()
    given = {override.lstrip("+").partition("=")[0] for override in hydra.overrides.task}
    swept = dict(hydra.sweeper.get("params") or {})
    # loss=dice serves in the place of +experiments/<question>/loss=dice, too
    if missing := [f"{key}={value}" for key, value in swept.items() if not {key.lstrip("+"), key.rpartition("/")[2]} & given]:
        raise ValueError(
            f"this is a sweep over {' '.join(missing)}: start it with `train.py -m`, or give each of these one value"
        )


@contextlib.contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """Hold the run folder: two processes that train in it would overwrite each other's checkpoints.

    Ranks of one run share it; the first holds it for all.
    """
    from pytorch_lightning.utilities import rank_zero_only

    if getattr(rank_zero_only, "rank", 0):  # which Lightning keeps on the function
        yield
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.path / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise SystemExit(
            f"calf: another process is at work in {folder.path}: wait until it has ended, or give this run another name=..."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _run_planned(cfg: DictConfig, planned: RunPlan) -> None:
    from calf import tracking

    folder, began, made_by = planned.folder, time.perf_counter(), commit()  # the code as it is now, not when the run ends
    planned.announce()
    folder.write_status("starting", epoch=0, epochs=cfg.trainer.max_epochs, val={})
    try:
        result = _train_and_test(cfg, planned)
    except BaseException as error:
        tracking.close(failed=True)
        words = _in_words(error)
        folder.write_status("failed", error=words or "".join(traceback.format_exception_only(error)).strip())
        if isinstance(error, InstantiationException):
            raise SystemExit(f"calf: {words}") from None
        raise
    tracking.close(failed=False)
    # epochs of earlier, interrupted processes count too; their start-up does not
    result["seconds"] = max(time.perf_counter() - began, result.pop("seconds_in_epochs"))
    folder.write_status("finished")
    folder.finish(result | {"commit": made_by})


def _quiet() -> None:
    """Lightning's advice and notices about its own innards are no news to who runs a benchmark; warnings proper stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*isinstance\\(treespec, LeafSpec\\).*",
        "The number of training batches.*",
        ".*does not have many workers.*",
        "It is recommended to use .*sync_dist=True.*",  # what is logged at an epoch's end is the same on every rank
    ):
        warnings.filterwarnings("ignore", message=message)


def _train_and_test(cfg: DictConfig, planned: RunPlan) -> dict[str, Any]:
    import pytorch_lightning as pl
    import torch

    from calf.callbacks import Checkpoint, History

    _quiet()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data: SliceData = instantiate(cfg.dataset, name=cfg.names.dataset, _convert_="all")
    module = _build_module(cfg, data)
    folder = planned.folder
    chosen = Checkpoint(folder.checkpoints, filename="best", monitor=f"val/{PRIMARY}", mode="max", enable_version_counter=False)
    # its own callback: ModelCheckpoint's save_last saves only when the best one changes
    latest = Checkpoint(folder.checkpoints, filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
    history = History(folder)
    callbacks = [history, *_callbacks(cfg, folder), chosen, latest]
    logger = instantiate(cfg.logger, _partial_=True)(run=planned)
    trainer: pl.Trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=logger, default_root_dir=str(folder.path))
    last = folder.last_checkpoint
    trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=False)
    rows, seconds = list(history.rows), history.seconds  # testing a checkpoint puts callbacks back to its epoch
    tested = chosen.best_model_path if cfg.checkpoint == "best" else str(last)
    trainer.test(module, datamodule=data, ckpt_path=tested, weights_only=False, verbose=False)
    result = result_of(cfg, planned, data, module)
    result["best_epoch"] = epoch = torch.load(tested, map_location="cpu", weights_only=False)["epoch"]
    validated = {row["epoch"]: row.get(f"val/{PRIMARY}") for row in rows}
    result["seconds_in_epochs"] = seconds
    result["validation"] = {"metric": PRIMARY, "value": json_number(validated[epoch])}
    return result


def _augmentation(cfg: DictConfig) -> Augmentation | None:
    augment: Augmentation | None = instantiate(cfg.augment, _convert_="all") if cfg.augment else None
    if augment is not None and augment.moves and cfg.dataset.distance_maps:
        raise ValueError(
            "distance maps kept beside the store do not fit masks that augmentation moves: expected dataset.distance_maps=false "
            "(the loss then computes them), or an augment without flips, rotation and scale"
        )
    return augment


def _build_module(cfg: DictConfig, data: SliceData) -> Segmenter:
    import torch

    from calf.module import Segmenter
    from calf.windows import Windows, check_network

    network = instantiate(cfg.model, in_channels=data.in_channels, classes=data.target.num_channels, _convert_="all")
    try:
        check_network(network, data.in_channels, data.target.num_channels, data.batch_size, data.patch)
    except ValueError as error:
        raise SystemExit(f"calf: {error}") from None
    if cfg.channels_last:
        network.to(memory_format=torch.channels_last if data.patch is None else torch.channels_last_3d)
    if cfg.compile:
        network.compile()
    return Segmenter(
        network,
        instantiate(cfg.loss, _convert_="all"),
        instantiate(cfg.optim),
        instantiate(cfg.scheduler),
        data.target,
        instantiate(cfg.protocol),
        cfg.seed,
        cfg.channels_last,
        _augmentation(cfg),
        None if data.patch is None else Windows(data.patch, **cfg.windows),
        cfg.save_probabilities,
    )


def _callbacks(cfg: DictConfig, folder: RunFolder) -> list[pl.Callback]:
    from calf.callbacks import BranchTrace, Pictures, Predictions

    callbacks: list[pl.Callback] = [BranchTrace(folder)]
    if cfg.save_predictions or cfg.save_probabilities:
        callbacks.append(Predictions(folder, cfg.save_predictions, cfg.save_probabilities))
    if cfg.pictures:
        callbacks.append(Pictures(folder, cfg.pictures))
    return callbacks


def _in_words(error: BaseException) -> str | None:
    """What to tell the user of an error about data or options; ``None`` where a stack trace says more."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        _, _, key = str(error).rpartition("full_key: ")
        return f"{error.__cause__} ({key.strip()})" if key else str(error.__cause__)
    return str(error) if isinstance(error, (ValueError, InstantiationException)) else None
