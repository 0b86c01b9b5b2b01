"""The set-up of the tests finds a browser, or says why there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ui import chromium

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_is_done_where_there_is_one() -> None:
    if chromium.found() is None:
        pytest.skip("there is no Chromium")
    done = subprocess.run([sys.executable, "-m", "tests.ui.chromium"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_where_none_can_be_had_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("playwright")
    monkeypatch.setattr(chromium, "DEBIAN", tmp_path / "chromium")
    monkeypatch.setattr(chromium, "SYSTEM", tmp_path / "os-release")
    (tmp_path / "os-release").write_text("ID=arch\n")
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "os-release" / "no folder"))
    monkeypatch.setenv("PLAYWRIGHT_DOWNLOAD_HOST", "http://127.0.0.1:9")
    assert chromium.found() is None
    assert chromium.main() == 1
    said = capsys.readouterr().err
    assert "no Debian" in said
    assert "playwright install chromium" in said
