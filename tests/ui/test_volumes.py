"""Cases as runs saw them: every format on one grid, and each file that cannot be shown alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image as Picture

from calf.data.volumes import read_volume, to_original, write_volume
from calf.report.volumes import Unreadable
from calf.ui.library import Library, Unknown
from calf.ui.regions import Cropped, Region, common_box, values
from calf.ui.render import View, encoded, sprite
from calf.ui.runs import case_id
from calf.ui.scan import quantised
from calf.ui.server import Explorer, scene
from calf.ui.volumes import OpenCase

NAMES = ["whole_tumour", "tumour_core", "enhancing"]


def opened(runs: Path, *losses: str) -> OpenCase:
    """The first case with the runs of these losses (none: all)."""
    explorer = Explorer.of(Library(runs))
    ids = [run.id for run in explorer.library.runs if run.loss in losses or not losses]
    return explorer.cases.open(explorer.library.cases(ids)["case_id"].iloc[0], ids)


def voxels(path: Path) -> np.ndarray:
    """In RAS order, read without this project's code."""
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


def edit_data(folder: Path, change: dict[str, object]) -> None:
    data = json.loads((folder / "data.json").read_text())
    for entry in data["test_cases"].values():
        entry.update(change)
    (folder / "data.json").write_text(json.dumps(data))


def test_masks_and_images_are_those_of_the_files(tiny_runs):
    case = opened(tiny_runs)
    assert case.names == NAMES
    assert set(case.modalities) == {"flair", "t1", "t1ce", "t2"}
    run, other = case.runs
    entry = json.loads((case.runs[run].folder / "data.json").read_text())["test_cases"][case.case]
    labels, codes = voxels(entry["mask"]), voxels(case.runs[other].folder / "predictions" / f"{case.case}.nii.gz")
    assert case.shape == labels.shape == (32, 32, 10)
    assert case.spacing_mm == (6, 6, 15)
    for place, (name, wanted) in enumerate(zip(NAMES, ([1, 2, 4], [1, 4], [4]), strict=True)):
        assert np.array_equal(case.truth(name).whole(), np.isin(labels, wanted))
        assert np.array_equal(case.prediction(other, name).whole(), codes >> place & 1)
        file = case.runs[other].folder / "probabilities" / f"{case.case}-{name}.nii.gz"
        steps = np.rint(voxels(file) * 255)
        whole = tuple(slice(0, length) for length in case.shape)
        assert np.array_equal(case.probability(other, name).within(whole), steps)
        assert np.array_equal(case.prediction(other, name, 128).whole(), case.prediction(other, name).whole())
        assert np.array_equal(case.prediction(other, name, 40).whole(), steps >= 40)
    path, _ = entry["images"]["flair"]
    scan = case.scan("flair")
    image = voxels(Path(path)).astype(np.float64)
    assert np.abs(scan.lowest + scan.step * scan.values - image).max() <= max(scan.step / 2, 1e-3) + 1e-6
    grey = scan.grey(scan.values)
    low, high = np.percentile(image[image != 0], (0.5, 99.5))
    assert np.abs(grey / 255 - np.clip((image - low) / (high - low), 0, 1)).max() < 0.02
    assert case.row(other, "whole_tumour")["dice"] > 0.3


def test_the_window_can_be_chosen():
    values_ = np.arange(-1000, 1000, dtype=np.float32).reshape(20, 10, 10)
    scan = quantised(values_)
    assert (scan.step, scan.range) == (1, (-1000, 999))
    assert np.array_equal(scan.lowest + scan.values.astype(int), values_)
    grey = scan.grey(scan.values, (0, 255))
    assert np.array_equal(grey, np.clip(values_, 0, 255))
    flat = quantised(np.full((2, 2, 1), 7.5, np.float32))
    assert flat.range == (7.5, 7.5)
    assert flat.grey(flat.values).shape == (2, 2, 1)


def test_regions_without_their_surroundings():
    rng = np.random.default_rng(0)
    volume = np.zeros((7, 8, 9), np.uint8)
    volume[2:5, 3:4, 1:7] = rng.integers(0, 4, (3, 1, 6))
    volume[2, 3, 1] = volume[4, 3, 6] = 3
    region = Region(Cropped.of(volume), values(1, 3), "key")
    assert region.volume.values.shape == (3, 1, 6)
    mask = np.isin(volume, [1, 3])
    assert np.array_equal(region.whole(), mask)
    assert region.count() == mask.sum()
    for axis in range(3):
        for index in range(volume.shape[axis]):
            assert np.array_equal(region.plane(axis, index), mask.take(index, axis))
    empty = Region(Cropped.of(np.zeros((7, 8, 9), np.uint8)), values(1), "empty")
    assert not empty.whole().any()
    assert empty.whole().shape == (7, 8, 9)
    assert common_box([empty, region]) == region.box
    assert empty.within(common_box([empty])).size == 0


