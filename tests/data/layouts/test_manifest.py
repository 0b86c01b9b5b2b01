from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig

from calf.data.layouts.manifest import Manifest
from calf.data.volumes import VolumeError, encode_target, read_case
from tests.data.layouts.trees import link, touch, write

LABELS = {0: "background", 1: "tumour"}


def table(path: Path, *rows: list[str], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def simple(root: Path, *rows: list[str]) -> Manifest:
    """A table of one modality; every file that it names is there, but those called missing."""
    files = {name for row in rows for name in row[1:] if name.endswith(".nii") and "missing" not in name}
    touch(*(root / name for name in files))
    return Manifest(table(root / "manifest.csv", ["patient", "t1", "mask"], *rows), LABELS)


# --- real volumes ---------------------------------------------------------------------------------------------------


def test_real_nrrd_volumes(tmp_path: Path, shared: Path) -> None:
    source = shared / "data/pyradiomics"
    for name in ("brain1", "brain2"):
        link(tmp_path / f"{name}/{name}_image.nrrd", source / f"{name}_image.nrrd")
        link(tmp_path / f"{name}/{name}_label.nrrd", source / f"{name}_label.nrrd")
    rows = [[name, f"{name}/{name}_image.nrrd", f"{name}/{name}_label.nrrd"] for name in ("brain2", "brain1")]
    # lung1 is a real incomplete case: a label without its image
    layout = Manifest(table(tmp_path / "manifest.csv", ["patient", "t1c", "mask"], *rows), LABELS)
    layout.ensure()
    cases = layout.cases()
    assert [case.id for case in cases] == ["brain1", "brain2"]
    assert layout.modalities == ("t1c",)
    for case, slices in zip(cases, (25, 23), strict=True):
        volumes = read_case(case, layout.modalities, layout.labels)
        assert volumes.images.shape == (1, 256, 256, slices)
        assert np.unique(volumes.mask).tolist() == [0, 1]
    row = ["lung1", str(source / "lung1_image.nrrd"), str(source / "lung1_label.nrrd")]
    lung = Manifest(table(tmp_path / "lung.csv", ["patient", "t1c", "mask"], row), LABELS)
    with pytest.raises(ValueError, match=r"1 missing files .*\n  lung1: .*lung1_image\.nrrd"):
        lung.cases()


def test_real_computed_tomography_with_label_values_far_apart(tmp_path: Path, shared: Path) -> None:
    source = shared / "data/totalsegmentator_ct_mr"
    mask = source / "example_seg.nii.gz"
    values = np.unique(np.asanyarray(nib.load(mask).dataobj)).tolist()
    labels = {value: f"organ {value}" for value in values}
    path = table(tmp_path / "any.csv", ["patient", "ct", "mask"], ["1", str(source / "example_ct_sm.nii.gz"), str(mask)])
    layout = Manifest(path, labels, {"kidneys": [2, 3]})
    (case,) = layout.cases()
    volumes = read_case(case, ("ct",), layout.labels)
    code = encode_target(volumes.mask, layout.targets["kidneys"])
    assert code.sum() == np.isin(np.asanyarray(nib.load(mask).dataobj), [2, 3]).sum() > 0
    with pytest.raises(VolumeError, match="unexpected label"):
        read_case(case, ("ct",), {value: text for value, text in labels.items() if value != 5})
    odd = table(tmp_path / "odd.csv", ["patient", "ct", "mask"], ["1", str(source / "example_ct.nii.gz"), str(mask)])
    with pytest.raises(VolumeError, match="expected the shape"):
        read_case(Manifest(odd, labels).cases()[0], ("ct",), labels)


def test_real_spines_in_pir_orientation(tmp_path: Path, shared: Path) -> None:
    crops = shared / "data/spine_crops"
    rows = [
        ["ct", str(crops / "sample_ct/sub-ct_label-22_ct.nii.gz"), str(crops / "sample_ct/sub-ct_seg-vert_label-22_msk.nii.gz")],
        [
            "mr",
            str(crops / "sample_mri/sub-mri_label-6_T2w.nii.gz"),
            str(crops / "sample_mri/sub-mri_seg-vert_label-6_msk.nii.gz"),
        ],
    ]
    labels = {0: "background"} | {value: str(value) for value in (5, 6, 7, 21, 22, 23, 105, 106, 205, 206, 207)}
    layout = Manifest(table(tmp_path / "manifest.csv", ["patient", "image", "mask"], *rows), labels, {"t22": [22], "l6": 6})
    for case, (value, shape) in zip(layout.cases(), ((22, (73, 73, 47)), (6, (67, 68, 52))), strict=True):
        volumes = read_case(case, layout.modalities, labels)
        assert volumes.mask.shape == shape  # posterior, inferior, right on disk
        assert (volumes.mask == value).sum() == (np.asanyarray(nib.load(case.mask).dataobj) == value).sum() > 0


def test_a_real_lumbar_mask_under_a_generated_image(tmp_path: Path, shared: Path) -> None:
    mask = shared / "data/panoptica_masks/semantic_ref.nii.gz"
    reference = nib.load(mask)
    write(tmp_path / "t2.nii.gz", np.ones(reference.shape, np.int16), reference.affine)
    labels = {value: str(value) for value in np.unique(np.asanyarray(reference.dataobj)).tolist()}
    path = table(tmp_path / "manifest.csv", ["patient", "t2", "mask"], ["a", "t2.nii.gz", str(mask)])
    volumes = read_case(Manifest(path, labels).cases()[0], ("t2",), labels)
    assert volumes.mask.shape == (17, 512, 512)
    assert volumes.spacing_mm == pytest.approx((3.3, 0.586, 0.586), abs=0.001)


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")])
def test_text_is_taken_as_it_is(tmp_path: Path, delimiter: str, encoding: str) -> None:
    touch(*(tmp_path / "files" / name for name in ("a.nii", "b.nii", "m.nii", "r.nii")))
    header = ["id", " patient ", "flair", "t1", "mask", "reference", "subset", "age"]
    rows = [
        ["x2", "007", "files/a.nii", "", "files/m.nii", "files/r.nii", "fold 1", "54"],
        ["x1", "7", "", str(tmp_path / "files/b.nii"), " ", "", "", "61"],
        ["", "", "", "", "", "", "", ""],
    ]
    path = table(tmp_path / "manifest.csv", header, *rows, delimiter=delimiter, encoding=encoding)
    layout = Manifest(tmp_path, LABELS, modalities=["t1", "flair"])
    assert layout.path == path
    first, second = layout.cases()
    assert layout.modalities == ("t1", "flair")
    assert (first.id, first.patient, first.mask, first.reference, first.subset) == ("x1", "7", None, None, None)
    assert {name: image.path for name, image in first.images.items()} == {"t1": tmp_path / "files/b.nii"}
    assert (second.id, second.patient, second.subset) == ("x2", "007", "fold 1")
    assert {name: image.path for name, image in second.images.items()} == {"flair": tmp_path / "files/a.nii"}
    assert (second.mask, second.reference) == (tmp_path / "files/m.nii", tmp_path / "files/r.nii")


def test_a_parquet_file_gives_the_same_cases(tmp_path: Path) -> None:
    touch(*(tmp_path / f"{name}.nii" for name in "abcd"))
    columns: dict[str, list[Any]] = {
        "id": [2, 1],
        "patient": [11.0, 12.0],
        "t1": ["a.nii", "b.nii"],
        "mask": ["c.nii", None],
        "subset": [1.0, None],
    }
    pd.DataFrame(columns).to_parquet(tmp_path / "manifest.parquet")
    first, second = Manifest(tmp_path, LABELS).cases()
    assert (first.id, first.patient, first.mask, first.subset) == ("1", "12", None, None)
    assert (second.id, second.patient, second.mask, second.subset) == ("2", "11", tmp_path / "c.nii", "1")
    table(tmp_path / "manifest.csv", ["patient"])
    with pytest.raises(ValueError, match=r"manifest.csv and manifest.parquet: name one"):
        Manifest(tmp_path, LABELS).ensure()


def test_folders_of_dicom_series_are_files_like_others(tmp_path: Path, shared: Path) -> None:
    dicom = shared / "data/dicom_seg"
    path = table(tmp_path / "m.csv", ["patient", "ct", "mask"], ["a", str(dicom / "ct-3slice"), str(dicom / "liver.dcm")])
    (case,) = Manifest(path, {0: "background", 1: "liver"}).cases()
    assert case.images["ct"].path == dicom / "ct-3slice"


# --- what is refused ------------------------------------------------------------------------------------------------


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    rows = [[f"p{n:02d}", f"missing{n:02d}.nii", f"{n:02d}.nii"] for n in range(30)]
    with pytest.raises(ValueError, match="30 missing files") as caught:
        simple(tmp_path, *rows).cases()
    assert all(f"\n  p{n:02d}: {tmp_path}/missing{n:02d}.nii" in str(caught.value) for n in range(30))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no row"),
        (
            [["a", "1.nii", "2.nii"], ["a", "3.nii", "4.nii"]],
            "1 ids occur more than once: a; a patient with several cases needs a col",
        ),
        ([["", "1.nii", "2.nii"]], "line 2: the patient is missing"),
        ([["a", "", "2.nii"]], "line 2: expected an image of t1"),
        ([["a", "1.nii"]], "line 2: expected a field for each of patient, t1, mask, got 2"),
        ([["a", "1.nii", "2.nii"], ["b", "3.nii", "2.nii"]], "two patients, a and b"),
        ([["a", "1.nii", "2.nii"], ["b", "./x/../1.nii", ""]], "two patients, a and b"),
    ],
)
def test_rows_that_make_no_sense(tmp_path: Path, rows: list[list[str]], message: str) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match=message):
        simple(tmp_path, *rows).cases()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (["person", "t1", "mask"], "columns patient are missing; it has person, t1, mask"),
        (["patient", "t1"], "columns mask are missing"),
        (["patient", "mask"], "at least one column of images"),
        (["patient", "t1", "t1", "mask"], "columns of distinct names"),
        (["patient", "t1", "mask", ""], "columns of distinct names"),
        ([], "is empty"),
    ],
)
def test_columns_that_make_no_sense(tmp_path: Path, header: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Manifest(table(tmp_path / "manifest.csv", header), LABELS).ensure()


def test_columns_asked_for_that_are_not_there(tmp_path: Path) -> None:
    path = table(tmp_path / "manifest.csv", ["patient", "t1", "mask"])
    with pytest.raises(ValueError, match="columns t2 are missing"):
        Manifest(path, LABELS, modalities=("t1", "t2")).ensure()


def test_tables_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no table in that folder: expected .*manifest\.csv.*data_root="):
        Manifest(tmp_path, LABELS).ensure()
    with pytest.raises(ValueError, match=r"no such file or folder.*data_root="):
        Manifest(tmp_path / "nowhere", LABELS).ensure()
    (tmp_path / "manifest.csv").write_bytes(b"patient,t1,mask\n\xff\xfe,1,2\n")
    with pytest.raises(ValueError, match="as UTF-8 text"):
        Manifest(tmp_path, LABELS).ensure()
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="expected a Parquet file"):
        Manifest(tmp_path / "a.parquet", LABELS).ensure()


