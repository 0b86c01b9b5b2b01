"""What a number came from: fingerprint of the configuration, commit, versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

# Keys that cannot change a number: where things lie, what is shown, how many processes prepare.
RUN_ONLY = (
    "name",
    "names",
    "data_root",
    "stores_dir",
    "runs_dir",
    "logger",
    "pictures",
    "save_predictions",
    "save_probabilities",
    "dataset.layout.root",
    "dataset.stores_dir",
    "dataset.skip_bad_cases",
    "dataset.workers",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
)
PACKAGES = ("calf", "torch", "pytorch-lightning", "segmentation-models-pytorch", "monai", "kornia", "numpy", "scipy", "nibabel")


def run_only(key: str) -> bool:
    """Whether a dotted key is, or lies in, one of ``RUN_ONLY``; a part of joined data counts as a data set.

    >>> run_only("dataset.parts.upenn.layout.root"), run_only("dataset.parts.upenn.target"), run_only("names.loss")
    (True, False, True)
    """
    key = re.sub(r"^dataset\.parts\.[^.]+\.", "dataset.", key)
    return f"{key}.".startswith(tuple(f"{dotted}." for dotted in RUN_ONLY))


def fingerprint(config: dict[str, Any], store_key: str) -> str:
    """SHA-256 of the resolved configuration without ``RUN_ONLY`` keys, and of the key of the prepared data."""

    def kept(node: dict[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: kept(value, f"{prefix}{key}.") if isinstance(value, dict) else value
            for key, value in node.items()
            if not run_only(f"{prefix}{key}")
        }

    return hashlib.sha256(json.dumps([kept(config, ""), store_key], sort_keys=True).encode()).hexdigest()


def commit() -> str | None:
    """The commit of the source tree, with ``+`` when code or configuration differ from it; None outside a git checkout."""
    here = Path(__file__).resolve().parent
    try:
        git = ["git", "-C", str(here)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        paths = [str(here.parent / name) for name in ("calf", "conf", "hydra_plugins", "train.py")]
        status = [*git, "status", "--porcelain", "--", *paths]  # with new files, which are imported as well
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed.strip() else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a number depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