def test_images_that_were_moved_leave_the_masks(copied):
    for run in Library(copied).runs:
        images = {name: ["/nowhere/image.nii.gz", None] for name in ("flair", "t1")}
        edit_data(run.folder, {"images": images})
    case = opened(copied)
    with pytest.raises(Unreadable, match=r"image is no longer at its place: image\.nii\.gz"):
        case.scan("flair")
    assert case.truth("whole_tumour").count()
    assert [panel["error"]["whole_tumour"] for panel in scene(case)["panels"]] == ["", ""]


def test_a_truth_that_was_moved_leaves_images_and_predictions(copied):
    for run in Library(copied).runs:
        edit_data(run.folder, {"mask": "/nowhere/mask.nii.gz"})
    case = opened(copied)
    with pytest.raises(Unreadable, match="mask is no longer at"):
        case.truth("whole_tumour")
    assert case.scan("flair").values.shape == (32, 32, 10)
    assert not scene(case)["panels"][0]["error"]["whole_tumour"]
    assert "no longer" in scene(case)["truth_error"]["whole_tumour"]


def test_the_run_whose_mask_is_still_there_says_where_it_is(copied):
    edit_data(Library(copied).runs[0].folder, {"mask": "/nowhere/mask.nii.gz", "images": {}})
    assert opened(copied).truth("whole_tumour").count()


def prediction_of(case: OpenCase, loss: str) -> tuple[str, Path]:
    run = next(run for run in case.runs.values() if run.loss == loss)
    return run.id, run.folder / "predictions" / f"{case.case}.nii.gz"


def test_a_prediction_that_cannot_be_shown_fails_alone(copied):
    case = opened(copied)
    run, path = prediction_of(case, "dice")
    other = next(id for id in case.runs if id != run)
    volume = read_volume(path)
    shifted = volume.original_affine.copy()
    shifted[0, 3] += 6
    cases = {
        "it lies on another grid: 32 x 32 x 9 voxels": lambda: write_volume(path, volume.data[..., :9], volume.original_affine),
        "they lie elsewhere": lambda: write_volume(path, volume.data, shifted),
        "cut short": lambda: path.write_bytes(path.read_bytes()[:-200]),
        "no mask as a run writes it": lambda: write_volume(path, volume.data.astype(np.int16) - 5, volume.original_affine),
        "its prediction was not saved": path.unlink,
    }
    for number, (why, damage) in enumerate(cases.items()):
        damage()
        if path.exists():
            os.utime(path, ns=(number, number))
        case = opened(copied)
        with pytest.raises(Unreadable, match=why):
            case.prediction(run, "whole_tumour")
        assert case.prediction(other, "enhancing").count()
        errors = {panel["id"]: panel["error"]["whole_tumour"] for panel in scene(case)["panels"]}
        assert why in errors[run]
        assert errors[other] == ""


def test_numbers_of_other_masks_are_told(copied):
    case = opened(copied)
    run, path = prediction_of(case, "dice")
    assert case.warning(run, "whole_tumour") == ""
    volume = read_volume(path)
    codes = volume.data.copy()
    codes[0, 0, 0] |= 1
    write_volume(path, to_original(codes, volume.original_affine), volume.original_affine)
    assert "the prediction shown has" in opened(copied).warning(run, "whole_tumour")
    assert opened(copied).warning(run, "enhancing") == ""
    result = case.runs[run].folder / "result.json"
    result.write_text(result.read_text().replace("original grid", "slices of 32 x 32 pixels as stored"))
    assert "slices of 32 x 32 pixels as stored, not of the masks shown" in opened(copied).warning(run, "whole_tumour")


def test_what_is_called_alike_and_is_not_is_not_compared(copied):
    library = Library(copied)
    data = library.runs[1].folder / "data.json"
    content = json.loads(data.read_text())
    content["target"]["labels"][1] = [1]
    content["target"]["names"][2] = "oedema"
    data.write_text(json.dumps(content))
    case = opened(copied)
    first, second = case.runs
    with pytest.raises(Unreadable, match="made of other labels"):
        case.prediction(second, "tumour_core")
    with pytest.raises(Unreadable, match="it segments whole_tumour, tumour_core, oedema, not enhancing"):
        case.prediction(second, "enhancing")
    assert case.prediction(first, "tumour_core").count() >= 0
    assert case.prediction(second, "whole_tumour").count() >= 0


