from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from PIL import Image

from calf import run
from calf.metrics.calibration import CALIBRATION_METRICS
from calf.metrics.scores import METRICS
from calf.metrics.volumetric import VolumeScores
from calf.runfolder import RunFolder
from tests.tiny import tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the whole file: the phantom and its store are made once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def train(place: Path, trained: Callable[..., run.RunPlan]) -> Callable[..., run.RunPlan]:
    """Run the tiny configuration with these overrides in this process."""
    return lambda *overrides: trained(*tiny(place, *overrides))


def scores(folder: RunFolder) -> bytes:
    """What must be equal in equal runs: every score of every case, to the last bit."""
    return folder.cases.read_bytes()


def learning(folder: RunFolder) -> pd.DataFrame:
    return pd.read_csv(folder.history).drop(columns="seconds")


def test_a_run_leaves_its_numbers_and_where_they_came_from(train):
    planned = train("name=whole", "loss=calf", "pictures=1", "logger=csv")
    folder = planned.folder
    rows = pd.read_csv(folder.cases)
    split = json.loads((folder.path / "split.json").read_text())
    assert sorted(rows["patient"].unique()) == sorted(split["test"])
    assert not rows.duplicated(["case", "class", "metric"]).any()
    assert set(rows["metric"]) >= {"dice", "iou", "specificity", "sensitivity", "precision", "mae", "accuracy"}
    result = folder.result
    assert result["primary"]["value"] == pytest.approx(rows[rows["metric"] == "dice"]["value"].mean(), nan_ok=True)
    assert result["store_key"] == planned.store.key
    assert result["fingerprint"] == planned.fingerprint
    assert result["versions"]["torch"]
    history = pd.read_csv(folder.history)
    assert history["epoch"].tolist() == [0, 1]
    assert {"train/loss", "train/dice", "val/dice", "val/specificity"} <= set(history)
    best = history["val/dice"].idxmax()
    assert result["best_epoch"] == best
    branches = pd.read_csv(folder.path / "branches.csv")
    steps = history["step"].iloc[-1]
    assert branches["batch"].tolist() == list(range(steps))
    histogram = pd.read_csv(folder.path / "branch_histogram.csv", index_col="branch")
    assert histogram["count"].sum() == steps
    assert histogram["count"].to_dict() == branches["branch"].value_counts().reindex(histogram.index, fill_value=0).to_dict()
    assert json.loads((folder.path / "status.json").read_text())["state"] == "finished"
    (picture,) = (folder.path / "pictures").glob("*.png")
    assert len(np.unique(np.asarray(Image.open(picture)))) > 10


WAYS = {
    "padded": [],
    "resized": ["dataset.preparation.fit=resize", "dataset.preparation.size=[48,32]"],
    "resampled": ["dataset.preparation.spacing_mm=[4,8,10]", "dataset.preparation.crop=foreground", "dataset.neighbours=1"],
}


@pytest.mark.parametrize("prepared", list(WAYS.values()), ids=list(WAYS))
def test_predictions_are_the_scored_masks_in_the_grid_of_the_patient(train, prepared):
    planned = train("name=predicted", "loss=dice", "trainer.max_epochs=8", "optim.lr=1e-2", "save_probabilities=true", *prepared)
    assert planned.folder.result["scored_on"] == "original grid"
    rows = pd.read_csv(planned.folder.cases)
    for case in planned.store.cases:
        path = planned.folder.predictions / f"{case.id}.nii.gz"
        if case.id not in set(rows["case"]):
            assert not path.exists()
            continue
        predicted, truth = nib.load(path), nib.load(case.mask)
        assert np.allclose(predicted.affine, truth.affine)
        p, t = np.asarray(predicted.dataobj) > 0, np.asarray(truth.dataobj) > 0
        row = rows[(rows["case"] == case.id) & (rows["metric"] == "dice")].iloc[0]
        assert row["value"] == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()))
        assert row["predicted_volume_mm3"] == pytest.approx(p.sum() * 540)
        assert p.any()
        assert row["reference_volume_mm3"] == pytest.approx(t.sum() * 540)
        probable = nib.load(planned.folder.probabilities / f"{case.id}-whole_tumour.nii.gz")
        assert np.allclose(probable.affine, truth.affine)
        shares = np.asarray(probable.dataobj)
        assert 0 <= shares.min() < 0.5 < shares.max() <= 1
        assert np.array_equal(shares > 0.5, p)
        steps = np.rint(shares * 255).astype(np.uint8)
        expected = VolumeScores(2.0).rows(case.id, case.patient, p[None], t[None], ["whole_tumour"], (6, 6, 15), steps[None])
        found = rows[rows["case"] == case.id].set_index("metric")["value"]
        values = expected.set_index("metric")["value"]
        rounded = list(CALIBRATION_METRICS)  # scored before the probabilities were rounded for the file
        np.testing.assert_allclose(found[values.index.drop(rounded)], values.drop(rounded), rtol=1e-6)
        if not prepared:
            np.testing.assert_allclose(found[["ece", "brier"]], values[["ece", "brier"]], atol=0.004)
        assert len(found) == len(expected) + len(METRICS)
    split = json.loads((planned.folder.path / "split.json").read_text())
    masks = {case.patient: nib.load(case.mask) for case in planned.store.cases if case.patient in split["train"]}
    volumes = json.loads((planned.folder.path / "data.json").read_text())["train_volumes_mm3"]["whole_tumour"]
    assert volumes == [pytest.approx((np.asarray(mask.dataobj) > 0).sum() * 540) for mask in masks.values()]


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(train):
    first, second = train("name=one", "loss=focal"), train("name=two", "loss=focal")
    other = train("name=one", "loss=focal", "seed=1")
    assert scores(first.folder) == scores(second.folder)
    pd.testing.assert_frame_equal(learning(first.folder), learning(second.folder), check_exact=True)
    assert not learning(first.folder)["train/loss"].equals(learning(other.folder)["train/loss"])


