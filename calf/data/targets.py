"""Targets that follow from a data set's label values, or from what a configuration says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from calf.data.cases import Target

MOST_NAMES = 8  # that fit the store's mask

Labels = Mapping[int, str]


def snake_case(name: str) -> str:
    """``Non-enhancing tumor`` and ``HepaticVessel`` as ``non_enhancing_tumor`` and ``hepatic_vessel``."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()).strip("_")


def check_labels(labels: Mapping[Any, Any], source: str) -> dict[int, str]:
    """Label values with their meanings, sorted; a ValueError unless they are integers in 0 ... 255, 0 among them.

    ``source`` is what the error names. Keys may be strings, as in JSON.
    """
    try:
        checked = {int(str(value)): str(meaning) for value, meaning in labels.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{source}: expected labels such as {{0: background, 1: tumour}}, got {labels!r}") from error
    if 0 not in checked or len(checked) < 2 or len(checked) != len(labels) or not 0 <= min(checked) <= max(checked) <= 255:
        raise ValueError(
            f"{source}: expected 0 (background) and at least one other label value, each once and in 0 ... 255, got {checked}"
        )
    return dict(sorted(checked.items()))


def class_targets(labels: Labels, everything: str, source: str) -> dict[str, Target]:
    """Each class alone by its name in lower_snake_case, ``classes`` (exclusive) and ``foreground`` (all classes as one).

    ``foreground`` is called ``everything`` in tables of results; where a class of another extent has that name (the
    Decathlon's liver task has the classes liver and cancer), ``<everything>_foreground``. More than 8 classes do not fit
    one target: then there is no ``classes``.

    Raises:
        ValueError: names are equal, or are ``foreground`` or ``classes`` and would hide those targets.
    """
    classes = {snake_case(name): (value,) for value, name in labels.items() if value != 0}
    if len(classes) != len(labels) - (0 in labels) or not classes or "" in classes:
        raise ValueError(f"{source}: expected classes of distinct names, got {dict(labels)}")
    if len(classes) > 1 and (hidden := sorted({"foreground", "classes"} & set(classes))):
        raise ValueError(f"{source}: a class is called {hidden[0]}, as a target of several classes is: rename it")
    values = tuple(value for (value,) in classes.values())
    if classes.get(everything, values) != values:
        everything += "_foreground"
    targets = {name: Target((name,), (value,)) for name, value in classes.items()}
    targets["foreground"] = Target((everything,), (values,))
    if len(classes) <= MOST_NAMES:
        targets["classes"] = Target(tuple(classes), tuple(classes.values()), exclusive=True)
    return targets


def parse_targets(given: Mapping[str, Any], labels: Labels, source: str) -> dict[str, Target]:
    """Targets as a configuration says them.

    ``tumour: [1, 2]`` is one region; ``regions: {whole: [1, 2], core: [2]}`` regions that may overlap;
    ``classes: {exclusive: {oedema: [1], core: [2]}}`` classes that exclude each other.

    Raises:
        ValueError: another form, a value that is not among ``labels``, or the background.
    """
    return {str(name): _parse(str(name), value, labels, source) for name, value in given.items()}


def _parse(name: str, value: Any, labels: Labels, source: str) -> Target:
    exclusive = isinstance(value, Mapping) and set(value) == {"exclusive"} and isinstance(value["exclusive"], Mapping)
    parts = value["exclusive"] if exclusive else value if isinstance(value, Mapping) else {name: value}
    sets = {str(part): _values(values) for part, values in parts.items()}
    if not sets or not all(sets.values()):
        raise ValueError(
            f"{source}: target {name}: expected `{name}: [1, 2]` (a region), `{name}: {{whole: [1, 2], core: [2]}}` (regions) or "
            f"`{name}: {{exclusive: {{oedema: [1], core: [2]}}}}` (classes), got {value!r}"
        )
    if odd := sorted({number for numbers in sets.values() for number in numbers} - (set(labels) - {0})):
        known = ", ".join(f"{number} {meaning}" for number, meaning in labels.items() if number != 0)
        raise ValueError(f"{source}: target {name} names the label values {odd}; there are {known}")
    try:
        return Target(tuple(sets), tuple(sets.values()), exclusive)
    except ValueError as error:
        raise ValueError(f"{source}: target {name}: {error}") from error


def _values(given: Any) -> tuple[int, ...]:
    values = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return tuple(values) if all(type(value) is int for value in values) else ()
