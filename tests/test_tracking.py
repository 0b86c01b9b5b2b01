from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from tests.conftest import ROOT
from tests.tiny import tiny


def offline_records(folder: Path) -> list[wandb_internal_pb2.Record]:
    """Every record of the one offline run below ``folder``, read from the file that `wandb sync` would send.

    The file is a LevelDB log behind a header of 7 bytes: blocks of 32 KiB, in them fragments with a header of checksum,
    length and type (1 whole, 2 first, 3 middle, 4 last); a block's last bytes are unused where no header fits.
    """
    (path,) = folder.rglob("run-*.wandb")
    content, place = path.read_bytes(), 7
    records, parts = [], b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            records.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return records


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., tuple[int, list[wandb_internal_pb2.Record]]]:
    """Train the tiny run with W&B and without an API key; its exit code and W&B's records."""

    def run(*overrides: str) -> tuple[int, list[wandb_internal_pb2.Record]]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "OMP_NUM_THREADS": "1"}
        options = tiny(tmp_path, "name=tracked", "logger=wandb", "trainer.log_every_n_steps=1", *overrides)
        command = [sys.executable, str(ROOT / "train.py"), *options]
        process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        return process.returncode, offline_records(tmp_path / "runs")

    return run


def test_a_run_is_tracked_offline_without_a_key_under_names_of_quantities(trained):
    code, records = trained("loss=calf", "pictures=2")
    assert code == 0
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"][:1]
    assert run.run_group == "tracked"
    assert run.project == "calf"
    assert set(run.tags) == {"phantom", "unet_plain", "calf", "seed-0"}
    keys = {"/".join(item.nested_key) or item.key for record in records for item in record.history.item}
    wanted = {"train/loss", "train/dice", "train/loss_of_step", "val/dice", "val/specificity", "test/dice", "branch/ln"}
    assert wanted <= keys
    assert any(key.startswith("val/overlay") for key in keys)
    assert not [key for key in keys if "calf" in key.lower()]
    exits = [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"]
    assert exits == [0]


def test_a_failed_run_is_not_shown_as_finished(trained):
    # fails on the first batch: the network has one output
    code, records = trained("loss=deep_supervision")
    assert code != 0
    exits = [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"]
    assert exits == [1]
