"""A data set of tiny NIfTI files, for tests that need real files but no patients."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from calf.data.cases import Case, Image, Target
from calf.data.volumes import write_volume

LABELS = {0: "background", 1: "rim", 2: "core"}
SHAPE = (10, 12, 6)


@dataclass
class ToyLayout:
    """``num_cases`` files of two modalities, two examinations a patient, with a box of rim around a core."""

    root: Path
    num_cases: int = 6
    biased: bool = False
    modalities: tuple[str, ...] = ("a", "b")
    labels: dict[int, str] = field(default_factory=lambda: dict(LABELS))
    targets: dict[str, Target] = field(
        default_factory=lambda: {
            "whole": Target(("whole",), ((1, 2),)),
            "classes": Target(("rim", "core"), ((1,), (2,)), exclusive=True),
            "regions": Target(("whole", "core"), ((1, 2), (2,))),
        }
    )

    def ensure(self) -> None:
        if self.root.exists():
            return
        self.root.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for number in range(self.num_cases):
            shape = (SHAPE[0] + number % 2, SHAPE[1], SHAPE[2])
            affine = np.diag([-1.0, -1.5, 3.0, 1.0])
            mask = np.zeros(shape, np.uint8)
            mask[2:7, 3:9, 1:4] = 1
            mask[3:5, 4:7, 2:4] = 2
            for modality in self.modalities:
                image = rng.integers(100, 200, shape).astype(np.int16) + 300 * (mask > 0)
                write_volume(self.root / f"case{number}_{modality}.nii.gz", image.astype(np.int16), affine)
            write_volume(self.root / f"case{number}_seg.nii.gz", mask, affine)
            if self.biased:
                mask[2] = 0
                write_volume(self.root / f"case{number}_clean.nii.gz", mask, affine)

    def cases(self) -> list[Case]:
        return [
            Case(
                id=f"case{number}",
                patient=f"patient{number // 2}",
                images={modality: Image(self.root / f"case{number}_{modality}.nii.gz") for modality in self.modalities},
                mask=self.root / f"case{number}_seg.nii.gz",
                reference=self.root / f"case{number}_clean.nii.gz" if self.biased else None,
            )
            for number in range(self.num_cases)
        ]


@dataclass
class PartlyLabelled(ToyLayout):
    """Of each case only the slices that show rim or core were annotated."""

    def __post_init__(self) -> None:
        self.targets["core"] = Target(("core",), ((2,),))

    def cases(self) -> list[Case]:
        return [replace(case, partly_labelled=True) for case in super().cases()]
