"""The explorer as it is started, in a real browser."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from calf.cli import app
from calf.ui.app import address, bind
from tests.ui.conftest import PROGRAM, started


def ask(url: str, path: str, **headers: str) -> http.client.HTTPResponse:
    """The path goes as it is, which browsers and test clients do not let it."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def test_the_page_shows_the_runs_and_asks_no_other_host(served, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda opened: asked.append(opened.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(served)
    page.get_by_role("cell", name="dice", exact=True).first.wait_for()
    rows = page.locator("tbody tr")
    assert rows.count() == 2
    assert page.get_by_role("cell", name="finished").count() == 2
    assert page.get_by_role("navigation").get_by_role("link", name="Runs").get_attribute("aria-current") == "page"
    assert page.title() == "Runs - calf"
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(served).netloc}
    assert any(url.startswith("ws:") for url in asked)
    assert said == []  # neither an error nor something that the policy had to forbid
    # and the policy would: a page that tries gets nothing
    blocked = page.evaluate("() => fetch('http://127.0.0.2:9/').then(() => 'fetched', error => String(error))")
    assert "Failed to fetch" in blocked
    assert any("Content Security Policy" in text for text in said)
    page.close()


def test_a_picture_in_the_browser(served, browser, tiny_runs):
    page = browser.new_page()
    page.goto(served)
    size = page.evaluate(
        """async () => {
            const json = async path => (await fetch(path)).json();
            const runs = (await json('/api/runs')).runs.map(run => run.id).join(',');
            const id = (await json('/api/cases?runs=' + runs)).rows[0].case_id;
            const image = new Image();
            const shown = `panels=image,truth,${runs}&index=6&names=whole_tumour&modality=flair`;
            image.src = `/api/cases/${id}/slice?runs=${runs}&${shown}`;
            await image.decode();
            return [image.naturalWidth, image.naturalHeight];
        }"""
    )
    assert size == [4 * 32, 32]
    page.close()


PATHS = [
    "/api/cases/..?runs=..",
    "/api/cases/../../etc/passwd",
    "/api/cases/../../../../etc/passwd?runs=a",
    "/../../../etc/passwd",
    "/..%2f..%2fetc/passwd",
    "/_nicegui/../../setup.py",
    "/api/cases/%00?runs=%00",
    "//etc/passwd",
    "/" + "a" * 60_000,
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_lead_nowhere(served, path):
    answer = ask(served, path)
    assert answer.status in (400, 404, 414)
    assert b"root:" not in answer.read()


def test_other_hosts_are_refused(served):
    assert ask(served, "/", Host="evil.example").status == 421
    assert ask(served, "/_nicegui_ws/socket.io/?EIO=4&transport=polling", Origin="http://evil.example").status == 403
    assert ask(served, "/").status == 200


def test_nothing_listens_beyond_the_loopback(served):
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", urlsplit(served).port), timeout=10).close()


def test_a_host_of_others_asks_for_a_token(tiny_runs):
    with started(tiny_runs, "--host", "0.0.0.0", "--port", 0) as (url, said):
        assert "unencrypted" in said
        token = urlsplit(url).query
        here = url.replace(urlsplit(url).hostname, "127.0.0.1")
        assert len(token) > 40
        assert ask(here, "/").status == 401
        assert ask(here, "/_nicegui_ws/socket.io/?EIO=4&transport=polling").status == 401
        let_in = ask(here, f"/?{token}")
        assert let_in.status == 303
        cookie = let_in.headers["Set-Cookie"].partition(";")[0]
        assert ask(here, "/", Cookie=cookie).status == 200
        assert ask(here, "/", Cookie=cookie[:-1]).status == 401


def test_what_cannot_be_started_is_said(tmp_path):
    calf = CliRunner()
    done = calf.invoke(app, ["ui", str(tmp_path / "nowhere")])
    assert done.exit_code == 1
    assert "is no folder: expected one that holds runs" in done.output
    done = calf.invoke(app, ["ui", str(tmp_path), "--host", "203.0.113.7"])
    assert done.exit_code == 1
    assert "cannot listen on 203.0.113.7" in done.output


def test_without_the_extra(tmp_path):
    program = f"import sys; sys.modules['nicegui'] = None; {PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program, "ui", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "`calf ui` needs nicegui: pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_addresses():
    assert address("127.0.0.1", 80, None) == "http://127.0.0.1:80/"
    assert address("::1", 80, "t") == "http://[::1]:80/?token=t"
    assert address("0.0.0.0", 80, "t") == f"http://{socket.gethostname()}:80/?token=t"


def test_a_port_is_found():
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with bind("127.0.0.1", port) as second:
            assert port < second.getsockname()[1] < port + 100
