"""A picture of each view of the explorer, for the documentation: ``make screenshots RUNS=runs/demo``.

    python -m docs.screenshots RUNS_DIR [--to docs/screenshots]

The case that is shown is the one with the largest truth. Runs on phantoms only: patients' images do not belong into documents.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import sync_playwright

from calf.report.volumes import Unreadable
from calf.ui.library import Library
from calf.ui.pages import pages
from calf.ui.pages.compare import opening
from calf.ui.server import Explorer
from tests.ui.chromium import found

SIZE = {"width": 1366, "height": 768}
LARGEST_BYTES = 150_000
DARK = ("compare",)  # shown dark, too
READY = {
    "analysis": ":nth-match([data-chart] svg, 4)",  # those that are seen
    "compare": ".calf-compare[data-shown]:not([data-waiting])",
    "volume": ".calf-volume:not([aria-busy]):not([data-waiting])",
}
PATIENCE_MS = 180_000
STILL_MS = 2_000  # charts move until they stand


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, help="a folder of finished runs on a phantom")
    parser.add_argument("--to", type=Path, default=Path("docs/screenshots"))
    given = parser.parse_args()
    try:
        queries = views(given.runs)
        if (browser := found()) is None:
            raise ValueError("there is no Chromium: make chromium")
        given.to.mkdir(parents=True, exist_ok=True)
        with started(given.runs) as url:
            for name, png in taken(url, browser, queries):
                place = given.to / f"{name}.png"
                place.write_bytes(small(png))
                print(f"{place}: {place.stat().st_size / 1000:.0f} kB", flush=True)
    except (ValueError, LookupError) as reason:
        sys.exit(f"screenshots: {reason}")


def views(folder: Path) -> dict[str, dict[str, str]]:
    """What stands in the address of a page after the question mark, by the page's name.

    Raises:
        ValueError: there is no run, or no case, that every view can show.
    """
    explorer = Explorer.of(Library(folder))
    library = explorer.library
    finished = [run.id for run in library.runs if run.finished]
    table = library.cases(finished)
    if table.empty:
        raise ValueError(f"{folder} has no finished run with case rows: `make demo` makes some in runs/demo")
    case = str(table.loc[table["reference_volume_mm3"].idxmax(), "case_id"])
    name = str(table.loc[table["reference_volume_mm3"].idxmax(), "class"])
    proposed = opening(library, {"case": case})
    assert proposed is not None
    try:
        opened = explorer.cases.open(case, proposed[1])
        opened.truth(name)
        for modality in opened.modalities:
            opened.scan(modality)
        for run in proposed[1]:
            opened.prediction(run, name)
    except Unreadable as reason:
        raise ValueError(
            f"a view of {folder} would be empty: {reason}. Move these runs away, if they are old, and make them anew: make demo"
        ) from reason
    dice = {run: row["dice"] for run in proposed[1] if (row := opened.row(run, name))}
    modality = "flair" if "flair" in opened.modalities else opened.modalities[0]
    shown = {"case": case, "modality": modality}
    return {
        "compare": shown | {"runs": ",".join(proposed[1]), "name": name},
        "volume": shown | {"run": max(dice, key=dice.__getitem__), "class": name},
    }


@contextlib.contextmanager
def started(runs: Path) -> Iterator[str]:
    """``calf ui`` as a process of its own: its address."""
    program = "import sys; from calf.cli import app; app(sys.argv[1:])"
    command = [sys.executable, "-u", "-c", program, "ui", str(runs), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if address := re.search(r"open (http://\S+)/", line):
                    yield address[1]
                    return
            raise ValueError(f"`calf ui {runs}` ended:\n{said}")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def taken(url: str, browser: Path, queries: dict[str, dict[str, str]]) -> Iterator[tuple[str, bytes]]:
    """Name and PNG of each view of every page there is."""
    flags = ["--no-sandbox", "--enable-unsafe-swiftshader"]  # which draws Volume where there is no graphics card
    with sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=browser, args=flags)
        for module in pages():
            name = module.PATH.strip("/") or module.TITLE.lower()
            address = f"{url}{module.PATH}?{urlencode(queries.get(name, {}), safe=',')}".rstrip("?")
            for scheme in ("light", "dark") if name in DARK else ("light",):
                page = chromium.new_page(viewport=SIZE, color_scheme=scheme)
                yield f"{name}-dark" if scheme == "dark" else name, picture(page, address, READY.get(name))
                page.close()
        chromium.close()


def picture(page: Any, address: str, ready: str | None) -> bytes:
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    page.wait_for_load_state("networkidle")
    if ready:
        page.locator(ready).wait_for()
    before, now = b"", bytes(page.screenshot())
    while before != now:
        page.wait_for_timeout(STILL_MS)
        before, now = now, bytes(page.screenshot())
    return now


def small(png: bytes) -> bytes:
    """In as many colours as keep it below ``LARGEST_BYTES``, 256 at most."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in (256, 128, 64, 32, 16):
        file = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() <= LARGEST_BYTES:
            break
    return file.getvalue()


if __name__ == "__main__":
    main()
