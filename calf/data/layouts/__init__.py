"""How data sets lie on disk, one file each; and how to find their folders and files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def case_folders(root: Path, pattern: re.Pattern[str], depth: int = 3) -> list[Path]:
    """Folders below ``root`` (or ``root`` itself) whose whole name matches, sorted by name; nothing is sought inside them.

    Archives unpack into folders of folders, so up to ``depth`` of them may lie between. Hidden folders and generated
    phantoms, which imitate other data sets, are passed by.

    Raises:
        ValueError: two folders of one name, such as two copies of the data set.
    """
    found: dict[str, Path] = {}
    for folder in folders_down_to(root, pattern, depth):
        if pattern.fullmatch(folder.name):
            if other := found.get(folder.name):
                raise ValueError(f"two folders of case {folder.name}: {other} and {folder}; point data_root at one of them")
            found[folder.name] = folder
    return [found[name] for name in sorted(found)]


def folders_down_to(root: Path, last: re.Pattern[str], depth: int = 3) -> Iterator[Path]:
    """``root`` and the folders below it, the upper ones first, but none inside a folder whose whole name matches ``last``.

    Up to ``depth`` folders lie between ``root`` and the lowest ones. Hidden folders and generated phantoms are passed by.
    """
    level = [root]
    for remaining in range(depth + 1, -1, -1):
        yield from level
        if remaining:
            entries = (entry for folder in level if not last.fullmatch(folder.name) for entry in sorted(folder.iterdir()))
            level = [entry for entry in entries if not entry.name.startswith((".", "phantom-")) and entry.is_dir()]


def nifti(folder: Path, stem: str) -> Path | None:
    """``<stem>.nii.gz`` in ``folder``, or else ``<stem>.nii``, if there is such a file."""
    paths = (folder / f"{stem}{suffix}" for suffix in (".nii.gz", ".nii"))
    return next((path for path in paths if path.is_file()), None)


def require_root(root: Path, expected: str, source: str) -> None:
    """Raise a ValueError that says what was expected in ``root`` and where it comes from, if that is not a folder."""
    if not root.is_dir():
        raise ValueError(f"{root.absolute()} is not a folder: expected {expected} there. {_advice(source)}")


def no_cases(root: Path, expected: str, source: str) -> ValueError:
    """The error of a folder that is there but holds no case."""
    return ValueError(f"no case in {root.absolute()}: expected {expected}. {_advice(source)}")


def _advice(source: str) -> str:
    return f"Download the data from {source} and name their folder with data_root=..."
