"""Who is answered, and what browsers are told not to do with the answer.

* The ``Host`` of a request has to be this machine by name or number: a page of another site that points its own name at
  127.0.0.1 is refused (DNS rebinding). Any port will do, so that a tunnel works.
* An ``Origin``, which browsers send with web sockets and with everything that changes something, has to be that host: a page of
  another site cannot open a web socket here.
* Bound to anything but the loopback, a token is asked for. It comes once in the address, then in a cookie that no script reads.
* Every answer forbids the browser to load anything from elsewhere, to be framed, to guess types, and to say where it came from.
"""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
import socket
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
TOKEN = "token"
LONGEST_ADDRESS = 8192
#: NiceGUI's pages are inline scripts, and its client evaluates what the server sends; neither may load from another host.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'{sockets}; worker-src 'self' blob:; media-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
)
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; sandbox"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), usb=(), payment=()",
}
DATA = "/api/"
# nothing else may come into the policy, nor be taken for a name and what belongs to it
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", re.ASCII)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that is bound to ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """A secret that cannot be guessed."""
    return secrets.token_urlsafe(32)


class Guard:
    """ASGI middleware that answers for everything it lets through; see the module.

    Args:
        app: what is guarded: requests and web sockets.
        host: what the server is bound to. The loopback: its names alone are answered. Anything else: that, this machine's
            names, and any number, which cannot be pointed elsewhere.
        token: None: none is asked for.
        port: names the cookie, since browsers share cookies between the ports of a host.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", token: str | None = None, port: int = 0) -> None:
        self.app, self.token = app, token
        self.local = is_loopback(host)
        self.names = LOOPBACK | ({host} if self.local else {host.lower(), *_own_names()})
        self.cookie = f"calf-ui-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        headers = connection.headers
        refused = self._refused(headers) or _too_long(scope)
        if refused is None and self.token is not None and not self._knows_token(connection):
            given = connection.query_params.get(TOKEN, "")
            if scope["type"] == "http" and scope["method"] == "GET" and _same(given, self.token):
                await self._let_in(connection)(scope, receive, _guarded(scope, "", send))
                return
            refused = _sentence(401, "a token is needed: open the address that `calf ui` printed")
        if refused is not None:
            await _refuse(refused, scope, receive, _guarded(scope, "", send))
            return
        # nothing stands before this server that could say where a request really came from
        kept = [(name, value) for name, value in scope["headers"] if not name.lower().startswith(b"x-forwarded-")]
        await self.app({**scope, "headers": kept}, receive, _guarded(scope, headers["host"], send))

    def _refused(self, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]) or not self._is_ours(_name(hosts[0])):
            return _sentence(421, "this server answers by the names of its own machine alone")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{hosts[0]}".lower(), f"https://{hosts[0]}".lower()):
            return _sentence(403, "this server does not answer pages of other sites")
        return None

    def _is_ours(self, name: str) -> bool:
        return name in self.names or (not self.local and _is_number(name))

    def _knows_token(self, connection: HTTPConnection) -> bool:
        assert self.token is not None
        return _same(connection.cookies.get(self.cookie, ""), self.token)

    def _let_in(self, connection: HTTPConnection) -> Response:
        """To the same address without the token, which would stay in the browser's history."""
        assert self.token is not None
        left = urlencode([(key, value) for key, value in parse_qsl(connection.url.query) if key != TOKEN])
        path = "/" + connection.url.path.lstrip("/")  # two slashes would name a host
        response = RedirectResponse(path + (f"?{left}" if left else ""), 303)
        response.set_cookie(self.cookie, self.token, httponly=True, samesite="lax", path="/")
        return response


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())


def _name(host: str) -> str:
    """The name in a Host header, without its port: ``[::1]:8080`` is ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _own_names() -> Iterable[str]:
    return {socket.gethostname().lower(), socket.getfqdn().lower()}


def _too_long(scope: Scope) -> Response | None:
    length = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    return _sentence(414, "this address is longer than any of ours") if length > LONGEST_ADDRESS else None


def _sentence(status: int, error: str) -> Response:
    return JSONResponse({"error": error}, status)


async def _refuse(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": json.loads(bytes(response.body))["error"][:100]})
        return
    await response(scope, receive, send)


def _guarded(scope: Scope, host: str, send: Send) -> Send:
    """``send`` with the headers of the module put into every answer; web sockets may go to ``host`` ("": none)."""
    data = scope["path"].startswith(DATA)
    # browsers differ in whether 'self' covers web sockets
    sockets = f" ws://{host} wss://{host}" if host else ""
    policy = DATA_POLICY if data else PAGE_POLICY.format(sockets=sockets)

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer = MutableHeaders(scope=message)
            for name, value in (HEADERS | {"Content-Security-Policy": policy}).items():
                answer[name] = value
            if "cache-control" not in answer:
                answer["Cache-Control"] = "no-store"  # images of patients stay out of the browser's disk
        await send(message)

    return sent
