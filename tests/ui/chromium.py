"""The browser that pages are tested in: Debian's Chromium, or playwright's own. Where neither is there, this installs one:

python -m tests.ui.chromium
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

DEBIAN = Path("/usr/bin/chromium")
SYSTEM = Path("/etc/os-release")
PATIENCE_S = 900
OWN = "from playwright.sync_api import sync_playwright as p\nwith p() as running: print(running.chromium.executable_path)"


def found() -> Path | None:
    """Where it is; None where there is none."""
    if os.access(DEBIAN, os.X_OK):
        return DEBIAN
    # asked in a process of its own, since playwright starts once a process
    asked = subprocess.run([sys.executable, "-c", OWN], capture_output=True, text=True)
    own = Path(asked.stdout.strip())
    return own if own.is_file() else None


def install() -> list[str]:
    """Try what this machine allows; returns what went wrong, nothing where there is a browser afterwards."""
    why = []
    for attempt in (_debian, _own):
        if error := attempt():
            why.append(error)
        elif (path := found()) is None:
            why.append(f"{attempt.__name__.strip('_')}: it was installed, and is at none of the known places")
        elif error := _ran([str(path), "--version"]):
            why.append(error)
        else:
            return []
    return why


def _debian() -> str:
    if "ID=debian" not in (SYSTEM.read_text().splitlines() if SYSTEM.exists() else ()):
        return "this is no Debian, whose package chromium could be installed"
    if shutil.which("apt-get") is None:
        return "there is no apt-get"
    if os.geteuid() and shutil.which("sudo") is None:
        return "apt-get needs root, and there is no sudo"
    apt = [*(["sudo", "-n"] if os.geteuid() else []), "apt-get", "-q", "-o", "Acquire::Retries=1"]
    return _ran([*apt, "update"]) or _ran([*apt, "install", "-y", "--no-install-recommends", "chromium"])


def _own() -> str:
    return _ran([sys.executable, "-m", "playwright", "install", "chromium"])


def _ran(command: list[str]) -> str:
    """Why it failed; "" where it did not."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(command)}: {error}"
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return f"{' '.join(command)}: {said[-1] if said else f'ended with {done.returncode}'}" if done.returncode else ""


def main() -> int:
    """0 where there is a browser now."""
    if found():
        return 0
    print("chromium: there is none; installing one for the tests of the explorer's pages", flush=True)
    why = install()
    if why:
        print("chromium: cannot be installed here, so these tests are skipped:\n  " + "\n  ".join(why), file=sys.stderr)
        print(
            "  install it by hand: apt-get install chromium, or python -m playwright install --with-deps chromium",
            file=sys.stderr,
        )
    return int(bool(why))


if __name__ == "__main__":
    sys.exit(main())
