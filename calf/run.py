"""One run, from the seed to the result. The only caller of Hydra's ``instantiate``."""

from __future__ import annotations

import hashlib
import logging
import math
import resource
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from calf.data.build import StorePlan, left_out, open_store, plan_store
from calf.data.joined import JoinedStore, source_of
from calf.data.joined_plan import JoinedPlan, Part
from calf.data.leakage import lines, same_persons
from calf.data.splits import Split, check_parts, divide
from calf.data.views import Samples, view_of, whole_cases
from calf.files import write_json, write_text
from calf.provenance import commit, fingerprint, run_only, versions
from calf.runfolder import RunFolder

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from calf.data.augment import Augmentation
    from calf.data.datamodule import SliceData
    from calf.module import Segmenter

MAPS = "dataset.distance_maps"  # makes some losses faster: the data set keeps its name, or tables would set them apart
PRIMARY = "dice"  # chooses the checkpoint on validation data, and is what a sweeper optimises


@dataclass(frozen=True)
class RunPlan:
    """What a run is, known without importing torch: its folder, its names, whether it is done."""

    folder: RunFolder
    grid: str
    names: dict[str, str]
    seed: int
    fold: int | None
    fingerprint: str
    config: dict[str, Any]
    store: StorePlan | JoinedPlan

    @property
    def which(self) -> str:
        """Seed and fold in words."""
        return f"seed-{self.seed}" + (f"-fold-{self.fold}" if self.fold is not None else "")

    @property
    def finished(self) -> bool:
        return self.folder.finished

    @property
    def value(self) -> float | None:
        """The primary metric on the test data, of a finished run."""
        return self._found("primary")

    @property
    def objective(self) -> float | None:
        """The primary metric on the validation data, of a finished run: what a sweeper may search by."""
        return self._found("validation")

    def _found(self, which: str) -> float | None:
        if not self.finished:
            return None
        value = self.folder.result[which]["value"]
        return math.nan if value is None else float(value)


def plan(cfg: DictConfig) -> RunPlan:
    """Say where the run of this configuration lives. Lists and digests its input files; makes the phantom if need be."""
    _check(cfg)
    names = _names(cfg)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    config.pop("hydra", None)
    config["names"] = names
    store = _plan_store(cfg)
    inputs = store.key
    for dataset in config["dataset"].get("parts", {"": config["dataset"]}).values():
        if "path" in (split := dataset["split"]):
            if not Path(split["path"]).is_file():
                raise ValueError(f"expected dataset.split.path to be a file, got {split['path']}")
            inputs += hashlib.sha256(Path(split["path"]).read_bytes()).hexdigest()
    mark = fingerprint(config, inputs)
    folder = RunFolder.of(Path(cfg.runs_dir) / cfg.name, names, cfg.seed, cfg.fold, mark)
    return RunPlan(folder, cfg.name, names, cfg.seed, cfg.fold, mark, config, store)


def _check(cfg: DictConfig) -> None:
    """Raise a ValueError for options that would else be found out late, or never."""
    trainer = cfg.trainer
    if cfg.checkpoint not in ("best", "last"):
        raise ValueError(f"expected checkpoint to be best or last, got {cfg.checkpoint!r}")
    for key, least in (("seed", 0), ("dataset.batch_size", 1), ("trainer.max_epochs", 1), ("trainer.check_val_every_n_epoch", 1)):
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"expected {key} to be a whole number of at least {least}, got {value!r}")
    if trainer.check_val_every_n_epoch > trainer.max_epochs:
        raise ValueError(
            f"no checkpoint could be chosen: expected trainer.check_val_every_n_epoch of at most trainer.max_epochs = "
            f"{trainer.max_epochs}, got {trainer.check_val_every_n_epoch}"
        )
    for key in ("limit_val_batches", "limit_test_batches"):
        if key in trainer:
            raise ValueError(f"every case is scored as a whole: take trainer.{key} away, and fewer patients for a quick look")
    rule = instantiate(cfg.dataset.filter)
    if rule.filters and set(rule.parts) != {"train"} and "Paper" not in cfg.protocol._target_:
        raise ValueError(
            f"dataset.filter.parts={list(rule.parts)} leaves slices of tested cases out, and protocol=per_case scores cases as a "
            "whole: filter train alone, or take protocol=paper"
        )


