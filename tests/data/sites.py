"""Several toy data sets with people of their own, or some in common."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from calf.data.build import StorePlan, plan_store
from calf.data.cases import Case
from calf.data.prepare import Preparation
from calf.data.volumes import write_volume
from tests.data.toy import ToyLayout


@dataclass
class Site(ToyLayout):
    """A toy data set whose images depend on ``seed``; ``renamed`` changes names of patients, ``aliases`` adds other ones.

    Cases are ``<site>case<n>``, so that ids with an empty ``site`` collide.
    """

    seed: int = 0
    site: str = ""
    renamed: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def ensure(self) -> None:
        if self.root.exists():
            return
        super().ensure()
        rng = np.random.default_rng(self.seed)
        for path in sorted(self.root.glob("*_[ab].nii.gz")):
            image = nib.load(path)
            write_volume(path, np.asarray(image.dataobj) + rng.integers(0, 50, image.shape).astype(np.int16), image.affine)

    def cases(self) -> list[Case]:
        return [
            replace(
                case,
                id=self.site + case.id,
                patient=self.renamed.get(case.patient, self.site + case.patient),
                aliases=self.aliases.get(case.patient, ()),
            )
            for case in super().cases()
        ]


def planned(
    folder: Path, name: str, target: str = "whole", preparation: Preparation | None = None, **options: object
) -> StorePlan:
    """The plan of a site whose files lie in ``folder/<name>``."""
    layout = Site(folder / name, **options)  # type: ignore[arg-type]
    return plan_store(name, layout, target, preparation or Preparation(size=(16, 16)), folder / "stores")
