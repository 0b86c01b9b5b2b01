from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from typer.testing import CliRunner

from calf import run
from calf.cli import app
from calf.predict import cases_of
from calf.trained import OURS, Trained
from calf.windows import Windows
from tests.conftest import ROOT
from tests.tiny import tiny

RESAMPLED = ("dataset.preparation.spacing_mm=[4,8,10]", "dataset.preparation.crop=foreground", "dataset.neighbours=1")
RUNS = {"one": (), "classes": ("dataset.target=classes", "loss=dice_ce"), "resampled": RESAMPLED}
SINGLY = ("dataset.samples=modalities",)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, composed: Callable) -> dict[str, run.RunPlan]:
    """A short run of each kind."""
    place, plans = tmp_path_factory.mktemp("predict"), {}
    for name, overrides in {**RUNS, "singly": SINGLY}.items():
        cfg = composed(*tiny(place, f"name={name}", "loss=dice", "optim.lr=1e-2", "trainer.max_epochs=8", *overrides))
        HydraConfig.instance().set_config(cfg)
        run.run(cfg)
        plans[name] = run.plan(cfg)
    return plans


def calf(*arguments: object) -> object:
    return CliRunner().invoke(app, ["predict", *(str(argument) for argument in arguments)])


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("name", list(RUNS))
def test_it_gives_the_masks_of_the_test(runs, name, tmp_path):
    planned = runs[name]
    tested = json.loads((planned.folder.path / "data.json").read_text())["test_cases"]
    case_id, case = next(iter(tested.items()))
    images = [f"{modality}={path}" for modality, (path, _) in case["images"].items()]
    done = calf(planned.folder.checkpoints / "best.ckpt", *images, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "1 of 1 masks written" in done.output
    stem = Path(case["images"]["flair"][0]).name.removesuffix(".nii.gz")
    predicted, expected = voxels(tmp_path / f"{stem}.nii.gz"), voxels(planned.folder.predictions / f"{case_id}.nii.gz")
    assert expected.any()
    # batches are cut differently, which may turn a voxel at the threshold
    assert (predicted != expected).mean() < 1e-4
    image = nib.load(case["images"]["flair"][0])
    assert np.allclose(nib.load(tmp_path / f"{stem}.nii.gz").affine, image.affine)
    meanings = json.loads((tmp_path / "labels.json").read_text())
    assert set(np.unique(predicted).astype(str)) <= set(meanings)


def test_mirroring_does_not_depend_on_which_way_the_image_lies(runs, tmp_path):
    planned = runs["one"]
    tested = json.loads((planned.folder.path / "data.json").read_text())["test_cases"]
    case = next(iter(tested.values()))
    straight, turned = [], []
    for modality, (path, _) in case["images"].items():
        image = nib.load(path)
        # the same voxels said to lie the other way: left becomes right
        nib.save(nib.Nifti1Image(voxels(path)[::-1], image.affine), tmp_path / f"{modality}.nii.gz")
        straight.append(f"{modality}={path}")
        turned.append(f"{modality}={tmp_path / f'{modality}.nii.gz'}")
    masks = {}
    for mirror in ("--mirror", "--no-mirror"):
        for which, images in (("straight", straight), ("turned", turned)):
            out = tmp_path / which / mirror
            assert calf(planned.folder.checkpoints / "best.ckpt", *images, "--out", out, mirror).exit_code == 0
            (path,) = out.glob("*.nii.gz")
            masks[which, mirror] = voxels(path)
    assert (masks["turned", "--mirror"][::-1] != masks["straight", "--mirror"]).mean() < 1e-4
    assert (masks["turned", "--no-mirror"][::-1] != masks["straight", "--no-mirror"]).any()


def test_a_whole_data_set_is_predicted_and_a_bad_case_is_named(runs, tmp_path):
    planned = runs["one"]
    root = tmp_path / "new"
    shutil.copytree(Path(planned.config["data_root"]), root)
    for mask in root.rglob("*_seg*"):
        mask.unlink()  # new patients have none
    broken = next(root.rglob("*_t1.nii*"))
    broken.write_bytes(broken.read_bytes()[:100])
    done = calf(planned.folder.checkpoints / "best.ckpt", "--data-root", root, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "5 of 6 masks written" in done.output
    assert broken.name in done.output
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 5


def test_a_larger_image_than_any_of_training_is_predicted(runs, tmp_path):
    planned = runs["one"]
    images = []
    for modality in ("flair", "t1", "t1ce", "t2"):
        large = np.random.default_rng(0).integers(0, 900, (50, 70, 4)).astype(np.int16)
        nib.save(nib.Nifti1Image(large, np.diag([6.0, 6, 15, 1])), tmp_path / f"{modality}.nii.gz")
        images.append(f"{modality}={tmp_path / f'{modality}.nii.gz'}")
    assert calf(planned.folder.checkpoints / "best.ckpt", *images, "--out", tmp_path / "out").exit_code == 0
    assert voxels(tmp_path / "out" / "flair.nii.gz").shape == (50, 70, 4)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["flair=a.nii", "t1=b.nii"], "missing t1ce"),
        (["a.nii"], "expected flair=PATH t1=PATH"),
        (["flair=a.nii", "flair=b.nii"], "each once"),
        (["pd=a.nii"], "expected flair=PATH"),
    ],
)
def test_images_that_do_not_fit_the_network_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        cases_of(images, ("flair", "t1", "t1ce"))


