"""PI-CAI 2022: clinically significant prostate cancer in biparametric MRI."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from calf.data.cases import Case, Image, Target
from calf.data.layouts import case_folders, no_cases, require_root

SOURCE = "https://zenodo.org/records/6624726 (images) and https://github.com/DIAGNijmegen/picai_labels (masks)"
EXPECTED = "[picai_public_images_fold0/]10000/10000_1000000_{t2w,adc,hbv}.mha, ... and picai_labels/csPCa_lesion_delineations"

# where each set of masks lies below csPCa_lesion_delineations, and its values; ISUP grade 1 is not significant and never drawn
_DELINEATIONS = {
    "human_expert": ("human_expert/resampled", (2, 3, 4, 5)),
    "Pooch25": ("human_expert/Pooch25", (1,)),
    "Bosma22a": ("AI/Bosma22a", (1,)),
}
_PATIENT = re.compile(r"\d{5}")
_IMAGE = re.compile(r"(\d{5}_\d{7})_(t2w|adc|hbv)\.mha")
_FOLD = re.compile(r"(?:picai_public_images_)?fold_?([0-4])")


@dataclass
class PICAI2022:
    """1500 studies of 1476 men, T2, ADC and high b-value, each on a grid of its own: take ``preparation.onto=t2w``.

    Saha et al. 2024, https://doi.org/10.1016/S1470-2045(24)00220-1. The experts' masks of 1295 studies are taken on the grid
    of T2; 1075 of them are empty: no significant cancer was found. Pooch25 are binary masks of the 205 positive studies
    that they left out, Bosma22a those of an AI for all. A study without a mask can only be predicted, a mask without its
    images is passed by. The experts' masks in their own grids (``original``) are not read. 328 studies are of ProstateX.

    Args:
        root: folder with the images, in one folder a patient, and with the repository of the masks.
        delineations: sets of masks, of human_expert, Pooch25 and Bosma22a; a study takes the first that has it.
        splits: JSON with a list of ``{train: [...], val: [...]}`` of studies, as in picai_baseline; the fold that
            validates on a study is its ``subset``. None: the number of the archive that it came in, where known.
    """

    root: Path | str
    delineations: Sequence[str] = ("human_expert",)
    splits: Path | str | None = None
    modalities: tuple[str, ...] = field(default=("t2w", "adc", "hbv"), init=False)
    labels: dict[int, str] = field(init=False, repr=False)
    targets: dict[str, Target] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        known = ", ".join(_DELINEATIONS)
        if not self.delineations or (odd := [name for name in self.delineations if name not in _DELINEATIONS]):
            raise ValueError(f"dataset.layout.delineations lists some of {known}; got {odd if self.delineations else 'none'}")
        values = sorted({value for name in self.delineations for value in _DELINEATIONS[name][1]})
        meanings = {1: "cancer of ISUP grade 2 or above"} | {grade: f"cancer of ISUP grade {grade}" for grade in range(2, 6)}
        self.labels = {0: "background"} | {value: meanings[value] for value in values}
        self.targets = {"cancer": Target(("cancer",), (tuple(values),))}
        if 1 not in values:  # which stands for any grade
            grades = tuple(f"isup_{value}" for value in values)
            self.targets["grades"] = Target(grades, tuple((value,) for value in values), exclusive=True)

    @property
    def folder(self) -> Path:
        """Where images and masks are sought."""
        return Path(self.root).expanduser()

    def ensure(self) -> None:
        """Raise a ValueError that says which folder is missing, with the source of the data."""
        require_root(self.folder, EXPECTED, SOURCE)
        self._mask_folders()

    def cases(self) -> list[Case]:
        """A case a study, sorted by id; a ValueError if there is none."""
        self.ensure()
        mask_folders, folds = self._mask_folders(), self._folds()
        cases = [case for folder in case_folders(self.folder, _PATIENT) for case in self._studies(folder, mask_folders, folds)]
        if not cases:
            raise no_cases(self.folder, EXPECTED, SOURCE)
        if folds is not None and not any(case.subset for case in cases):
            raise ValueError(
                f"{self.splits} names none of the {len(cases)} studies in {self.folder.absolute()}, such as {cases[0].id}"
            )
        return sorted(cases, key=lambda case: case.id)

    def _studies(self, folder: Path, mask_folders: list[Path], folds: dict[str, str] | None) -> list[Case]:
        studies: dict[str, dict[str, Image]] = {}
        for path in sorted(folder.iterdir()):
            if found := _IMAGE.fullmatch(path.name):
                studies.setdefault(found[1], {})[found[2]] = Image(path)
        return [
            Case(
                study,
                folder.name,
                {modality: images[modality] for modality in self.modalities if modality in images},
                next((path for masks in mask_folders if (path := masks / f"{study}.nii.gz").is_file()), None),
                subset=_archive(folder) if folds is None else folds.get(study),
            )
            for study, images in studies.items()
        ]

    def _mask_folders(self) -> list[Path]:
        found = [path for depth in ("", "*/", "*/*/") for path in self.folder.glob(f"{depth}csPCa_lesion_delineations")]
        if len(found) != 1:
            places = ", ".join(str(path) for path in found) or "none"
            raise ValueError(
                f"{self.folder.absolute()}: expected one folder csPCa_lesion_delineations in it, got {places}. Put the "
                f"repository of the masks there: git clone https://github.com/DIAGNijmegen/picai_labels"
            )
        folders = [found[0] / _DELINEATIONS[name][0] for name in self.delineations]
        if missing := [str(folder) for folder in folders if not folder.is_dir()]:
            raise ValueError(
                f"{', '.join(missing)}: no such folder of masks. Fetch https://github.com/DIAGNijmegen/picai_labels anew"
            )
        return folders

    def _folds(self) -> dict[str, str] | None:
        """The fold that validates on each study, by the file of splits."""
        if self.splits is None:
            return None
        path = Path(self.splits).expanduser()
        try:
            parts = [list(part["val"]) for part in json.loads(path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: expected JSON with a list of {{train: [...], val: [...]}} of studies ({error!r})"
            ) from error
        folds: dict[str, str] = {}
        of_patient: dict[str, int] = {}
        for number, studies in enumerate(parts):
            for study in studies:
                patient = str(study).partition("_")[0]
                if of_patient.setdefault(patient, number) != number:
                    raise ValueError(
                        f"{path}: patient {patient} validates in the folds {of_patient[patient]} and {number}: expected one fold"
                    )
                folds[str(study)] = str(number)
        return folds


def _archive(folder: Path) -> str | None:
    """Number of the archive in whose folder a patient's lies."""
    found = (_FOLD.fullmatch(parent.name) for parent in folder.absolute().parents)
    return next((match[1] for match in found if match), None)
