"""Several prepared data sets as one."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calf.data.store import StoredCase, slice_table_of, slices_of
from calf.data.views import ModalitySamples, Samples, check_range


class JoinedStore:
    """Several data sets as one: samples are numbered through, part after part; masks of one target, channels side by side.

    Ids of cases and patients that occur in more than one part get the part's name before them, ``<part>:<id>``. A case
    without a reference mask is scored against its mask, as ever.

    Args:
        parts: by name; each prepared into its own store.

    Raises:
        ValueError: the parts' planes differ in size, their targets in names, their images in the number of channels, or the
            same modality is another channel in one of them.
    """

    def __init__(self, parts: dict[str, Samples]) -> None:
        self.parts = parts
        self._names, stores = list(parts), list(parts.values())
        _check_parts_fit(parts)
        self.target, self.modalities = stores[0].target, stores[0].modalities
        self.has_reference = any(store.has_reference for store in stores)
        self.unchanged = all(store.unchanged for store in stores)
        lengths, cases = [len(store) for store in stores], [len(store.cases) for store in stores]
        self._ends, self._case_ends = np.cumsum(lengths), np.cumsum(cases)
        self.shape = (sum(lengths), len(self.modalities) + 1 + self.has_reference, *stores[0].shape[2:])
        self.case_of_slice: NDArray[np.int32] = np.concatenate(
            [store.case_of_slice + begin for store, begin in zip(stores, self._case_ends - cases, strict=True)]
        ).astype(np.int32)
        self.position = np.concatenate([store.position for store in stores])
        self.areas = np.concatenate([store.areas for store in stores])
        self.labelled = np.concatenate([store.labelled for store in stores])

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def key(self) -> str:
        """Fingerprint of the parts' names and keys."""
        return joined_key({name: store.key for name, store in self.parts.items()})

    @property
    def folder(self) -> Path:
        """Where something that belongs to these parts together may be kept; need not exist."""
        return joined_folder(next(iter(self.parts.values())).folder.parent, self.key)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The first part's; settings of the preparation that the parts do not share are None, and stand under ``parts``."""
        manifests = {name: store.manifest for name, store in self.parts.items()}
        prepared = [manifest["preparation"] for manifest in manifests.values()]
        shared = {key: value if all(other[key] == value for other in prepared) else None for key, value in prepared[0].items()}
        return {
            **next(iter(manifests.values())),
            "key": self.key,
            "modalities": list(self.modalities),
            "has_reference": self.has_reference,
            "preparation": shared | {"modalities": list(self.modalities)},
            "skipped": {
                f"{name}:{case}": why for name, manifest in manifests.items() for case, why in manifest["skipped"].items()
            },
            "cases": None,  # they are renamed and renumbered: see cases
            "sha256": None,
            "parts": {name: {key: m[key] for key in ("key", "modalities", "preparation")} for name, m in manifests.items()},
        }

    @cached_property
    def cases(self) -> list[StoredCase]:
        """The cases of all parts, renamed where they have to be."""
        ids = self.renamed("id")
        patients = self.renamed("patient")
        found = []
        for name, begin in zip(self._names, self._begins, strict=True):
            for case in self.parts[name].cases:
                first = case.first + int(begin)
                found.append(replace(case, id=ids[name][case.id], patient=patients[name][case.patient], first=first))
        return found

    def renamed(self, what: str) -> dict[str, dict[str, str]]:
        """By part: what each ``id`` or ``patient`` of it is called here."""
        own = {name: {getattr(case, what) for case in store.cases} for name, store in self.parts.items()}
        uses = Counter(word for words in own.values() for word in words)
        return {name: {word: word if uses[word] == 1 else f"{name}:{word}" for word in words} for name, words in own.items()}

    @property
    def _begins(self) -> NDArray[np.int64]:
        return self._ends - [len(store) for store in self.parts.values()]

    @cached_property
    def part_of_case(self) -> dict[str, str]:
        """The part that each case, by its id here, is of."""
        owner = np.repeat(self._names, [len(store.cases) for store in self.parts.values()])
        return {case.id: str(name) for case, name in zip(self.cases, owner, strict=True)}

    def case_table(self, stored: bool = False) -> pd.DataFrame:
        """See :meth:`calf.data.store.SliceStore.case_table`."""
        table = pd.concat([store.case_table(stored) for store in self.parts.values()])
        table = table.set_axis(pd.Index([case.id for case in self.cases], name="case"))
        return table.assign(patient=[case.patient for case in self.cases])

    @cached_property
    def slice_table(self) -> pd.DataFrame:
        """One row a sample: the id of its case and its position in the volume."""
        return slice_table_of(self.cases, self.case_of_slice, self.position)

    @cached_property
    def boxes(self) -> NDArray[np.int32]:
        """Where each sample lies in its plane."""
        return np.concatenate([store.boxes for store in self.parts.values()])

    def truth(self, number: int) -> NDArray[np.uint8]:
        """See :meth:`calf.data.store.SliceStore.truth`."""
        part, own = self.locate(number)
        return self.parts[part].truth(own)

    def locate(self, number: int) -> tuple[str, int]:
        """The part that case ``number`` is of, and its number there."""
        part = int(np.searchsorted(self._case_ends, number, side="right"))
        return self._names[part], number - int(self._case_ends[part]) + len(self.parts[self._names[part]].cases)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Planes of these samples, uint8 (B, planes, rows, columns)."""
        check_range(indices, len(self))
        batch = np.empty((len(indices), *self.shape[1:]), np.uint8)
        part = np.searchsorted(self._ends, indices, side="right")
        for number, (store, begin) in enumerate(zip(self.parts.values(), self._begins, strict=True)):
            own = np.flatnonzero(part == number)
            if len(own):
                planes = store.read(indices[own] - begin)
                batch[own, : planes.shape[1]] = planes
                batch[own, -1] = planes[:, -1]  # without a reference the mask stands in
        return batch

    def slices_of(self, patients: set[str]) -> NDArray[np.int64]:
        """Numbers of the samples of these patients, in order."""
        return slices_of(self.cases, self.case_of_slice, patients)


def joined_key(keys: dict[str, str]) -> str:
    """Fingerprint of stores joined under these names."""
    return hashlib.sha256(repr(list(keys.items())).encode()).hexdigest()


def joined_folder(stores_dir: Path, key: str) -> Path:
    """Where something that belongs to joined stores may be kept."""
    return stores_dir / f"joined-{key[:12]}"


def _check_parts_fit(parts: dict[str, Samples]) -> None:
    (first, one), *others = parts.items()
    for name, other in others:
        for what, this, that, advice in (
            ("slices of", one.shape[2:], other.shape[2:], "give both the same preparation.size"),
            ("the target names", one.target.names, other.target.names, "choose targets of the same names"),
            ("exclusive classes:", one.target.exclusive, other.target.exclusive, "choose targets of the same kind"),
            (
                "images of so many channels:",
                len(one.modalities),
                len(other.modalities),
                "give both as many preparation.modalities",
            ),
        ):
            if this != that:
                raise ValueError(
                    f"data sets that are joined fit together, but {first} has {what} {this} and {name} {that}: {advice}"
                )
        for channel, modality in enumerate(one.modalities):
            if modality in other.modalities and other.modalities[channel] != modality:
                raise ValueError(
                    f"data sets that are joined have their modalities in one order, but {first} has {list(one.modalities)} and "
                    f"{name} {list(other.modalities)}: a network would take one for the other. Set preparation.modalities"
                )


@dataclass(frozen=True)
class Source:
    """Where a case of samples comes from.

    Attributes:
        case: its id in its own store.
        part: the data set, of several; None of one.
        modality: of a case that is one modality; None of a whole one.
    """

    case: str
    part: str | None = None
    modality: str | None = None


def source_of(samples: Samples, number: int) -> Source:
    """Where case ``number`` comes from."""
    if isinstance(samples, JoinedStore):
        part, own = samples.locate(number)
        return replace(source_of(samples.parts[part], own), part=part)
    if isinstance(samples, ModalitySamples):
        case, modality = divmod(number, len(samples.store.modalities))
        return replace(source_of(samples.store, case), modality=samples.store.modalities[modality])
    return Source(samples.cases[number].id)
