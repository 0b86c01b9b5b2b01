"""How fast the explorer opens runs, and how fast it scrolls.

    python benchmarks/explorer.py [--json PATH] [--runs N] [--cases N]

300 runs of 500 cases of 10 metrics are opened, all their case rows read, and what Analysis plots of them is computed. Then
12 runs of one case of 240 x 240 x 155 voxels are scrolled through in every plane, against the usual ways: a matplotlib axes a
panel, a PNG a panel by Pillow. Times are of the processor (all threads together), medians, so that other work on the machine
does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.table import Table

from calf.data.volumes import write_volume
from calf.metrics.protocol import CASE_COLUMNS
from calf.ui.analyses import Analyses
from calf.ui.library import Library
from calf.ui.measures import profile, sweep
from calf.ui.render import OVERLAYS, View, encoded, sprite
from calf.ui.server import Explorer, scene
from calf.ui.volumes import OpenCase

METRICS = ("dice", "iou", "sensitivity", "specificity", "precision", "mae", "accuracy", "hd95_mm", "assd_mm", "nsd_2mm")
SHAPE, PANELS, NAME = (240, 240, 155), 12, "tumour"
CONFIG = "names: {{dataset: d, model: unet, loss: {loss}}}\nseed: {seed}\nfold: null\noptim: {{lr: 0.001}}\n" + "".join(
    f"setting_{number}: {{{{value: {number}}}}}\n" for number in range(60)
)


def write_run(folder: Path, loss: str, seed: int, rows: list[str], entries: dict[str, object]) -> Path:
    """A finished run; ``rows`` are lines of cases.csv from the case on."""
    run = folder / "d" / "unet" / loss / f"seed-{seed}-0123456789"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(CONFIG.format(loss=loss, seed=seed))
    before = f"per_case,d,s,,{seed},unet,{loss},"
    (run / "cases.csv").write_text(",".join(CASE_COLUMNS) + "\n" + "".join(before + row for row in rows))
    names = {"dataset": "d", "model": "unet", "loss": loss}
    result = {"names": names, "seed": seed, "fold": None, "protocol": "per_case", "primary": {"metric": "dice", "value": 0.5}}
    result |= {"store_key": "k", "split_hash": "s", "scored_on": "original grid"}
    (run / "result.json").write_text(json.dumps(result))
    data = {"target": {"names": [NAME], "labels": [[1]], "exclusive": False}, "labels": {"0": "background", "1": NAME}}
    (run / "data.json").write_text(json.dumps(data | {"preparation": {"plane": "axial"}, "test_cases": entries}))
    return run


def rows_of(case: str, rng: np.random.Generator) -> list[str]:
    values = rng.random(len(METRICS)).tolist()
    return [f"{case},{case},{NAME},{metric},{value},ok,9000.0,9100.0\n" for metric, value in zip(METRICS, values, strict=True)]


def write_library(folder: Path, num_runs: int, num_cases: int) -> None:
    rng = np.random.default_rng(0)
    cases = [f"case_{number:04d}" for number in range(num_cases)]
    rows = [row for case in cases for row in rows_of(case, rng)]
    entry = {"dataset": None, "images": {"flair": ["/none.nii.gz", None]}, "mask": "/none.nii.gz", "reference": None}
    for number in range(num_runs):
        write_run(folder, f"loss_{number // 5}", number % 5, rows, dict.fromkeys(cases, entry))


def write_case(folder: Path) -> Explorer:
    """12 runs of one case: a noisy head, and blobs that move a little from run to run."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*(np.arange(length) for length in SHAPE), indexing="ij")).astype(np.float32)
    middle = np.array(SHAPE).reshape(3, 1, 1, 1) / 2
    head = (((places - middle) / (0.42 * np.array(SHAPE).reshape(3, 1, 1, 1))) ** 2).sum(axis=0) < 1
    image = np.where(head, 600 + 80 * rng.standard_normal(SHAPE), 0).astype(np.int16)

    def blob(shift: int) -> np.ndarray:
        centre = np.array([100 + shift, 120, 70 - shift]).reshape(3, 1, 1, 1)
        return (((places - centre) ** 2).sum(axis=0) < 28**2).astype(np.uint8)

    write_volume(folder / "image.nii.gz", image, np.eye(4))
    write_volume(folder / "mask.nii.gz", blob(0), np.eye(4))
    entry = {"dataset": None, "images": {"flair": [str(folder / "image.nii.gz"), None]}, "reference": None}
    entry["mask"] = str(folder / "mask.nii.gz")
    rows = rows_of("c", rng)
    for number in range(PANELS):
        run = write_run(folder / "runs", f"loss_{number:02d}", 0, rows, {"c": entry})
        (run / "predictions").mkdir()
        (run / "probabilities").mkdir()
        mask = blob(number)
        steps = np.where(mask, 200, 3).astype(np.uint8) * head
        write_volume(run / "predictions" / "c.nii.gz", mask, np.eye(4))
        write_volume(
            run / "probabilities" / f"c-{NAME}.nii.gz",
            steps,
            np.eye(4),
            slope=float(np.nextafter(np.float32(1 / 255), np.float32(0))),
        )
    return Explorer.of(Library(folder / "runs"))


