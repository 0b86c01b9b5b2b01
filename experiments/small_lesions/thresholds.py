"""Dice of the tested networks on the stored slices when the logit is cut elsewhere than at 0.

python experiments/small_lesions/thresholds.py runs/small_lesions/phantom-small stores bce calf dice
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from calf.data.store import SliceStore
from calf.masks import finest, in_unit_range
from calf.trained import Trained

CUTS = (0.0, -0.1, -0.25, -0.5, -1.0)


@torch.no_grad()
def dice(run: Path, stores: Path) -> list[float]:
    """Mean Dice over the tested cases at each of ``CUTS``."""
    network = Trained(run / "checkpoints" / "best.ckpt").network()
    key = json.loads((run / "result.json").read_text())["store_key"]
    (folder,) = stores.glob(f"*-{key[:12]}/")
    store, tested = SliceStore(folder), json.loads((run / "data.json").read_text())["test_cases"]
    values = []
    for case in (case for case in store.cases if case.id in tested):
        planes = store.read(np.arange(case.first, case.first + case.grid[0]))
        logits = finest(network(in_unit_range(torch.as_tensor(planes[:, :-1]))))[:, 0].numpy()
        truth = planes[:, -1] > 0
        found = [logits > cut for cut in CUTS]
        values.append([2 * (mask & truth).sum() / max(mask.sum() + truth.sum(), 1) for mask in found])
    return np.mean(values, axis=0).tolist()


def main(runs: Path, stores: Path, losses: list[str]) -> None:
    print("loss,seed,cut,dice")
    for result in sorted(runs.rglob("result.json")):
        run = json.loads(result.read_text())
        if run["names"]["loss"] in losses:
            for cut, value in zip(CUTS, dice(result.parent, stores), strict=True):
                print(f"{run['names']['loss']},{run['seed']},{cut},{value:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
