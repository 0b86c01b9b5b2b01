"""Which patients train, validate and test. Split by patient, written once, read ever after."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from calf.data.store import SliceStore
from calf.files import write_json


@dataclass(frozen=True)
class Split:
    """Patients of each part; a patient in two parts is an error."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for part in ("train", "val", "test"):
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

    def assign(self, patients: list[str], fold: int | None) -> Split:
        """Split these patients (sorted, each once)."""


@dataclass(frozen=True)
class Holdout:
    """One random split: shares ``val`` and ``test`` of the patients, rounded to whole ones, the rest trains."""

    val: float = 0.15
    test: float = 0.25
    seed: int = 0

    def assign(self, patients: list[str], fold: int | None) -> Split:
        if fold is not None:
            raise ValueError(f"fold={fold} was given, but dataset.split is a single holdout; take KFold, or leave fold out")
        if min(self.val, self.test) <= 0 or self.val + self.test >= 1:
            raise ValueError(f"split.val and split.test are shares with a sum below 1; got {self.val} and {self.test}")
        order = [patients[index] for index in np.random.default_rng(self.seed).permutation(len(patients))]
        num_test = max(1, round(self.test * len(order)))
        num_val = max(1, round(self.val * len(order)))
        test, val, train = order[:num_test], order[num_test : num_test + num_val], order[num_test + num_val :]
        return Split(tuple(sorted(train)), tuple(sorted(val)), tuple(sorted(test)))


@dataclass(frozen=True)
class KFold:
    """Cross-validation: fold ``k`` of ``folds`` tests, a share ``val`` of the other patients validates, the rest trains."""

    folds: int = 5
    val: float = 0.15
    seed: int = 0

    def assign(self, patients: list[str], fold: int | None) -> Split:
        _check_fold(fold, self.folds)
        if len(patients) < self.folds:
            raise ValueError(f"{self.folds} folds need at least as many patients; there are {len(patients)}")
        order = [patients[index] for index in np.random.default_rng(self.seed).permutation(len(patients))]
        test = order[fold :: self.folds]
        others = [patient for patient in order if patient not in test]
        num_val = max(1, round(self.val * len(others)))
        return Split(tuple(sorted(others[num_val:])), tuple(sorted(others[:num_val])), tuple(sorted(test)))


@dataclass(frozen=True)
class LeaveOnePatientOut:
    """Fold ``k`` tests patient ``k``, the ``val_patients`` next ones (cyclically) validate, the rest trains."""

    val_patients: int = 1

    def assign(self, patients: list[str], fold: int | None) -> Split:
        _check_fold(fold, len(patients))
        assert fold is not None
        turned = patients[fold:] + patients[:fold]
        val, train = turned[1 : 1 + self.val_patients], turned[1 + self.val_patients :]
        return Split(tuple(sorted(train)), tuple(sorted(val)), (turned[0],))


@dataclass(frozen=True)
class FromFile:
    """A split of one's own: JSON with the lists ``train``, ``val`` and ``test`` of patients."""

    path: str

    def assign(self, patients: list[str], fold: int | None) -> Split:
        try:
            content = json.loads(Path(self.path).read_text())
            split = Split(**{part: tuple(content[part]) for part in ("train", "val", "test")})
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path}: expected JSON with the lists train, val and test of patients ({error!r})") from error
        if unknown := sorted({*split.train, *split.val, *split.test} - set(patients)):
            raise ValueError(f"{self.path} names patients that the data set does not have: {', '.join(unknown[:10])}")
        return split


def _check_fold(fold: int | None, folds: int) -> None:
    if fold is None or not 0 <= fold < folds:
        raise ValueError(f"this split has the folds 0 ... {folds - 1}; got fold={fold}. Set fold=0, or -m fold=0,1,... for all")


def stored_split(splitter: Splitter, patients: list[str], fold: int | None, folder: Path) -> Split:
    """The split of this rule in ``folder``: read where it was written before, else assigned and written."""
    rule = json.dumps([type(splitter).__name__, asdict(splitter), fold, sorted(patients)])  # type: ignore[call-overload]
    path = folder / f"{hashlib.sha256(rule.encode()).hexdigest()[:12]}.json"
    if isinstance(splitter, FromFile) or not path.exists():
        split = splitter.assign(sorted(patients), fold)
        write_json(path, asdict(split))
        return split
    content = json.loads(path.read_text())
    return Split(**{part: tuple(content[part]) for part in ("train", "val", "test")})


def divide(store: SliceStore, splitter: Splitter, fold: int | None) -> Split:
    """The patients of each part of a store; the split is kept beside the data it divides."""
    return stored_split(splitter, sorted({case.patient for case in store.cases}), fold, store.folder / "splits")


def check_parts(store: SliceStore, split: Split) -> None:
    """Raise a ValueError where training, or choosing a checkpoint, could not mean anything."""
    for name in ("train", "val"):
        areas = store.areas[store.slices_of(set(getattr(split, name)))].sum(axis=0)
        if missing := [label for label, area in zip(store.target.names, areas.tolist(), strict=True) if area == 0]:
            raise ValueError(
                f"no slice of the {name} part shows {', '.join(missing)}: "
                + ("nothing can be learnt" if name == "train" else "no checkpoint can be chosen by it")
                + ". Take another split (dataset.split.seed, fold) or target."
            )
