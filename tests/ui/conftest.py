"""Real runs for everything that looks at them, made once a session, and folders that hold what a test needs of them."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from calf.ui.library import Library
from calf.ui.server import Explorer
from tests.tiny import tiny
from tests.ui.chromium import found

PROGRAM = "import sys; from calf.cli import app; app(sys.argv[1:])"
LOSSES = ("dice", "bce")
OPTIONS = (
    "dataset.target=regions",
    "dataset.layout.patients=8",
    "optim.lr=1e-2",
    "trainer.max_epochs=4",
    "save_predictions=true",
    "save_probabilities=true",
)


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory, composed: Callable) -> Path:
    """A folder of two finished runs, of two losses, on one phantom; both kept masks and probabilities. Not to be changed.

    Three target names that may overlap; slices as they are, so that a probability of 128 and above is the mask.
    """
    from hydra.core.hydra_config import HydraConfig

    from calf import run

    place = tmp_path_factory.mktemp("ui")
    for loss in LOSSES:
        cfg = composed(*tiny(place, "name=tiny", f"loss={loss}", *OPTIONS))
        HydraConfig.instance().set_config(cfg)
        run.run(cfg)
    return place / "runs"


@pytest.fixture
def copied(tiny_runs: Path, tmp_path: Path) -> Path:
    """A copy of the run folders, to be changed; the images stay where they are."""
    return Path(shutil.copytree(tiny_runs, tmp_path / "runs"))


@pytest.fixture
def explorer(tiny_runs: Path) -> Explorer:
    return Explorer.of(Library(tiny_runs))


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[tuple[str, str]]:
    """`calf ui ...`, as a process of its own: its address, and what it printed until it answered."""
    command = [sys.executable, "-u", "-c", PROGRAM, "ui", *map(str, arguments), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said = ""
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said += line
                if found := re.search(r"open (http://\S+)", line):
                    yield found[1], said
                    return
            raise AssertionError(f"it ended with {process.wait()}:\n{said}")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


@pytest.fixture(scope="session")
def served(tiny_runs: Path) -> Iterator[str]:
    """The address of the explorer over the tiny runs."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = taken.getsockname()[1]
        with started(tiny_runs, "--port", wanted) as (url, said):
            assert f"port {wanted} is in use, taking " in said
            assert "2 runs below" in said
            assert urlsplit(url).hostname == "127.0.0.1"
            assert wanted < urlsplit(url).port < wanted + 100
            yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are tested with playwright: pip install playwright")
    chromium = found()
    if chromium is None:
        pytest.skip("pages are tested with Chromium, and there is none: make chromium")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
