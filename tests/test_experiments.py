"""Every sweep of experiments/ composes; those beside a published table have its names, and run on the phantom."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from calf.plan import cell_names, plan
from calf.report import report
from calf.report.published import read_published
from calf.run import run
from tests.conftest import ROOT
from tests.data.layouts.trees import write

FRAGMENTS = ("shared", "split")  # what sweeps take in, and nothing by themselves
SWEEPS = sorted(
    path.relative_to(ROOT).with_suffix("") for path in (ROOT / "experiments").glob("*/*.yaml") if path.stem not in FRAGMENTS
)
PUBLISHED = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/published.csv"))
SMOKE = "+scale=smoke"
SMOKE_SWEEPS = [sweep for sweep in SWEEPS if sweep.parent.name in PUBLISHED]
UNMAPPED = "unmapped"  # in the note of a published row: no sweep has its model or loss


def composed(*overrides: str) -> DictConfig:
    """The configuration, which also stands as that of this process: names tell from it what was overridden."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name="train"):
        cfg = compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


@cache
def sweep_of(*chosen: str) -> dict[str, list[str]]:
    """The keys that a sweep varies, with their values."""
    params = composed(*chosen).hydra.sweeper.params
    listed = {} if params is None else OmegaConf.to_container(params)
    return {str(key): [value.strip() for value in str(values).split(",")] for key, values in listed.items()}


@cache
def cells(*chosen: str) -> list[tuple[str, ...]]:
    """Overrides of some cells of a sweep that have every value of every key among them, the first and the last included.

    Of values that are files of conf/ only the first and the last: the files alone are looked for instead.
    """
    values = sweep_of(*chosen)
    found = {key: [] for key in values if (ROOT / "conf" / key).is_dir()}
    plain = {key: listed if key not in found else [listed[0], listed[-1]] for key, listed in values.items()}
    assert all((ROOT / "conf" / key / f"{name}.yaml").is_file() for key in found for name in values[key])
    if any("." in key for key in values):  # an option that not every file may have
        plain = values
    longest = max(map(len, plain.values()), default=1)
    places = [[min(n, len(listed) - 1) for listed in plain.values()] for n in range(longest)]
    # Hydra puts a sweep's own keys before those of the command line
    return [(*(f"{key}={plain[key][at]}" for key, at in zip(plain, place, strict=True)), *chosen) for place in places]


@cache
def names_of_cells(chosen: str) -> list[dict[str, str]]:
    """What tables call data set, model and loss of each of these cells, of which every one composes."""
    return [cell_names(checked(cell)) for cell in cells(chosen)]


def checked(cell: tuple[str, ...]) -> DictConfig:
    cfg = composed(*cell)
    for key in (override.partition("=")[0] for override in cell if not override.startswith("+")):
        assert OmegaConf.select(cfg, key, default="absent") != "absent", key
    experiment = cell[-1].partition("=")[0].rpartition("/")[2]
    assert cfg.name == experiment
    return cfg


@pytest.mark.parametrize("sweep", SWEEPS, ids=str)
def test_every_cell_of_a_sweep_composes_to_a_whole_configuration(sweep):
    assert names_of_cells(f"+{sweep.parent}={sweep.name}")