def spent(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def step_ms(draw: Callable[[int], object], length: int, steps: int = 11) -> float:
    """Of a step, while scrolling through the middle of ``length`` slices."""
    draw(length // 2)
    indices = np.linspace(0.3 * length, 0.7 * length, steps).astype(int).tolist()
    return 1000 * statistics.median(spent(lambda index=index: draw(index)) for index in indices)


def by_matplotlib(case: OpenCase, index: int) -> bytes:
    """A figure of 12 axes, with contours, as one would write it."""
    matplotlib.use("agg")
    figure = Figure(figsize=(PANELS * 2.4, 2.4), dpi=100)
    scan, truth = case.scan("flair"), case.truth(NAME).plane(2, index)
    for axes, run in zip(figure.subplots(1, PANELS), case.runs, strict=True):
        axes.imshow(scan.grey(scan.values[:, :, index]).T, cmap="gray", origin="lower")
        axes.contour(truth.T, [0.5], colors="yellow")
        axes.contour(case.prediction(run, NAME).plane(2, index).T, [0.5], colors="red")
        axes.axis("off")
    content = BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def by_panel(case: OpenCase, index: int) -> list[bytes]:
    """A PNG a panel, with Pillow's own settings."""
    found = []
    for run in case.runs:
        content = BytesIO()
        Image.fromarray(sprite(case, [run], View(index, (NAME,), modality="flair"))).save(content, "png")
        found.append(content.getvalue())
    return found


def measure(folder: Path, num_runs: int, num_cases: int) -> dict[str, float]:
    write_library(folder / "library", num_runs, num_cases)
    found: dict[str, float] = {}
    libraries: list[Library] = []
    found["open_s"] = spent(lambda: libraries.append(Library(folder / "library")))
    library = libraries[0]
    found["look_for_changes_s"] = spent(library.refresh)
    ids = [run.id for run in library.runs]
    found["read_all_case_rows_s"] = spent(lambda: library.cases(ids))
    assert len(library.cases(ids)) == num_runs * num_cases
    analyses = Analyses(library)
    found["analysis_table_s"] = spent(lambda: analyses.table(ids, "d", NAME))
    found["analysis_intervals_s"] = spent(lambda: analyses.intervals(analyses.table(ids, "d", NAME), METRICS[0]))

    explorer = write_case(folder / "case")
    ids = [run.id for run in explorer.library.runs]
    case = explorer.cases.open(explorer.library.cases(ids)["case_id"].iloc[0], ids)
    found["open_case_s"] = spent(lambda: (scene(case), case.scan("flair").window))
    for plane, length in zip(("sagittal", "coronal", "axial"), SHAPE, strict=True):
        found[f"profile_{plane}_s"] = spent(lambda plane=plane: profile(case, NAME, ids, plane))
        for overlay in OVERLAYS if plane == "axial" else ("contour",):
            view = {"names": (NAME,), "plane": plane, "modality": "flair", "overlay": overlay}
            found[f"step_{plane}_{overlay}_ms"] = step_ms(
                lambda index, view=view: encoded(sprite(case, ids, View(index, **view))), length
            )
    found["sweep_s"] = spent(lambda: sweep(case, ids[0], NAME))
    found["naive_matplotlib_ms"] = step_ms(lambda index: by_matplotlib(case, index), SHAPE[2], 3)
    found["naive_png_a_panel_ms"] = step_ms(lambda index: by_panel(case, index), SHAPE[2], 3)
    picture = sprite(case, ids, View(SHAPE[2] // 2, (NAME,), modality="flair"))
    found["picture_kb"] = len(encoded(picture)[0]) / 1000
    found["png_a_panel_kb"] = sum(map(len, by_panel(case, SHAPE[2] // 2))) / 1000
    for peer in ("matplotlib", "png_a_panel"):
        found[f"times_as_fast_as_{peer}"] = found[f"naive_{peer}_ms"] / found["step_axial_contour_ms"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--cases", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.runs, arguments.cases)
    table = Table("what", "")
    for name, value in found.items():
        table.add_row(name, f"{value:.3g}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"runs": arguments.runs, "cases": arguments.cases, "panels": PANELS} | found, indent=1)
        )


if __name__ == "__main__":
    main()
