from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from typer.testing import CliRunner

from calf.callbacks import History
from calf.cli import app
from calf.models.unet import PlainUNet
from calf.models.unet3d import build
from calf.plan import RunPlan
from calf.windows import Windows, as_volume, check_network
from tests.test_run import learning, scores
from tests.tiny import tiny

# patches that are smaller than the volumes in two axes, larger in the third
VOLUMES = (
    "model=unet3d",
    "model.channels=[4,8,16]",
    "model.strides=[1,2,[1,2,2]]",
    "dataset.layout.shape=[28,32,12]",
    "dataset.patch=[8,16,32]",
    "dataset.batch_size=2",
    "dataset/sampling=oversampled",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("volumes")


@pytest.fixture
def train(place: Path, trained: Callable[..., RunPlan]) -> Callable[..., RunPlan]:
    """Run the tiny configuration in 3-D with these overrides in this process."""
    return lambda *overrides: trained(*tiny(place, *VOLUMES, *overrides))


@pytest.mark.parametrize("blending", ["constant", "gaussian"])
@pytest.mark.parametrize("size", [(5, 6, 20), (3, 4, 5), (8, 9, 10)])
def test_windows_put_the_volume_together_again(blending, size):
    volume = torch.rand(1, 2, *size)
    seen = []

    def network(windows: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(windows.shape))
        return (3 * windows).bfloat16().float()  # not the same as in float32, and the same in every window

    logits = Windows((4, 6, 8), 0.5, blending)(network, volume, batch_size=3)
    torch.testing.assert_close(logits, (3 * volume).bfloat16().float())
    assert {shape[1:] for shape in seen} == {(2, 4, 6, 8)}
    assert max(shape[0] for shape in seen) <= 3


def test_where_windows_disagree_the_nearer_centre_weighs_more():
    def network(windows: torch.Tensor) -> torch.Tensor:
        return windows[:, :, :, :, :1].repeat(1, 1, 1, 1, 8)  # each window says what its first column holds

    volume = torch.arange(12.0).expand(1, 1, 2, 2, 12)
    line = Windows((2, 2, 8), 0.5, "gaussian")(network, volume, 1)[0, 0, 0, 0]  # of columns 0 to 7 and 4 to 11: 0 and 4
    assert line[:4].tolist() == pytest.approx([0] * 4, abs=1e-5)
    assert line[8:].tolist() == pytest.approx([4] * 4, abs=1e-5)
    assert line[4] < 1 < 3 < line[7]
    assert Windows((2, 2, 8), 0.5, "constant")(network, volume, 1)[0, 0, 0, 0, 4:8].tolist() == pytest.approx([2] * 4)


def test_slices_become_a_volume_without_their_padding_which_is_background():
    slices = torch.rand(5, 2, 6, 7)
    shapes = []

    def predict(volume: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(volume.shape))
        return volume + 1

    logits = as_volume(predict, slices, (1, 4, 2, 7))
    assert shapes == [(1, 2, 5, 3, 5)]
    assert torch.equal(logits[:, :, 1:4, 2:7], slices[:, :, 1:4, 2:7] + 1)
    logits[:, :, 1:4, 2:7] = 0
    assert not logits.any()


@pytest.mark.parametrize(
    ("network", "patch", "said"),
    [
        (build(2, 3, [4, 8, 16], [1, 2, 2]), None, "give dataset.patch="),
        (PlainUNet(2, 3, width=2), (8, 8, 8), "the network takes slices: take model=unet3d"),
        (build(2, 3, [4, 8, 16], [1, 2, 2]), (8, 8, 10), "batches of 2 patches of dataset.patch=[8, 8, 10]"),
        (build(2, 3, [4, 8, 16], [1, 2, 2]), (4, 4, 4), "more than one voxel must be left"),
        (build(2, 3, [4, 8, 16], [2, 2, 2]), (8, 8, 16), "expected logits (2, 3, 8, 8, 16)"),
        (build(1, 3, [4, 8, 16], [1, 2, 2]), (8, 8, 16), "batches of 2 patches"),
    ],
)
def test_networks_that_do_not_fit_the_data_are_refused(network, patch, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check_network(network, 2, 3, 2, patch)


def test_the_check_leaves_the_network_and_the_random_numbers_as_they_are():
    network, state = PlainUNet(2, 3, width=2, dims=3, deep_supervision=1), torch.get_rng_state()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check_network(network, 2, 3, 2, (16, 32, 32))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    check_network(nn.Conv2d(2, 3, 1), 2, 3, 2, None)


@pytest.mark.parametrize(
    ("option", "said"), [({"overlap": 1.0}, "overlap is at least 0"), ({"blending": "mean"}, "blending is one of")]
)
def test_bad_windows_are_refused(option, said):
    with pytest.raises(ValueError, match=said):
        Windows((8, 8, 8), **option)


QUICK = ("name=predicted", "loss=dice_ce", "optim.lr=3e-2", "trainer.max_epochs=3", "pictures=1")
WAYS = {
    "as they are": (),
    "resampled": ("dataset.preparation.spacing_mm=[7,8,10]", "dataset.preparation.crop=foreground", "dataset.target=classes"),
}


@pytest.mark.parametrize("prepared", list(WAYS.values()), ids=list(WAYS))
def test_predictions_are_the_scored_masks_and_are_predicted_again(train, tmp_path, prepared):
    planned = train(*QUICK, *prepared)
    rows = pd.read_csv(planned.folder.cases)
    tested = json.loads((planned.folder.path / "data.json").read_text())["test_cases"]
    names = rows["class"].unique().tolist()
    for case_id, case in tested.items():
        predicted, truth = nib.load(planned.folder.predictions / f"{case_id}.nii.gz"), nib.load(case["mask"])
        assert np.allclose(predicted.affine, truth.affine)
        p, t = np.asarray(predicted.dataobj), np.asarray(truth.dataobj)
        assert p.any()
        found = rows[(rows["case"] == case_id) & (rows["metric"] == "dice")].set_index("class")
        for value, name in enumerate(names, start=1):
            ours = p == value
            theirs = t > 0 if len(names) == 1 else np.isin(t, planned.store.target.labels[value - 1])
            assert found.loc[name, "value"] == pytest.approx(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()), nan_ok=True)
            assert found.loc[name, "predicted_volume_mm3"] == pytest.approx(ours.sum() * 540)
    assert len(list((planned.folder.path / "pictures").glob("*.png"))) == 1

    images = [f"{modality}={path}" for modality, (path, _) in case["images"].items()]
    done = CliRunner().invoke(app, ["predict", str(planned.folder.checkpoints / "best.ckpt"), *images, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (again,) = tmp_path.glob("*.nii.gz")
    assert np.array_equal(np.asarray(nib.load(again).dataobj), p)


def test_mirroring_does_not_depend_on_which_way_the_image_lies(train, tmp_path):
    planned = train(*QUICK)
    case = next(iter(json.loads((planned.folder.path / "data.json").read_text())["test_cases"].values()))
    masks = {}
    for turned in (None, 0, 1, 2):
        images = []
        for modality, (path, _) in case["images"].items():
            image = nib.load(path)
            voxels = np.asarray(image.dataobj)
            out = tmp_path / f"{modality}.nii.gz"
            nib.save(nib.Nifti1Image(voxels if turned is None else np.flip(voxels, turned), image.affine), out)
            images.append(f"{modality}={out}")
        out = tmp_path / str(turned)
        done = CliRunner().invoke(
            app, ["predict", str(planned.folder.checkpoints / "best.ckpt"), *images, "--out", str(out), "--mirror"]
        )
        assert done.exit_code == 0, done.output
        (path,) = out.glob("*.nii.gz")
        mask = np.asarray(nib.load(path).dataobj)
        masks[turned] = mask if turned is None else np.flip(mask, turned)
    assert 0 < masks[None].mean() < 1
    for turned in (0, 1, 2):
        assert (masks[turned] != masks[None]).mean() < 1e-3


class Killed(BaseException):
    pass


def test_a_killed_run_ends_with_the_numbers_of_an_undisturbed_one(train, monkeypatch):
    def die(self: History, trainer: pl.Trainer, *arguments: object) -> None:
        if trainer.current_epoch == 2:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_batch_end", die)
        with pytest.raises(Killed):
            train("name=killed", "loss=calf", "trainer.max_epochs=3")
    folders = [train(f"name={name}", "loss=calf", "trainer.max_epochs=3").folder for name in ("killed", "undisturbed")]
    assert scores(folders[0]) == scores(folders[1])
    pd.testing.assert_frame_equal(learning(folders[0]), learning(folders[1]), check_exact=True)
    branches = [pd.read_csv(folder.path / "branches.csv") for folder in folders]
    pd.testing.assert_frame_equal(*branches, check_exact=True)
    # batches of 2 of the patches that cover each of 3 volumes once: 2 x 2 x 1
    assert learning(folders[0])["step"].tolist() == [6, 12, 18]


def test_the_paper_protocol_scores_slices_of_volumes(train):
    knobs = ("loss.scope=dataset", "channels_last=true", "trainer.precision=bf16-mixed", "augment=standard")
    planned = train("name=paper", "loss=calf", "protocol=paper", "trainer.max_epochs=1", *knobs)
    rows = pd.read_csv(planned.folder.cases)
    assert rows["case"].str.startswith("batch-").all()
    seen = rows[rows["metric"] == "dice"]["reference_volume_mm3"].sum()
    truth = [
        nib.load(case["mask"]) for case in json.loads((planned.folder.path / "data.json").read_text())["test_cases"].values()
    ]
    assert seen == pytest.approx(sum((np.asarray(image.dataobj) > 0).sum() * 540 for image in truth))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("dataset.patch=null",), "the network takes volumes: give dataset.patch"),
        (("dataset.patch=[8,16,18]",), "dataset.patch=[8, 16, 18]"),
        (("windows.overlap=1",), "windows.overlap is at least 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(train, overrides, said):
    with pytest.raises((ValueError, SystemExit), match=re.escape(said)):
        train("name=refused", "loss=dice", *overrides)
