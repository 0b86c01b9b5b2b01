"""What happens in a Ray worker: one job, from its log's first line to its exit code. Standard library only; shipped by value."""

from __future__ import annotations

import json
import os
import select
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HEADING = "=== "
# Ray says here which devices the job holds
DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """One job as a worker sees it. `environment` is the launcher's, not the worker's, which Ray has filled with its own."""

    folder: Path
    command: list[str]
    working_dir: str
    environment: dict[str, str]
    threads: int
    gpus: float
    guard: Path
    grace_seconds: float


def log_file(folder: Path) -> Path:
    return folder / "log.txt"


def read_status(folder: Path) -> dict[str, Any]:
    """``status.json`` of a run folder; empty where there is none yet."""
    try:
        status = json.loads((folder / "status.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return status if isinstance(status, dict) else {}


def write_status(folder: Path, **fields: Any) -> None:
    """Replaces ``status.json`` in one step, so that nobody reads half of it."""
    fields["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
    draft = folder / f".status-{os.getpid()}.json"
    draft.write_text(json.dumps(fields))
    draft.replace(folder / "status.json")


def environment(task: Task) -> dict[str, str]:
    """The job's environment: the launcher's, the devices Ray gave, the threads it may use."""
    # unbuffered: the last words of a killed job are in its log; faulthandler: so is the stack of a crashed one
    env = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"} | task.environment
    env |= dict.fromkeys(THREAD_VARIABLES, str(task.threads))
    if task.gpus:
        env |= {name: os.environ[name] for name in DEVICE_VARIABLES if name in os.environ}
    else:
        env |= dict.fromkeys(DEVICE_VARIABLES, "")
    return env


def run_task(task: Task) -> tuple[int, float]:
    """Runs the job under its guard and returns its exit code (128 + n for signal n) and its seconds."""
    task.folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    guarded = [sys.executable, "-I", "-S", str(task.guard), str(task.grace_seconds), *task.command]
    with log_file(task.folder).open("ab") as log:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        log.write(f"{HEADING}{now} on {socket.gethostname()}: {shlex.join(task.command)}\n".encode())
        log.flush()
        write_status(task.folder, state="starting", host=socket.gethostname(), worker=os.getpid())
        guard = subprocess.Popen(
            guarded,
            cwd=task.working_dir,
            env=environment(task),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    code = _answer(guard)
    if not code:
        raise RuntimeError(f"The guard of the job was killed; see {log_file(task.folder)}")
    return int(code), time.monotonic() - started


def _answer(guard: subprocess.Popen[bytes]) -> bytes:
    """What the guard writes when its command has ended; nothing if the guard was killed.

    Ray cancels a task by a KeyboardInterrupt between two Python instructions, hence the short waits.
    """
    assert guard.stdin is not None
    assert guard.stdout is not None
    try:
        while not select.select([guard.stdout], [], [], 0.2)[0]:
            continue
    finally:
        guard.stdin.close()
        answer = guard.stdout.read()
        guard.wait()
    return answer
