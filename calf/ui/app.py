"""``calf ui RUNS_DIR``: the server with its pages, bound to this machine alone unless another host is asked for."""

from __future__ import annotations

import errno
import inspect
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from fastapi import Request
from nicegui import ui

from calf.page import COLOURS
from calf.report.volumes import Unreadable
from calf.ui import pages as rooms
from calf.ui.library import Library, Unknown
from calf.ui.safety import TOKEN, Guard, is_loopback, new_token
from calf.ui.server import Explorer, create_server
from calf.ui.uploads import LIMIT_BYTES

TRIES = 100  # ports from the one that was asked for on
BUILD_S = 60.0  # until a page has to be built


def serve(runs: Path, port: int = 8080, host: str = "127.0.0.1", browser: bool = True, upload_bytes: int = LIMIT_BYTES) -> None:
    """Serve until interrupted; prints the address once it answers, and opens it. In the end nothing that was uploaded is left.

    Args:
        runs: a folder of runs.
        port: if it is in use the next free one is taken.
        host: the address to be bound to. Anything but the loopback can be reached from other machines, and asks for a token.
        browser: open one.
        upload_bytes: how large the images of one's own may be together that a page of Try it takes, as they are sent.

    Raises:
        ValueError: ``runs`` is no folder, or the host or port cannot be bound to.
    """
    explorer = Explorer.of(Library(runs), upload_bytes=upload_bytes)
    # runs whose rows are damaged are known as such before anyone asks for them
    ids = [run.id for run in explorer.library.runs]
    warm = threading.Thread(target=explorer.library.cases, args=(ids,), daemon=True)
    listening = bind(host, port)
    taken = int(listening.getsockname()[1])
    token = None if is_loopback(host) else new_token()
    app = create_app(explorer, host, token, taken)
    # addresses hold tokens and ids, and are written to no log
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, proxy_headers=False)
    server = _Server(config)

    def ready() -> None:
        warm.start()  # not sooner: NiceGUI goes through all objects of the process as it starts, which no other thread survives
        _announce(explorer, address(host, taken, token), port, taken, token is not None, browser)

    server.ready, server.ending = ready, explorer.trials.close
    # a terminal that is closed ends it as Ctrl-C does; not where that was asked to be ignored, as by nohup
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, server.handle_exit)
    try:
        server.run(sockets=[listening])
    finally:
        explorer.trials.close()


def create_app(explorer: Explorer, host: str = "127.0.0.1", token: str | None = None, port: int = 0) -> Guard:
    """The whole explorer as an ASGI application; once a process, since NiceGUI's pages belong to the process."""
    server = create_server(explorer, rooms.routers(explorer))
    known = rooms.pages()
    for page in known:
        _add(page, known, explorer)
    # no relay of NiceGUI's, no storage in the working directory, no message of its own
    ui.run_with(server, title="calf", dark=None, language="en-US", show_welcome_message=False)
    return Guard(server, host, token, port)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on the first free port from ``port`` on (0: any)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for tried in range(port, min(port + TRIES, 2**16)):
        listening = socket.socket(family)
        if os.name == "posix":  # elsewhere it would share a port with another program
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, tried))
            listening.listen(2048)
            return listening
        except OSError as error:
            listening.close()
            if error.errno != errno.EADDRINUSE:
                raise ValueError(
                    f"cannot listen on {host}, port {tried}: {error.strerror or error}. Take an address of this machine for "
                    "--host and a --port of 1024 or more"
                ) from error
    raise ValueError(f"every port from {port} to {min(port + TRIES, 2**16) - 1} is in use: take another --port")


def address(host: str, port: int, token: str | None) -> str:
    """What a browser has to open."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?{TOKEN}={token}" if token else "")


class _Server(uvicorn.Server):
    ready: Callable[[], None]
    ending: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if not self.should_exit:
            self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.ending()  # first: the signal that ended it is raised again once this is over, and nothing runs after that
        await super().shutdown(sockets=sockets)


def _announce(explorer: Explorer, url: str, port: int, taken: int, open_to_others: bool, browser: bool) -> None:
    if port not in (0, taken):
        print(f"calf ui: port {port} is in use, taking {taken}")
    print(f"calf ui: {len(explorer.library.runs)} runs below {explorer.library.folder}")
    if open_to_others:
        print(
            "calf ui: other machines can reach this one, and what they see goes over the network unencrypted. On a machine that "
            "you log in to, leave --host away and use a tunnel: ssh -L 8080:localhost:8080 <machine>"
        )
    print(f"calf ui: open {url} (Ctrl-C ends it)", flush=True)
    if browser and _has_screen():
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def _has_screen() -> bool:
    """Without one a browser of the terminal would be opened, on top of this program."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _add(page: rooms.Page, known: list[rooms.Page], explorer: Explorer) -> None:
    patience = getattr(page, "RECONNECT_S", None)  # until a browser that is not heard of counts as gone; None: NiceGUI's

    @ui.page(page.PATH, title=f"{page.TITLE} - calf", response_timeout=BUILD_S, reconnect_timeout=patience)
    async def shown(request: Request) -> None:
        _frame(page, known)
        try:
            built = page.build(explorer, dict(request.query_params))
            if inspect.isawaitable(built):
                await _wait(built)
        except (Unknown, Unreadable) as reason:
            ui.label(str(reason)).props("role=alert")


async def _wait(built: Awaitable[None]) -> None:
    await built


def _frame(page: rooms.Page, known: list[rooms.Page]) -> None:
    ui.colors(primary=COLOURS["blue"])  # white on it can be read
    with ui.header().classes("items-center gap-4 py-2"):
        ui.label("calf").classes("text-lg font-bold")
        with ui.element("nav").classes("flex gap-4").props('aria-label="pages"'):
            for other in known:
                link = ui.link(other.TITLE, other.PATH).classes("text-white")
                if other is page:
                    link.props('aria-current="page"').classes("underline")
