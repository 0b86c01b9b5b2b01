"""Several data sets trained on together and tested apart: planned, prepared each into its own store, and divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calf.data.build import StorePlan, left_out, open_store
from calf.data.joined import JoinedStore, joined_folder, joined_key
from calf.data.leakage import across, groups_of, lines, same_persons
from calf.data.splits import Split, Splitter, divide
from calf.data.views import view_of, whole_cases


@dataclass(frozen=True)
class Part:
    """One of several data sets, as planned.

    Attributes:
        plan: its own store, the same as without the others.
        split: its own rule.
        fold: the fold of ``split``, where it has folds.
        samples: ``slices`` or ``modalities``, see :func:`calf.data.views.view_of`.
        duplicates: what is done about two names of one person within it, see :func:`calf.data.leakage.groups_within`.
    """

    plan: StorePlan
    split: Splitter
    fold: int | None = None
    samples: str = "slices"
    duplicates: str = "group"


@dataclass(frozen=True)
class JoinedPlan:
    """Data sets that are joined.

    Each part is split by its own rule, so that its patients are where they are in a run on this data set alone.

    Attributes:
        parts: by name.
        train_on: the parts whose training patients train and whose validation patients validate; None: all.
        test_on: the parts that are tested; None: all. One that is not trained on is tested on all its patients; of one that is
            only trained on the test patients take no part.
        duplicates: what is done about a person who is in two parts: ``error``; ``group``, every copy goes where the person
            matters most, to the test or else the validation part, and is left out where its data set has none; ``allow``,
            nothing.
    """

    parts: dict[str, Part]
    train_on: Sequence[str] | None = None
    test_on: Sequence[str] | None = None
    duplicates: str = "error"

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise ValueError(
                f"joined data are of at least two data sets, got {', '.join(self.parts) or 'none'}: add them with "
                "+dataset@dataset.parts.<name>=<data set>"
            )
        for option, chosen in (("train_on", self.train_on), ("test_on", self.test_on)):
            if chosen is not None and (not chosen or set(chosen) - set(self.parts)):
                raise ValueError(
                    f"dataset.{option} names some of the parts {', '.join(self.parts)}, or is null; got {list(chosen)}"
                )
        if left := sorted(set(self.parts) - {*self.training, *self.testing}):
            raise ValueError(
                f"{', '.join(left)} is neither in dataset.train_on nor in dataset.test_on: leave it out of dataset.parts"
            )
        cases = {name: part.plan.cases for name, part in self.parts.items()}
        across(cases, self.duplicates, {name: part.plan.digests for name, part in self.parts.items()})

    @property
    def training(self) -> tuple[str, ...]:
        """The parts that are trained on."""
        return tuple(self.parts if self.train_on is None else self.train_on)

    @property
    def testing(self) -> tuple[str, ...]:
        """The parts that are tested."""
        return tuple(self.parts if self.test_on is None else self.test_on)

    @property
    def key(self) -> str:
        """Fingerprint of what the stores hold."""
        return joined_key({name: part.plan.key for name, part in self.parts.items()})

    @property
    def folder(self) -> Path:
        """Where something that belongs to these parts together may be kept."""
        return joined_folder(next(iter(self.parts.values())).plan.folder.parent, self.key)

    @property
    def ready(self) -> bool:
        """Whether all stores are built."""
        return all(part.plan.ready for part in self.parts.values())

    def open(self, skip_bad_cases: bool = False, workers: int | None = None) -> JoinedStore:
        """The stores as one; those that are missing are built first."""
        stores = {name: open_store(part.plan, skip_bad_cases, workers) for name, part in self.parts.items()}
        return JoinedStore({name: view_of(store, self.parts[name].samples) for name, store in stores.items()})

    def left_out(self, store: JoinedStore) -> list[str]:
        """What the data sets list and their stores do not hold, one line each."""
        found = {name: left_out(part.plan, store.parts[name]) for name, part in self.parts.items()}
        return [f"{name}: {line}" for name, said in found.items() for line in said]

    def divide(self, store: JoinedStore) -> tuple[Split, list[str]]:
        """Who trains, validates and tests, by the names of the joined store; and what is to be said of it, one line each.

        Raises:
            LeakageError: the same person in two parts, with ``duplicates=error``.
            ValueError: a part that is trained on cannot be split.
        """
        pairs = across({name: whole_cases(part) for name, part in store.parts.items()}, self.duplicates)
        roles = self._roles(store)
        said = lines(pairs, self.duplicates)
        if self.duplicates == "group":
            everyone = same_persons({name: whole_cases(part) for name, part in store.parts.items()})
            said += self._most_held_out(roles, [group for group in groups_of(everyone) if len({name for name, _ in group}) > 1])
        names = store.renamed("patient")

        def those(role: str) -> tuple[str, ...]:
            return tuple(sorted(names[part][patient] for (part, patient), its in roles.items() if its == role))

        return Split(those("train"), those("val"), those("test")), said

    def _roles(self, store: JoinedStore) -> dict[tuple[str, str], str]:
        """train, val or test of each part and patient that takes part."""
        roles: dict[tuple[str, str], str] = {}
        for name, samples in store.parts.items():
            part = self.parts[name]
            if name not in self.training:
                roles |= {(name, case.patient): "test" for case in samples.cases}
                continue
            split = divide(samples, part.split, part.fold, part.duplicates)
            for role in ("train", "val", "test") if name in self.testing else ("train", "val"):
                roles |= {(name, patient): role for patient in getattr(split, role)}
        return roles

    def _most_held_out(self, roles: dict[tuple[str, str], str], groups: Sequence[Sequence[tuple[str, str]]]) -> list[str]:
        """Change ``roles`` so that all copies of a person have one; says how many copies that moved or left out."""
        moved = dropped = 0
        for group in groups:
            taking_part = [who for who in group if who in roles]
            role = max((roles[who] for who in taking_part), key=("train", "val", "test").index, default=None)
            for who in taking_part:
                if roles[who] == role:
                    continue
                if role == "test" and who[0] not in self.testing:
                    del roles[who]
                    dropped += 1
                else:
                    assert role is not None
                    roles[who] = role
                    moved += 1
        said = f"{moved} copies of patients moved to where the patient is held out, {dropped} left out of training"
        return [said] if moved or dropped else []