def test_a_network_of_one_modality_takes_paths():
    assert [case.id for case in cases_of(["a/p1.nii.gz", "b/p2.MHA"], ("ct",))] == ["p1", "p2"]
    assert [case.id for case in cases_of(["ct=a/p1.nii.gz"], ("ct",))] == ["p1"]
    with pytest.raises(ValueError, match="several images are called p1"):
        cases_of(["a/p1.nii.gz", "b/p1.nii"], ("ct",))


def test_a_checkpoint_apart_from_its_run_is_refused(runs, tmp_path):
    alone = tmp_path / "checkpoints" / "best.ckpt"
    alone.parent.mkdir()
    shutil.copy(runs["one"].folder.checkpoints / "best.ckpt", alone)
    done = calf(alone, "flair=x.nii")
    assert done.exit_code == 1
    assert "does not lie in the folder of a finished run" in done.output
    done = calf(tmp_path / "none.ckpt", "flair=x.nii")
    assert "is not a file" in done.output
    done = calf(runs["one"].folder.checkpoints / "best.ckpt")
    assert "expected images, or --data-root" in done.output


def test_a_checkpoint_with_code_in_it_is_not_run(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs["one"].folder.path, folder)
    torch.save({"state_dict": Trap()}, folder / "checkpoints" / "best.ckpt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        Trained(folder / "checkpoints" / "best.ckpt").network()
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("target", ["shutil.copy", "calf.models.smp.torch.hub.load", "${oc.env:HOME}"])
def test_of_a_stranger_s_run_no_other_function_is_called(runs, tmp_path, target):
    folder = tmp_path / "run"
    shutil.copytree(runs["one"].folder.path, folder)
    config = OmegaConf.load(folder / "config.yaml")
    call = {"_target_": target, "src": str(folder / "config.yaml"), "dst": str(tmp_path / "copied")}
    for hidden in (call, [{"deep": call}], f"${{oc.decode:'{json.dumps(call)}'}}"):
        config.model.other = hidden
        OmegaConf.save(config, folder / "config.yaml")
        with pytest.raises(ValueError, match="which is not calf's"):
            Trained(folder / "checkpoints" / "best.ckpt", known_code=True).network()
        assert not (tmp_path / "copied").exists()
    assert Trained(runs["one"].folder.checkpoints / "best.ckpt", known_code=True).network()


def test_every_network_of_the_configuration_is_known():
    targets = {str(OmegaConf.load(path)["_target_"]) for path in (ROOT / "conf" / "model").glob("*.yaml")}
    assert targets == OURS


class Trap:
    def __reduce__(self) -> tuple:
        return (open, ("sprung", "w"))


def test_a_network_of_single_modalities_predicts_each_alone(runs, tmp_path):
    planned = runs["singly"]
    best = planned.folder.checkpoints / "best.ckpt"
    assert calf(best, "--data-root", planned.config["data_root"], "--out", tmp_path / "all").exit_code == 0
    assert len(list((tmp_path / "all").glob("*.nii.gz"))) == 6 * 4
    case_id = next(iter(planned.folder.predictions.glob("*flair*"))).name.removesuffix(".nii.gz")
    patient = case_id.partition(":")[0]
    expected = voxels(planned.folder.predictions / f"{case_id}.nii.gz")
    assert (voxels(tmp_path / "all" / f"{patient}-flair.nii.gz") != expected).mean() < 1e-4
    (image,) = Path(planned.config["data_root"]).rglob(f"{patient}_flair.nii.gz")
    done = calf(best, image, "--out", tmp_path / "one", "--name", "p9")
    assert done.exit_code == 0, done.output
    assert np.array_equal(voxels(tmp_path / "one" / "p9.nii.gz"), voxels(tmp_path / "all" / f"{patient}-flair.nii.gz"))


def test_nothing_that_is_there_is_replaced_unasked(runs, tmp_path):
    planned = runs["singly"]
    image = next(Path(planned.config["data_root"]).rglob("*_t1.nii.gz"))
    here = shutil.copy(image, tmp_path / "t1.nii.gz")
    before = Path(here).read_bytes()
    best = planned.folder.checkpoints / "best.ckpt"
    done = calf(best, here, "--out", tmp_path, "--overwrite")
    assert done.exit_code == 1
    assert "is one of the images" in done.output
    assert Path(here).read_bytes() == before
    assert calf(best, here, "--out", tmp_path / "out").exit_code == 0
    again = calf(best, here, "--out", tmp_path / "out")
    assert again.exit_code == 1
    assert "is there already, perhaps of another patient (1 of 1 are)" in again.output.replace("\n", " ")
    assert calf(best, here, "--out", tmp_path / "out", "--overwrite").exit_code == 0


@pytest.mark.parametrize("mirror", ["--mirror", "--no-mirror"])
def test_progress_is_told_a_line_a_batch(runs, tmp_path, mirror):
    planned = runs["one"]
    root = tmp_path / "new"
    shutil.copytree(Path(planned.config["data_root"]), root)
    broken = next(root.rglob("*_t1.nii*"))
    broken.write_bytes(broken.read_bytes()[:100])
    best = planned.folder.checkpoints / "best.ckpt"
    options = ("--out", tmp_path / "out", "--batch-size", 3, "--device", "cpu", mirror, "--progress", "json")
    done = calf(best, "--data-root", root, *options)
    assert done.exit_code == 1
    first, *batches, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert first == {"event": "start", "device": "cpu", "cases": 6}
    told = {}
    for line in batches:
        told.setdefault(line["case"], []).append((line["event"], line["done"], line["total"]))
    total = 4 * (4 if mirror == "--mirror" else 1)  # ten slices, three at once
    assert list(told.values()) == [[("batch", number + 1, total) for number in range(total)]] * 5
    assert sorted(told) == sorted(last["written"]) == sorted(path.name[:-7] for path in (tmp_path / "out").glob("*.nii.gz"))
    ((case, reason),) = last["failed"].items()
    assert case not in told
    assert broken.name in reason
    assert last["event"] == "end"


@pytest.mark.parametrize("overlap", [0, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("size", [(5, 6, 20), (3, 4, 5), (8, 9, 10), (30, 1, 7)])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_it_is_known_beforehand_how_often_a_network_of_windows_is_called(size, overlap, batch_size):
    called = []
    windows = Windows((4, 6, 5), overlap)
    windows(lambda image: called.append(1) or image, torch.rand(1, 2, *size), batch_size)
    assert len(called) == windows.num_batches(size, batch_size)