def test_a_finished_run_is_not_run_again(train, capsys):
    planned = train("name=once", "loss=bce")
    stamps = {path: path.stat().st_mtime_ns for path in planned.folder.path.rglob("*")}
    again = train("name=once", "loss=bce")
    assert "finished before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in planned.folder.path.rglob("*")} == stamps
    assert again.value == planned.value


def test_two_processes_are_not_at_work_in_one_folder(train, place, composed):
    cfg = composed(*tiny(place, "name=held"))
    HydraConfig.instance().set_config(cfg)
    folder = run.plan(cfg).folder
    folder.path.mkdir(parents=True)
    with FileLock(folder.path / ".lock"), pytest.raises(SystemExit, match="another process is at work"):
        run.run(cfg)
    assert [path.name for path in folder.path.iterdir()] == [".lock"]
    assert train("name=held").finished


def test_what_cannot_change_a_number_does_not_change_the_folder(place, composed):
    def folder(*overrides: str) -> str:
        cfg = composed(*tiny(place, *overrides))
        HydraConfig.instance().set_config(cfg)
        return run.plan(cfg).folder.path.name

    assert folder() == folder("pictures=3", "logger=csv", "trainer.log_every_n_steps=7", "dataset.workers=2")
    different = [(), ("seed=1",), ("optim.lr=0.1",), ("loss=bce",), ("trainer.max_epochs=3",), ("dataset.layout.noise=0.2",)]
    assert len({folder(*overrides) for overrides in different}) == len(different)


def test_a_term_more_or_less_is_part_of_the_name(place, composed):
    cfg = composed(*tiny(place, "loss=softadapt", "+loss@loss.terms.focal=focal", "~loss.terms.dice"))
    HydraConfig.instance().set_config(cfg)
    planned = run.plan(cfg)
    assert planned.names["loss"] == "softadapt[terms.focal=focal,terms.dice=none]"
    assert set(planned.config["loss"]["terms"]) == {"bce", "focal"}


@pytest.mark.parametrize("target", ["classes", "regions"])
@pytest.mark.parametrize("loss", ["calf", "dice"])
def test_several_classes_and_overlapping_regions_are_trained_and_scored(train, target, loss):
    planned = train(f"name={target}", f"loss={loss}", f"dataset.target={target}", "trainer.max_epochs=1")
    rows = pd.read_csv(planned.folder.cases)
    assert rows["class"].nunique() == 3


@pytest.mark.parametrize(
    "knobs",
    [
        ("trainer.precision=bf16-mixed", "channels_last=true", "optim=adamw", "scheduler=cosine"),
        ("trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.5", "optim=sgd", "scheduler=poly"),
    ],
    ids=["mixed precision", "accumulated and clipped"],
)
def test_the_knobs_of_training_work_together(train, knobs):
    planned = train("name=knobs", "loss=calf", *knobs)
    history = learning(planned.folder)
    assert history["train/loss"].notna().all()
    assert history["lr"].is_monotonic_decreasing


def test_the_paper_protocol_scores_batches(train):
    planned = train("name=paper", "loss=bce", "protocol=paper", "trainer.max_epochs=1")
    rows = pd.read_csv(planned.folder.cases)
    assert set(rows["protocol"]) == {"paper"}
    assert rows["case"].str.startswith("batch-").all()
