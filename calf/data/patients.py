"""The persons of a store, as rules that split them want to know them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calf.data.leakage import groups_within
from calf.data.views import Samples, whole_cases


@dataclass(frozen=True)
class Patient:
    """Whom a rule deals out: one person.

    Attributes:
        id: the patient; where the same person was found under several names, all of them (``a = b``).
        volume_mm3: what is segmented in the case that shows most of it.
        subsets: the official parts or folds that the patient's cases belong to.
        names: the patients of the store that this person is; empty: ``id`` alone.
    """

    id: str
    volume_mm3: float = 0.0
    subsets: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def patients_of(samples: Samples, duplicates: str = "group") -> list[Patient]:
    """The persons of a store, sorted; who is the same, see :func:`calf.data.leakage.groups_within`."""
    together = {name: group for group in groups_within(whole_cases(samples), duplicates) for name in group}
    volume = _volumes_mm3(samples)
    members: dict[tuple[str, ...], list[int]] = {}
    for number, case in enumerate(samples.cases):
        members.setdefault(together.get(case.patient, (case.patient,)), []).append(number)
    patients = [
        Patient(
            " = ".join(names),
            max(volume[number] for number in numbers),
            tuple(sorted({str(subset) for number in numbers if (subset := samples.cases[number].subset) is not None})),
            names,
        )
        for names, numbers in members.items()
    ]
    return sorted(patients, key=lambda patient: patient.id)


def _volumes_mm3(samples: Samples) -> list[float]:
    """What is segmented in each case. Of overlapping regions the largest one of each slice counts."""
    areas = samples.areas.sum(axis=1) if samples.target.exclusive else samples.areas.max(axis=1)
    pixels = np.bincount(samples.case_of_slice, weights=areas, minlength=len(samples.cases))
    return [float(n) * case.stored_voxel_volume_mm3 for n, case in zip(pixels, samples.cases, strict=True)]
