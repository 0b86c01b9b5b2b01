from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from calf.data.layouts.lgg_1p19q import LGG1p19q
from calf.data.volumes import VolumeError, encode_target, read_case
from tests.data.layouts.trees import LPS, link, touch, write

STUDY = "08-06-1997-NA-MRI Hd wow-40871"
T2 = f"{STUDY}/4.000000-Post Gad axial FSE-00285"
T1 = f"{STUDY}/5.000000-Ax T1 SE-11111"
SEG = f"{STUDY}/300.000000-Tumor segmentation-75999"


@pytest.fixture
def patient(tmp_path: Path, shared: Path) -> Path:
    """A patient of the DICOM release, of real slices and the segmentation that refers to them."""
    source = shared / "data/dicom_seg"
    folder = tmp_path / "LGG-1p19qDeletion/LGG-203"
    for name in ("01", "02", "03"):
        link(folder / T2 / f"1-{name}.dcm", source / f"ct-3slice/{name}.dcm")
        other = pydicom.dcmread(source / f"ct-3slice/{name}.dcm")
        other.SeriesInstanceUID += ".9"  # sorts before and after: neither place decides
        other.SOPInstanceUID += ".9"
        other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
        for below in (T1, f"{STUDY}/1.000000-Localizer-00001"):
            (folder / below).mkdir(parents=True, exist_ok=True)
            if below != T1:
                other.SeriesInstanceUID += "1"
            other.save_as(folder / below / f"1-{name}.dcm")
    link(folder / SEG / "1-1.dcm", source / "liver.dcm")
    touch(folder / T2 / "._1-01.dcm", folder / T2 / "LICENSE", tmp_path / "LGG-1p19qDeletion/TCIA_LGG_cases_159.xlsx")
    return folder


def test_the_series_that_the_segmentation_names_is_t2(patient: Path) -> None:
    layout = LGG1p19q(patient.parents[1])
    layout.ensure()
    (case,) = layout.cases()
    assert (case.id, case.patient, case.partly_labelled) == ("LGG-203", "LGG-203", True)
    assert {name: image.path for name, image in case.images.items()} == {"t2": patient / T2}
    assert case.mask == patient / SEG / "1-1.dcm"
    assert layout.modalities == ("t2",)


def test_real_slices_and_their_segmentation_are_read(patient: Path, shared: Path) -> None:
    layout = LGG1p19q(patient.parent)
    (case,) = layout.cases()
    volumes = read_case(case, layout.modalities, layout.labels)
    drawn = pydicom.dcmread(shared / "data/dicom_seg/liver.dcm")
    assert volumes.images.shape == (1, 512, 512, 3)
    assert encode_target(volumes.mask, layout.targets["whole_tumour"]).sum() == drawn.pixel_array.sum() > 0


def test_folders_may_be_links(tmp_path: Path, shared: Path) -> None:
    link(tmp_path / "LGG-104/study/4.0-T2", shared / "data/dicom_seg/ct-3slice")
    link(tmp_path / "LGG-104/study/300.0-SEG/1-1.dcm", shared / "data/dicom_seg/liver.dcm")
    (case,) = LGG1p19q(tmp_path).cases()
    assert case.images["t2"].path == tmp_path / "LGG-104/study/4.0-T2"


def test_a_segmentation_that_names_images_alone(patient: Path) -> None:
    path = patient / SEG / "1-1.dcm"
    drawn = pydicom.dcmread(path)
    del drawn.ReferencedSeriesSequence
    path.unlink()
    drawn.save_as(path)
    (case,) = LGG1p19q(patient.parent).cases()
    assert case.images["t2"].path == patient / T2


def test_without_the_series_or_the_segmentation_nothing_is_guessed(patient: Path) -> None:
    shutil.rmtree(patient / T2)
    (case,) = LGG1p19q(patient.parent).cases()
    assert (case.images, case.mask) == ({}, patient / SEG / "1-1.dcm")
    shutil.rmtree(patient / SEG)
    (case,) = LGG1p19q(patient.parent).cases()
    assert (case.images, case.mask) == ({}, None)


@pytest.mark.parametrize("damage", [b"", b"no DICOM", "cut"])
def test_a_damaged_segmentation_does_not_pass_for_none(patient: Path, damage: bytes | str) -> None:
    path = patient / SEG / "1-1.dcm"
    content = path.read_bytes()[:200] if damage == "cut" else damage
    path.unlink()
    path.write_bytes(content)
    layout = LGG1p19q(patient.parent)
    (case,) = layout.cases()
    assert (case.images, case.mask) == ({}, path)
    with pytest.raises(VolumeError, match="case LGG-203"):
        read_case(case, layout.modalities, layout.labels)


def test_two_segmentations_or_copies_are_refused(patient: Path) -> None:
    shutil.copy(patient / SEG / "1-1.dcm", patient / SEG / "1-2.dcm")
    with pytest.raises(ValueError, match="one segmentation a patient, got 2"):
        LGG1p19q(patient.parent).cases()
    (patient / SEG / "1-2.dcm").unlink()
    shutil.copytree(patient / T2, patient / f"{STUDY}/copy")
    with pytest.raises(ValueError, match="hold one series: expected one folder for it"):
        LGG1p19q(patient.parent).cases()


def test_one_header_a_series_is_read(patient: Path) -> None:
    """Every other file of a series may be anything: it is not opened."""
    for path in [*(patient / T1).glob("1-0[23].dcm"), *(patient / T2).glob("1-0[23].dcm")]:
        path.unlink()
        path.mkdir()
    (case,) = LGG1p19q(patient.parent).cases()
    assert case.images["t2"].path == patient / T2


def test_the_nifti_release(tmp_path: Path) -> None:
    root = tmp_path / "NiFTiSegmentationsEdited"
    mask = np.zeros((8, 9, 12), np.uint8)
    mask[2:5, 3:6, 4:7] = 1  # three slices of twelve
    image = np.arange(mask.size, dtype=np.int16).reshape(mask.shape)
    for name, array in (("T1", image + 1), ("T2", image), ("Segmentation", mask)):
        write(root / f"LGG-104/{name}.nii.gz", array, LPS)
    touch(
        root / "LGG-104/._T2.nii.gz", root / "LGG-766/T1.nii.gz", root / "LGG-766/T2.nii.gz", root / "LGG-99/Segmentation.nii.gz"
    )
    layout = LGG1p19q(tmp_path)
    assert layout.modalities == ("t2", "t1")
    drawn, image_alone, mask_alone = cases = layout.cases()
    assert [case.id for case in cases] == ["LGG-104", "LGG-766", "LGG-99"]
    assert (image_alone.mask, mask_alone.images) == (None, {})
    assert all(case.partly_labelled for case in cases)
    volumes = read_case(drawn, layout.modalities, layout.labels)
    assert np.array_equal(volumes.images[0], image[::-1, ::-1])
    assert np.array_equal(volumes.images[1], volumes.images[0] + 1)
    assert np.array_equal(volumes.mask, mask[::-1, ::-1])


def test_both_releases_or_none(tmp_path: Path, patient: Path) -> None:
    touch(patient.parent / "LGG-104/T2.nii.gz")
    with pytest.raises(ValueError, match=r"holds both releases, NIfTI in .*LGG-104 and DICOM in .*LGG-203: point data_root"):
        LGG1p19q(tmp_path).ensure()
    (tmp_path / "empty/LGG-300").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no case in .*NIfTI release.*DICOM.*data_root="):
        LGG1p19q(tmp_path / "empty").ensure()
    with pytest.raises(ValueError, match="is not a folder"):
        LGG1p19q(tmp_path / "nowhere").ensure()
