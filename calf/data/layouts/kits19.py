"""KiTS19: kidneys and their tumours in CT."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from calf.data.cases import Case, Image, Target
from calf.data.layouts import case_folders, no_cases, require_root

SOURCE = "https://github.com/neheller/kits19 (`python3 -m starter_code.get_imaging` there fetches the images)"
EXPECTED = "data/case_00000/{imaging,segmentation}.nii.gz, ..."

_CASE = re.compile(r"case_\d{5}")


@dataclass
class KiTS19:
    """300 late-arterial CT scans of 300 patients; the 90 from case_00210 on have no public mask.

    Heller et al. 2019, https://arxiv.org/abs/1904.00445. The files' axes are (slice, row, column), inferior, posterior, left;
    reading turns them. Slices are 0.5 to 5 mm apart; all are 512 x 512 but those of case_00160, 512 x 796. ``kits.json`` is not
    needed. KiTS21 and KiTS23 have files of the same names, with cysts as label 3, which is refused.

    Args:
        root: folder of the repository, its ``data``, or one that contains it.
    """

    root: Path | str
    modalities: tuple[str, ...] = field(default=("ct",), init=False)
    labels: dict[int, str] = field(init=False, repr=False)
    targets: dict[str, Target] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.labels = {0: "background", 1: "kidney", 2: "tumour"}
        regions = {"kidney_and_tumour": (1, 2), "tumour": (2,)}
        self.targets = {name: Target((name,), (values,)) for name, values in regions.items()}
        self.targets["kidney"] = Target(("kidney",), ((1,),))
        self.targets["regions"] = Target(tuple(regions), tuple(regions.values()))
        self.targets["classes"] = Target(("kidney", "tumour"), ((1,), (2,)), exclusive=True)

    def ensure(self) -> None:
        """Raise a ValueError with the source of the data if ``root`` is not a folder."""
        require_root(Path(self.root).expanduser(), EXPECTED, SOURCE)

    def cases(self) -> list[Case]:
        """Every case, sorted by id, each a patient; a ValueError if there is none, or no image at all."""
        self.ensure()
        root = Path(self.root).expanduser()
        cases = [_case(folder) for folder in case_folders(root, _CASE)]
        if not cases:
            raise no_cases(root, EXPECTED, SOURCE)
        if not any(case.images for case in cases):
            raise ValueError(
                f"no imaging.nii.gz in the {len(cases)} case folders of {root.absolute()}: the repository holds the "
                f"masks alone. Expected {EXPECTED}. Get the images: {SOURCE}"
            )
        return cases


def _case(folder: Path) -> Case:
    image, mask = folder / "imaging.nii.gz", folder / "segmentation.nii.gz"
    return Case(folder.name, folder.name, {"ct": Image(image)} if image.is_file() else {}, mask if mask.is_file() else None)