# --- labels and targets ---------------------------------------------------------------------------------------------

PARTS = {0: "background", 1: "oedema", 2: "Necrotic core", 4: "enhancing"}


def test_targets_from_labels() -> None:
    targets = Manifest("nowhere", PARTS).targets
    codes = {name: encode_target(np.array(list(PARTS)), target).tolist() for name, target in targets.items()}
    assert codes == {
        "oedema": [0, 1, 0, 0],
        "necrotic_core": [0, 0, 1, 0],
        "enhancing": [0, 0, 0, 1],
        "foreground": [0, 1, 1, 1],
        "classes": [0, 1, 2, 3],
    }
    assert [name for name, target in targets.items() if target.exclusive] == ["classes"]


def test_targets_as_configured() -> None:
    given = {
        "tumour": [1, 2, 4],
        "core": 4,
        "regions": {"whole": [1, 2, 4], "core": [2, 4]},
        "parts": {"exclusive": {"oedema": [1], "core": [2, 4]}},
    }
    targets = Manifest("nowhere", PARTS, given).targets
    codes = {name: encode_target(np.array(list(PARTS)), target).tolist() for name, target in targets.items()}
    assert codes == {"tumour": [0, 1, 1, 1], "core": [0, 0, 0, 1], "regions": [0, 1, 3, 3], "parts": [0, 1, 2, 2]}
    assert targets["parts"].exclusive
    assert not targets["regions"].exclusive


