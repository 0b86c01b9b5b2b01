"""UPENN-GBM: glioblastomas of the University of Pennsylvania."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from calf.data.cases import Case
from calf.data.layouts import case_folders
from calf.data.layouts.brats import BraTS

# by the kind of mask: its folder, beside images_structural, and what its files are called after the case's id
_MASKS = {"manual": ("images_segm", "_segm"), "automatic": ("automated_segm", "_automated_approx_segm")}


@dataclass
class UPennGBM(BraTS):
    """240 x 240 x 155 voxels of 1 mm, skull-stripped, background 0; 671 examinations of 630 patients.

    Bakas et al. 2022, https://doi.org/10.1038/s41597-022-01560-7. Labels 0, 1, 2 and 4. ``UPENN-GBM-00001_11`` is an examination
    before surgery (611), ``_21`` a follow-up (60) without any mask; the five digits are the patient. ``T1GD`` is called t1ce
    here. Only ``images_structural`` and the folders of masks beside it are looked at. An examination that has a mask but no
    images is listed with the mask alone. A case's subset is the kind of its mask, ``manual`` or ``automatic``.

    447 of the examinations are in BraTS 2021. The release does not say which: TCIA's ``BraTS2021_MappingToTCIA.xlsx`` does, and
    gives aliases where it is saved as CSV beside the data.

    Args:
        root: folder with ``images_structural``, or one that contains it.
        masks: ``manual`` (147, corrected by experts), ``automatic`` (611, drawn by an algorithm, of which a score says how well
            one agrees with it), or ``manual_then_automatic`` (611: the manual one where there is one).

    Raises:
        ValueError: ``masks`` is anything else.
    """

    masks: str = "manual_then_automatic"

    source = "https://doi.org/10.7937/TCIA.709X-DN49"
    expected = (
        "images_structural/UPENN-GBM-00001_11/UPENN-GBM-00001_11_{T1,T1GD,T2,FLAIR}.nii.gz (or .nii), "
        "images_segm/UPENN-GBM-00002_11_segm.nii.gz, automated_segm/UPENN-GBM-00001_11_automated_approx_segm.nii.gz, ..."
    )
    case_id = re.compile(r"(UPENN-GBM-\d{5})_\d{2}")
    endings: ClassVar = {"t1": "_T1", "t1ce": "_T1GD", "t2": "_T2", "flair": "_FLAIR"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks not in (*_MASKS, "manual_then_automatic"):
            raise ValueError(f"dataset.layout.masks is manual, automatic or manual_then_automatic; got {self.masks!r}")

    def _listed(self) -> list[Case]:
        structural = case_folders(self.folder, re.compile("images_structural"))
        if not structural:
            return []
        scans = {folder.name: folder for folder in case_folders(structural[0], self.case_folder)}
        kinds = self.masks.split("_then_")
        masks = {kind: self._masks_in(structural[0].parent, kind) for kind in kinds}
        names = sorted(scans.keys() | {name for found in masks.values() for name in found})
        return [self._scan(name, scans.get(name), masks) for name in names]

    def _scan(self, name: str, folder: Path | None, masks: dict[str, dict[str, Path]]) -> Case:
        patient = self.patient_of(name)
        assert patient
        kind = next((kind for kind, found in masks.items() if name in found), None)
        images = self._images(folder, name) if folder else {}
        return Case(name, patient, images, masks[kind][name] if kind else None, subset=kind)

    def _masks_in(self, home: Path, kind: str) -> dict[str, Path]:
        """Masks of one kind by the id of their examination."""
        name, ending = _MASKS[kind]
        pattern = re.compile(rf"({self.case_id.pattern}){ending}\.nii(\.gz)?")
        paths = sorted((home / name).iterdir()) if (home / name).is_dir() else []  # .nii.gz follows .nii, and is taken
        found = {match[1]: path for path in paths if (match := pattern.fullmatch(path.name))}
        if not found:
            raise ValueError(
                f"no {kind} mask: expected {home / name}/UPENN-GBM-00002_11{ending}.nii.gz, .... Download that folder, too, "
                f"from {self.source}, or choose the masks that are there: dataset.layout.masks={' or '.join(_MASKS)}"
            )
        return found
