"""What Analysis and the report's tables look at: a data set under a protocol, and a class of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calf.ui.analyses import protocols
from calf.ui.library import Unknown
from calf.ui.runs import Run

Pair = tuple[str, str]


class Place:
    """One browser's choice, from its address: ``data``, ``protocol``, ``part`` and ``class``.

    Attributes:
        all: every (data set, protocol) that can be chosen.
        chosen: the one that is, ("", "") where there is none.
        target: (data set of the rows, class); the class is "" until it is known which there are.

    Raises:
        Unknown: there is no run on the data set that is asked for.
    """

    def __init__(self, runs: Sequence[Run], query: Mapping[str, str]) -> None:
        self.all = protocols(runs)
        asked = [pair for pair in self.all if pair[0] == query.get("data") and query.get("protocol") in (None, pair[1])]
        if "data" in query and not asked:
            raise Unknown(f"there is no run on a data set called {query['data']}")
        self.chosen: Pair = (asked or self.all or [("", "")])[0]
        self.target: Pair = query.get("part") or self.chosen[0], query.get("class", "")

    @property
    def options(self) -> dict[Pair, str]:
        """What can be chosen, and how it is called."""
        several = len({protocol for _, protocol in self.all}) > 1
        return {pair: f"{pair[0]} ({pair[1]})" if several else pair[0] for pair in self.all}

    @property
    def state(self) -> dict[str, str | None]:
        """What stands in the address of it."""
        several = len({protocol for dataset, protocol in self.all if dataset == self.chosen[0]}) > 1
        return {
            "data": self.chosen[0],
            "protocol": self.chosen[1] if several else None,
            "part": self.target[0] if self.target[0] != self.chosen[0] else None,
            "class": self.target[1],
        }

    def of(self, runs: Sequence[Run]) -> list[str]:
        """The ids of those that are of it, whatever their state."""
        return [run.id for run in runs if (run.dataset, run.protocol) == self.chosen]

    def move(self, chosen: Pair) -> None:
        """Choose another one, and the first class of it."""
        self.chosen, self.target = chosen, ("", "")

    def settle(self, targets: Sequence[Pair]) -> dict[Pair, str]:
        """Choose the first of these targets where none was; returns what each is called.

        Raises:
            Unknown: there is none, or not the one that is asked for.
        """
        if not targets:
            raise Unknown("none of these runs has finished yet: there are no cases to look at. See Runs for how they stand.")
        if self.target not in targets:
            if self.target[1]:
                raise Unknown(f"none of these runs tested a class called {self.target[1]} of {self.target[0]}")
            self.target = targets[0]
        parts = len({dataset for dataset, _ in targets}) > 1
        return {target: f"{target[0]}: {target[1]}" if parts else target[1] for target in targets}
