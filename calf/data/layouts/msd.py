"""Any task of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from calf.data.cases import Case, Image, Target
from calf.data.layouts import no_cases, require_root
from calf.data.targets import check_labels, class_targets, snake_case

SOURCE = "http://medicaldecathlon.com"
EXPECTED = "dataset.json, imagesTr/*.nii.gz and labelsTr/*.nii.gz of one task, such as Task04_Hippocampus"


@dataclass
class MSD:
    """One task as unpacked; ``dataset.json`` says which modalities, labels and files there are.

    Antonelli et al. 2022, https://arxiv.org/abs/2106.05735. Several modalities lie on the last axis of one 4-D file.
    The images of ``imagesTs``, if that folder is there, are cases without a mask, of the subset ``test``; the others are of
    ``training``. No patient key is published: every image counts as a patient of its own. Images that ``dataset.json`` does
    not list are passed by. It is read when it is first needed.

    Targets: ``foreground`` (everything labelled, named after the task, or ``liver_foreground`` where a class has that name),
    ``classes`` (exclusive), and each class by its name in lower_snake_case.

    Args:
        root: the task's folder, the one with ``dataset.json``.
    """

    root: Path | str

    @property
    def folder(self) -> Path:
        """The task's folder."""
        return Path(self.root).expanduser()

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """Names of ``dataset.json`` in lower_snake_case, in channel order."""
        entries = self._description["modality"]
        return tuple(snake_case(entries[key]) for key in sorted(entries, key=int))

    @cached_property
    def labels(self) -> dict[int, str]:
        """Label values and their names as in ``dataset.json``."""
        return check_labels(self._description["labels"], str(self.folder / "dataset.json"))

    @cached_property
    def targets(self) -> dict[str, Target]:
        """``foreground``, ``classes`` and each class alone."""
        return class_targets(self.labels, self._task, str(self.folder / "dataset.json"))

    def ensure(self) -> None:
        """Raise a ValueError that says what is wrong with ``root`` or its ``dataset.json``."""
        _ = self.modalities, self.targets

    def cases(self) -> list[Case]:
        """Every listed image, sorted by id; a ValueError names listed files that are not there, or an empty list."""
        listed = [(entry["image"], entry["label"]) for entry in self._description["training"]]
        if (self.folder / "imagesTs").is_dir():
            test = self._description.get("test", [])
            listed += [(entry["image"] if isinstance(entry, dict) else entry, None) for entry in test]
        cases = [self._case(image, label) for image, label in listed if not Path(image).name.startswith(".")]
        if not cases:
            raise no_cases(self.folder, EXPECTED, SOURCE)
        self._check(cases)
        return sorted(cases, key=lambda case: case.id)

    def _case(self, image: str, label: str | None) -> Case:
        path = self.folder / image
        name = re.sub(r"\.nii(\.gz)?$", "", path.name)
        several = len(self.modalities) > 1
        images = {modality: Image(path, channel if several else None) for channel, modality in enumerate(self.modalities)}
        subset = "training" if label else "test"
        return Case(name, name, images, self.folder / label if label else None, subset=subset)

    def _check(self, cases: list[Case]) -> None:
        twice = sorted(name for name, count in Counter(case.id for case in cases).items() if count > 1)
        if twice:
            raise ValueError(f"{self.folder / 'dataset.json'} lists {len(twice)} images twice: {', '.join(twice[:10])}")
        missing = [str(path.relative_to(self.folder)) for case in cases for path in case.files() if not path.is_file()]
        if missing:
            names = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            raise ValueError(
                f"{len(missing)} files that dataset.json lists are not in {self.folder.absolute()}: {names}. "
                f"Unpack the task again (from {SOURCE}), or take their entries out of dataset.json"
            )

    @property
    def _task(self) -> str:
        return snake_case(self._description.get("name") or re.sub(r"^Task\d+_", "", self.folder.absolute().name))

    @cached_property
    def _description(self) -> dict[str, Any]:
        require_root(self.folder, EXPECTED, SOURCE)
        path = self.folder / "dataset.json"
        if not path.is_file():
            tasks = sorted(entry.parent.name for entry in self.folder.glob("*/dataset.json"))
            hint = f"; data_root should name one of its folders: {', '.join(tasks)}" if tasks else ""
            raise ValueError(f"{no_cases(self.folder, EXPECTED, SOURCE)}{hint}")
        try:
            description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{path}: expected JSON: {error}") from error
        if lacking := [key for key in ("modality", "labels", "training") if key not in description]:
            raise ValueError(
                f"{path}: expected the Decathlon's keys modality, labels and training; {', '.join(lacking)} missing "
                f"(it has {', '.join(description)}). For nnU-Net's own format take dataset=nnunet_raw"
            )
        return description