def test_names_lead_nowhere_else(copied):
    """A data.json of a stranger whose case is called as a path."""
    run = next(run for run in Library(copied).runs if run.loss == "dice")
    name = next(iter(json.loads((run.folder / "data.json").read_text())["test_cases"]))
    for file in (run.folder / "data.json", run.folder / "cases.csv"):
        # its key in the one, its cell in the other; no path
        file.write_text(
            file.read_text()
            .replace(f'"{name}"', f'"../probabilities/{name}-enhancing"')
            .replace(f",{name},{name},", f",../probabilities/{name}-enhancing,{name},")
        )
    assert (run.folder / "probabilities" / f"{name}-enhancing.nii.gz").exists()
    case = opened(copied, "dice")
    assert case.case.startswith("../")
    with pytest.raises(Unreadable, match="not saved"):
        case.prediction(run.id, "whole_tumour")


def fabricate(
    folder: Path, tiny_runs: Path, images: dict[str, list], mask: Path, codes: np.ndarray, **changes: object
) -> OpenCase:
    """A run of one case whose files lie anywhere: the prediction is on the grid of the mask."""
    run, grid_of = folder / "runs" / "dice", changes.pop("grid_of", mask)
    source = next(run.folder for run in Library(tiny_runs).runs if run.loss == "dice")
    shutil.copytree(source, run, ignore=shutil.ignore_patterns("predictions", "probabilities", "checkpoints"))
    name = json.loads((source / "data.json").read_text())["test_cases"]
    entry = {"dataset": None, "images": images, "mask": str(mask), "reference": None}
    data = {"target": {"names": ["lesion"], "labels": [[1]], "exclusive": False}, "labels": {"0": "background", "1": "lesion"}}
    data |= {"preparation": {"plane": "axial"}, "test_cases": {"c:1": entry}} | changes
    part = data["test_cases"]["c:1"]["dataset"]
    rows = pd.read_csv(run / "cases.csv", dtype=str, keep_default_na=False)
    rows = rows[rows["case"] == next(iter(name))].assign(case="c:1", patient="c:1")
    rows.assign(dataset=rows["dataset"] + (f"/{part}" if part else "")).to_csv(run / "cases.csv", index=False)
    (run / "data.json").write_text(json.dumps(data))
    grid = read_volume(grid_of)
    (run / "predictions").mkdir()
    write_volume(run / "predictions" / "c:1.nii.gz", to_original(codes, grid.original_affine), grid.original_affine)
    return opened(folder / "runs")


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr", ".nii.gz"])
def test_formats(tiny_runs, tmp_path, suffix):
    rng = np.random.default_rng(0)
    mask = np.zeros((6, 9, 12), np.uint8)
    mask[2:4, 3:8, 5:7] = 1
    for name, array in (("image", rng.integers(0, 900, mask.shape).astype(np.int16)), ("mask", mask)):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((0.5, 0.75, 3.0))
        volume.SetDirection((-1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0))
        sitk.WriteImage(volume, str(tmp_path / f"{name}{suffix}"))
    expected = read_volume(tmp_path / f"mask{suffix}").data == 1
    image = {"mr": [str(tmp_path / f"image{suffix}"), None]}
    case = fabricate(tmp_path, tiny_runs, image, tmp_path / f"mask{suffix}", expected.astype(np.uint8))
    assert np.array_equal(case.truth("lesion").whole(), expected)
    assert np.array_equal(case.prediction(next(iter(case.runs)), "lesion").whole(), expected)
    scan = case.scan("mr")
    assert np.array_equal(scan.lowest + scan.values, read_volume(tmp_path / f"image{suffix}").data)
    assert case.id == case_id("phantom", "c:1")


def test_a_dicom_series_and_its_segmentation(tiny_runs, tmp_path, shared):
    data = shared / "data/dicom_seg"
    liver = read_volume(data / "liver_seg.nrrd")
    codes = (liver.data > 0).astype(np.uint8)
    series = data / "ct-3slice"
    case = fabricate(tmp_path, tiny_runs, {"ct": [str(series), None]}, data / "liver.dcm", codes, grid_of=series)
    assert case.truth("lesion").count() == codes.sum() > 0
    assert np.array_equal(case.truth("lesion").whole(), case.prediction(next(iter(case.runs)), "lesion").whole())
    assert case.scan("ct").range[0] < -500  # air


