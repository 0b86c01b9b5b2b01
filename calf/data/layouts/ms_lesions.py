"""White matter lesions of multiple sclerosis, the Ljubljana cross-sectional data set."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from calf.data.cases import Case, Image, Target
from calf.data.layouts import case_folders, no_cases, require_root

SOURCE = "http://lit.fe.uni-lj.si/tools or https://github.com/muschellij2/open_ms_data, folder cross_sectional"
EXPECTED = "patient01/[patient01_]{FLAIR,T1W,T1WKS,T2W,consensus_gt}.nii.gz, ... (or the names of the copy in MNI space)"

_PATIENT = re.compile(r"patient\d{2}")
# the copy in MNI space goes on with the steps of its processing, as in FLAIR_N4_noneck_reduced_..._regtoMNI.nii.gz
_FILE = re.compile(r"(?:patient\d{2}_)?(FLAIR|T1WKS|T1POST|T1W|T1|T2W|T2|consensus_gt|GOLD_STANDARD)(?:_N4_\w+)?\.nii(?:\.gz)?")
_MODALITIES: tuple[str, ...] = ("flair", "t1", "t1c", "t2")
_MEANING = {
    "FLAIR": "flair", "T1W": "t1", "T1": "t1", "T1WKS": "t1c", "T1POST": "t1c", "T2W": "t2", "T2": "t2",
    "consensus_gt": "mask", "GOLD_STANDARD": "mask",
}  # fmt: skip


@dataclass
class MSLesions:
    """30 patients with FLAIR, T1, contrast-enhanced T1 and T2, and the consensus of three raters on the FLAIR image.

    Lesjak et al. 2017, https://doi.org/10.1007/s12021-017-9348-7. Read are the co-registered images of the original release
    and of open_ms_data, and the latter's copies in MNI space (182 x 218 x 182, 1 mm, with negative intensities). The raw
    images beside them lie on other grids than FLAIR and its mask. A case that lacks a file is listed with those it has.
    The longitudinal data set has changes of lesions as masks and is another one.

    Args:
        root: folder with ``patient01`` to ``patient30`` in one of these versions, or one that contains it.
    """

    root: Path | str
    modalities: tuple[str, ...] = field(default=_MODALITIES, init=False)
    labels: dict[int, str] = field(init=False, repr=False)
    targets: dict[str, Target] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.labels = {0: "background", 1: "lesion"}
        self.targets = {"lesion": Target(("lesion",), ((1,),))}

    def ensure(self) -> None:
        """Raise a ValueError with the source of the data if ``root`` is not a folder."""
        require_root(Path(self.root).expanduser(), EXPECTED, SOURCE)

    def cases(self) -> list[Case]:
        """Every case, sorted by id; each is a patient of its own. A ValueError if there is none."""
        self.ensure()
        root = Path(self.root).expanduser()
        cases = [_case(folder) for folder in case_folders(root, _PATIENT)]
        if not any(case.files() for case in cases):
            raise no_cases(root, EXPECTED, SOURCE)
        return cases


def _case(folder: Path) -> Case:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if found := _FILE.fullmatch(path.name):
            meaning = _MEANING[found[1]]
            if meaning in files:
                raise ValueError(
                    f"{folder}: expected one file for {meaning}, got {files[meaning].name} and {path.name}: remove one"
                )
            files[meaning] = path
    mask = files.pop("mask", None)
    images = {modality: Image(files[modality]) for modality in _MODALITIES if modality in files}
    return Case(folder.name, folder.name, images, mask)
