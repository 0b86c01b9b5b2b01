"""BraTS 2013 patients as DeepMedic ships them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from calf.data.cases import Case, Image, Target
from calf.data.layouts import case_folders, no_cases, require_root

SOURCE = "https://github.com/deepmedic/deepmedic, folder examples/dataForExamples/brats2015TrainingData"
EXPECTED = "{train,test}/brats_2013_pat0001_1/{Flair_subtrMeanDivStd,T1c_subtrMeanDivStd,OTMultiClass}.nii.gz, ..."

_CASE = re.compile(r"brats_2013_(pat\d{4})_\d+")
_FILES = {"flair": "Flair_subtrMeanDivStd.nii.gz", "t1c": "T1c_subtrMeanDivStd.nii.gz"}


@dataclass
class BraTS2013:
    """High-grade gliomas, 240 x 240 x 155 voxels of 1 mm, FLAIR and contrast-enhanced T1, expert masks.

    Menze et al. 2015, https://doi.org/10.1109/TMI.2014.2377694. Intensities are z-scored inside the brain, so the
    background is a negative constant, not 0; the brain masks beside them are not used. Masks are float32. DeepMedic's
    ``train`` and ``test`` folders are listed together; the examinations of a patient stay together. A case that lacks
    a file is listed with those it has.

    Args:
        root: folder with ``train`` and ``test``, or one that contains it.
    """

    root: Path | str
    modalities: tuple[str, ...] = field(default=("flair", "t1c"), init=False)
    labels: dict[int, str] = field(init=False, repr=False)
    targets: dict[str, Target] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.labels = {0: "background", 1: "necrosis", 2: "oedema", 3: "non-enhancing tumour", 4: "enhancing tumour"}
        regions = {"whole_tumour": (1, 2, 3, 4), "tumour_core": (1, 3, 4), "enhancing": (4,)}
        self.targets = {name: Target((name,), (values,)) for name, values in regions.items()}
        self.targets["regions"] = Target(tuple(regions), tuple(regions.values()))
        names = ("necrosis", "oedema", "non_enhancing", "enhancing")
        self.targets["classes"] = Target(names, ((1,), (2,), (3,), (4,)), exclusive=True)

    def ensure(self) -> None:
        """Raise a ValueError with the source of the data if ``root`` is not a folder."""
        require_root(Path(self.root).expanduser(), EXPECTED, SOURCE)

    def cases(self) -> list[Case]:
        """Every case, sorted by id; a ValueError if there is none."""
        self.ensure()
        root = Path(self.root).expanduser()
        folders = case_folders(root, _CASE)
        if not folders:
            raise no_cases(root, EXPECTED, SOURCE)
        return [_case(folder) for folder in folders]


def _case(folder: Path) -> Case:
    found = _CASE.fullmatch(folder.name)
    assert found
    mask = folder / "OTMultiClass.nii.gz"
    images = {modality: Image(folder / name) for modality, name in _FILES.items() if (folder / name).is_file()}
    return Case(folder.name, found[1], images, mask if mask.is_file() else None)
