"""What a configuration means before anything is trained: where its run lives, its data prepared and divided."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from calf.data.build import StorePlan, left_out, open_store, plan_store
from calf.data.joined import JoinedStore
from calf.data.joined_plan import JoinedPlan, Part
from calf.data.leakage import lines, same_persons
from calf.data.splits import Split, check_parts, divide
from calf.data.views import Samples, view_of, whole_cases
from calf.files import write_text
from calf.provenance import fingerprint, run_only
from calf.runfolder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
MAPS = "dataset.distance_maps"  # makes some losses faster: the data set keeps its name, or tables would set them apart


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

    def announce(self) -> None:
        """Leave in the run's folder what it is, so that it is missed where it is never begun."""
        write_text(self.folder.config, OmegaConf.to_yaml(OmegaConf.create(self.config)))

    def _found(self, which: str) -> float | None:
        if not self.finished:
            return None
        value = self.folder.result[which]["value"]
        return math.nan if value is None else float(value)


def plan(cfg: DictConfig) -> RunPlan:
    """Say where the run of this configuration lives. Lists and digests its input files; makes the phantom if need be."""
    _check(cfg)
    names = cell_names(cfg)
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
    _check_names(cfg)
    if cfg.checkpoint not in ("best", "last"):
        raise ValueError(f"expected checkpoint to be best or last, got {cfg.checkpoint!r}")
    for key, least in (("seed", 0), ("dataset.batch_size", 1), ("trainer.max_epochs", 1), ("trainer.check_val_every_n_epoch", 1)):
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"expected {key} to be a whole number of at least {least}, got {value!r}")
    rate = OmegaConf.select(cfg, "optim.lr", default=1.0)  # an optimiser of one's own may call it otherwise
    if not isinstance(rate, int | float) or not 0 <= rate < math.inf:
        raise ValueError(f"expected optim.lr to be a number of at least 0, got {rate!r}")
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


def _check_names(cfg: DictConfig) -> None:
    """Hydra takes +experiments/<misspelt>=run and +los=dice for new keys, and would train the defaults."""
    options = {"hydra", *map(str, OmegaConf.load(CONF / "train.yaml")), *(path.name for path in CONF.glob("*/"))}
    for key in map(str, cfg):
        folder, _, name = key.rpartition("/")
        known = sorted(path.name for path in (ROOT / folder).glob("[a-z]*/")) if folder else sorted(options)
        if folder or name not in known:
            what = f"there is no {name} in {folder}" if folder else f"there is no option {name}"
            near = "".join(f"; did you mean {match}?" for match in get_close_matches(name, known, 1))
            raise ValueError(f"{what}{near}" + (f"; there are {', '.join(known)}" if known else ""))


def prepare(cfg: DictConfig, divided: bool = True) -> Path:
    """Prepare the data of this configuration, where they are not yet, and say which cases were left out.

    ``divided``: also split them, so that a fold that does not exist or a part without any target is found now.
    """
    return open_samples(cfg, _plan_store(cfg), divided).folder


def inspect(cfg: DictConfig, out: Path | None = None) -> Path:
    """Write the fingerprint page of the data set of this configuration, prepared where it is not yet; returns the page."""
    from calf.inspect import inspect as write_page

    if "layout" not in cfg.dataset:
        raise ValueError("data sets are inspected one by one: expected dataset=<one of those that are joined>")
    name = cfg.names.dataset
    data = instantiate(cfg.dataset, name=name, _convert_="all")
    return write_page(name, data, out or Path("inspect") / name, cfg.dataset.workers)


def open_samples(cfg: DictConfig, planned: StorePlan | JoinedPlan, divided: bool) -> Samples:
    """The prepared data, made first where they are missing; says what was left out, and with ``divided`` who is there twice."""
    store: Samples
    if isinstance(planned, JoinedPlan):
        store = planned.open(cfg.dataset.skip_bad_cases, cfg.dataset.workers)
    else:
        store = view_of(
            open_store(planned, cfg.dataset.skip_bad_cases, cfg.dataset.workers), cfg.dataset.get("samples", "slices")
        )
    for line in left_out_of(planned, store):
        print(line)
    if divided:
        split, said = division_of(cfg, planned, store)
        for line in said:
            print(line)
        check_parts(store, split)
    return store


def division_of(cfg: DictConfig, planned: StorePlan | JoinedPlan, store: Samples) -> tuple[Split, list[str]]:
    """Who is in which part, and what is to be said of people who are there twice, one line each."""
    if isinstance(planned, JoinedPlan):
        assert isinstance(store, JoinedStore)
        return planned.divide(store)
    duplicates = cfg.dataset.get("duplicates", "group")
    split = divide(store, instantiate(cfg.dataset.split, _convert_="all"), cfg.fold, duplicates)
    return split, lines(same_persons({"": whole_cases(store)}), duplicates)


def left_out_of(planned: StorePlan | JoinedPlan, store: Samples) -> list[str]:
    """The cases that a store lacks, a line each with the reason."""
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


def cell_names(cfg: DictConfig) -> dict[str, str]:
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
