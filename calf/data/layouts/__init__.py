"""How data sets lie on disk, one file each; and how to find their folders."""

from __future__ import annotations

import re
from pathlib import Path


def case_folders(root: Path, pattern: re.Pattern[str], depth: int = 3) -> list[Path]:
    """Folders below ``root`` (or ``root`` itself) whose whole name matches, sorted by name; nothing is sought inside them.

    Archives unpack into folders of folders, so up to ``depth`` of them may lie between. Hidden folders and generated
    phantoms, which imitate other data sets, are passed by.

    Raises:
        ValueError: two folders of one name, such as two copies of the data set.
    """
    found: dict[str, Path] = {}
    level = [root]
    for _ in range(depth + 2):
        below: list[Path] = []
        for folder in level:
            if not pattern.fullmatch(folder.name):
                below += [entry for entry in sorted(folder.iterdir()) if entry.is_dir()]
            elif other := found.get(folder.name):
                raise ValueError(f"two folders of case {folder.name}: {other} and {folder}; point data_root at one of them")
            else:
                found[folder.name] = folder
        level = [folder for folder in below if not folder.name.startswith((".", "phantom-"))]
    return [found[name] for name in sorted(found)]


def require_root(root: Path, expected: str, source: str) -> None:
    """Raise a ValueError that says what was expected in ``root`` and where it comes from, if that is not a folder."""
    if not root.is_dir():
        raise ValueError(f"{root.absolute()} is not a folder: expected {expected} there. {_advice(source)}")


def no_cases(root: Path, expected: str, source: str) -> ValueError:
    """The error of a folder that is there but holds no case."""
    return ValueError(f"no case in {root.absolute()}: expected {expected}. {_advice(source)}")


def _advice(source: str) -> str:
    return f"Download the data from {source} and name their folder with data_root=..."