def test_an_image_of_one_slice_and_one_on_another_grid(tiny_runs, tmp_path):
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    mask = np.zeros((20, 30, 1), np.uint8)
    mask[4:9, 5:20] = 1
    write_volume(tmp_path / "mask.nii.gz", mask, affine)
    write_volume(tmp_path / "image.nii.gz", np.arange(600, dtype=np.int16).reshape(20, 30, 1), affine)
    write_volume(tmp_path / "half.nii.gz", np.arange(150, dtype=np.int16).reshape(10, 15, 1), np.diag([-2.0, -2.0, 5.0, 1.0]))
    images = {"us": [str(tmp_path / "image.nii.gz"), None], "half": [str(tmp_path / "half.nii.gz"), None]}
    case = fabricate(tmp_path, tiny_runs, images, tmp_path / "mask.nii.gz", mask[::-1, ::-1])
    assert case.shape == (20, 30, 1)
    assert case.truth("lesion").count() == 75
    assert scene(case)["planes"]["axial"] == {"slices": 1, "height": 30, "width": 20, "letters": "RLAP"}
    assert case.scan("us").values.shape == (20, 30, 1)
    with pytest.raises(Unreadable, match="image lies on another grid than its masks"):
        case.scan("half")
    with pytest.raises(Unknown, match="it has us, half"):
        case.scan("flair")


def test_joined_data_sets_have_labels_of_their_own(tiny_runs, tmp_path):
    mask = np.zeros((6, 6, 4), np.uint8)
    mask[2:4, 2:4] = 3
    write_volume(tmp_path / "mask.nii.gz", mask, np.eye(4))
    labels = {"a": {"0": "background", "1": "lesion"}, "b": {"0": "background", "3": "lesion"}}
    target = {"names": ["lesion"], "labels": [[1, 3]], "exclusive": False}
    entry = {"dataset": "b", "images": {}, "mask": str(tmp_path / "mask.nii.gz"), "reference": None}
    parts = {"b": {"preparation": {"plane": "coronal", "onto": None}}}
    changes = {"labels": labels, "target": target, "test_cases": {"c:1": entry}, "parts": parts, "preparation": {"plane": None}}
    case = fabricate(tmp_path, tiny_runs, {}, tmp_path / "mask.nii.gz", (mask == 3).astype(np.uint8), **changes)
    assert case.truth("lesion").count() == 16
    assert case.files.plane == "coronal"


def test_exclusive_classes(tiny_runs, tmp_path):
    mask = np.arange(4 * 4 * 4, dtype=np.uint8).reshape(4, 4, 4) % 3
    write_volume(tmp_path / "mask.nii.gz", mask, np.eye(4))
    target = {"names": ["one", "two"], "labels": [[1], [2]], "exclusive": True}
    labels = {"0": "background", "1": "one", "2": "two"}
    case = fabricate(tmp_path, tiny_runs, {}, tmp_path / "mask.nii.gz", mask, target=target, labels=labels)
    for name, value in (("one", 1), ("two", 2)):
        assert np.array_equal(case.truth(name).whole(), mask == value)
        assert np.array_equal(case.prediction(next(iter(case.runs)), name).whole(), mask == value)


def test_no_torch(tiny_runs):
    program = f"""
import sys
from pathlib import Path
from calf.ui.library import Library
from calf.ui.server import Explorer, scene
from calf.ui.render import View, encoded, sprite
explorer = Explorer.of(Library(Path({str(tiny_runs)!r})))
ids = [run.id for run in explorer.library.runs]
case = explorer.cases.open(explorer.library.cases(ids)["case_id"].iloc[0], ids)
scene(case)
encoded(sprite(case, ["image", "truth", *ids], View(5, ("whole_tumour",), modality="flair")))
import calf.ui.app
assert not {{"torch", "pytorch_lightning", "hydra", "wandb"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_pictures_are_without_loss(explorer):
    ids = [run.id for run in explorer.library.runs]
    case = explorer.cases.open(explorer.library.cases(ids)["case_id"].iloc[0], ids)
    picture = sprite(case, ["image", "truth", *ids], View(6, ("whole_tumour",), modality="flair", overlay="errors"))
    for side, kind in ((picture, "image/webp"), (np.tile(picture, (1, 200, 1)), "image/png")):
        content, media_type = encoded(side)
        assert media_type == kind
        assert np.array_equal(np.asarray(Picture.open(BytesIO(content)).convert("RGB")), side)
