"""The guard of a job, without Ray."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hydra_plugins.calf_grid import _guard
from hydra_plugins.calf_grid._grid import explain, tail

DEADLINE_SECONDS = 30
GRACE_SECONDS = "0.2"
# both say on standard error that they run, and never end by themselves; the child ignores being asked
FAMILY = """
import os, signal
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(2, b"+")
while True:
    signal.pause()
"""


class Guarded:
    """A program under a guard, whose standard error is read here: it ends when everybody who holds it is dead."""

    def __init__(self, program: str) -> None:
        guard = [sys.executable, "-I", "-S", str(Path(_guard.__file__).absolute()), GRACE_SECONDS]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([*guard, sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=pipe)

    def error(self) -> bytes:
        """What comes next; empty at the end."""
        assert self.process.stderr is not None
        readable, _, _ = select.select([self.process.stderr], [], [], DEADLINE_SECONDS)
        assert readable, "nothing came"
        return os.read(self.process.stderr.fileno(), 1000)

    def wait_for_family(self) -> None:
        said = b""
        while len(said) < 2:
            said += self.error()
        assert said == b"++"

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.read().decode().strip()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self.process.wait()


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("pass", "0"),
        ("raise SystemExit(3)", "3"),
        ("import os; os.kill(os.getpid(), 9)", "137"),
        ("import os; os.abort()", "134"),
    ],
)
def test_the_exit_code_is_told(program: str, code: str) -> None:
    guarded = Guarded(program)
    assert guarded.answer() == code
    guarded.close()


def test_output_and_errors_are_one_stream() -> None:
    guarded = Guarded("import os; os.write(1, b'out '); os.write(2, b'err')")
    assert guarded.answer() == "0"
    assert guarded.error() == b"out err"
    guarded.close()


def test_all_ends_with_whoever_holds_standard_input() -> None:
    guarded = Guarded(FAMILY)
    guarded.wait_for_family()
    assert guarded.process.stdin is not None
    guarded.process.stdin.close()
    assert guarded.answer() == str(128 + signal.SIGTERM)
    assert guarded.error() == b""
    guarded.close()


def test_what_a_dead_program_leaves_behind_ends_too() -> None:
    guarded = Guarded(FAMILY.replace("os.write", "os.getppid() == os.getpgid(0) and os.kill(os.getppid(), 9)\nos.write"))
    assert guarded.answer() == "137"
    while guarded.error():
        continue
    guarded.close()


def test_reasons() -> None:
    assert explain(0) == ""
    assert explain(1) == "exit code 1"
    assert explain(137) == "signal 9, out of memory?"
    assert explain(139) == "signal 11"


def test_the_tail_of_a_log_is_of_the_last_attempt(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert tail(log) == []
    log.write_text("=== one: command\nold\n=== two: command\nfirst\n\nsecond\nthird\n")
    assert tail(log, lines=2) == ["second", "third"]
    assert tail(log) == ["first", "second", "third"]
    log.write_bytes(b"=== one: command\n" + b"\xff" * 100_000 + b"\nlast\n")
    assert tail(log, lines=1) == ["last"]
