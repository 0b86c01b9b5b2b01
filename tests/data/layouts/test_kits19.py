from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from calf.data.layouts.kits19 import KiTS19
from calf.data.volumes import VolumeError, encode_target, read_case, to_original
from tests.data.layouts.trees import link, touch, write

IPL = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])


def test_a_real_mask_is_turned_upright(tmp_path: Path, shared: Path) -> None:
    source = shared / "data/kits19_masks/case_00038/segmentation.nii.gz"
    mask = link(tmp_path / "data/case_00038/segmentation.nii.gz", source)
    link(tmp_path / "data/case_00038/imaging.nii.gz", source)  # the images are not at hand
    original = nib.load(mask)
    assert nib.aff2axcodes(original.affine) == ("I", "P", "L")
    layout = KiTS19(tmp_path)
    (case,) = layout.cases()
    volumes = read_case(case, layout.modalities, layout.labels)
    upright = np.asanyarray(original.dataobj).transpose()[::-1, ::-1, ::-1]
    assert volumes.mask.shape == (512, 512, 32)  # the file's is (32, 512, 512)
    assert np.array_equal(volumes.mask, upright)
    assert np.array_equal(volumes.images[0], upright)
    assert np.array_equal(to_original(volumes.mask, volumes.original_affine), np.asanyarray(original.dataobj))
    values = np.bincount(upright.ravel())
    areas = {
        name: int(encode_target(volumes.mask, layout.targets[name]).sum()) for name in ("kidney_and_tumour", "tumour", "kidney")
    }
    assert areas == {"kidney_and_tumour": values[1] + values[2], "tumour": values[2], "kidney": values[1]}


def test_a_real_mask_of_16_bits(tmp_path: Path, shared: Path) -> None:
    original = nib.load(shared / "data/kits19_masks/case_00015/segmentation.nii.gz")
    assert original.get_data_dtype() == np.uint16
    assert nib.aff2axcodes(original.affine) == ("I", "P", "L")
    few = np.asanyarray(original.dataobj)[::12]
    write(tmp_path / "case_00015/segmentation.nii.gz", few, original.affine)
    write(tmp_path / "case_00015/imaging.nii.gz", few.astype(np.float32) - 1000, original.affine)
    layout = KiTS19(tmp_path)
    volumes = read_case(layout.cases()[0], layout.modalities, layout.labels)
    assert np.unique(few).tolist() == [0, 1, 2]
    assert np.array_equal(volumes.mask, few.transpose()[::-1, ::-1, ::-1])


def test_targets() -> None:
    layout = KiTS19("nowhere")
    labels = np.array(list(layout.labels))
    codes = {name: encode_target(labels, target).tolist() for name, target in layout.targets.items()}
    assert codes == {
        "kidney_and_tumour": [0, 1, 1],
        "tumour": [0, 0, 1],
        "kidney": [0, 1, 0],
        "regions": [0, 0b01, 0b11],
        "classes": [0, 1, 2],
    }
    assert layout.targets["classes"].exclusive


@pytest.mark.parametrize("below", ["", "data", "kits19-master/data"])
def test_hidden_cases_and_missing_images(tmp_path: Path, below: str) -> None:
    root = tmp_path / below
    touch(root / "case_00000/imaging.nii.gz", root / "case_00000/segmentation.nii.gz", root / "case_00000/._imaging.nii.gz")
    touch(root / "case_00001/segmentation.nii.gz", root / "case_00210/imaging.nii.gz", root / "kits.json")
    layout = KiTS19(tmp_path)
    both, mask, hidden = layout.cases()
    assert (both.id, both.patient) == ("case_00000", "case_00000")
    assert both.files() == [root / "case_00000/imaging.nii.gz", root / "case_00000/segmentation.nii.gz"]
    assert (hidden.id, hidden.mask, list(hidden.images)) == ("case_00210", None, ["ct"])
    with pytest.raises(VolumeError, match="case_00001 has no ct image"):
        read_case(mask, layout.modalities, layout.labels)


def test_the_repository_before_the_images_are_fetched(tmp_path: Path) -> None:
    touch(tmp_path / "data/case_00000/segmentation.nii.gz", tmp_path / "data/case_00001/segmentation.nii.gz")
    with pytest.raises(ValueError, match=r"no imaging\.nii\.gz in the 2 case folders of .*get_imaging"):
        KiTS19(tmp_path).cases()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no case in .*kits19.*data_root="):
        KiTS19(tmp_path / "empty").cases()
    with pytest.raises(ValueError, match=r"is not a folder: expected .*data_root="):
        KiTS19(tmp_path / "nowhere").ensure()


def test_cysts_of_the_later_years_are_refused(tmp_path: Path) -> None:
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1, 2, 3] = 3
    write(tmp_path / "case_00000/segmentation.nii.gz", mask, IPL)
    write(tmp_path / "case_00000/imaging.nii.gz", mask.astype(np.float32), IPL)
    layout = KiTS19(tmp_path)
    with pytest.raises(VolumeError, match=r"unexpected label 3 \(1 voxels\)"):
        read_case(layout.cases()[0], layout.modalities, layout.labels)
