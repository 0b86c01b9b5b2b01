"""Which patients train, validate and test. Split by patient, written once, read ever after."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from calf.data.patients import Patient, patients_of
from calf.data.views import Samples
from calf.files import write_json

PARTS = ("train", "val", "test")
VOLUME_BINS = 4  # of patients with a lesion, when a split is balanced by its volume; one more holds those without


@dataclass(frozen=True)
class Split:
    """Patients of each part; a patient in two parts is an error."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for part in PARTS:
            if not getattr(self, part):
                raise ValueError(f"the {part} part of the split has no patient: there are too few patients for these shares")
            for patient in getattr(self, part):
                if patient in seen:
                    raise ValueError(
                        f"patient {patient} is in two parts of the split, {seen[patient]} and {part}: its test score would be "
                        "that of a patient the network was trained on. Keep each patient in one part."
                    )
                seen[patient] = part

    @property
    def hash(self) -> str:
        """Fingerprint of who is where."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]


class Splitter(Protocol):
    """A rule that deals out patients."""

    def assign(self, patients: list[Patient], fold: int | None) -> Split:
        """Split these patients (sorted by id, each once), named by their ids."""


@dataclass(frozen=True)
class Holdout:
    """One random split: shares ``val`` and ``test`` of the patients, rounded to whole ones, the rest trains.

    ``stratify``: patients without lesion, and with small to large ones (quarters by volume), are in each part in the shares they
    have in the whole, up to one patient; else that is left to chance.
    """

    val: float = 0.15
    test: float = 0.25
    seed: int = 0
    stratify: bool = False

    def assign(self, patients: list[Patient], fold: int | None) -> Split:
        _no_fold(fold, "a single holdout")
        if min(self.val, self.test) <= 0 or self.val + self.test >= 1:
            raise ValueError(f"split.val and split.test are shares with a sum below 1; got {self.val} and {self.test}")
        order = _shuffled(patients, self.seed, self.stratify)
        num_test, num_val = (max(1, round(share * len(order))) for share in (self.test, self.val))
        test, others = _take(order, num_test, self.stratify)
        val, train = _take(others, num_val, self.stratify)
        return _split(train, val, test)


@dataclass(frozen=True)
class KFold:
    """Cross-validation: fold ``k`` of ``folds`` tests, a share ``val`` of the other patients validates, the rest trains.

    ``stratify``: see :class:`Holdout`.
    """

    folds: int = 5
    val: float = 0.15
    seed: int = 0
    stratify: bool = False

    def assign(self, patients: list[Patient], fold: int | None) -> Split:
        fold = _check_fold(fold, self.folds)
        if len(patients) < self.folds:
            raise ValueError(f"{self.folds} folds need at least as many patients; there are {len(patients)}")
        order = _shuffled(patients, self.seed, self.stratify)
        test = order[fold :: self.folds]
        others = [patient for patient in order if patient not in test]
        val, train = _take(others, max(1, round(self.val * len(others))), self.stratify)
        return _split(train, val, test)


@dataclass(frozen=True)
class LeaveOnePatientOut:
    """Fold ``k`` tests patient ``k``, the ``val_patients`` next ones (cyclically) validate, the rest trains."""

    val_patients: int = 1

    def assign(self, patients: list[Patient], fold: int | None) -> Split:
        fold = _check_fold(fold, len(patients))
        turned = patients[fold:] + patients[:fold]
        val, train = turned[1 : 1 + self.val_patients], turned[1 + self.val_patients :]
        return _split(train, val, turned[:1])


@dataclass(frozen=True)
class LeaveOneSubsetOut:
    """Fold ``k`` tests the patients of the data set's subset ``k``; of the others a share ``val`` validates, the rest trains.

    Subsets are what the data set's authors call its parts: official folds, centres, scanners. They are sorted by name, numbers
    by size, so that fold 3 of the official folds 0 ... 4 tests those of fold 3. ``stratify``: see :class:`Holdout`.
    """

    val: float = 0.15
    seed: int = 0
    stratify: bool = False

    def assign(self, patients: list[Patient], fold: int | None) -> Split:
        subset = {patient: _subset(patient) for patient in patients}
        names = sorted(set(subset.values()), key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
        fold = _check_fold(fold, len(names))
        test = [patient for patient in patients if subset[patient] == names[fold]]
        others = _shuffled([patient for patient in patients if patient not in test], self.seed, self.stratify)
        val, train = _take(others, max(1, round(self.val * len(others))), self.stratify)
        return _split(train, val, test)


@dataclass(frozen=True)
class Official:
    """The split of the data set's authors: the subsets that train, validate and test, by their names.

    Args:
        train: subsets.
        test: subsets.
        val: subsets; or, where there is no official one, the share of the patients of ``train`` that validates, by ``seed``.
        unused: subsets that take no part. One that is named nowhere is an error.
        stratify: of a share; see :class:`Holdout`.
    """

    train: Sequence[str]
    test: Sequence[str]
    val: Sequence[str] | float = 0.15
    unused: Sequence[str] = ()
    seed: int = 0
    stratify: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.val, str | int) or (isinstance(self.val, float) and not 0 < self.val < 1):
            raise ValueError(f"split.val is a list of subsets, or a share between 0 and 1; got {self.val!r}")

    def assign(self, patients: list[Patient], fold: int | None) -> Split:
        _no_fold(fold, "the official one")
        named = [*self.train, *self.test, *([] if isinstance(self.val, float) else self.val), *self.unused]
        subset = {patient: _subset(patient) for patient in patients}
        there = sorted(set(subset.values()))
        if unknown := sorted({*named} - set(there)):
            raise ValueError(f"no patient is of the subset {', '.join(unknown)}; this data set has {', '.join(there)}")
        if forgotten := sorted(set(there) - {*named}):
            raise ValueError(f"subsets {', '.join(forgotten)} are named nowhere: put each in split.train, val, test or unused")

        def those_of(names: Sequence[str]) -> list[Patient]:
            return [patient for patient in patients if subset[patient] in names]

        if not isinstance(self.val, float):
            return _split(those_of(self.train), those_of(self.val), those_of(self.test))
        order = _shuffled(those_of(self.train), self.seed, self.stratify)
        val, train = _take(order, max(1, round(self.val * len(order))), self.stratify)
        return _split(train, val, those_of(self.test))


@dataclass(frozen=True)
class FromFile:
    """A split of one's own: JSON with the lists ``train``, ``val`` and ``test`` of patients. Who is not named takes no part."""

    path: str

    def assign(self, patients: list[Patient], fold: int | None) -> Split:
        try:
            content = json.loads(Path(self.path).read_text())
            split = Split(**{part: tuple(content[part]) for part in PARTS})
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path}: expected JSON with the lists train, val and test of patients ({error!r})") from error
        known = {name for patient in patients for name in (patient.id, *patient.names)}
        if unknown := sorted({*split.train, *split.val, *split.test} - known):
            raise ValueError(f"{self.path} names patients that the data set does not have: {', '.join(unknown[:10])}")
        return split


