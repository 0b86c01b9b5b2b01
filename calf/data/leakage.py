"""The same person under two names: within a data set, and in data sets that are to be joined.

A person is known again by

* names: an alias that one data set states and that is a patient, a case or an alias of another (``BraTS2021_00012`` for a patient
  of UPENN-GBM), or one name of a patient or a case in two data sets if it has a letter in it, since a bare number names other
  people everywhere; upper and lower case are one;
* images: the digest of the voxels as they were prepared, or, before anything is prepared, of the files.

What is neither, such as one examination registered anew under another name, is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from calf.data.cases import Case
from calf.data.store import StoredCase

DUPLICATES = ("error", "group", "allow")
SHOWN = 10

Name = tuple[str, str]  # data set and patient


class LeakageError(ValueError):
    """The same person in two data sets, or under two names; the message lists the first of them."""


@dataclass(frozen=True)
class SamePerson:
    """Two names that are one person.

    Attributes:
        first, second: data set and patient; the data set is empty where there is only one.
        reason: by what it was seen.
    """

    first: Name
    second: Name
    reason: str

    def __str__(self) -> str:
        first, second = (f"{patient} of {dataset}" if dataset else patient for dataset, patient in (self.first, self.second))
        return f"{first} and {second}: {self.reason}"


def same_persons(
    cases: Mapping[str, Sequence[Case | StoredCase]], digests: Mapping[str, Mapping[str, str]] | None = None
) -> list[SamePerson]:
    """Pairs of names that are one person, in a fixed order; a person of n names gives at least n - 1 pairs.

    Args:
        cases: by data set, as listed or as prepared.
        digests: by data set, of the files of cases that are not prepared, by path.
    """
    names: dict[str, list[Name]] = {}
    images: dict[str, list[Name]] = {}
    for dataset, own in cases.items():
        for case in own:
            who = (dataset, case.patient)
            own_names = [name for name in (case.patient, case.id) if _tells_who(name)]
            for name in dict.fromkeys(name.casefold() for name in (*own_names, *case.aliases)):
                names.setdefault(name, []).append(who)
            for image in _images(case, (digests or {}).get(dataset, {})):
                images.setdefault(image, []).append(who)
    found: dict[tuple[Name, Name], str] = {}
    for keys, reason in ((names, "both are known as {}"), (images, "identical images (SHA-256 {:.12})")):
        for key, owners in keys.items():
            first, *others = dict.fromkeys(owners)
            for other in others:
                found.setdefault((first, other), reason.format(key))
    return [SamePerson(first, second, reason) for (first, second), reason in sorted(found.items())]


def _tells_who(name: str) -> bool:
    return any(letter.isalpha() for letter in name)


def _images(case: Case | StoredCase, digests: Mapping[str, str]) -> list[str]:
    if isinstance(case, StoredCase):
        return [digest for digest in case.content.values() if digest]
    files = ((digests.get(str(image.path)), image.channel) for image in case.images.values())
    return [digest if channel is None else f"{digest} channel {channel}" for digest, channel in files if digest]


def groups_of(pairs: Iterable[SamePerson]) -> list[tuple[Name, ...]]:
    """The names of each person who has several, sorted."""
    group_of: dict[Name, set[Name]] = {}
    for pair in pairs:
        together = group_of.get(pair.first, {pair.first}) | group_of.get(pair.second, {pair.second})
        group_of |= dict.fromkeys(together, together)
    return sorted({tuple(sorted(group)) for group in group_of.values()})


def groups_within(cases: Sequence[StoredCase], duplicates: str) -> list[tuple[str, ...]]:
    """Patients of one data set that are one person.

    ``group`` takes them as one patient, who is in one part of a split under all names; nothing is lost, but each copy is
    scored. ``error`` raises instead, ``allow`` takes them for different people.

    Raises:
        LeakageError: with ``error``, where there are any.
    """
    pairs = _checked(same_persons({"": cases}), duplicates, "in this data set")
    return [tuple(patient for _, patient in group) for group in groups_of(pairs)] if duplicates == "group" else []


def across(
    cases: Mapping[str, Sequence[Case | StoredCase]],
    duplicates: str,
    digests: Mapping[str, Mapping[str, str]] | None = None,
) -> list[SamePerson]:
    """Pairs of names in different data sets that are one person; see :func:`same_persons`.

    Raises:
        LeakageError: with ``duplicates=error``, where there are any.
    """
    pairs = [pair for pair in same_persons(cases, digests) if pair.first[0] != pair.second[0]]
    return _checked(pairs, duplicates, "in data sets that are joined")


def lines(pairs: Sequence[SamePerson], duplicates: str) -> list[str]:
    """What a run says of them, one line each."""
    done = {"group": "taken as one patient", "allow": "taken as different patients, as dataset.duplicates=allow demands"}
    return [f"the same person twice, {done[duplicates]}: {pair}" for pair in pairs]


def _checked(pairs: list[SamePerson], duplicates: str, where: str) -> list[SamePerson]:
    if duplicates not in DUPLICATES:
        raise ValueError(f"dataset.duplicates is one of {', '.join(DUPLICATES)}; got {duplicates!r}")
    if pairs and duplicates == "error":
        listed = "\n".join(f"  {pair}" for pair in pairs[:SHOWN])
        more = f"\n  and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
        raise LeakageError(
            f"the same person is there twice {where}, {len(pairs)} times: a network could be tested on whom it was trained on.\n"
            f"{listed}{more}\nRemove one of each; or take each as one patient, never in two parts of a split: "
            "dataset.duplicates=group; or, if they are different people, dataset.duplicates=allow."
        )
    return pairs
