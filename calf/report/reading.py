"""Reads the small files of run folders that anybody may have written: none of them can hang, exhaust or crash who reads it."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

SMALL_BYTES = 2**22  # of a config.yaml, status.json or result.json; a run's are some 10 kB
DATA_BYTES = 2**26  # of a data.json, which names every tested case
DEEPEST = 50  # levels of a config.yaml: the parser and those who walk it call themselves for each
MOST_EVENTS = 100_000  # in a config.yaml: about two a setting
LONGEST = 2**16  # characters of one of its values
UNREADABLE = (OSError, ValueError, RecursionError, MemoryError, OverflowError)  # what a file may raise that no run wrote


def read_text(path: Path, limit_bytes: int = SMALL_BYTES) -> str:
    """The UTF-8 text of a file of at most ``limit_bytes``; a pipe or device is not opened, for it may never end.

    Raises:
        ValueError: it is missing, no ordinary file, too large, or no text; the message tells its name and not where it lies.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path.name} cannot be read: expected an ordinary file, not a folder, pipe or device")
        if status.st_size > limit_bytes:
            raise ValueError(f"{path.name} cannot be read: expected at most {limit_bytes} bytes, it has {status.st_size}")
        with path.open(encoding="utf-8") as file:
            text = file.read() if status.st_size else file.read(limit_bytes + 1)
    except FileNotFoundError as reason:
        raise ValueError(f"{path.name} is missing") from reason
    except OSError as reason:
        raise ValueError(f"{path.name} cannot be read: {reason.strerror}") from reason
    except UnicodeDecodeError as reason:
        raise ValueError(f"{path.name} cannot be read: it is no UTF-8 text ({reason})") from reason
    if len(text) > limit_bytes:  # files of /proc say 0 bytes
        raise ValueError(f"{path.name} cannot be read: expected at most {limit_bytes} bytes")
    return text


def read_json(path: Path, limit_bytes: int = SMALL_BYTES) -> dict[str, Any]:
    """The object in a JSON file; ValueError as :func:`read_text`, and where it holds none."""
    text = read_text(path, limit_bytes)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise ValueError(f"{path.name} is no JSON: {reason}") from reason
    if not isinstance(content, dict):
        raise ValueError(f"{path.name}: expected an object, got {type(content).__name__}")
    return content


def check_numbers(name: str, content: dict[str, Any], keys: Sequence[str]) -> None:
    """ValueError unless these are finite numbers that a column can hold, null or left out."""
    for key in keys:
        value = content.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
        if value is not None and not number:
            raise ValueError(f"{name}: expected {key} to be a number or null, got {str(value)[:40]!r}")


def read_yaml(path: Path) -> Any:
    """What a YAML file holds: no alias, at most ``DEEPEST`` levels, ``MOST_EVENTS`` and values of ``LONGEST`` characters.

    Raises:
        ValueError: as :func:`read_text`; it has more than that.
        yaml.YAMLError: it is no YAML.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there
    text = read_text(path)
    _check_yaml(text, loader)
    return yaml.load(text, loader)


def _check_yaml(text: str, loader: Any) -> None:
    """Before anything is built of it, which may exhaust the stack, memory or time; reading events cannot."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            raise ValueError("it holds an alias (*), which a run never writes")
        elif isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST:
            raise ValueError(f"it holds a value of more than {LONGEST} characters")
        if depth > DEEPEST or number > MOST_EVENTS:
            raise ValueError(f"it has more than {DEEPEST} levels" if depth > DEEPEST else f"it has more than {MOST_EVENTS} parts")
