"""Which finished runs can segment an image of one's own, and what each of them needs for it. Opens no checkpoint.

A network is that of the checkpoint whose numbers the run reports. Whether its weights fit is known once it is loaded, which
`calf predict` does (:mod:`calf.ui.predictions`). A network is built as the run's config.yaml says, which might name any function
there is: one that is not calf's own is refused there (``--known-code``).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calf.report.volumes import Unreadable
from calf.ui.files import inside
from calf.ui.library import Library
from calf.ui.runs import Run

ANY = "image"  # what `calf predict` calls the image of a network that takes any modality


@dataclass(frozen=True)
class Network:
    """A network that can be loaded, as far as its run's files tell.

    Attributes:
        checkpoint: never sent to a browser.
        modalities: what it has to be given; ``ANY`` alone for one that takes any of those of ``trained_on``, one at a time.
        onto: the modality whose grid its masks have; None: that of all of them.
        plane: the one that slices were taken in.
        target: names, the labels that make each, and whether they exclude each other.
        labels: what the values of a truth mean; None where the data sets it was trained on do not agree on them.
    """

    run: Run
    checkpoint: Path
    modalities: tuple[str, ...]
    trained_on: tuple[str, ...]
    onto: str | None
    plane: str
    target: dict[str, Any]
    labels: dict[str, str] | None

    def public(self) -> dict[str, Any]:
        """What a browser is told of it."""
        run = self.run
        made_of = dict(zip(self.target["names"], self.target["labels"], strict=True))
        told = {"id": run.id, "label": run.label, "dataset": run.dataset, "metric": run.metric, "value": run.value}
        return told | {
            "checkpoint": self.checkpoint.stem,
            "modalities": self.modalities,
            "trained_on": self.trained_on,
            "made_of": made_of,
            "labels": self.labels,
        }


def networks(library: Library) -> tuple[list[Network], dict[str, str]]:
    """The networks of all finished runs; and by the label of each finished run that has none, why."""
    found, left_out = [], {}
    for run in library.runs:
        if run.finished:
            try:
                found.append(network_of(library, run.id))
            except Unreadable as reason:
                left_out[run.label] = str(reason)
    return found, left_out


def network_of(library: Library, id: str) -> Network:
    """The network of a run.

    Raises:
        Unknown: there is no such run.
        Unreadable: it has none that could be loaded.
    """
    run, settings = library.run(id), library.settings(id)
    if not run.finished:
        raise Unreadable(f"it is {run.state}, not finished")
    checkpoint = inside(run.folder / "checkpoints", f"{settings.get('checkpoint', 'best')}.ckpt")
    if checkpoint is None:
        raise Unreadable("its checkpoint is no longer there")
    if not zipfile.is_zipfile(checkpoint):  # which a checkpoint is, with its table of contents at the end
        raise Unreadable("its checkpoint is damaged or cut short")
    try:
        data = library.data(id)
        return _network(run, checkpoint, data, settings.get("dataset.samples") == "modalities")
    except ValueError as reason:
        raise Unreadable(str(reason)) from reason
    except (KeyError, TypeError, AttributeError) as reason:
        raise Unreadable(f"its data.json does not say how images are prepared ({reason!r})") from reason


def shared_labels(chosen: list[Network]) -> dict[str, str]:
    """What the values of a truth mean to all of these networks.

    Raises:
        Unreadable: they do not agree on it.
    """
    labels: dict[str, str] = {}
    for network in chosen:
        if network.labels is None:
            raise Unreadable(f"{network.run.label} was trained on data sets with labels of different meanings: it has no truth")
        for value, meaning in network.labels.items():
            if labels.setdefault(value, meaning) != meaning:
                raise Unreadable(
                    f"to these networks a truth's {value} means different things, {labels[value]} and {meaning}: choose networks "
                    "of one data set, or remove the truth"
                )
    return labels


def _network(run: Run, checkpoint: Path, data: Mapping[str, Any], any_one: bool) -> Network:
    prepared = data["preparation"]
    trained_on = tuple(str(name) for name in prepared["modalities"])
    parts = [{**part["preparation"], "modalities": None} for part in (data.get("parts") or {}).values()]
    if any(part != parts[0] for part in parts):
        raise ValueError("the data sets it was trained on were prepared differently: there is no one way to prepare new images")
    onto = None if any_one else prepared.get("onto")
    if onto is not None and onto not in trained_on:
        raise ValueError(f"its images are brought to the grid of {onto}, which it is not given")
    labels = data.get("labels") or {}
    if any(isinstance(part, dict) for part in labels.values()):  # of joined data sets, by part
        first, *others = labels.values()
        labels = first if all(other == first for other in others) else None
    return Network(
        run,
        checkpoint,
        (ANY,) if any_one else trained_on,
        trained_on,
        onto,
        str(prepared.get("plane") or "axial"),
        data["target"],
        None if labels is None else {str(value): str(meaning) for value, meaning in labels.items()},
    )
