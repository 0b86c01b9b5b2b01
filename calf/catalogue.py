"""The catalogue of losses: what the heads of conf/loss/*.yaml say, and what each loss costs.

Each YAML begins with a sentence and then with ``# key: value`` lines: ``family``, ``formula``, ``paper``, and where they apply
``breaks: <law>: <reason>``: a law that the loss breaks as published, of the laws that tests/losses/test_laws.py tries. The YAML
is the registry of losses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

FAMILIES = ("distribution", "region", "boundary", "compound", "adaptive", "weighting")
LAWS = (
    "order of perfect, random, inverted",
    "gradient step",
    "permutation of voxels",
    "independence of samples",
)


@dataclass(frozen=True)
class Entry:
    """One loss: the head of its YAML, its arguments, and its time relative to BCE where it was measured."""

    name: str
    summary: str
    family: str
    formula: str
    paper: str
    breaks: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    cost: float | None = None

    @property
    def defaults(self) -> str:
        """Its arguments as one would write them on the command line; composed losses by the names of their YAMLs."""
        return " ".join(_leaves(self.arguments))


def _leaves(arguments: dict[str, Any], place: str = "") -> list[str]:
    found = []
    for key, value in arguments.items():
        if key == "_target_":
            found.append(f"{place.rstrip('.')}={str(value).rsplit('.', 1)[-1]}")
        else:
            found += _leaves(value, f"{place}{key}.") if isinstance(value, dict) else [f"{place}{key}={_written(value)}"]
    return found


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")


def catalogue(folder: Path, costs: Path | None = None) -> list[Entry]:
    """Every loss of a folder of YAMLs, in the order of families and names.

    Args:
        folder: ``conf/loss``.
        costs: the JSON that ``benchmarks/losses.py`` writes.

    Raises:
        ValueError: as :func:`read_entry`.
    """
    measured = json.loads(costs.read_text())["losses"] if costs is not None and costs.is_file() else {}
    entries = [read_entry(path, measured.get(path.stem, {}).get("times_bce")) for path in sorted(folder.glob("*.yaml"))]
    order = {family: place for place, family in enumerate(FAMILIES)}
    return sorted(entries, key=lambda entry: (order.get(entry.family, len(order)), entry.name))


def read_entry(path: Path, cost: float | None = None) -> Entry:
    """What one YAML says; what its head leaves out is empty.

    Raises:
        ValueError: it breaks a law that there is not, or gives no reason.
    """
    text = path.read_text()
    head = [line[2:].strip() for line in text.split("\n_target_")[0].splitlines() if line.startswith("# ")]
    found: dict[str, str] = {}
    breaks: dict[str, str] = {}
    for line in head[1:]:
        key, _, value = line.partition(": ")
        if key == "breaks":
            law, _, reason = value.partition(": ")
            if law not in LAWS or not reason:
                raise ValueError(f"{path}: expected '# breaks: <law>: <reason>' with one of {', '.join(LAWS)}; got {line!r}")
            breaks[law] = reason
        elif key in ("family", "formula", "paper"):
            found[key] = value
    arguments: Any = OmegaConf.to_container(OmegaConf.load(path))
    arguments = {key: value for key, value in arguments.items() if key not in ("_target_", "defaults")} | _composed(arguments)
    summary = head[0] if head else ""
    family, formula, paper = (found.get(key, "") for key in ("family", "formula", "paper"))
    return Entry(path.stem, summary, family, formula, paper, breaks, arguments, cost)


def _composed(arguments: dict[str, Any]) -> dict[str, Any]:
    """The losses that a sum is made of, by the names of their YAMLs: ``- bce@terms.bce`` or ``- /loss@loss: dice_ce``."""
    found: dict[str, Any] = {}
    for part in arguments.get("defaults", []):
        if isinstance(part, dict):
            found |= {place.partition("@")[2]: name for place, name in part.items()}
        elif part != "_self_":
            name, _, place = part.partition("@")
            found[place] = name
    return found
