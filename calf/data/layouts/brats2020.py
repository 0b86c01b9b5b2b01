"""The training and validation sets of BraTS 2020."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from calf.data.cases import Case, Image, Target
from calf.data.layouts import case_folders, no_cases, require_root

SOURCE = "https://www.med.upenn.edu/cbica/brats2020/data.html (registration)"
EXPECTED = "BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii.gz (or .nii), ..."

_CASE = re.compile(r"BraTS20_(Training|Validation)_\d{3}")
# the official release misnames one mask
_MISNAMED = {"BraTS20_Training_355": "W39_1998.09.19_Segm"}


@dataclass
class BraTS2020:
    """Multi-modal glioma MRI, 240 x 240 x 155 voxels of 1 mm, skull-stripped, background 0; 369 + 125 patients.

    Bakas et al. 2018, https://arxiv.org/abs/1811.02629. Files as unpacked, compressed or not (``.nii.gz`` is taken where both
    are there), in ``root`` itself or up to three folders deeper. Validation cases, and others without a ``_seg`` file, have no
    mask. A case that lacks a modality is listed with those it has; reading the missing one is an error that names it.
    ``<id>_seg_clean`` beside the mask, where there is one, becomes the case's reference.

    Args:
        root: folder of the data set, or one that contains it.
    """

    root: Path | str
    modalities: tuple[str, ...] = field(default=("t1", "t1ce", "t2", "flair"), init=False)
    labels: dict[int, str] = field(init=False, repr=False)
    targets: dict[str, Target] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.labels = {0: "background", 1: "necrotic or non-enhancing core", 2: "oedema", 4: "enhancing tumour"}
        regions = {"whole_tumour": (1, 2, 4), "tumour_core": (1, 4), "enhancing": (4,)}
        self.targets = {name: Target((name,), (values,)) for name, values in regions.items()}
        self.targets["regions"] = Target(tuple(regions), tuple(regions.values()))
        self.targets["classes"] = Target(("necrotic_core", "oedema", "enhancing"), ((1,), (2,), (4,)), exclusive=True)

    @property
    def folder(self) -> Path:
        """Where the cases are sought."""
        return Path(self.root).expanduser()

    def ensure(self) -> None:
        """Raise a ValueError with the source of the data if ``root`` is not a folder."""
        require_root(self.folder, EXPECTED, SOURCE)

    def cases(self) -> list[Case]:
        """Every case, sorted by id; each is a patient of its own. A ValueError if there is none."""
        self.ensure()
        cases = [self._case(folder) for folder in case_folders(self.folder, _CASE)]
        if not cases:
            raise no_cases(self.folder, EXPECTED, SOURCE)
        return cases

    def _case(self, folder: Path) -> Case:
        files = {path.name: path for path in folder.iterdir() if path.is_file()}

        def find(stem: str) -> Path | None:
            return files.get(f"{stem}.nii.gz") or files.get(f"{stem}.nii")

        paths = {modality: find(f"{folder.name}_{modality}") for modality in self.modalities}
        mask = find(f"{folder.name}_seg")
        if mask is None and folder.name in _MISNAMED:
            mask = find(_MISNAMED[folder.name])
        images = {modality: Image(path) for modality, path in paths.items() if path}
        return Case(folder.name, folder.name, images, mask, find(f"{folder.name}_seg_clean"))
