"""Runs one command and lets nothing of it outlive whoever holds the other end of standard input.

    python _guard.py GRACE_SECONDS COMMAND...

The command runs in a session of its own, its output goes to standard error. When standard input ends - closed by the Ray worker,
or because the worker was killed, crashed or went with the launcher - the command is asked to end (SIGTERM) and after the grace is
made to, with its whole process group. What is left of the group after the command has ended by itself ends in the same way. Then
the command's exit code, 128 + n for signal n, is written to standard output.

The guard leaves its parent (a second fork), because a Ray worker that exits kills its children, guard included. Standard library
only, so it starts in about 20 ms. Linux and macOS; on Linux the command also dies with a guard that is itself killed.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.2


def die_with_guard() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def send(group: int, number: int) -> bool:
    """Sends signal `number` to all of `group`; False when nobody is left. Number 0 only asks."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def end(child: "subprocess.Popen[bytes]", grace: float) -> None:
    """Ends `child` if it still runs, then what is left of its group; each gets `grace` seconds to go by itself."""
    child.terminate()
    try:
        child.wait(grace)
    except subprocess.TimeoutExpired:
        send(child.pid, signal.SIGKILL)
        child.wait()
    # waiting comes before asking: a tracker's process may still be writing what its dead parent gave it
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + grace
        while send(child.pid, 0) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 4)
        send(child.pid, number)


def main(grace: float, command: list[str]) -> int:
    """The exit code of `command`."""
    # an empty handler, not SIG_IGN, and no mask: the command would inherit both, and could not be asked to end
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=die_with_guard if sys.platform == "linux" else None,
    )
    while child.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
        if readable:
            break
    end(child, grace)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    if os.fork() > 0:
        os._exit(0)
    print(main(float(sys.argv[1]), sys.argv[2:]), flush=True)
