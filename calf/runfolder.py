"""Where a run lives and what is in it. Light to import: the launcher asks for it before anything heavy is loaded."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calf.files import write_json

LONGEST = 100  # characters of a folder's name; file systems take 255 bytes


def _as_folder(name: str) -> str:
    """A name as a folder's name; one with many options is cut, and told from others by a digest."""
    folder = re.sub(r"[^\w.=+-]+", "-", name).strip("-")
    if len(folder) <= LONGEST:
        return folder
    return f"{folder[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class RunFolder:
    """``runs/<name>/<dataset>/<model>/<loss>/seed-<n>[-fold-<k>]-<hash>``.

    ``result.json`` is written last: a folder that has it is finished and is never written to again.
    """

    path: Path

    @classmethod
    def of(cls, root: Path, names: dict[str, str], seed: int, fold: int | None, fingerprint: str) -> RunFolder:
        """The folder of a run of this fingerprint."""
        parts = [_as_folder(names[noun]) for noun in ("dataset", "model", "loss")]
        which = f"seed-{seed}" + (f"-fold-{fold}" if fold is not None else "")
        return cls(root.joinpath(*parts, f"{which}-{fingerprint[:10]}"))

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def cases(self) -> Path:
        return self.path / "cases.csv"

    @property
    def history(self) -> Path:
        return self.path / "history.csv"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions"

    @property
    def probabilities(self) -> Path:
        return self.path / "probabilities"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").exists()

    @property
    def result(self) -> dict[str, Any]:
        """What a finished run found."""
        content: dict[str, Any] = json.loads((self.path / "result.json").read_text())
        return content

    def finish(self, result: dict[str, Any]) -> None:
        """Declare the run finished; nothing is written after this."""
        write_json(self.path / "result.json", result)

    def write_status(self, state: str, **content: Any) -> None:
        """What the run is doing now, for whoever watches: state is ``starting``, ``running``, ``finished`` or ``failed``."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_json(
            self.path / "status.json",
            {"state": state, **content, "updated": now, "pid": os.getpid(), "host": socket.gethostname()},
        )
