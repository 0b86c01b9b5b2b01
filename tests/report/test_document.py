"""The whole report of a generated study: the page, its figures and panels, from files to files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from calf.cli import app
from calf.metrics.protocol import CASE_COLUMNS, PerCase
from calf.report.document import facts_of
from calf.report.findings import find
from calf.report.rankings import critical_differences

SHAPE, AFFINE = (12, 10, 3), np.diag([1.0, 1.0, 2.0, 1.0])
LOSSES = {"bce": 0.25, "calf": 0.1, "dice": 0.4}  # the share of the tumour that is missed
TARGET = {"names": ["tumour"], "labels": [[1]], "exclusive": False}


def write(path: Path, mask: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), AFFINE), path)
    return str(path)


def run(root: Path, data: Path, dataset: str, loss: str, seed: int, truths: dict[str, np.ndarray]) -> None:
    """A finished run folder, whose predictions lack a part of the tumour and find one voxel too many."""
    names, rng = {"dataset": dataset, "model": "unet", "loss": loss}, np.random.default_rng([seed, *f"{dataset} {loss}".encode()])
    folder = root / dataset / "unet" / loss / f"seed-{seed}-0123456789"
    rows, counts, entries = [], [], {}
    for case, truth in truths.items():
        prediction = truth & (rng.random(SHAPE) >= LOSSES[loss])
        prediction[0, 0, 1] = True
        write(folder / "predictions" / f"{case}.nii.gz", prediction)
        masks = (truth & prediction, prediction & ~truth, truth & ~prediction, ~truth & ~prediction)
        counts.append([[mask.sum() for mask in masks]])
        image, mask = data / f"{case}-image.nii.gz", data / f"{case}-mask.nii.gz"
        entries[case] = {"images": {"mri": [str(image), None]}, "mask": str(mask), "reference": None}
        rows.append(case)
    table = pd.DataFrame({"patient": rows, "voxel_volume_mm3": 2.0}, index=rows)
    cases = PerCase().rows(np.arange(len(rows)), np.array(counts), pd.DataFrame({"case": rows}), table, ("tumour",))
    context = names | {"protocol": "per_case", "split": "s", "fold": "", "seed": seed}
    cases.assign(**context)[list(CASE_COLUMNS)].to_csv(folder / "cases.csv", index=False)
    (folder / "config.yaml").write_text(yaml.safe_dump({"names": names, "seed": seed, "fold": None}))
    (folder / "data.json").write_text(json.dumps({"target": TARGET, "test_cases": entries}))
    (folder / "history.csv").write_text("epoch,train/loss,val/dice\n0,0.6,0.2\n1,0.4,0.5\n2,0.3,0.6\n")
    if loss == "calf":
        branches = "\n".join(f"{batch},0,0,{'ln' if batch % 2 else 'log10'},1.0,1.0" for batch in range(50))
        (folder / "branches.csv").write_text(f"batch,loss_part,choice,branch,skewness,kurtosis\n{branches}\n")
    result = {"names": names, "seed": seed, "fold": None, "protocol": "per_case", "primary": {"metric": "dice", "value": 0.5}}
    result |= {"seconds": 60.0, "parameters": 1_500_000, "best_epoch": 2, "peak_memory_mb": 100.0, "peak_memory_of": "cuda"}
    result |= {
        "fingerprint": "f" * 64,
        "store_key": "d" * 64,
        "split_hash": "s",
        "commit": "c0ffee",
        "scored_on": "original grid",
    }
    (folder / "result.json").write_text(json.dumps(result | {"versions": {"torch": "2.0"}}))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Two data sets of eight cases, three losses, two seeds."""
    root, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    for dataset in ("brain", "liver"):
        truths = {}
        for number in range(8):
            truths[f"c{number}"] = truth = np.zeros(SHAPE, bool)
            truth[2 : 4 + number, 2:8, 1] = True
            write(root / dataset / f"c{number}-mask.nii.gz", truth)
            image = nib.Nifti1Image((truth * 50 + rng.normal(100, 9, SHAPE)).astype(np.float32), AFFINE)
            nib.save(image, root / dataset / f"c{number}-image.nii.gz")
        for loss in LOSSES:
            for seed in (0, 1):
                run(root / "runs", root / dataset, dataset, loss, seed, truths)
    return root / "runs"