@pytest.mark.parametrize(
    ("labels", "targets", "message"),
    [
        (None, None, "labels is not set"),
        ({1: "tumour"}, None, "expected 0"),
        ({0: "background", 256: "tumour"}, None, "in 0 ... 255"),
        ({0: "background", 1.5: "tumour"}, None, "expected labels such as"),
        (PARTS, {}, "targets is empty"),
        (PARTS, {"a": [3]}, r"names the label values \[3\]; there are 1 oedema, 2 Necrotic core, 4 enhancing"),
        (PARTS, {"a": [0, 1]}, r"names the label values \[0\]"),
        (PARTS, {"a": "tumour"}, "target a: expected"),
        (PARTS, {"a": {}}, "target a: expected"),
        (PARTS, {"a": {"b": []}}, "target a: expected"),
        (PARTS, {"a": {"exclusive": {"b": [1, 2], "c": [2]}}}, "share a label value"),
    ],
)
def test_labels_and_targets_that_make_no_sense(tmp_path: Path, labels: Any, targets: Any, message: str) -> None:
    path = table(tmp_path / "manifest.csv", ["patient", "t1", "mask"])
    with pytest.raises(ValueError, match=message):
        Manifest(path, labels, targets).ensure()


def test_the_configuration_needs_no_python(tmp_path: Path, composed: Callable[..., DictConfig]) -> None:
    touch(tmp_path / "a.nii", tmp_path / "m.nii")
    table(tmp_path / "manifest.csv", ["patient", "t1", "mask"], ["p", "a.nii", "m.nii"])
    cfg = composed(
        "dataset=manifest",
        f"data_root={tmp_path}",
        "dataset.layout.labels={0: background, 1: oedema, 2: core}",
        "dataset.layout.targets={tumour: [1, 2], parts: {exclusive: {oedema: [1], core: [2]}}}",
    )
    layout = instantiate(cfg.dataset.layout, _convert_="all")
    assert [case.id for case in layout.cases()] == ["p"]
    assert layout.labels == {0: "background", 1: "oedema", 2: "core"}
    assert layout.targets["parts"].exclusive


@pytest.mark.parametrize("name", ["myosegmentum", "spine_manifest"])
def test_spines_have_fixed_labels(tmp_path: Path, composed: Callable[..., DictConfig], name: str) -> None:
    mask = np.zeros((22, 23, 5), np.uint8)
    mask[3:18, 4, 1:4] = np.repeat(np.arange(1, 6), 3)[:, None]
    write(tmp_path / "m.nii.gz", mask)
    for water in ("a.nii.gz", "b.nii.gz"):
        write(tmp_path / water, np.full(mask.shape, 7, np.int16))
    table(tmp_path / "manifest.csv", ["patient", "water", "fat", "mask"], ["s01", "a.nii.gz", "b.nii.gz", "m.nii.gz"])
    cfg = composed(f"dataset={name}", f"data_root={tmp_path}")
    layout = instantiate(cfg.dataset.layout, _convert_="all")
    (case,) = layout.cases()
    volumes = read_case(case, layout.modalities, layout.labels)
    assert layout.modalities == ("water", "fat")
    assert np.array_equal(encode_target(volumes.mask, layout.targets["classes"]), mask)
    assert np.array_equal(encode_target(volumes.mask, layout.targets["vertebrae"]), mask > 0)
    assert cfg.dataset.target in layout.targets