def names_of(experiment: str, noun: str) -> set[str]:
    """What the tables of all sweeps of an experiment call its models, losses or data sets."""
    found = set()
    for chosen in (f"+{sweep.parent}={sweep.name}" for sweep in SWEEPS if sweep.parent.name == experiment):
        found |= {names[noun] for names in names_of_cells(chosen)} | set(sweep_of(chosen).get(noun, ()))
    return found


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_published_numbers_have_the_names_of_ours(experiment):
    rows = read_published(ROOT / "experiments" / experiment / "published.csv")
    ours = {noun: names_of(experiment, noun) for noun in ("dataset", "model", "loss")}
    for row in rows:
        mapped = row.model in ours["model"] and row.loss in ours["loss"]
        assert mapped or UNMAPPED in row.note, f"{row.model} / {row.loss}: of {sorted(ours['model'])} / {sorted(ours['loss'])}"
    assert not rows or any(row.dataset in ours["dataset"] or row.dataset.partition("/")[0] in ours["dataset"] for row in rows)


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_a_published_experiment_says_how_it_is_run_and_what_it_costs(experiment):
    text = (ROOT / "experiments" / experiment / "README.md").read_text()
    for needed in (f"-m +experiments/{experiment}=run", SMOKE, "--published", "GPU hours"):
        assert needed in text


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Where phantom, stores and runs lie; the phantom is prepared once for all experiments that see it alike."""
    folder = tmp_path_factory.mktemp("smoke")
    return [f"data_root={folder / 'data'}", f"stores_dir={folder / 'stores'}", f"runs_dir={folder / 'runs'}"]


def runs_of(places: list[str], experiment: str) -> Path:
    return Path(places[2].partition("=")[2]) / f"{experiment}_smoke"


@pytest.mark.parametrize("sweep", SMOKE_SWEEPS, ids=str)
def test_the_smoke_scale_runs_on_the_phantom_under_a_name_of_its_own(sweep, places):
    experiment = sweep.parent.name
    every = cells(f"+{sweep.parent}={sweep.name}", SMOKE)
    for cell in {every[0], every[-1]} if sweep.name == "run" else every[:1]:
        cfg = composed(*cell, *places)
        assert cfg.name == f"{experiment}_smoke"
        assert cfg.names.dataset == "phantom"
        assert cfg.logger._target_ == "calf.tracking.csv_logger"
        run(cfg)
        folder = plan(cfg).folder
        rows = pd.read_csv(folder.cases)
        assert folder.path.is_relative_to(runs_of(places, experiment))
        assert folder.result["seed"] == 0
        assert len(rows)
        assert rows["protocol"].eq(folder.result["protocol"]).all()
        assert rows["dataset"].str.startswith("phantom").all()


def test_a_smoke_grid_and_its_report_from_the_command_line(places):
    """The cells that the test before has run are finished; the grid runs the others."""
    grid = [sys.executable, "train.py", "-m", "+experiments/calf_table1=run", SMOKE, *places]
    done = subprocess.run(grid, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    finished = runs_of(places, "calf_table1")
    assert len(list(finished.rglob("result.json"))) == 3
    written = report(finished, published=ROOT / "experiments/calf_table1/published.csv")
    beside = pd.read_csv(written / "beside_published.csv")
    assert set(beside["dataset"].dropna()) == {"gliomas"}
    assert set(beside["our_dataset"]) == {"phantom"}
    assert beside["difference"].notna().any()


def test_a_scale_before_its_experiment_is_refused():
    with pytest.raises(ConfigCompositionException, match="Multiple values for scale"):
        composed(SMOKE, "+experiments/calf_table1=run")


def ship_gliomas(root: Path, patients: int) -> None:
    """The four data sets of the CALF paper in the files that they are shipped as, tiny and different in every patient."""
    rng = np.random.default_rng(0)
    mask = np.zeros((12, 12, 4), np.uint8)
    mask[4:8, 4:8, 1:3] = 1
    for number in range(1, patients + 1):
        upenn, ucsf = f"UPENN-GBM-{number:05d}_11", f"UCSF-PDGM-{number:04d}"
        brats, lgg = f"BraTS-GLI-{number:05d}-000", f"LGG-{number + 103}"
        upenn_mask = f"images_segm/{upenn}_segm" if number == 1 else f"automated_segm/{upenn}_automated_approx_segm"
        for start, endings, drawn in (
            (f"UPENN-GBM/images_structural/{upenn}/{upenn}_", "T1 T1GD T2 FLAIR", f"UPENN-GBM/{upenn_mask}"),
            (f"UCSF-PDGM/{ucsf}_nifti/{ucsf}_", "T1 T1c T2 FLAIR", f"UCSF-PDGM/{ucsf}_nifti/{ucsf}_tumor_segmentation"),
            (f"BraTS/{brats}/{brats}-", "t1n t1c t2w t2f", f"BraTS/{brats}/{brats}-seg"),
            (f"LGG-1p19qDeletion/{lgg}/", "T1 T2", f"LGG-1p19qDeletion/{lgg}/Segmentation"),
        ):
            for ending in endings.split():
                write(root / f"{start}{ending}.nii.gz", rng.integers(1, 500, mask.shape).astype(np.int16))
            write(root / f"{drawn}.nii.gz", mask)


def test_the_calf_experiments_read_their_data_as_shipped_and_test_nobody_they_train_on(tmp_path):
    ship_gliomas(tmp_path / "data", patients=4)
    for experiment, parts, samples in (("calf_table1", 4, 48), ("calf_modalities", 10, 16)):
        cell = cells(f"+experiments/{experiment}=run")[0]
        cfg = composed(*cell, f"data_root={tmp_path / 'data'}", f"stores_dir={tmp_path / 'stores'}", "dataset.workers=1")
        data = instantiate(cfg.dataset, name=cfg.names.dataset, _convert_="all")
        assert (len(data.store.parts), data.in_channels) == (parts, 1)
        assert {len(data.store.parts[name]) for name in data.store.parts} == {samples, 16}  # 4 patients, 4 slices, modalities
        of_part = {part: {name.rpartition(":")[2] for name in getattr(data.division, part)} for part in ("train", "val", "test")}
        assert not of_part["train"] & of_part["test"]
        assert not of_part["train"] & of_part["val"]
        assert not of_part["val"] & of_part["test"]


@pytest.mark.parametrize("text", ["README.md", "experiments/hippocampus/README.md"])
def test_the_table_of_the_front_page_is_that_of_the_report(text):
    report = pd.read_csv(ROOT / "experiments/hippocampus/report/comparisons.csv")
    dice = report[report["metric"] == "dice"].set_index("loss")
    means = report.pivot_table(index="loss", columns="metric", values="mean")
    lines = [line for line in (ROOT / text).read_text().splitlines() if re.match(r"\| \w+ \| \**0\.8\d\d\** \[", line)]
    shown = {cells[0]: cells for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}
    assert set(shown) == set(dice.index)
    for loss, (_, score, seeds, against, p, *rest) in shown.items():
        own = dice.loc[loss]
        mean = f"{own['mean']:.3f}"
        assert score.replace("*", "") == f"{mean} [{own['low']:.3f}, {own['high']:.3f}]"
        assert score.startswith("**") == own["equal_to_best"]
        assert seeds == f"{own['seed_sd']:.3f}"
        if loss != "bce":
            assert against == f"{own['difference']:+.3f} [{own['difference_low']:+.3f}, {own['difference_high']:+.3f}]"
            assert p == ("< 0.001" if own["p_holm"] < 0.001 else f"{own['p_holm']:.3f}")
        numbers = {cell.strip("*") for cell in rest}
        assert {f"{means.loc[loss, 'hd95_mm']:.2f}", f"{means.loc[loss, 'sensitivity']:.3f}"} <= numbers
        assert f"{means.loc[loss, 'precision']:.3f}" in numbers
