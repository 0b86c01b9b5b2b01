"""The jobs of a grid: each one composed, planned and spelt as a command before anything starts."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hydra._internal.utils import get_args_parser  # Hydra tells nobody else which --config-* flags its caller gave
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, ConfigCompositionException
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.calf_grid._worker import log_file, read_status

# what concerns the launcher and not the job
GRID_ONLY = ("hydra.launcher", "hydra.sweeper", "hydra.sweep", "hydra.mode")


class Plan(Protocol):
    """What the planner says of a job's configuration.

    `folder` is a Path or has one as `path`. `value` is the primary metric of a finished run, for the table; where there is an
    `objective`, that is what a sweeper is told instead. `announce()` leaves in the folder of a run that waits what it is, for
    whoever reads the grid's folder. `names` tells the job from others in displays (data set, model, loss) and gives the run
    folder its parents: ``<grid>/<name>/.../<folder>``.
    """

    folder: Any
    finished: bool
    value: float | None
    names: dict[str, str]
    seed: int | None
    fold: int | None

    def announce(self) -> None: ...


@dataclass
class Job:
    """One run of the grid. `state`: waiting, running, finished, skipped (was finished before), failed, stopped."""

    number: int
    overrides: list[str]
    command: list[str]
    config: DictConfig
    planner: str
    plan: Plan
    working_dir: str
    state: str = "waiting"
    reason: str = ""
    value: float | None = None
    seconds: float | None = None
    # while it runs: since when (monotonic clock), what its status.json says, how much was done when it first said so
    started: float | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    first_fraction: float | None = None

    @property
    def parts(self) -> list[str]:
        """What names the job: data set, model, loss, seed, fold; as many for every job of a grid, empty where there is none."""
        extra = [
            f"{name} {value}" if value is not None else "" for name, value in (("seed", self.plan.seed), ("fold", self.plan.fold))
        ]
        return [*self.plan.names.values(), *extra]

    @property
    def status(self) -> str:
        return f"{self.state} ({self.reason})" if self.reason else self.state

    @property
    def folder(self) -> Path:
        return Path(getattr(self.plan.folder, "path", self.plan.folder))

    @property
    def fraction(self) -> float:
        """How much of a running job is done, 0 to 1."""
        epochs = self.progress.get("epochs")
        return min(1.0, self.progress.get("epoch", 0) / epochs) if epochs else 0.0

    @property
    def log(self) -> Path:
        return log_file(self.folder)

    @property
    def grid_folder(self) -> Path:
        return self.folder.parents[len(self.plan.names)]

    def task_config(self) -> DictConfig:
        """The configuration that the job's own task function gets: without the node ``hydra``."""
        return _without_hydra(self.config)

    def look_again(self) -> None:
        """Plans once more, to learn what the process has left."""
        self.plan = _call(self.planner, self.config)
        self.value = self.plan.value

    def follow(self) -> bool:
        """Reads how far the job is; True when it is seen to run for the first time."""
        self.progress = read_status(self.folder)
        if self.progress.get("epochs") and self.first_fraction is None:
            self.first_fraction = self.fraction
        if self.state != "waiting" or self.progress.get("state", "waiting") == "waiting":
            return False
        self.state, self.started = "running", time.monotonic()
        return True


def plan_jobs(
    loader: ConfigLoader, master: DictConfig, planner: str, job_overrides: Sequence[Sequence[str]], first: int
) -> list[Job]:
    """Every job of a batch. Raises with the message of each job that cannot be composed or planned: then nothing may start."""
    kept = _job_hydra_overrides(loader, master)
    jobs: list[Job] = []
    problems: dict[str, str] = {}
    for number, overrides in enumerate(job_overrides, start=first):
        spelt = [*kept, *overrides, "hydra.mode=RUN"]
        config = _compose(loader, master, spelt)
        try:
            plan = _call(planner, config)
        except (ValueError, OmegaConfBaseException) as error:
            problems.setdefault(str(error), " ".join(overrides))
            continue
        state = "skipped" if plan.finished else "waiting"
        cwd = master.hydra.runtime.cwd
        jobs.append(Job(number, list(overrides), _command(spelt), config, planner, plan, cwd, state, value=plan.value))
    if problems:
        lines = [f"  {overrides}: {message}" for message, overrides in problems.items()]
        raise ConfigCompositionException("\n".join(["Nothing was started, because some jobs cannot run:", *lines]))
    return jobs


def prepare(jobs: list[Job], function: str) -> None:
    """Calls `function` with one job's configuration for each distinct node ``dataset``, or name of a data set."""
    seen: dict[str, Job] = {}
    for job in jobs:
        with _as_current_job(job.config):
            node = job.config.get("dataset")
            key = OmegaConf.to_yaml(node, resolve=True) if OmegaConf.is_config(node) else job.plan.names.get("dataset", "")
        seen.setdefault(key, job)
    for job in seen.values():
        try:
            _call(function, job.config)
        except ValueError as error:
            raise CompactHydraException(f"Nothing was started, because the data could not be prepared: {error}") from error


def _job_hydra_overrides(loader: ConfigLoader, master: DictConfig) -> list[str]:
    """The command line's overrides of Hydra itself that a job must see too (its logging, say)."""
    lines = list(master.hydra.overrides.hydra)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(lines)
    names = [".".join(override.key_or_group.replace("/", ".").split(".")[:2]) for override in parsed]
    return [line for line, name in zip(lines, names, strict=True) if name not in GRID_ONLY]


def _compose(loader: ConfigLoader, master: DictConfig, overrides: list[str]) -> DictConfig:
    """The configuration exactly as the job's process will compose it, from the very words of its command line."""
    config = loader.load_configuration(config_name=master.hydra.job.config_name, overrides=overrides, run_mode=RunMode.RUN)
    # the grid's ${now:...} holds for every job of it
    OmegaConf.copy_cache(from_config=master, to_config=config)
    return config


def _command(overrides: list[str]) -> list[str]:
    args, _ = get_args_parser().parse_known_args(sys.argv[1:])
    given = {"--config-path": args.config_path, "--config-name": args.config_name, "--config-dir": args.config_dir}
    flags = [word for flag, value in given.items() if value is not None for word in (flag, value)]
    return [sys.executable, str(Path(sys.argv[0]).absolute()), *flags, *overrides]


def _call(function: str, config: DictConfig) -> Any:
    """``function(task configuration)`` with ``${hydra:...}`` resolving to that job, as when Hydra runs it."""
    with _as_current_job(config):
        return get_method(function)(_without_hydra(config))


@contextmanager
def _as_current_job(config: DictConfig) -> Iterator[None]:
    outer = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            config.hydra.runtime.output_dir = str(Path(str(OmegaConf.select(config, "hydra.run.dir"))).absolute())
        HydraConfig.instance().set_config(config)
        yield
    finally:
        HydraConfig.instance().cfg = outer


def _without_hydra(config: DictConfig) -> DictConfig:
    task = copy.deepcopy(config)
    with read_write(task), open_dict(task):
        del task["hydra"]
    return task
