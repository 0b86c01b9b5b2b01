"""train.py, but the process is killed (SIGKILL) in the middle of its third epoch."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any

from calf.callbacks import History
from tests.conftest import ROOT

on_train_batch_end = History.on_train_batch_end


def die(self: History, trainer: Any, *arguments: Any) -> None:
    on_train_batch_end(self, trainer, *arguments)
    if trainer.current_epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)


History.on_train_batch_end = die  # type: ignore[method-assign]
sys.argv[0] = str(ROOT / "train.py")
runpy.run_path(sys.argv[0], run_name="__main__")
