"""Data sets in nnU-Net's raw format, of version 1 (Task...) and 2 (Dataset...)."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from calf.data.cases import Case, Image, Target
from calf.data.layouts import no_cases, require_root
from calf.data.targets import MOST_NAMES, check_labels, class_targets, snake_case

SOURCE = "their owner, in nnU-Net's format (documentation/dataset_format.md of https://github.com/MIC-DKFZ/nnUNet),"
EXPECTED = "dataset.json, imagesTr/<case>_0000.nii.gz (one file a channel) and labelsTr/<case>.nii.gz"
ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")

_Files = dict[str, tuple[dict[int, Path], Path | None]]  # of each case: channels and mask


@dataclass
class NNUNetRaw:
    """One data set as nnU-Net takes it; ``dataset.json`` says which channels and labels there are.

    Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z. Version 2 (``channel_names``, ``file_ending``, labels by
    name) takes the files of ``imagesTr`` and ``labelsTr``, or those that its key ``dataset`` names; version 1 (``modality``,
    labels by value) the cases that ``training`` lists. ``imagesTs``, with masks from ``labelsTs`` where that is there, are
    further cases of the subset ``test``; the others are of ``train``. Who the patients are is not said: every case counts as
    one. A case that lacks a channel or its images is listed without; reading what is missing is an error that names it.

    Targets: each label or region by its name in lower_snake_case, and ``foreground`` (everything labelled); of labels without
    regions ``classes`` (exclusive, at most 8), of regions ``regions`` (overlapping, at most 8).

    Args:
        root: the data set's folder, the one with ``dataset.json``.
    """

    root: Path | str

    @property
    def folder(self) -> Path:
        """The data set's folder."""
        return Path(self.root).expanduser()

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """Channel names in lower_snake_case, in order; equal ones with the channel's number."""
        channels = self._description["channel_names" if self._version == 2 else "modality"]
        if not channels or set(channels) != {str(number) for number in range(len(channels))}:
            raise ValueError(f"{self._json}: expected channels numbered from 0, got {channels}")
        names = [snake_case(str(channels[str(number)])) or "channel" for number in range(len(channels))]
        count = Counter(names)
        return tuple(name if count[name] == 1 else f"{name}_{number}" for number, name in enumerate(names))

    @cached_property
    def labels(self) -> dict[int, str]:
        """Label values and their names; a value of regions alone is named after them."""
        named = {values[0]: name for name, values in self._label_sets.items() if len(values) == 1}
        for value in {value for values in self._label_sets.values() for value in values} - set(named):
            named[value] = "in " + ", ".join(name for name, values in self._label_sets.items() if value in values)
        return check_labels(named, str(self._json))

    @cached_property
    def targets(self) -> dict[str, Target]:
        """Each label or region alone, ``foreground``, and ``classes`` or ``regions``."""
        name = snake_case(str(self._description.get("name") or re.sub(r"^(Task|Dataset)\d+_", "", self.folder.absolute().name)))
        if all(len(values) == 1 for values in self._label_sets.values()):
            return class_targets(self.labels, name, str(self._json))
        regions = {snake_case(region): values for region, values in self._label_sets.items() if values != (0,)}
        if len(regions) != len(self._label_sets) - 1 or {"", "regions", "foreground"} & set(regions):
            raise ValueError(
                f"{self._json}: expected regions of distinct names (not regions, foreground), got {self._label_sets}"
            )
        targets = {region: Target((region,), (values,)) for region, values in regions.items()}
        foreground = tuple(value for value in self.labels if value != 0)
        if regions.get(name, foreground) != foreground:
            name += "_foreground"
        targets["foreground"] = Target((name,), (foreground,))
        if len(regions) <= MOST_NAMES:
            targets["regions"] = Target(tuple(regions), tuple(regions.values()))
        return targets

    def ensure(self) -> None:
        """Raise a ValueError that says what is wrong with ``root`` or its ``dataset.json``."""
        _ = self.modalities, self.targets

    def cases(self) -> list[Case]:
        """Every case, sorted by id; a ValueError names listed files that are not there, or an empty folder."""
        self.ensure()
        if "dataset" in self._description:
            training = self._named()
        else:
            training = self._listed() if self._version == 1 else self._in_folders("imagesTr", "labelsTr")
        if not training:
            raise no_cases(self.folder, EXPECTED.replace(".nii.gz", self._ending), SOURCE)
        test = self._in_folders("imagesTs", "labelsTs")
        if twice := sorted(set(training) & set(test)):
            raise ValueError(f"{self.folder}: {len(twice)} cases are in imagesTr and imagesTs: {', '.join(twice[:10])}")
        cases = [self._case(name, files, "train") for name, files in training.items()]
        cases += [self._case(name, files, "test") for name, files in test.items()]
        return sorted(cases, key=lambda case: case.id)

    def _case(self, name: str, files: tuple[dict[int, Path], Path | None], subset: str) -> Case:
        channels, mask = files
        if odd := sorted(number for number in channels if number >= len(self.modalities)):
            raise ValueError(
                f"{channels[odd[0]]}: expected the channels of dataset.json, 0 to {len(self.modalities) - 1} "
                f"({', '.join(self.modalities)}), got {odd[0]}: remove the file, or name its channel"
            )
        images = {self.modalities[number]: Image(channels[number]) for number in sorted(channels)}
        return Case(name, name, images, mask, subset=subset)

    def _in_folders(self, images: str, masks: str) -> _Files:
        """Files by name: of exactly one ``_0000`` at the end, as a case's own name may end like that."""
        pattern = re.compile(rf"([^.].*)_(\d{{4}}){re.escape(self._ending)}")
        cases: _Files = {}
        for path in self._files(images):
            if found := pattern.fullmatch(path.name):
                cases.setdefault(found[1], ({}, None))[0][int(found[2])] = path
        for path in self._files(masks):
            if path.name.endswith(self._ending) and not path.name.startswith("."):
                name = path.name.removesuffix(self._ending)
                cases[name] = (cases.get(name, ({}, None))[0], path)
        return cases

    def _files(self, name: str) -> list[Path]:
        folder = self.folder / name
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _listed(self) -> _Files:
        """The cases of version 1's ``training``, whose images are named there without their channel."""
        found = self._in_folders("imagesTr", "labelsTr")
        names = [Path(entry["label"]).name.removesuffix(self._ending) for entry in self._description["training"]]
        names = [name for name in names if not name.startswith(".")]
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise ValueError(f"{self._json} lists {len(twice)} cases twice: {', '.join(twice[:10])}")
        missing = [name for name in names if name not in found or not all(found[name])]
        self._refuse_missing([f"imagesTr/{name}_0000{self._ending} or labelsTr/{name}{self._ending}" for name in missing])
        return {name: found[name] for name in names}

    def _named(self) -> _Files:
        """The files of the key ``dataset``; environment variables are put in, relative paths start at the folder."""
        cases: _Files = {}
        for name, entry in self._description["dataset"].items():
            channels = {number: self._path(image) for number, image in enumerate(entry["images"])}
            cases[name] = (channels, self._path(entry["label"]) if entry.get("label") else None)
        paths = [path for channels, mask in cases.values() for path in (*channels.values(), mask) if path is not None]
        self._refuse_missing([str(path) for path in paths if not path.is_file()])
        return cases

    def _path(self, name: str) -> Path:
        return self.folder.absolute() / os.path.expandvars(name)

    def _refuse_missing(self, missing: list[str]) -> None:
        if missing:
            names = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            raise ValueError(
                f"{len(missing)} files that dataset.json lists are not there: {names}. Put them into {self.folder.absolute()}, "
                "or take their entries out of dataset.json"
            )

    @property
    def _json(self) -> Path:
        return self.folder / "dataset.json"

    @cached_property
    def _version(self) -> int:
        return 2 if "channel_names" in self._description else 1

    @cached_property
    def _ending(self) -> str:
        ending = str(self._description.get("file_ending", ".nii.gz"))
        if ending not in ENDINGS:
            raise ValueError(f"{self._json}: file_ending is {ending}; expected volumes, one of {', '.join(ENDINGS)}")
        return ending

    @cached_property
    def _label_sets(self) -> dict[str, tuple[int, ...]]:
        """Label values of each name, in the order of ``dataset.json``, the background among them."""
        given = self._description["labels"]
        by_value = {str(name): value for value, name in given.items()} if self._version == 1 else given
        if len(by_value) != len(given):
            raise ValueError(f"{self._json}: expected labels of distinct names, got {given}")
        try:
            sets = {
                name: tuple(int(value) for value in values) if isinstance(values, list) else (int(values),)
                for name, values in by_value.items()
            }
        except (TypeError, ValueError) as error:
            form = '{"background": 0, "tumour": 1}' if self._version == 2 else '{"0": "background", "1": "tumour"}'
            raise ValueError(f"{self._json}: expected labels such as {form}, got {given}") from error
        if ignored := [name for name in sets if name.lower() == "ignore"]:
            raise ValueError(
                f"{self._json} has the label ignore (value {sets[ignored[0]][0]}): voxels without an annotation are not "
                "supported, and would be learnt as background. Leave such cases out, or annotate them and remove the label"
            )
        background = [name for name, values in sets.items() if 0 in values]
        single = Counter(values for values in sets.values() if len(values) == 1)
        if len(background) != 1 or sets[background[0]] != (0,) or not all(sets.values()) or max(single.values()) > 1:
            raise ValueError(f"{self._json}: expected value 0 for the background alone, and values that differ, got {given}")
        return sets

    @cached_property
    def _description(self) -> dict[str, Any]:
        require_root(self.folder, EXPECTED, SOURCE)
        if not self._json.is_file():
            below = sorted(entry.parent.name for entry in self.folder.glob("*/dataset.json"))
            hint = f"; data_root should name one of its folders: {', '.join(below)}" if below else ""
            raise ValueError(f"{no_cases(self.folder, EXPECTED, SOURCE)}{hint}")
        try:
            description = json.loads(self._json.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{self._json}: expected JSON: {error}") from error
        keys = ("channel_names", "labels") if "channel_names" in description else ("modality", "labels", "training")
        if lacking := [key for key in keys if key not in description]:
            raise ValueError(
                f"{self._json}: expected channel_names, labels and file_ending (version 2) or modality, labels and training "
                f"(version 1); {', '.join(lacking)} missing (it has {', '.join(description)})"
            )
        if not isinstance(description["labels"], Mapping):
            raise ValueError(f"{self._json}: expected labels as an object, got {description['labels']!r}")
        return dict(description)
