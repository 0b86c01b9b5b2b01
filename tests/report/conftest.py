"""Run folders as a training writes them, fabricated from a few numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from calf.metrics.protocol import CASE_COLUMNS, Paper, PerCase

CASES = pd.DataFrame({"patient": ["p1", "p2", "p3", "p4"], "voxel_volume_mm3": 2.0}, index=["001", "002", "003", "004"])
SLICES = pd.DataFrame({"case": CASES.index.repeat(2)})
PROTOCOLS = {"per_case": PerCase(), "paper": Paper()}
# tp, fp, fn, tn of a slice each; two slices a case: found in part, missed, falsely found, rightly empty
COUNTS = np.array(
    [[6, 2, 2, 90], [0, 0, 0, 100], [0, 0, 5, 95], [0, 0, 1, 99], [0, 7, 0, 93], [0, 0, 0, 100], [0, 0, 0, 100], [0, 0, 0, 100]]
)

Make = Callable[..., Path]


def case_rows(
    names: dict[str, str], seed: int, fold: int | None, split: str, protocol: str, tp: int, first: int, last: int
) -> pd.DataFrame:
    """Rows of cases ``first`` to ``last``, whose first case has ``tp`` true positive voxels out of 8."""
    counts = COUNTS.copy()
    counts[0] = [tp, 2, 8 - tp, 90]
    kept = slice(2 * first, 2 * last)
    rows = PROTOCOLS[protocol].rows(np.arange(8)[kept], counts[kept, None], SLICES, CASES, ("tumour",))
    context = names | {"protocol": protocol, "split": split, "fold": fold, "seed": seed}
    return rows.assign(**context)[list(CASE_COLUMNS)]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write one run folder below ``runs`` in the temporary folder; ``state`` finished, or that of its status.json."""

    def write(
        loss: str = "calf",
        seed: int = 0,
        *,
        fold: int | None = None,
        state: str = "finished",
        protocol: str = "per_case",
        tp: int = 6,
        cases: tuple[int, int] = (0, 4),
        settings: dict[str, Any] | None = None,
        mark: str = "0123456789",
        **result: Any,
    ) -> Path:
        names = {"dataset": "phantom", "model": "unet", "loss": loss}
        which = f"seed-{seed}" + (f"-fold-{fold}" if fold is not None else "")
        folder = tmp_path / "runs" / "phantom" / "unet" / loss / f"{which}-{mark}"
        folder.mkdir(parents=True)
        config = {"names": names, "seed": seed, "fold": fold, "optim": {"lr": 0.001}, "dataset": {"seed": seed, "fold": fold}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config | (settings or {})))
        error = {"error": "MemoryError: out of memory"} if state == "failed" else {}
        (folder / "status.json").write_text(json.dumps({"state": state, "epoch": 3.0} | error))
        if state != "finished":
            return folder
        split = result.get("split_hash", f"s{fold}")
        case_rows(names, seed, fold, split, protocol, tp, *cases).to_csv(folder / "cases.csv", index=False)
        found = {"status": "finished", "names": names, "seed": seed, "fold": fold, "protocol": protocol}
        found |= {"primary": {"metric": "dice", "value": 0.5}, "seconds": 60.0, "parameters": 1_500_000, "best_epoch": 3}
        found |= {"peak_memory_mb": 100.0, "peak_memory_of": "process", "fingerprint": mark, "commit": "c0ffee", "versions": {}}
        found |= {"store_key": "k1", "split_hash": split}
        (folder / "result.json").write_text(json.dumps(found | result))
        return folder

    return write


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"
