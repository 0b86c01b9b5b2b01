"""Panels of cases in every format that is trained on: MetaImage, NRRD, DICOM series and segmentations, images on other grids."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from calf.data.volumes import read_volume, to_original, write_volume
from calf.report.montage import FN, FP, Shown, Strip, montage
from calf.report.volumes import Unreadable, read_scan

TARGET = {"names": ["lesion"], "labels": [[1]], "exclusive": False}


def describe(folder: Path, image: Path, mask: Path, **changes: object) -> Path:
    """A run folder whose data.json says where a case lies."""
    entry = {"dataset": None, "images": {"mr": [str(image), None]}, "mask": str(mask), "reference": None}
    data: dict[str, object] = {"target": TARGET, "preparation": {"plane": "axial"}, "labels": {"0": "background", "1": "lesion"}}
    data["test_cases"] = {"c1": entry | changes.pop("entry", {})}  # type: ignore[operator]
    folder.mkdir(exist_ok=True)
    (folder / "data.json").write_text(json.dumps(data | changes))
    return folder


def write_itk(folder: Path, suffix: str) -> tuple[Path, Path, float]:
    """An image and its mask on an oblique, flipped grid, and the volume of the mask."""
    rng = np.random.default_rng(0)
    mask = np.zeros((6, 9, 12), np.uint8)
    mask[2:4, 3:8, 5:7] = 1
    paths = []
    for name, values in (("image", rng.integers(0, 900, mask.shape).astype(np.int16)), ("mask", mask)):
        volume = sitk.GetImageFromArray(values)
        volume.SetSpacing((0.5, 0.75, 3.0))
        volume.SetOrigin((-20.0, 7.0, 100.0))
        volume.SetDirection((-1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0))
        paths.append(folder / f"{name}{suffix}")
        sitk.WriteImage(volume, str(paths[-1]))
    return paths[0], paths[1], float(mask.sum()) * 0.5 * 0.75 * 3.0


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
def test_the_same_case_in_another_format_is_shown_alike(tmp_path, suffix):
    nifti_image, nifti_mask, volume_mm3 = write_itk(tmp_path, ".nii.gz")
    image, mask, _ = write_itk(tmp_path, suffix)
    expected = read_scan([describe(tmp_path / "a", nifti_image, nifti_mask)], "c1", "lesion", volume_mm3)
    found = read_scan([describe(tmp_path / "b", image, mask)], "c1", "lesion", volume_mm3)
    assert expected.image is not None
    assert found.image is not None
    assert np.array_equal(found.image, expected.image)
    assert np.array_equal(found.truth, expected.truth)
    assert np.argwhere(found.truth).tolist() != np.argwhere(sitk.GetArrayFromImage(sitk.ReadImage(str(mask)))).tolist()
    predicted = read_volume(mask)
    write_volume(tmp_path / "c1.nii.gz", to_original(predicted.data, predicted.original_affine), predicted.original_affine)
    assert np.array_equal(found.prediction(tmp_path / "c1.nii.gz", volume_mm3), found.truth)


def test_a_real_nrrd_case(shared, tmp_path):
    data = shared / "data/pyradiomics"
    label = read_volume(data / "brain1_label.nrrd")
    run = describe(tmp_path / "run", data / "brain1_image.nrrd", data / "brain1_label.nrrd")
    found = read_scan([run], "c1", "lesion", float((label.data == 1).sum() * np.prod(label.spacing_mm)))
    assert found.image is not None
    assert found.image[found.truth].mean() > found.image.mean()  # it takes up contrast agent
    assert found.spacing_mm == pytest.approx(label.spacing_mm)


@pytest.fixture
def liver(shared, tmp_path) -> tuple[Path, float]:
    """A CT series with its DICOM segmentation, and the volume of the liver, from the same mask as NRRD."""
    data = shared / "data/dicom_seg"
    mask = read_volume(data / "liver_seg.nrrd")
    run = describe(tmp_path / "run", data / "ct-3slice", data / "liver.dcm")
    return run, float((mask.data > 0).sum() * np.prod(mask.spacing_mm))


def test_a_dicom_series_and_its_segmentation(liver, shared, tmp_path):
    run, volume_mm3 = liver
    found = read_scan([run], "c1", "lesion", volume_mm3)
    assert found.image is not None
    assert found.image.shape == found.truth.shape == (512, 512, 3)
    assert np.array_equal(found.truth, read_volume(shared / "data/dicom_seg/liver_seg.nrrd").data > 0)
    assert found.image[found.truth].mean() > found.image.mean()  # a liver is denser than the air around the body
    # a prediction that lacks the last column of the liver and adds one beside it, as a run writes it
    shifted = np.roll(found.truth, 1, axis=0)
    path = tmp_path / "c1.nii.gz"
    write_volume(path, to_original(shifted.astype(np.uint8), found.grid.original_affine), found.grid.original_affine)
    prediction = found.prediction(path, volume_mm3)
    assert np.array_equal(prediction, shifted)
    picture = np.asarray(montage([Strip("c1", "best", found, (Shown("0.99", prediction),), (0,))], ["calf"]))
    assert (picture == FP).all(axis=2).any()
    assert (picture == FN).all(axis=2).any()


def test_a_segmentation_whose_image_is_gone_is_not_shown(liver):
    run, volume_mm3 = liver
    data = json.loads((run / "data.json").read_text())
    data["test_cases"]["c1"]["images"] = {"ct": ["/nowhere/ct", None]}
    (run / "data.json").write_text(json.dumps(data))
    with pytest.raises(Unreadable, match="its image, whose grid its mask has, is no longer at /nowhere/ct"):
        read_scan([run], "c1", "lesion", volume_mm3)


def test_labels_of_joined_data_sets_are_those_of_the_part(liver):
    run, volume_mm3 = liver
    data = json.loads((run / "data.json").read_text())
    data["labels"] = {"kidneys": {"0": "background", "7": "kidney"}, "livers": {"0": "background", "1": "liver"}}
    for part, shown in (("livers", True), ("kidneys", False)):
        data["test_cases"]["c1"]["dataset"] = part
        (run / "data.json").write_text(json.dumps(data))
        if shown:
            assert read_scan([run], "c1", "lesion", volume_mm3).truth.any()
        else:
            with pytest.raises(Unreadable, match="unexpected label 1"):
                read_scan([run], "c1", "lesion", volume_mm3)


def test_an_image_that_was_brought_to_another_grid_is_shown_there(tmp_path):
    image, mask, volume_mm3 = write_itk(tmp_path, ".mha")
    fine = sitk.ReadImage(str(image))
    coarse = sitk.Resample(
        fine, [6, 5, 6], sitk.Transform(), sitk.sitkLinear, fine.GetOrigin(), (1.0, 1.5, 3.0), fine.GetDirection()
    )
    sitk.WriteImage(coarse, str(tmp_path / "coarse.mha"))
    entry = {"images": {"ct": [str(tmp_path / "coarse.mha"), None], "mr": [str(image), None]}}
    onto = {"plane": "axial", "onto": "mr"}
    found = read_scan([describe(tmp_path / "run", image, mask, entry=entry, preparation=onto)], "c1", "lesion", volume_mm3)
    assert found.image is not None
    assert found.image.shape == found.truth.shape
    sharp = read_scan([describe(tmp_path / "run", image, mask)], "c1", "lesion", volume_mm3)
    assert not np.array_equal(found.image, sharp.image)  # it is the first modality, and not the one whose grid it has
    entry["images"].pop("mr")
    black = read_scan([describe(tmp_path / "run", image, mask, entry=entry)], "c1", "lesion", volume_mm3)
    assert (black.image, black.without) == (None, "its image lies on another grid than its mask")


def test_reading_them_takes_no_torch(liver):
    run, volume_mm3 = liver
    check = (
        "import sys; from pathlib import Path; from calf.report import panels, volumes; "
        f"volumes.read_scan([Path({str(run)!r})], 'c1', 'lesion', {volume_mm3!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
