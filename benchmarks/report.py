"""How long `calf report` takes, beside the same statistics by scipy alone.

    python benchmarks/report.py [--json PATH] [--cases N]

8 losses of 3 seeds and as many cases of 14 metrics as asked, 30 by default: 10,080 rows of cases.csv. The report is the command
itself, with every table, figure and page; there are no images, so panels are not in it. scipy gives the intervals of every loss
and the paired tests against the baseline for the metrics of the main table, with as many resamples. Times are of the processor,
so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap, permutation_test

from calf.metrics.protocol import CASE_COLUMNS

LOSSES = ("bce", "calf", "dice", "focal", "tversky", "iou", "bce_dice", "unified_focal")
MAIN = ("dice", "sensitivity", "specificity", "precision", "mae")
METRICS = (*MAIN, "iou", "accuracy", "balanced_accuracy", "hd95_mm", "assd_mm", "nsd_2mm", "lesion_f1", "ece", "brier")
SEEDS, RESAMPLES = 3, 9999


def write_runs(folder: Path, num_cases: int) -> pd.DataFrame:
    """Finished runs of all losses and seeds, and their rows."""
    rng = np.random.default_rng(0)
    cases = [f"case_{number:04d}" for number in range(num_cases)]
    difficulty = rng.normal(0, 0.1, (num_cases, 1))
    every = []
    for place, loss in enumerate(LOSSES):
        for seed in range(SEEDS):
            values = np.clip(0.8 - 0.01 * place + difficulty + rng.normal(0, 0.03, (num_cases, len(METRICS))), 0, 1)
            rows = pd.DataFrame(values, cases, METRICS).rename_axis("case").reset_index()
            rows = rows.melt("case", var_name="metric", value_name="value")
            rows = rows.assign(patient=rows["case"], status="ok", reference_volume_mm3=9000.0, predicted_volume_mm3=9100.0)
            names = {"dataset": "d", "model": "unet", "loss": loss}
            rows = rows.assign(**names, **{"class": "tumour", "protocol": "per_case", "split": "s", "fold": None, "seed": seed})
            run = folder / "d" / "unet" / loss / f"seed-{seed}-0123456789"
            run.mkdir(parents=True)
            rows[list(CASE_COLUMNS)].to_csv(run / "cases.csv", index=False)
            (run / "config.yaml").write_text(f"names: {json.dumps(names)}\nseed: {seed}\nfold: null\n")
            result = {"status": "finished", "names": names, "seed": seed, "fold": None, "protocol": "per_case", "seconds": 60.0}
            result |= {"primary": {"metric": "dice", "value": 0.8}, "parameters": 10**6, "best_epoch": 3, "peak_memory_mb": 100.0}
            result |= {"peak_memory_of": "process", "fingerprint": "f", "commit": "c", "versions": {}, "store_key": "k"}
            (run / "result.json").write_text(json.dumps(result | {"split_hash": "s", "scored_on": "original grid"}))
            every.append(rows)
    return pd.concat(every, ignore_index=True)


def by_scipy(rows: pd.DataFrame) -> None:
    """Mean with interval of every loss, and its paired test against bce."""
    for metric in MAIN:
        means = rows[rows["metric"] == metric].pivot_table(index="patient", columns="loss", values="value")
        for loss in LOSSES:
            bootstrap((means[loss].to_numpy(),), np.mean, n_resamples=RESAMPLES, rng=0)
            if loss != "bce":
                difference = (means[loss] - means["bce"]).to_numpy()
                permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=0)


def measure(folder: Path, num_cases: int) -> dict[str, float]:
    rows = write_runs(folder, num_cases)
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([Path(sys.executable).with_name("calf"), "report", folder], check=True, stdout=subprocess.DEVNULL)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    report_s = ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime
    since = time.process_time()
    by_scipy(rows)
    scipy_s = time.process_time() - since
    return {"rows": len(rows), "report_s": report_s, "scipy_statistics_s": scipy_s, "report_over_scipy": report_s / scipy_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    parser.add_argument("--cases", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.cases)
    table = Table("what", "")
    for name, value in found.items():
        table.add_row(name, f"{value:.3g}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"cases": arguments.cases} | found, indent=1))


if __name__ == "__main__":
    main()
