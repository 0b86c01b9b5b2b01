"""Real volumes of six sources, from their files to a store and back: nothing is lost, moved or turned on the way."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from calf.data.build import open_store, plan_store
from calf.data.cases import Layout
from calf.data.layouts.brats2013 import BraTS2013
from calf.data.layouts.manifest import Manifest
from calf.data.layouts.ms_lesions import MSLesions
from calf.data.layouts.msd import MSD
from calf.data.prepare import Preparation
from calf.data.restore import CaseCollector, write_mask
from calf.data.volumes import read_volume

ORGANS = {"spleen": 1, "kidneys": [2, 3], "liver": 5}


def table(folder: Path, rows: list[dict[str, object]]) -> Path:
    """A manifest of these files."""
    path = folder / "manifest.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def brats2013(shared: Path, folder: Path) -> Layout:
    return BraTS2013(shared / "data" / "brats2013_expert" / "test")


def hippocampus(shared: Path, folder: Path) -> Layout:
    """The first six images: the whole task takes a while."""
    whole = shared / "data" / "Task04_Hippocampus"
    description = json.loads((whole / "dataset.json").read_text())
    description |= {"training": description["training"][:6], "test": []}
    (folder / "dataset.json").write_text(json.dumps(description))
    for name in ("imagesTr", "labelsTr"):
        (folder / name).symlink_to(whole / name)
    return MSD(folder)


def ms_lesions(shared: Path, folder: Path) -> Layout:
    return MSLesions(shared / "data" / "ms_lesions")


def pyradiomics(shared: Path, folder: Path) -> Layout:
    names = ("brain1", "brain2", "breast1")
    files = shared / "data" / "pyradiomics"
    rows: list[dict[str, object]] = [
        {"patient": name, "mr": files / f"{name}_image.nrrd", "mask": files / f"{name}_label.nrrd"} for name in names
    ]
    return Manifest(table(folder, rows), {0: "background", 1: "lesion"})


def dicom_seg(shared: Path, folder: Path) -> Layout:
    files = shared / "data" / "dicom_seg"
    rows: list[dict[str, object]] = [{"patient": "liver", "ct": files / "ct-3slice", "mask": files / "liver.dcm"}]
    return Manifest(table(folder, rows), {0: "background", 1: "liver"})


def totalsegmentator(shared: Path, folder: Path) -> Layout:
    files = shared / "data" / "totalsegmentator_ct_mr"
    rows: list[dict[str, object]] = [
        {"patient": "ct", "ct": files / "example_ct_sm.nii.gz", "mask": files / "example_seg.nii.gz"}
    ]
    labels = {value: f"structure {value}" for value in range(1, 118)}
    targets = {"organs": {"exclusive": dict(ORGANS)}}
    return Manifest(table(folder, rows), {0: "background", **labels}, targets)


#: layout, modalities, target, what of it is in the mask's own values, and the mask's own file where it is no plain volume
STOPS: dict[str, tuple[Callable[[Path, Path], Layout], tuple[str, ...] | None, str, Callable[[np.ndarray], np.ndarray]]] = {
    "brats2013": (brats2013, None, "regions", lambda m: (m > 0) + 2 * np.isin(m, (1, 3, 4)) + 4 * (m == 4)),
    "hippocampus": (hippocampus, None, "classes", lambda m: m),
    "ms_lesions": (ms_lesions, ("flair",), "lesion", lambda m: m),
    "pyradiomics": (pyradiomics, None, "foreground", lambda m: m),
    "dicom_seg": (dicom_seg, None, "foreground", lambda m: m > 0),
    "totalsegmentator": (totalsegmentator, None, "organs", lambda m: (m == 1) + 2 * np.isin(m, (2, 3)) + 3 * (m == 5)),
}


@pytest.mark.parametrize("stop", list(STOPS))
def test_masks_of_real_volumes_come_back_as_they_were(shared, tmp_path, stop):
    make, modalities, target, encode = STOPS[stop]
    layout = make(shared, tmp_path)
    plan = plan_store(stop, layout, target, Preparation(modalities), tmp_path / "stores")
    store = open_store(plan, workers=1)
    assert store.unchanged
    collector = CaseCollector(store)
    done = collector.add(np.arange(len(store)), store.read(np.arange(len(store)))[:, -1])
    restored = {case.number: case.mask for case in done}
    assert len(restored) == len(plan.cases)
    for number, case in enumerate(plan.cases):
        assert case.id == store.cases[number].id
        write_mask(tmp_path / "out.nii.gz", restored[number], store.cases[number])
        # the segmentation as a label map, made by another program
        file = shared / "data" / "dicom_seg" / "liver_seg.nrrd" if stop == "dicom_seg" else case.mask
        original, image = read_volume(file), read_volume(next(iter(case.images.values())).path)
        expected = encode(np.rint(original.data).astype(np.int64)).astype(np.uint8)
        assert expected.any()
        back = read_volume(tmp_path / "out.nii.gz")
        assert np.array_equal(back.data, expected)
        # and lies on the image, in the file's own order of axes
        assert np.allclose(back.original_affine, image.original_affine, atol=1e-3)
        assert back.original_shape == image.original_shape
        assert nib.load(tmp_path / "out.nii.gz").get_data_dtype() == np.uint8


# brats2013: slices of 3 mm for 1 mm; pyradiomics: pixels of 1 mm for 0.5 to 0.8 mm; totalsegmentator: each 3 mm voxel into 3 x 3
@pytest.mark.parametrize(("stop", "least"), [("brats2013", 0.9), ("pyradiomics", 0.7), ("totalsegmentator", 1.0)])
def test_masks_lose_no_more_than_resampling_takes_and_the_truth_stays_that_of_the_files(shared, tmp_path, stop, least):
    make, modalities, target, encode = STOPS[stop]
    layout = make(shared, tmp_path)
    preparation = Preparation(modalities, spacing_mm=(1.0, 1.0, 3.0), crop="foreground")
    plan = plan_store(stop, layout, target, preparation, tmp_path / "stores")
    store = open_store(plan, workers=1)
    for number, case in enumerate(plan.cases):
        expected = encode(np.rint(read_volume(case.mask).data).astype(np.int64)).astype(np.uint8)
        assert np.array_equal(store.truth(number), expected)
        back = store.cases[number].restore(store.read(store.cases[number].slices)[:, -1])
        dice = 2 * ((back > 0) & (expected > 0)).sum() / ((back > 0).sum() + (expected > 0).sum())
        assert dice >= least
        assert (dice == 1) == (stop == "totalsegmentator")
