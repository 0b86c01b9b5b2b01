"""Which lesions each loss found, by their volume: CSV on the standard output.

    python found.py <folder of runs> [<limit in mm3> ...]        limits 100 and 1000 if none are given

A lesion is a connected component (26 neighbours) of the reference; found means that one of its voxels was predicted. Lesions
of all tested cases and folds together make the share of a seed; ``found`` is the mean over seeds, ``sd`` their SD.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.ndimage import generate_binary_structure, label


def lesions(run: Path) -> pd.DataFrame:
    """A row a lesion of the tested cases of a finished run: case, mm3, found."""
    data = json.loads((run / "data.json").read_text())
    if len(data["target"]["labels"]) != 1:
        raise ValueError(f"{run}: expected one foreground name, got {', '.join(data['target']['names'])}")
    rows = []
    for case, files in data["test_cases"].items():
        reference = nib.load(files["reference"] or files["mask"])
        predicted = nib.load(run / "predictions" / f"{case}.nii.gz")
        if not np.allclose(reference.affine, predicted.affine, atol=1e-3) or reference.shape != predicted.shape:
            raise ValueError(f"{run}: the prediction of {case} lies on another grid than its reference")
        truth = np.isin(np.asanyarray(reference.dataobj), data["target"]["labels"][0])
        parts, number = label(truth, generate_binary_structure(3, 3))
        touched = np.unique(parts[np.asanyarray(predicted.dataobj) > 0])
        volumes = np.bincount(parts.ravel(), minlength=number + 1) * float(np.prod(reference.header.get_zooms()[:3]))
        rows += [{"case": case, "mm3": volumes[n], "found": n in touched} for n in range(1, number + 1)]
    return pd.DataFrame(rows, columns=["case", "mm3", "found"])


def main(folder: Path, limits: list[float]) -> None:
    """Print the share of lesions found, a row for each data set, model, loss and stratum."""
    tables = []
    for path in sorted(folder.rglob("result.json")):
        result = json.loads(path.read_text())
        tables.append(lesions(path.parent).assign(**result["names"], seed=result["seed"]))
    if not tables:
        raise SystemExit(f"{folder}: no finished run")
    table = pd.concat(tables)
    table["up_to_mm3"] = np.array([*limits, np.inf])[np.searchsorted(limits, table["mm3"])]
    row = ["dataset", "model", "loss", "up_to_mm3"]
    of_seed = table.groupby([*row, "seed"])["found"].agg(["sum", "count"])
    share = (of_seed["sum"] / of_seed["count"]).groupby(row).agg(found="mean", sd="std")
    counts = of_seed["count"].groupby(row).agg(lesions="max", seeds="size")
    counts.join(share).reset_index().to_csv(sys.stdout, index=False, float_format="%.4f")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sorted(map(float, sys.argv[2:])) or [100.0, 1000.0])
