"""What the server answers, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fastapi import APIRouter, WebSocket
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from calf.ui.library import Library
from calf.ui.render import View, sprite
from calf.ui.safety import Guard, is_loopback, new_token
from calf.ui.server import Explorer, create_server

NAME = "whole_tumour"
THERE = {"host": "192.168.1.7:8080"}
OWN = {"host": "127.0.0.1:8080"}  # the test client calls itself otherwise for web sockets
OTHERS = ["http://evil.example", "null", "http://127.0.0.1:9999", "file://127.0.0.1:8080", "127.0.0.1:8080"]
HOSTILE = [  # clients of tests resolve .. themselves, as browsers do: test_app sends it as it is
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "%2e%2e%2fcases.csv",
    "%00",
    "a%00b",
    "a" * 3000,
    "000000000000",
    "%c0%ae%c0%ae",
    "C:%5cwindows",
    "${jndi}",
    "%F0%9F%92%A9",
    "'%20OR%201=1",
]


def client_of(explorer: Explorer, host: str = "127.0.0.1", token: str | None = None, name: str | None = None) -> TestClient:
    router = APIRouter()

    @router.get("/broken")
    def broken() -> None:
        raise RuntimeError("a secret")

    server = create_server(explorer, [router])

    @server.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")

    guarded = Guard(server, host, token, 8080)
    return TestClient(guarded, f"http://{name or host}:8080", raise_server_exceptions=False, follow_redirects=False)


@pytest.fixture
def client(explorer: Explorer) -> Iterator[TestClient]:
    with client_of(explorer) as client:
        yield client


@pytest.fixture
def ids(explorer: Explorer) -> str:
    return ",".join(run.id for run in explorer.library.runs)


@pytest.fixture
def case(client: TestClient, ids: str) -> str:
    return client.get("/api/cases", params={"runs": ids}).json()["rows"][0]["case_id"]


def test_runs_and_no_path_of_theirs(client, tiny_runs):
    answer = client.get("/api/runs")
    assert {run["loss"]: run["state"] for run in answer.json()["runs"]} == {"dice": "finished", "bce": "finished"}
    assert str(tiny_runs.parent) not in answer.text


def test_numbers_are_those_of_cases_csv(client, ids, explorer):
    rows = {(row["run"], row["case"], row["class"]): row for row in client.get("/api/cases", params={"runs": ids}).json()["rows"]}
    for run in explorer.library.runs:
        with (run.folder / "cases.csv").open() as file:
            for line in csv.DictReader(file):
                found = rows[run.id, line["case"], line["class"]][line["metric"]]
                assert found == (float(line["value"]) if line["value"] else None)


def test_a_case(client, case, ids, explorer):
    scene = client.get(f"/api/cases/{case}", params={"runs": ids}).json()
    assert scene["planes"]["axial"] == {"slices": 10, "height": 32, "width": 32, "letters": "RLAP"}
    assert [panel["id"] for panel in scene["panels"]] == ids.split(",")
    row = scene["panels"][1]["rows"][NAME]
    assert row["dice"] == explorer.library.table(row["run"]).query("`case` == @row['case'] and `class` == @NAME")["dice"].item()
    window = client.get(f"/api/cases/{case}/image", params={"runs": ids, "modality": "flair"}).json()
    assert window["range"][0] <= window["window"][0] < window["window"][1] <= window["range"][1]


def test_a_picture_is_what_is_drawn(client, case, ids, explorer):
    asked = {"runs": ids, "panels": f"image,truth,{ids}", "index": 6, "names": NAME, "modality": "flair", "overlay": "errors"}
    answer = client.get(f"/api/cases/{case}/slice", params=asked)
    assert answer.headers["content-type"] == "image/webp"
    opened = explorer.cases.open(case, ids.split(","))
    expected = sprite(opened, ["image", "truth", *ids.split(",")], View(6, (NAME,), modality="flair", overlay="errors"))
    assert np.array_equal(np.asarray(Image.open(BytesIO(answer.content)).convert("RGB")), expected)
    larger = client.get(f"/api/cases/{case}/slice", params=asked | {"side": 100, "low": 0, "high": 50, "threshold": 20})
    assert Image.open(BytesIO(larger.content)).size == (400, 100)


def test_profile_and_sweep(client, case, ids):
    profile = client.get(f"/api/cases/{case}/profile", params={"runs": ids, "name": NAME}).json()
    assert len(profile["disagreement"]) == len(profile["truth_mm2"]) == 10
    assert set(profile["dice"]) == set(ids.split(","))
    assert None in profile["dice"][ids.split(",")[0]]
    swept = client.get(f"/api/cases/{case}/sweep", params={"run": ids.split(",")[1], "name": NAME}).json()
    row = client.get(f"/api/cases/{case}", params={"runs": ids}).json()["panels"][1]["rows"][NAME]
    assert swept["dice"][127] == row["dice"]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_ids_are_unknown(client, case, ids, hostile):
    plain = client.build_request("GET", "/").url
    for path in (
        f"/api/cases/{hostile}?runs={ids}",
        f"/api/cases/{case}?runs={hostile}",
        f"/api/cases/{hostile}/slice?runs={ids}&panels=truth&index=0&names={NAME}",
        f"/api/cases/{case}/slice?runs={ids}&panels={hostile}&index=0&names={NAME}",
        f"/api/cases/{case}/slice?runs={ids}&panels=truth&index=0&names={hostile}",
        f"/api/cases/{case}/slice?runs={ids}&panels=truth&index=0&names={NAME}&modality={hostile}",
        f"/api/cases/{case}/profile?runs={ids}&name={hostile}",
        f"/api/cases/{case}/sweep?run={hostile}&name={NAME}",
        f"/api/cases?runs={hostile}",
        f"/api/{hostile}",
        f"/{hostile}",
    ):
        answer = client.get(plain.copy_with(raw_path=path.encode()))
        assert answer.status_code in (404, 422), (path[:100], answer.text[:100])
        assert "root:" not in answer.text
        if path.startswith("/api/cases"):
            assert len(answer.json()["error"]) > 10


def test_an_address_without_end(client):
    assert client.get("/api/cases", params={"runs": "a" * 10_000}).status_code == 414


SENSELESS = [
    {"index": "x"},
    {"index": 10**9},
    {"plane": "oblique"},
    {"threshold": 0},
    {"side": 10**6},
    {"low": 3, "high": 3},
    {"low": "nan", "high": 3},
    {"overlay": "probability", "names": ""},
]


@pytest.mark.parametrize("asked", SENSELESS)
def test_requests_that_make_no_sense(client, case, ids, asked):
    answer = client.get(f"/api/cases/{case}/slice", params={"runs": ids, "panels": "truth", "names": NAME, "index": 0} | asked)
    assert answer.status_code in (404, 422)
    assert answer.json()["error"]


def test_an_error_of_ours_tells_nothing(client):
    answer = client.get("/api/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "something went wrong" in answer.json()["error"]
    check_headers(answer)


def check_headers(answer) -> None:
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "http:" not in policy
    assert "*" not in policy


def test_every_answer_is_guarded(client, case, ids):
    for path in ("/api/runs", "/api/none", "/none", f"/api/cases/{case}/slice?runs={ids}&panels=truth&index=0&names={NAME}"):
        check_headers(client.get(path))
    check_headers(client.get("/api/runs", headers={"host": "evil.example"}))


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/static/", "/runs/", "/.git/config"])
def test_no_documentation_and_no_files(client, path):
    assert client.get(path).status_code == 404


def test_nothing_can_be_changed(client):
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert client.request(method, "/api/runs").status_code == 404


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "evil.example:8080", "127.0.0.2", "[::2]", "", "127.0.0.1@evil"),
        *("localhost.evil", "[::1]evil.com:8080", "127.0.0.1:8080@evil.com", "127.0.0.1:1; script-src *", "127.0.0.1:x"),
    ],
)
def test_other_names_are_refused(client, host):
    answer = client.get("/api/runs", headers={"host": host})
    assert answer.status_code == 421
    assert "runs" not in answer.json()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:8080", "127.0.0.1:8080"])
def test_own_names_are_answered_at_any_port(client, host):
    for origin in (f"http://{host}", f"https://{host.lower()}"):
        assert client.get("/api/runs", headers={"host": host, "origin": origin}).status_code == 200


@pytest.mark.parametrize("origin", [*OTHERS, "http://127.0.0.1:8080.evil.example"])
def test_pages_of_other_sites_are_refused(client, origin):
    assert client.get("/api/runs", headers={"origin": origin}).status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket", headers=OWN | {"origin": origin}):
        pass
    with client.websocket_connect("/socket", headers=OWN | {"origin": "http://127.0.0.1:8080"}) as socket:
        assert socket.receive_text() == "hello"
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket", headers={"host": "evil.example"}):
        pass


def test_two_hosts_are_one_too_many(client):
    request = client.build_request("GET", "/api/runs", headers=[("host", "127.0.0.1"), ("host", "evil.example")])
    assert client.send(request).status_code == 421


def test_a_host_that_others_reach_asks_for_a_token(explorer):
    token = new_token()
    with client_of(explorer, "0.0.0.0", token, "192.168.1.7") as client:
        for params in ({}, {"token": ""}, {"token": token[:-1]}, {"token": token + "x"}, {"token": "é"}):
            answer = client.get("/api/runs", params=params)
            assert answer.status_code == 401
            assert "runs" not in answer.json()
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket", headers=THERE):
            pass
        assert client.post("/api/runs", params={"token": token}).status_code == 401
        let_in = client.get("/api/runs", params={"token": token, "a": "b c"})
        assert let_in.status_code == 303
        assert let_in.headers["location"] == "/api/runs?a=b+c"
        cookie = let_in.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert client.get("/api/runs").json()["runs"]  # by the cookie
        with client.websocket_connect("/socket", headers=THERE | {"cookie": f"calf-ui-8080={token}"}) as socket:
            assert socket.receive_text() == "hello"
        assert client.get("/api/runs", headers={"host": "evil.example"}).status_code == 421
    with client_of(explorer, "0.0.0.0", token, "192.168.1.7") as client:
        client.cookies.set("calf-ui-8080", "wrong")
        assert client.get("/api/runs").status_code == 401


def test_the_redirect_stays_here(explorer):
    token = new_token()
    for path in ("//evil.example/", "/%5cevil.example/", "///evil.example"):
        with client_of(explorer, "0.0.0.0", token, "192.168.1.7") as client:
            url = client.build_request("GET", "/").url.copy_with(raw_path=f"{path}?token={token}".encode())
            location = client.get(url).headers["location"]
            assert location.startswith("/")
            assert not location.startswith(("//", "/\\"))


def test_what_is_the_loopback():
    assert all(is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.3.2.1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.1", "example.org", ""))


def test_a_damaged_run_does_not_take_the_others_along(copied):
    damaged = next(run for run in Library(copied).runs if run.loss == "bce")
    (damaged.folder / "cases.csv").write_text("protocol\n")
    (damaged.folder / "data.json").write_text("{")
    with client_of(Explorer.of(Library(copied))) as client:
        runs = client.get("/api/runs").json()["runs"]
        ids = ",".join(run["id"] for run in runs)
        rows = client.get("/api/cases", params={"runs": ids}).json()["rows"]
        assert {row["run"] for row in rows} == {run["id"] for run in runs if run["loss"] == "dice"}
        states = {run["loss"]: (run["state"], run["error"]) for run in client.get("/api/runs").json()["runs"]}
        assert states["dice"] == ("finished", "")
        assert states["bce"][0] == "damaged"
        assert "expected the columns" in states["bce"][1]
        scene = client.get(f"/api/cases/{rows[0]['case_id']}", params={"runs": ids}).json()
        assert "data.json" in scene["panels"][0]["error"][NAME]
        assert scene["panels"][1]["error"][NAME] == ""


def test_the_tiny_runs_are_what_pages_are_tested_with(tiny_runs: Path):
    """Their fixture keeps its promises: one run that finds something, one that finds almost nothing, both with probabilities."""
    folders = [path.parent for path in tiny_runs.rglob("result.json")]
    assert len(folders) == 2
    assert all(list((folder / "probabilities").iterdir()) for folder in folders)
    assert sorted(json.loads((folder / "result.json").read_text())["test"]["dice"] > 0.1 for folder in folders) == [False, True]
