"""SPIDER: vertebrae, discs and the spinal canal in lumbar MRI."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from calf.data.cases import Case, Image, Target
from calf.data.layouts import no_cases, require_root

SOURCE = "https://zenodo.org/records/10159290"
EXPECTED = "images/1_t1.mha, ..., masks/1_t1.mha, ..., overview.csv"
SERIES = ("t1", "t2", "t2_SPACE")

_STEM = re.compile(r"(\d+)_(t1|t2|t2_SPACE)")


@dataclass
class Spider:
    """447 sagittal series of 218 patients with low back pain; each series is a case with the one modality ``mr``.

    van der Graaf et al. 2024, https://doi.org/10.1038/s41597-024-03090-w. The series of a patient lie on grids of their own
    and stay together in a split. Vertebrae are numbered 1, 2, ... from the lowest visible one upwards, discs 201, 202, ...;
    the numbers are no anatomical levels. ``subset`` is that of ``overview.csv``, where that file is there.

    Args:
        root: folder with ``images`` and ``masks``.
        series: which kinds are taken, of t1, t2 and t2_SPACE.
    """

    root: Path | str
    series: Sequence[str] = SERIES
    modalities: tuple[str, ...] = field(default=("mr",), init=False)
    labels: dict[int, str] = field(init=False, repr=False)
    targets: dict[str, Target] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.series or (odd := sorted(set(self.series) - set(SERIES))):
            raise ValueError(f"dataset.layout.series takes some of {', '.join(SERIES)}; got {odd if self.series else 'none'}")
        vertebrae, discs = tuple(range(1, 26)), tuple(range(201, 226))
        self.labels = {0: "background"} | {value: f"vertebra {value} from below" for value in vertebrae}
        self.labels |= {100: "spinal canal"} | {value: f"disc {value - 200} from below" for value in discs}
        parts = {"vertebrae": vertebrae, "canal": (100,), "discs": discs}
        self.targets = {name: Target((name,), (values,)) for name, values in parts.items()}
        self.targets["classes"] = Target(tuple(parts), tuple(parts.values()), exclusive=True)

    @property
    def folder(self) -> Path:
        """Where images and masks are sought."""
        return Path(self.root).expanduser()

    def ensure(self) -> None:
        """Raise a ValueError with the source of the data if ``root`` is not a folder."""
        require_root(self.folder, EXPECTED, SOURCE)

    def cases(self) -> list[Case]:
        """A case a series that has an image or a mask, sorted by id; a ValueError if there is none."""
        self.ensure()
        images, masks = (_by_stem(self.folder / name) for name in ("images", "masks"))
        subsets = self._subsets()
        cases = []
        for stem in sorted({*images, *masks}):
            found = _STEM.fullmatch(stem)
            if found and found[2] in self.series:
                image = {"mr": Image(images[stem])} if stem in images else {}
                cases.append(Case(stem, found[1], image, masks.get(stem), subset=subsets.get(stem)))
        if not cases:
            raise no_cases(self.folder, EXPECTED, SOURCE)
        return cases

    def _subsets(self) -> dict[str, str]:
        path = self.folder / "overview.csv"
        if not path.is_file():
            return {}
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter=max(",;", key=first.count)))
        if not rows or not {"new_file_name", "subset"} <= set(rows[0]):
            raise ValueError(f"{path}: expected the columns new_file_name and subset, got {first.strip()!r}")
        named = [row for row in rows if row["new_file_name"] and row["subset"]]
        return {row["new_file_name"].strip().removesuffix(".mha"): row["subset"].strip() for row in named}


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in folder.glob("*.mha") if not path.name.startswith(".")}
