"""The Hydra side of the grid: its options, its place among launchers, and how its outcome reaches the sweeper and the shell."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from hydra_plugins.calf_grid._jobs import Job


@dataclass
class GridConf:
    """Options under ``hydra.launcher``.

    The threads of a job follow from these and the machine alone, never from how many jobs are left: a grid that is continued must
    give the numbers of one that was not disturbed.
    """

    _target_: str = "hydra_plugins.calf_grid.launcher.GridLauncher"
    # CPU threads a job holds; null: its share of the machine's cores
    cpus_per_job: int | None = None
    # fractions share a GPU; null: 1 where Ray sees a GPU, otherwise 0
    gpus_per_job: float | None = None
    # memory in GiB that Ray sets aside for a job when it decides where and when to start it; not a limit
    memory_per_job_gb: float | None = None
    # null: as many as fit
    jobs_at_once: int | None = None
    # what a stopped job gets to save and to tell its tracker before it is killed
    grace_seconds: float = 10.0
    # of a running Ray cluster that shares this file system; null: $RAY_ADDRESS, otherwise this machine alone
    address: str | None = None
    # show only what failed and the final table
    quiet: bool = False
    # function of a job's configuration that says where it runs and whether it is done (see `_jobs.Plan`)
    planner: str = "calf.plan.plan"
    # function of a job's configuration, called once for each data set before any job starts; null: nothing to prepare
    prepare: str | None = "calf.plan.prepare"


ConfigStore.instance().store(group="hydra/launcher", name="calf_grid", node=GridConf, provider="calf_grid")


class GridLauncher(Launcher):
    """Runs jobs side by side, each as ``python <script> <overrides>``; what one job does cannot harm another."""

    def __init__(self, **options: Any) -> None:
        self.options = GridConf(**options)
        self.jobs: dict[Path, Job] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config
        hydra_context.callbacks.callbacks.append(_Ending(self))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        from hydra_plugins.calf_grid._grid import Grid
        from hydra_plugins.calf_grid._jobs import plan_jobs

        setup_globals()
        jobs = plan_jobs(self.hydra_context.config_loader, self.config, self.options.planner, job_overrides, initial_job_idx)
        distinct: dict[Path, Job] = {}
        for job in jobs:
            distinct.setdefault(job.folder, job)
        for folder, job in distinct.items():
            # what an earlier batch of this sweep has run stays in the final table as that, not as skipped
            if folder not in self.jobs or self.jobs[folder].state != "finished":
                self.jobs[folder] = job
        Grid(self.options, list(distinct.values()), list(self.jobs.values())).run()
        return [self._job_return(job, distinct[job.folder]) for job in jobs]

    def _job_return(self, job: "Job", ran: "Job") -> JobReturn:
        """What the sweeper is told about `job`, which is `ran` or names the same run folder."""
        done = ran.state in ("finished", "skipped")
        hydra_cfg = OmegaConf.masked_copy(job.config, "hydra")
        answer = JobReturn(overrides=job.overrides, cfg=job.task_config(), hydra_cfg=hydra_cfg, working_dir=job.working_dir)
        answer.task_name = self.config.hydra.job.name
        # Hydra's own sweeper would end the sweep at the first failed job, with a stack trace of nobody's fault; it has no use for
        # the value either. The exit code still tells (_Ending). Sweepers that search (Optuna) must know.
        tolerant = self.config.hydra.sweeper._target_ == "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
        answer.status = JobStatus.COMPLETED if done or tolerant else JobStatus.FAILED
        answer.return_value = (
            getattr(ran.plan, "objective", ran.value)
            if done
            else None
            if tolerant
            else RuntimeError(f"{ran.status}; see {ran.log}")
        )
        return answer


class _Ending(Callback):
    """Prints the table of all jobs when the sweep has ended and leaves with exit code 1 if any failed."""

    def __init__(self, launcher: GridLauncher) -> None:
        self.launcher = launcher

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from hydra_plugins.calf_grid._cluster import stop
        from hydra_plugins.calf_grid._display import Display

        stop()
        jobs = list(self.launcher.jobs.values())
        try:
            Display(jobs).final()
        finally:
            # Hydra turns any other exception of a callback into a warning
            if any(job.state == "failed" for job in jobs):
                raise SystemExit(1)