def _no_fold(fold: int | None, split: str) -> None:
    if fold is not None:
        raise ValueError(f"fold={fold} was given, but dataset.split is {split}; take one with folds, or leave fold out")


def _check_fold(fold: int | None, folds: int) -> int:
    if fold is None or not 0 <= fold < folds:
        raise ValueError(f"this split has the folds 0 ... {folds - 1}; got fold={fold}. Set fold=0, or -m fold=0,1,... for all")
    return fold


def _subset(patient: Patient) -> str:
    if len(patient.subsets) != 1:
        found = f"is in several: {', '.join(patient.subsets)}" if patient.subsets else "is in none"
        raise ValueError(
            f"this split takes each patient with its official subset, but patient {patient.id} {found}; take another"
        )
    return patient.subsets[0]


def _split(train: Sequence[Patient], val: Sequence[Patient], test: Sequence[Patient]) -> Split:
    return Split(*(tuple(sorted(patient.id for patient in part)) for part in (train, val, test)))


def _shuffled(patients: list[Patient], seed: int, stratify: bool) -> list[Patient]:
    """In random order; ``stratify``: bin by bin of lesion volume, in random order within each."""
    order = [patients[index] for index in np.random.default_rng(seed).permutation(len(patients))]
    if not stratify:
        return order
    by_volume = sorted((patient for patient in patients if patient.volume_mm3 > 0), key=lambda patient: patient.volume_mm3)
    bins = {patient: 1 + rank * VOLUME_BINS // len(by_volume) for rank, patient in enumerate(by_volume)}
    return sorted(order, key=lambda patient: bins.get(patient, 0))


def _take(order: list[Patient], number: int, spread: bool) -> tuple[list[Patient], list[Patient]]:
    """The first ``number`` patients and the others; ``spread``: at equal distances all through the order instead."""
    step = len(order) / number
    chosen = {int((index + 0.5) * step) for index in range(number)} if spread and step >= 1 else set(range(number))
    return [p for index, p in enumerate(order) if index in chosen], [p for index, p in enumerate(order) if index not in chosen]


def stored_split(splitter: Splitter, patients: Sequence[Patient], fold: int | None, folder: Path) -> Split:
    """The split of this rule in ``folder``, which belongs to one store: read where it was written before, else made and written.

    It names the patients of the store, each name of a person in the same part.

    Raises:
        ValueError: names of one person in two parts, also in a file that somebody changed or wrote.
    """
    patients = sorted(patients, key=lambda patient: patient.id)
    # options added later are left out of the name while they are off: files written before stay what is read
    options: dict[str, Any] = asdict(splitter)  # type: ignore[call-overload]
    options = {key: value for key, value in options.items() if key != "stratify" or value}
    rule = json.dumps([type(splitter).__name__, options, fold, [patient.id for patient in patients]])
    path = folder / f"{hashlib.sha256(rule.encode()).hexdigest()[:12]}.json"
    if isinstance(splitter, FromFile) or not path.exists():
        split = _with_all_names(splitter.assign(patients, fold), patients)
        check_one_part_each(split, [patient.names for patient in patients])
        write_json(path, asdict(split))
        return split
    content = json.loads(path.read_text())
    split = Split(**{part: tuple(content[part]) for part in PARTS})
    check_one_part_each(split, [patient.names for patient in patients])
    return split


def _with_all_names(split: Split, patients: Sequence[Patient]) -> Split:
    names = {patient.id: patient.names or (patient.id,) for patient in patients}
    return Split(*(tuple(sorted(n for id in getattr(split, part) for n in names.get(id, (id,)))) for part in PARTS))


def check_one_part_each(split: Split, groups: Sequence[Sequence[str]]) -> None:
    """Raise a ValueError where the names of one person are in different parts; a name may be left out."""
    part_of = {patient: part for part in PARTS for patient in getattr(split, part)}
    for names in groups:
        if len(parts := {part_of[name]: name for name in names if name in part_of}) > 1:
            placed = ", ".join(f"{name} in {part}" for part, name in parts.items())
            raise ValueError(f"the same person is in two parts of the split: {placed}. Keep all names of a person in one part.")


def divide(samples: Samples, splitter: Splitter, fold: int | None, duplicates: str = "group") -> Split:
    """The patients of each part of a store; the split is kept beside the data it divides."""
    return stored_split(splitter, patients_of(samples, duplicates), fold, samples.folder / "splits")


def check_parts(samples: Samples, split: Split) -> None:
    """Raise a ValueError where training, or choosing a checkpoint, could not mean anything."""
    for name in ("train", "val"):
        areas = samples.areas[samples.slices_of(set(getattr(split, name)))].sum(axis=0)
        if missing := [label for label, area in zip(samples.target.names, areas.tolist(), strict=True) if area == 0]:
            raise ValueError(
                f"no slice of the {name} part shows {', '.join(missing)}: "
                + ("nothing can be learnt" if name == "train" else "no checkpoint can be chosen by it")
                + ". Take another split (dataset.split.seed, fold) or target."
            )