@pytest.fixture(scope="module")
def out(study, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    done = CliRunner().invoke(app, ["report", str(study), "--out", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == f"written: {folder / 'index.html'}"
    return folder


def test_the_page_needs_no_other_file_and_no_network(out):
    html = (out / "index.html").read_text()
    for link in re.findall(r'(?:src|href|srcset|action|data)\s*=\s*"([^"]*)"', html):
        assert link.startswith(("#", "data:image/png;base64,")), link
    assert not re.search(r"url\((?!#)|@import|<script|<link", html)


def test_the_page_shows_tables_figures_panels_and_provenance(out):
    html = (out / "index.html").read_text()
    for said in ("12 of 12", "Baseline: bce", "brain: tumour", "liver: tumour", "difference to bce [95 % CI]", "SD over seeds"):
        assert said in html
    for said in ("Provenance", "torch 2.0 (12 of 12 runs)", "c0ffee", "d" * 12, "sign-flip test", "How to read this"):
        assert said in html
    assert "<b>0." in html
    # two tables: distributions, differences, ranks, size, sensitivity, learning; then two of branches and one of ranks
    assert html.count("<svg ") == 2 * 6 + 2 + 1
    assert html.count("<img ") == 2


def test_every_figure_is_there_as_pdf_and_png_and_shows_something(out):
    pictures = sorted((out / "figures").glob("*.png"))
    kinds = {"distributions", "differences", "ranks", "size", "sensitivity-precision"}
    names = {f"per_case-{dataset}-tumour-{kind}" for dataset in ("brain", "liver") for kind in kinds}
    names |= {f"per_case-{dataset}-learning" for dataset in ("brain", "liver")} | {"brain-branches", "liver-branches"}
    names |= {"per_case-critical-differences"}
    panels = {f"per_case-{dataset}-tumour-unet-panel" for dataset in ("brain", "liver")}
    assert {path.stem for path in pictures} == names | panels
    assert {path.stem for path in (out / "figures").glob("*.pdf")} == names
    for path in pictures:
        shades = np.asarray(Image.open(path).convert("L"))
        assert shades.std() > 5, path.name
    assert all(path.read_bytes().startswith(b"%PDF") for path in (out / "figures").glob("*.pdf"))


def test_a_patient_of_two_preparations_is_counted_once(study):
    found = find(study)
    assert ("16", "patients") in facts_of(found)
    cases = found.gathered.cases.replace({"dataset": {"liver": "brain[preparation.plane=coronal]"}})
    alike = replace(found, gathered=replace(found.gathered, cases=cases))
    assert ("8", "patients") in facts_of(alike)
    assert ("16", "cases scored") in facts_of(alike)


def test_numbers_of_the_page_are_those_of_the_cases(out):
    cases = pd.read_csv(out / "cases.csv", dtype={"fold": str})
    own = cases[(cases["dataset"] == "brain") & (cases["loss"] == "calf") & (cases["metric"] == "dice")]
    mean = own.groupby("case")["value"].mean().mean()
    compared = pd.read_csv(out / "comparisons.csv").set_index(["dataset", "loss", "metric"])
    assert compared.loc[("brain", "calf", "dice"), "mean"] == pytest.approx(mean, abs=1e-12)
    base = cases[(cases["dataset"] == "brain") & (cases["loss"] == "bce") & (cases["metric"] == "dice")]
    difference = (own.set_index(["case", "seed"])["value"] - base.set_index(["case", "seed"])["value"]).groupby("case").mean()
    assert compared.loc[("brain", "calf", "dice"), "difference"] == pytest.approx(difference.mean(), abs=1e-12)
    assert f"{mean:.3f} [" in (out / "report.md").read_text().replace("**", "")
    assert f"{difference.mean():+.3f}<small> [" in (out / "index.html").read_text()


def test_data_sets_are_ranked_together(study):
    (drawn,) = critical_differences(find(study))
    assert "over 2 data sets" in drawn.caption
    texts = {text.get_text() for text in drawn.figure.axes[0].texts}
    assert any("calf (1)" in text for text in texts)


def test_panels_that_cannot_be_drawn_are_told(study, tmp_path):
    for loss in LOSSES:
        folder = tmp_path / "runs" / "brain" / "unet" / loss / "seed-0-0123456789"
        folder.mkdir(parents=True)
        for name in ("config.yaml", "cases.csv", "result.json"):
            (folder / name).write_text((study / "brain" / "unet" / loss / "seed-0-0123456789" / name).read_text())
    done = CliRunner().invoke(app, ["report", str(tmp_path / "runs"), "--baseline", "dice", "--metric", "precision"])
    assert done.exit_code == 0, done.output
    html = (tmp_path / "runs" / "report" / "index.html").read_text()
    assert "is not shown: its runs have no data.json" in html
    assert "difference to dice [95 % CI]" in html
    assert "<img " not in html


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--baseline", "focal"], "--baseline: expected one of the finished losses, bce, calf, dice; got focal"),
        (["--metric", "hd95_mm"], "--metric: expected one that the runs have"),
    ],
)
def test_what_the_runs_do_not_have_is_refused(study, tmp_path, options, why):
    done = CliRunner().invoke(app, ["report", str(study), "--out", str(tmp_path / "out"), *options])
    assert done.exit_code == 1
    assert why in done.output
    assert not (tmp_path / "out").exists()


def test_without_panels_no_image_of_a_case_is_written(study, tmp_path):
    done = CliRunner().invoke(app, ["report", str(study / "brain"), "--no-panels", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    html = (tmp_path / "index.html").read_text()
    assert "<svg " in html
    assert "<img " not in html
    assert not [path for path in (tmp_path / "figures").iterdir() if "panel" in path.name]
