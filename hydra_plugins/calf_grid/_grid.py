"""The grid itself: jobs into Ray slots, what came of each, and an orderly end whatever happens."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import CompactHydraException

from hydra_plugins.calf_grid import _cluster, _worker
from hydra_plugins.calf_grid._display import Display
from hydra_plugins.calf_grid._jobs import Job, prepare

if TYPE_CHECKING:
    from hydra_plugins.calf_grid.launcher import GridConf

GUARD = Path(__file__).absolute().with_name("_guard.py")
LOG_LINES = 15


class Grid:
    """Runs `jobs`, each in a folder of its own; `table`, with those of earlier batches, is shown when the user stops it."""

    def __init__(self, options: GridConf, jobs: list[Job], table: list[Job]) -> None:
        self.options = options
        self.jobs = jobs
        self.table = table
        self.display = Display(jobs, quiet=options.quiet)
        self.running: dict[Any, Job] = {}

    def run(self) -> None:
        """Returns when every job has ended; what came of it is in the jobs. Leaves with 128 + n when stopped by signal n."""
        waiting = [job for job in self.jobs if job.state == "waiting"]
        if not waiting:
            return
        with _stop_signals() as caught:
            try:
                if self.options.prepare is not None:
                    prepare(waiting, self.options.prepare)
                # before Ray fills it with variables of its own
                environment = dict(os.environ)
                nodes = _cluster.start(self.options.address)
                with _stop_signals() as caught, self.display:
                    self._run_all(waiting, self._share(nodes), environment)
            except KeyboardInterrupt:
                self._give_up()
                _cluster.stop()
                Display(self.table).final()
                print("\nStopped. The same command goes on: finished runs are skipped, others continue from where they are.")
                print("  " + shlex.join(["python", *sys.argv]))
                raise SystemExit(128 + (caught[0] if caught else signal.SIGINT)) from None

    def _share(self, nodes: list[_cluster.Node]) -> _cluster.Share:
        options = self.options
        try:
            return _cluster.share(
                nodes, options.cpus_per_job, options.gpus_per_job, options.memory_per_job_gb, options.jobs_at_once
            )
        except ValueError as error:
            raise CompactHydraException(str(error)) from error

    def _run_all(self, waiting: list[Job], part: _cluster.Share, environment: dict[str, str]) -> None:
        import ray
        from ray import cloudpickle

        # by value: a worker need not be able to import this package
        cloudpickle.register_pickle_by_value(_worker)
        remote = ray.remote(_worker.run_task).options(
            num_cpus=part.cpus, num_gpus=part.gpus, memory=part.memory_bytes, max_retries=0
        )
        for job in waiting:
            job.plan.announce()
            # in the place of what an earlier attempt has left
            _worker.write_status(job.folder, state="waiting", pid=os.getpid(), host=socket.gethostname())
        queue = list(waiting)
        at_once = self.options.jobs_at_once or len(waiting)
        skipped = sum(job.state == "skipped" for job in self.jobs)
        holds = f"each with {part.cpus} CPU and {part.gpus:g} GPU"
        self.display.say(f"{len(waiting)} jobs to run, {holds}; {skipped} finished before and skipped")
        while True:
            while queue and len(self.running) < at_once:
                job = queue.pop(0)
                self.running[remote.remote(self._task(job, part, environment))] = job
            if not self.running:
                return
            done, _ = ray.wait(list(self.running), timeout=1.0)
            for reference in done:
                self._settle(self.running.pop(reference), reference)
            self._follow()
            self.display.update()

    def _task(self, job: Job, part: _cluster.Share, environment: dict[str, str]) -> _worker.Task:
        return _worker.Task(
            folder=job.folder.absolute(),
            command=job.command,
            working_dir=job.working_dir,
            environment=environment,
            threads=part.cpus,
            gpus=part.gpus,
            guard=GUARD,
            grace_seconds=self.options.grace_seconds,
        )

    def _settle(self, job: Job, reference: Any) -> None:
        """Finds out how `job` has ended: the run folder decides, the exit code explains."""
        import ray

        try:
            code, job.seconds = ray.get(reference)
            reason = explain(code)
        except ray.exceptions.OutOfMemoryError:
            reason = "out of memory: ended by Ray"
        except ray.exceptions.WorkerCrashedError:
            reason = "its Ray worker died"
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
        try:
            job.look_again()
        except ValueError as error:
            reason = reason or str(error)
        if job.plan.finished:
            job.state, job.reason = "finished", f"then {reason}" if reason else ""
        else:
            job.state, job.reason = "failed", reason or "ended without a result"
            job.folder.mkdir(parents=True, exist_ok=True)
            job.progress = _worker.read_status(job.folder) | {"state": "failed", "reason": job.reason, "log": tail(job.log)}
            _worker.write_status(job.folder, **job.progress)
        self.display.ended(job)

    def _follow(self) -> None:
        for job in self.running.values():
            if job.follow():
                self.display.begun(job)

    def _give_up(self) -> None:
        """Ends all that runs, each asked first, and marks it; a second signal ends it at once (the guards see to that)."""
        if self.running:
            import ray

            self._follow()
            grace = self.options.grace_seconds
            num_running = sum(job.state == "running" for job in self.jobs)
            print(f"\nStopping {num_running} running jobs; they get {grace:g} s to save.", flush=True)
            for reference in self.running:
                ray.cancel(reference, force=False)
            ray.wait(list(self.running), num_returns=len(self.running), timeout=4 * grace + 5)
        for job in self.jobs:
            if job.state == "running":
                job.state = "stopped"
                _worker.write_status(job.folder, **_worker.read_status(job.folder) | {"state": "stopped"})
            elif job.state == "waiting":
                job.state = "not started"
                (job.folder / "status.json").unlink(missing_ok=True)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt, which Ray's waiting passes on; yields a list of the signals that came.

    Entered again after Ray has started, which installs a handler of its own. What is ignored (SIGHUP under nohup) stays ignored.
    """
    caught: list[int] = []

    def stop(number: int, frame: object) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    numbers = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def explain(code: int) -> str:
    """What an exit code says; empty for success, 137 -> "signal 9, out of memory?"."""
    if code <= 128:
        return f"exit code {code}" if code else ""
    return f"signal {code - 128}" + (", out of memory?" if code - 128 == signal.SIGKILL else "")


def tail(log: Path, lines: int = LOG_LINES) -> list[str]:
    """The last lines of the last attempt in `log`; empty where there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 32_768))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    attempt = text.rsplit(f"\n{_worker.HEADING}", 1)[-1].splitlines()
    return [line for line in attempt[1:] if line.strip()][-lines:]
