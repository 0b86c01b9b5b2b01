"""Predictions of an image of one's own: `calf predict` as a process a network, one at a time, that can be cancelled.

The server never loads a network itself: torch stays out of it, a crash or a full memory costs the prediction and nothing else,
and what is shown is what the command would have written.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calf.report.volumes import Unreadable
from calf.ui.networks import Network

log = logging.getLogger(__name__)

CASE = "image"  # what the files of every prediction are called
DEVICES = {"auto": "a GPU if there is one, else the CPU", "cpu": "CPU", "cuda": "GPU"}
PROGRAM = "from calf.cli import app; app()"
_RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception)\b")  # the line of a traceback that says what happened
WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"


@dataclass
class Step:
    """How one network stands: a state, batches done of ``total`` (0: not known yet), and why it failed."""

    network: Network
    state: str = WAITING
    done: int = 0
    total: int = 0
    error: str = ""

    def public(self) -> dict[str, Any]:
        told = {"state": self.state, "done": self.done, "total": self.total, "error": self.error}
        return {"id": self.network.run.id, "label": self.network.run.label} | told


class Prediction:
    """What some networks make of one image.

    Args:
        networks: in the order in which they are run.
        images: by modality; has those that the networks need.
        names: what the images are called, by path, for messages.
        folder: ``<folder>/<run id>/predictions/image.nii.gz`` and ``labels.json`` are written there.
        device: one of ``DEVICES``.
        ended: called in the thread of the prediction once there are masks and no more will come.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        images: Mapping[str, Path],
        names: Mapping[Path, str],
        folder: Path,
        device: str,
        ended: Callable[[Prediction], None],
    ) -> None:
        self.steps = [Step(network) for network in networks]
        self.images, self.names, self.folder, self.device = dict(images), dict(names), folder, device
        self.used_device = ""  # what the command says that it took
        self._ended = ended
        self._begun = False
        self._cancelled, self._over = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    @property
    def finished(self) -> list[Network]:
        """The networks whose masks are there."""
        return [step.network for step in self.steps if step.state == DONE]

    @property
    def over(self) -> bool:
        """Whether nothing more will be written."""
        return self._over.is_set()

    def wait(self) -> None:
        """Until it is over."""
        self._over.wait()

    def cancel(self) -> None:
        """End it now; what was finished stays."""
        with self._lock:
            self._cancelled.set()
            for step in self.steps:
                step.state = CANCELLED if step.state == WAITING else step.state
            if self._process is not None:
                self._process.kill()
            if not self._begun:
                self._over.set()

    def run(self) -> None:
        """Predict with one network after the other; raises nothing."""
        with self._lock:
            self._begun = True
        try:
            self._run()
            if self.finished:
                self._ended(self)
        except Exception:  # this is a thread's end: nobody above would hear of it, and the next in the queue has its turn
            log.exception("prediction")
        finally:
            self._over.set()

    def _run(self) -> None:
        for step in self.steps:
            with self._lock:
                if self._cancelled.is_set():
                    continue
                step.state = RUNNING
            try:
                step.error = self._predict(step)
            except Exception as error:  # whatever it is, the page says so, and the other networks go on
                log.exception("prediction by %s", step.network.run.label)
                step.error = f"it could not be started: {error}"
            step.state = CANCELLED if self._cancelled.is_set() and step.error else FAILED if step.error else DONE
            if step.state != DONE:
                shutil.rmtree(self._out(step).parent, ignore_errors=True)

    def mask(self, run: str) -> Path:
        """Where the mask by a run's network is, or will be."""
        return self.folder / run / "predictions" / f"{CASE}.nii.gz"

    def labels(self, run: str) -> Path:
        """Where it is said what the values of the mask mean."""
        return self.mask(run).with_name("labels.json")

    def _out(self, step: Step) -> Path:
        return self.mask(step.network.run.id).parent

    def _command(self, step: Step) -> list[str]:
        network, out = step.network, self._out(step)
        options = ["--out", str(out), "--name", CASE, "--device", self.device, "--progress", "json", "--known-code"]
        images = [f"{modality}={self.images[modality]}" for modality in network.modalities]
        # -P: what lies where `calf ui` was started is not to be imported
        return [sys.executable, "-P", "-c", PROGRAM, "predict", *options, "--", str(network.checkpoint.absolute()), *images]

    def _predict(self, step: Step) -> str:
        """Run the command; returns why there is no mask, or ""."""
        self._out(step).mkdir(parents=True)
        said = self._out(step).parent / "said.txt"
        with open(said, "w") as errors:
            with self._lock:
                if self._cancelled.is_set():
                    return "cancelled"
                # a session of its own: Ctrl-C in the terminal of `calf ui` ends it through cancel
                self._process = subprocess.Popen(
                    self._command(step),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    encoding="utf-8",
                    errors="replace",
                    env=os.environ | {"PYTHONIOENCODING": "utf-8"},
                    start_new_session=True,
                )
            with self._process as process:
                assert process.stdout is not None
                failed = ""
                for line in process.stdout:
                    failed = self._heard(step, line) or failed
        with self._lock:
            self._process = None
        if process.returncode == 0 and not failed and self.mask(step.network.run.id).is_file():
            return ""
        if self._cancelled.is_set():
            return "cancelled"
        return self._hidden(step, failed or _why(process.returncode, said.read_text(errors="replace"), step))

    def _heard(self, step: Step, line: str) -> str:
        """Take in a line of ``--progress json``; returns why the image could not be predicted, if it says so."""
        try:
            told = json.loads(line)
            if told["event"] == "start":
                self.used_device = str(told["device"])
            elif told["event"] == "batch":
                step.done, step.total = int(told["done"]), int(told["total"])
            elif told["event"] == "end":
                return "; ".join(map(str, told["failed"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):  # what a library printed
            pass
        return ""

    def _hidden(self, step: Step, text: str) -> str:
        """The text with names in the place of paths."""
        for path, name in self.names.items():
            text = text.replace(str(path), name)
        folder = step.network.run.folder
        for path in (folder.absolute(), folder.resolve(), folder):
            text = text.replace(str(path), step.network.run.label)
        return text.replace(str(self.folder), "the folder of this page")


class Queue:
    """Runs predictions one at a time, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "predict")
        self._order: list[Prediction] = []
        self._lock = threading.Lock()

    def add(self, prediction: Prediction) -> None:
        """:class:`Unreadable` once the queue was closed."""
        with self._lock:
            try:
                self._thread.submit(prediction.run)
            except RuntimeError:
                raise Unreadable("calf ui is ending") from None
            self._order = [other for other in self._order if not other.over] + [prediction]

    def ahead(self, prediction: Prediction) -> int:
        """How many predictions have to end before this one begins."""
        with self._lock:
            order = [other for other in self._order if not other.over]
        return order.index(prediction) if prediction in order else 0

    def close(self) -> None:
        """Cancel all, wait for their ends, and take no more."""
        self._thread.shutdown(wait=False)
        with self._lock:
            left = list(self._order)
        for prediction in left:
            prediction.cancel()
        self._thread.shutdown(wait=True)


def _why(code: int, said: str, step: Step) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    told = [line.removeprefix("calf: ") for line in lines if line.startswith("calf: ")]
    if told:
        return "; ".join(told)
    if code < 0:
        return f"it was ended by signal {-code}, as happens where memory is not enough: try a smaller image, or another network"
    log.error("prediction by %s ended with %s:\n%s", step.network.run.label, code, said)
    raised = [line for line in lines if _RAISED.match(line)]
    # what follows the first sentence are libraries' hints to programmers
    first = (raised or lines or ["it said nothing"])[-1].strip().partition(". ")[0]
    return f"it ended with an error, which the terminal of `calf ui` has in full: {first[:500]}"