def _in_words(error: BaseException) -> str | None:
    """What to tell the user of an error about data or options; ``None`` where a stack trace says more."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        _, _, key = str(error).rpartition("full_key: ")
        return f"{error.__cause__} ({key.strip()})" if key else str(error.__cause__)
    return str(error) if isinstance(error, (ValueError, InstantiationException)) else None


def prepare(cfg: DictConfig, divided: bool = True) -> Path:
    """Prepare the data of this configuration, where they are not yet, and say which cases were left out.

    ``divided``: also split them, so that a fold that does not exist or a part without any target is found now.
    """
    return _prepare(cfg, _plan_store(cfg), divided).folder


def inspect(cfg: DictConfig, out: Path | None = None) -> Path:
    """Write the fingerprint page of the data set of this configuration, prepared where it is not yet; returns the page."""
    from calf.inspect import inspect as write_page

    if "layout" not in cfg.dataset:
        raise ValueError("data sets are inspected one by one: expected dataset=<one of those that are joined>")
    name = cfg.names.dataset
    data = instantiate(cfg.dataset, name=name, _convert_="all")
    return write_page(name, data, out or Path("inspect") / name, cfg.dataset.workers)


def _prepare(cfg: DictConfig, planned: StorePlan | JoinedPlan, divided: bool) -> Samples:
    store: Samples
    if isinstance(planned, JoinedPlan):
        store = planned.open(cfg.dataset.skip_bad_cases, cfg.dataset.workers)
    else:
        store = view_of(
            open_store(planned, cfg.dataset.skip_bad_cases, cfg.dataset.workers), cfg.dataset.get("samples", "slices")
        )
    for line in _left_out(planned, store):
        print(line)
    if divided:
        split, said = _divide(cfg, planned, store)
        for line in said:
            print(line)
        check_parts(store, split)
    return store


def _divide(cfg: DictConfig, planned: StorePlan | JoinedPlan, store: Samples) -> tuple[Split, list[str]]:
    """Who is in which part, and what is to be said of people who are there twice, one line each."""
    if isinstance(planned, JoinedPlan):
        assert isinstance(store, JoinedStore)
        return planned.divide(store)
    duplicates = cfg.dataset.get("duplicates", "group")
    split = divide(store, instantiate(cfg.dataset.split, _convert_="all"), cfg.fold, duplicates)
    return split, lines(same_persons({"": whole_cases(store)}), duplicates)


def _left_out(planned: StorePlan | JoinedPlan, store: Samples) -> list[str]:
    if isinstance(planned, JoinedPlan):
        assert isinstance(store, JoinedStore)
        return planned.left_out(store)
    return left_out(planned, store)


def _plan_store(cfg: DictConfig) -> StorePlan | JoinedPlan:
    if "parts" not in cfg.dataset:
        return _plan_one(cfg.names.dataset, cfg.dataset)
    parts = {
        str(name): Part(
            _plan_one(str(name), node),
            instantiate(node.split, _convert_="all"),
            node.fold,
            node.get("samples", "slices"),
            node.get("duplicates", "group"),
        )
        for name, node in cfg.dataset.parts.items()
    }
    return JoinedPlan(parts, cfg.dataset.train_on, cfg.dataset.test_on, cfg.dataset.duplicates)


def _plan_one(name: str, node: DictConfig) -> StorePlan:
    # converted: dataclasses that are hashed and pickled hold lists and tuples, not configuration nodes
    layout, preparation = (instantiate(node[part], _convert_="all") for part in ("layout", "preparation"))
    return plan_store(name, layout, node.target, preparation, Path(node.stores_dir))


def _names(cfg: DictConfig) -> dict[str, str]:
    """The chosen file of each noun, with the options that the command line changed: ``calf[scope=dataset]``.

    Augmentation counts with the data that it varies.
    """
    names = {noun: str(cfg.names[noun]) for noun in ("dataset", "model", "loss")}
    changed = dict(_change(item) for item in _task_overrides())
    for noun in names:
        options = [
            text.removeprefix(f"{noun}.")
            for key, text in changed.items()
            if f"{key}.".startswith((f"{noun}.", "augment.") if noun == "dataset" else f"{noun}.")
            and key != noun
            and not run_only(key)
            and key != MAPS
        ]
        if options:
            names[noun] += f"[{','.join(options)}]"
    return names


def _change(override: str) -> tuple[str, str]:
    """The key that an override changes, and the change in words.

    >>> _change("+loss@loss.terms.focal=focal"), _change("~loss.terms.dice"), _change("loss.gamma=1")
    (('loss.terms.focal', 'loss.terms.focal=focal'), ('loss.terms.dice', 'loss.terms.dice=none'), ('loss.gamma', 'loss.gamma=1'))
    """
    key, assigned, value = override.lstrip("+~").partition("=")
    key = key.rpartition("@")[2].replace("/", ".")
    return key, f"{key}={value}" if assigned and not override.startswith("~") else f"{key}=none"


def _task_overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def run(cfg: DictConfig) -> float:
    """Train and test; a finished run is not run again, an interrupted one goes on.

    Returns the primary metric on the validation data, of the checkpoint that was tested: a search by it leaves the test alone.
    """
    try:
        planned = plan(cfg)
        if not planned.finished:
            # refuse their options before data are prepared and a folder is made
            instantiate(cfg.loss, _convert_="all")
            _augmentation(cfg)
        _prepare(cfg, planned.store, divided=True)
    except (ValueError, InstantiationException) as error:
        raise SystemExit(f"calf: {_in_words(error)}") from None  # a stack trace would bury what it says
    before = planned.finished
    if not before:
        _run_planned(cfg, planned)
    assert planned.value is not None
    assert planned.objective is not None
    print(f"finished{' before' if before else ''}: {planned.folder.path}, test {PRIMARY} {planned.value:.4f}")
    return planned.objective


def _run_planned(cfg: DictConfig, planned: RunPlan) -> None:
    from calf import tracking

    folder, began = planned.folder, time.perf_counter()
    write_text(folder.config, OmegaConf.to_yaml(OmegaConf.create(planned.config)))
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
    folder.finish(result)


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
    result = _result(cfg, planned, data, module)
    result["best_epoch"] = epoch = torch.load(tested, map_location="cpu", weights_only=False)["epoch"]
    validated = {row["epoch"]: row.get(f"val/{PRIMARY}") for row in rows}
    result["seconds_in_epochs"] = seconds
    result["validation"] = {"metric": PRIMARY, "value": _number(validated[epoch])}
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


def _data(planned: StorePlan | JoinedPlan, data: SliceData) -> dict[str, Any]:
    """What a checkpoint needs to know of its data to be used again, and where the tested cases lie."""
    manifest, store = data.store.manifest, data.store
    plans = {name: part.plan for name, part in planned.parts.items()} if isinstance(planned, JoinedPlan) else {None: planned}
    listed = {(name, case.id): case for name, plan in plans.items() for case in plan.cases}
    tested = {}
    for number, stored in enumerate(store.cases):
        if stored.patient not in data.division.test:
            continue
        source = source_of(store, number)
        case = listed[source.part, source.case]
        tested[stored.id] = {
            "dataset": source.part,
            "images": {
                name: [str(image.path.resolve()), image.channel]
                for name, image in case.images.items()
                if source.modality in (None, name)
            },
            "mask": str(case.mask.resolve()) if case.mask else None,
            "reference": str(case.reference.resolve()) if case.reference else None,
        }
    return {
        **{key: manifest[key] for key in ("modalities", "target", "preparation", "samples", "parts") if key in manifest},
        "labels": next(iter(plans.values())).labels if len(plans) == 1 else {name: plan.labels for name, plan in plans.items()},
        "train_volumes_mm3": _train_volumes_mm3(data),
        "test_cases": tested,
    }


def _train_volumes_mm3(data: SliceData) -> dict[str, list[float]]:
    """Of each target name the reference volume in every training case, 0 where there is none: what strata are cut by."""
    store, division = data.store, data.division
    areas = np.zeros((len(store.cases), len(data.target.names)))
    np.add.at(areas, store.case_of_slice, store.areas)
    volumes = areas * store.case_table(stored=True)["voxel_volume_mm3"].to_numpy()[:, None]
    trained = [case.patient in division.train for case in store.cases]
    return {name: volumes[trained, number].tolist() for number, name in enumerate(data.target.names)}


def _scored_on(store: Samples, original_grid: bool) -> str:
    if original_grid or store.unchanged:
        return "original grid"
    return "slices of {} x {} pixels as stored".format(*store.manifest["preparation"]["size"])


def _number(value: float | None) -> float | None:
    """JSON has no NaN."""
    return None if value is None or math.isnan(value) else value


def _result(cfg: DictConfig, planned: RunPlan, data: SliceData, module: Segmenter) -> dict[str, Any]:
    import torch

    rows = module.test_rows
    assert rows is not None
    if module.protocol.name == "per_case":  # a table never silently lacks a case, or counts one twice
        tested = {case.id for case in data.store.cases if case.patient in data.division.test}
        assert set(rows["case"]) == tested, f"scored {sorted(set(rows['case']) ^ tested)} amiss"
        assert len(rows) == len(tested) * rows["class"].nunique() * rows["metric"].nunique(), "a case lacks a metric"
    scores = {name: _number(value) for name, value in module.protocol.summarise(rows).items()}
    names = planned.names
    part = rows.pop("part") if "part" in rows else None
    context = {"protocol": module.protocol.name, "dataset": names["dataset"], "split": data.division.hash}
    context |= {"fold": cfg.fold, "seed": cfg.seed, "model": names["model"], "loss": names["loss"]}
    for position, (column, entry) in enumerate(context.items()):
        rows.insert(position, column, entry)
    if part is not None:  # tested apart; the name of the whole keeps them from rows of runs on the part alone
        rows["dataset"] = names["dataset"] + "/" + part
    write_text(planned.folder.cases, rows.to_csv(index=False))
    write_json(planned.folder.path / "split.json", {part: getattr(data.division, part) for part in ("train", "val", "test")})
    write_json(planned.folder.path / "data.json", _data(planned.store, data))
    cuda = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "status": "finished",
        "names": names,
        "seed": cfg.seed,
        "fold": cfg.fold,
        "protocol": module.protocol.name,
        "primary": {"metric": PRIMARY, "value": scores[PRIMARY]},
        "test": scores,
        "parameters": sum(parameter.numel() for parameter in module.network.parameters()),
        "peak_memory_mb": (cuda or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 2**20,
        "peak_memory_of": "cuda" if cuda else "process",
        "threads": torch.get_num_threads(),
        "fingerprint": planned.fingerprint,
        "store_key": planned.store.key,
        "split_hash": data.division.hash,
        "scored_on": _scored_on(data.store, module.protocol.original_grid),
        "left_out": _left_out(planned.store, data.store),
        "same_person_twice": _divide(cfg, planned.store, data.store)[1],
        "slices": data.kept,
        "commit": commit(),
        "versions": versions(),
    }
