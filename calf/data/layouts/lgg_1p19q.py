"""LGG-1p19qDeletion: low-grade gliomas, annotated on three slices each."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from calf.data.cases import Case, Image, Target
from calf.data.dicom import damage_named
from calf.data.grid import VolumeError
from calf.data.layouts import case_folders, no_cases, require_root

SOURCE = "https://doi.org/10.7937/K9/TCIA.2017.dwehtz9v"
EXPECTED = (
    "LGG-104/{T1,T2,Segmentation}.nii.gz, ... (the NIfTI release) or LGG-104/<study>/<series>/*.dcm, ... (DICOM with DICOM-SEG)"
)

_PATIENT = re.compile(r"LGG-\d+")
_NIFTI = {"t2": "T2.nii.gz", "t1": "T1.nii.gz"}


@dataclass
class LGG1p19q:
    """159 patients before surgery, T2 and contrast-enhanced T1, not skull-stripped, on the scanner's anisotropic grids.

    Akkus et al. 2017, https://doi.org/10.1007/s10278-017-9984-3. The tumour is drawn on the three axial slices around its
    largest diameter; it goes on in others, which are unlabelled: every case is ``partly_labelled``, and no figure of a
    whole volume means anything. Two releases are read, told apart by what is in ``root``:

    NIfTI: ``t1``, registered to T2, and ``t2``. DICOM: ``t2``, the series that the segmentation refers to, whose names vary; the
    T1 series has another grid and is left out. A header is read of each series. A patient without a segmentation is listed
    without images then, as nothing says which series is the one; so is one whose series is not there.

    Args:
        root: folder of the patients, or one that contains it.
    """

    root: Path | str
    labels: dict[int, str] = field(init=False, repr=False)
    targets: dict[str, Target] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.labels = {0: "background", 1: "tumour"}
        self.targets = {"whole_tumour": Target(("whole_tumour",), ((1,),))}

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """t2, and t1 in the NIfTI release."""
        return tuple(_NIFTI) if self._is_nifti else ("t2",)

    def ensure(self) -> None:
        """Raise a ValueError with the source of the data if ``root`` has neither release, or both."""
        _ = self._is_nifti

    def cases(self) -> list[Case]:
        """Every patient, sorted; a ValueError if there is none."""
        case = _nifti_case if self._is_nifti else _dicom_case
        return [case(folder) for folder in self._folders]

    @cached_property
    def _folders(self) -> list[Path]:
        root = Path(self.root).expanduser()
        require_root(root, EXPECTED, SOURCE)
        return case_folders(root, _PATIENT)

    @cached_property
    def _is_nifti(self) -> bool:
        nifti = next((folder for folder in self._folders if any((folder / name).is_file() for name in _NIFTI.values())), None)
        dicom = next((folder for folder in self._folders if _files_by_folder(folder)), None)
        root = Path(self.root).expanduser()
        if nifti and dicom:
            raise ValueError(
                f"{root.absolute()} holds both releases, NIfTI in {nifti} and DICOM in {dicom}: point data_root at one of them"
            )
        if not nifti and not dicom:
            raise no_cases(root, EXPECTED, SOURCE)
        return nifti is not None


def _nifti_case(folder: Path) -> Case:
    images = {modality: Image(folder / name) for modality, name in _NIFTI.items() if (folder / name).is_file()}
    mask = folder / "Segmentation.nii.gz"
    return Case(folder.name, folder.name, images, mask if mask.is_file() else None, partly_labelled=True)


def _dicom_case(folder: Path) -> Case:
    series: dict[str, Path] = {}
    masks: list[Path] = []
    unreadable: list[Path] = []
    for files in _files_by_folder(folder):
        header = _header(files[0], ["Modality", "SeriesInstanceUID"])
        if header is None:
            unreadable.append(files[0])
        elif header.get("Modality") == "SEG":
            masks += files
        elif uid := header.get("SeriesInstanceUID"):
            if uid in series:
                raise ValueError(
                    f"{series[uid]} and {files[0].parent} hold one series: expected one folder for it, remove the copy"
                )
            series[uid] = files[0].parent
    if len(masks) > 1:
        names = ", ".join(str(path) for path in masks)
        raise ValueError(f"{folder}: expected one segmentation a patient, got {len(masks)}: {names}: remove all but one")
    t2 = _referenced(masks[0], series) if masks else None
    # the segmentation may be the unreadable file: then preparation shall name the case, not take it for one without a mask
    mask = next(iter(masks or unreadable), None)
    return Case(folder.name, folder.name, {"t2": Image(t2)} if t2 else {}, mask, partly_labelled=True)


def _referenced(mask: Path, series: dict[str, Path]) -> Path | None:
    """The folder of the series that a segmentation names, if it is there.

    One that names single images alone, and no series, is looked for by them, in the headers of all files.
    """
    header = _header(mask, ["ReferencedSeriesSequence", "PerFrameFunctionalGroupsSequence"]) or pydicom.Dataset()
    if named := [item.SeriesInstanceUID for item in header.get("ReferencedSeriesSequence", [])]:
        return next((series[uid] for uid in named if uid in series), None)
    images = {
        source.ReferencedSOPInstanceUID
        for frame in header.get("PerFrameFunctionalGroupsSequence", [])
        for derivation in frame.get("DerivationImageSequence", [])
        for source in derivation.get("SourceImageSequence", [])
    }
    for folder in series.values():
        headers = (_header(path, ["SOPInstanceUID"]) for path in _files_by_folder(folder)[0])
        if any(header is not None and header.get("SOPInstanceUID") in images for header in headers):
            return folder
    return None


def _files_by_folder(folder: Path) -> list[list[Path]]:
    """DICOM files below, sorted, those of each folder together."""
    found = []
    for here, _, names in sorted(os.walk(folder, followlinks=True)):
        files = [Path(here, name) for name in sorted(names) if name.endswith(".dcm") and not name.startswith(".")]
        found += [files] if files else []
    return found


def _header(path: Path, tags: list[str]) -> pydicom.Dataset | None:
    """Some elements of a header; None of a file that is damaged or no DICOM."""
    try:
        with damage_named(path):
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
            list(header.iterall())  # elements are parsed when they are looked at
            return header if len(header) else None
    except (VolumeError, InvalidDicomError):
        return None
