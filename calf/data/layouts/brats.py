"""What the releases of BraTS, and the data sets that follow its conventions, have in common."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from calf.data.cases import Case, Image, Target
from calf.data.layouts import case_folders, nifti, no_cases, require_root
from calf.data.layouts.aliases import aliases_of_patients


@dataclass
class BraTS:
    """Multi-modal glioma MRI, one folder a case; a subclass says how a release spells its names.

    Modalities have the same names in every data set: ``t1``, ``t1ce`` (after contrast agent), ``t2``, ``flair``. A file is
    found by its whole name, compressed or not (``.nii.gz`` is taken where both are there), in a folder that is ``root`` or
    lies up to three folders deeper. A case without a mask can only be predicted. One that lacks a modality is listed with
    those it has, one with nothing but a mask without any; reading what is missing is an error that names the case. The
    folder ``HGG`` or ``LGG`` (high or low grade) in which a case lies is its subset.

    Targets: ``whole_tumour``, ``tumour_core`` and ``enhancing`` alone; ``regions``, all three, overlapping; ``classes``,
    every label a class of its own.

    Case aliases are ids of the same patient's cases in other data sets, as their folders spell them (``BraTS19_CBICA_AAB_1``,
    ``BraTS2021_00012``, ``TCGA-02-0006``), read from the mapping tables beside the data (see ``calf.data.layouts.aliases``),
    and the case's own id where that is not the patient's name, as other data sets name it in their tables.

    Args:
        root: folder of the data set, or one that contains it.
    """

    root: Path | str
    modalities: tuple[str, ...] = field(default=("t1", "t1ce", "t2", "flair"), init=False)
    labels: dict[int, str] = field(init=False, repr=False)
    targets: dict[str, Target] = field(init=False, repr=False)

    source: ClassVar[str]
    expected: ClassVar[str]
    case_id: ClassVar[re.Pattern[str]]  # its first group is the patient
    folder_ending: ClassVar[str] = ""  # of a case's folder, after the id
    endings: ClassVar[dict[str, str]] = {"t1": "_t1", "t1ce": "_t1ce", "t2": "_t2", "flair": "_flair"}  # of files, after the id
    mask_ending: ClassVar[str] = "_seg"
    enhancing: ClassVar[int] = 4  # label value of enhancing tumour

    def __post_init__(self) -> None:
        et = self.enhancing
        self.labels = {0: "background", 1: "necrotic or non-enhancing core", 2: "oedema", et: "enhancing tumour"}
        regions = {"whole_tumour": (1, 2, et), "tumour_core": (1, et), "enhancing": (et,)}
        self.targets = {name: Target((name,), (values,)) for name, values in regions.items()}
        self.targets["regions"] = Target(tuple(regions), tuple(regions.values()))
        self.targets["classes"] = Target(("necrotic_core", "oedema", "enhancing"), ((1,), (2,), (et,)), exclusive=True)

    @property
    def folder(self) -> Path:
        """Where the cases are sought."""
        return Path(self.root).expanduser()

    @property
    def case_folder(self) -> re.Pattern[str]:
        """What the name of a case's folder looks like."""
        return re.compile(self.case_id.pattern + self.folder_ending)

    def patient_of(self, case_id: str) -> str | None:
        """The patient of a case of this data set; None if the text is no such case's id."""
        found = self.case_id.fullmatch(case_id)
        return found[1] if found else None

    def ensure(self) -> None:
        """Raise a ValueError with the source of the data if ``root`` is not a folder."""
        require_root(self.folder, self.expected, self.source)

    def cases(self) -> list[Case]:
        """Every case, sorted by id; a ValueError if there is none, or one is there twice."""
        self.ensure()
        listed = self._listed()
        if not listed:
            raise no_cases(self.folder, self.expected, self.source)
        aliases = aliases_of_patients(self.folder, self.case_folder, self.patient_of)
        names = [{*aliases.get(case.patient, ()), case.id} - {case.patient} for case in listed]
        cases = [replace(case, aliases=tuple(sorted(known))) for case, known in zip(listed, names, strict=True)]
        return sorted(cases, key=lambda case: case.id)

    def _listed(self) -> list[Case]:
        return [self._case(folder) for folder in case_folders(self.folder, self.case_folder)]

    def _case(self, folder: Path) -> Case:
        name = folder.name.removesuffix(self.folder_ending)
        patient = self.patient_of(name)
        assert patient
        grade = folder.parent.name if folder.parent.name in ("HGG", "LGG") else None
        return Case(name, patient, self._images(folder, name), nifti(folder, name + self.mask_ending), subset=grade)

    def _images(self, folder: Path, name: str) -> dict[str, Image]:
        found = {modality: nifti(folder, name + ending) for modality, ending in self.endings.items()}
        return {modality: Image(path) for modality, path in found.items() if path}
