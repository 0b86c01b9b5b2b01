"""Try it without a browser: what is taken and what is refused, what is scored, and that nothing stays."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from calf.report.volumes import Unreadable
from calf.ui.library import Library
from calf.ui.networks import Network, network_of, networks, shared_labels
from calf.ui.own_case import OwnCase
from calf.ui.pages import try_it
from calf.ui.predictions import CANCELLED, DONE, FAILED, RUNNING, Prediction
from calf.ui.safety import Guard
from calf.ui.server import Explorer, create_server
from calf.ui.trials import Trial
from calf.ui.uploads import MOST_VOXELS, PrivateFolder, remove_abandoned
from tests.ui.conftest import PROGRAM

LIMIT = 200_000
NAME = "whole_tumour"


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    place = tmp_path / "held"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


@pytest.fixture
def explorer(tiny_runs: Path, held: Path) -> Iterator[Explorer]:
    made = Explorer.of(Library(tiny_runs), upload_bytes=LIMIT)
    yield made
    made.trials.close()
    assert list(held.iterdir()) == []


@pytest.fixture
def trial(explorer: Explorer) -> Trial:
    return explorer.trials.new()


@pytest.fixture
def client(explorer: Explorer, trial: Trial) -> Iterator[TestClient]:
    with client_of(explorer, f"/api/try/{trial.id}") as client:
        yield client


def client_of(explorer: Explorer, path: str, token: str | None = None) -> TestClient:
    server = Guard(create_server(explorer, [try_it.router(explorer)]), "127.0.0.1", token, 8080)
    return TestClient(server, f"http://127.0.0.1:8080{path}", raise_server_exceptions=False)


def phantom_case(runs: Path) -> tuple[str, dict[str, Path], Path]:
    """A case of the phantom: its name, its images and its truth."""
    data = json.loads((Library(runs).runs[0].folder / "data.json").read_text())
    name, case = sorted(data["test_cases"].items())[0]
    return name, {modality: Path(path) for modality, (path, _) in case["images"].items()}, Path(case["mask"])


def state_of(client: TestClient) -> dict:
    return client.get(str(client.base_url).rstrip("/")).json()


def send(client: TestClient, images: dict[str, Path]) -> None:
    for modality, path in images.items():
        answer = client.put("/images", params={"modality": modality, "name": path.name}, content=path.read_bytes())
        assert answer.status_code == 200, answer.text


def header(shape: tuple[int, ...], kind: type = nib.Nifti1Header) -> bytes:
    made = kind()
    made.set_data_dtype(np.int16)
    made.set_data_shape((1, 1, 1))
    raw = bytearray(made.binaryblock + b"\0" * 4)
    place, code = (40, "h") if kind is nib.Nifti1Header else (16, "q")
    raw[place : place + struct.calcsize(f"<8{code}")] = struct.pack(f"<8{code}", len(shape), *shape, *[1] * (7 - len(shape)))
    made = kind(bytes(raw[: kind.template_dtype.itemsize]), check=False)
    made["magic"] = b"n+1" if kind is nib.Nifti1Header else b"n+2\0\r\n\x1a\n"
    made["vox_offset"] = 352 if kind is nib.Nifti1Header else 544
    return bytes(made.binaryblock) + b"\0" * 4


def nifti(array: np.ndarray) -> bytes:
    return nib.Nifti1Image(array, np.diag([2.0, 2, 5, 1])).to_bytes()


SMALL = nifti(np.ones((4, 5, 6), np.int16))
HOSTILE = {
    "text": (b"patient: none\n" * 100, 409, "expected a NIfTI file"),
    "picture": (b"\x89PNG\r\n\x1a\n" * 90, 409, "x.nii.gz: expected a NIfTI file, .nii or .nii.gz; this is none"),
    "packed text": (gzip.compress(b"none" * 200), 409, "x.nii.gz: expected a NIfTI file, .nii or .nii.gz; this is none"),
    "half of a pair": (SMALL[:344] + b"ni1\0" + SMALL[348:], 409, "convert the pair"),
    "2**27 voxels and some": (gzip.compress(header((512, 512, 513))), 413, "512 x 512 x 513 voxels"),
    "empty": (b"", 409, "zero bytes"),
    "cut gzip": (
        gzip.compress(SMALL + bytes(np.random.default_rng(0).integers(0, 255, 9000, np.uint8)))[:4000],
        409,
        "cut short",
    ),
    "no gzip": (b"\x1f\x8b" + b"\0" * 2000, 409, "damaged"),
    "wrong sum": (gzip.compress(SMALL)[:-8] + b"\1\2\3\4" + gzip.compress(SMALL)[-4:], 409, "damaged"),
    "cut": (SMALL[:-10], 409, "cut short"),
    "1e12 voxels": (gzip.compress(header((10_000, 10_000, 10_000))), 413, "10000 x 10000 x 10000 voxels"),
    "more than int64": (gzip.compress(header((2**40, 2**40, 2**40), nib.Nifti2Header)), 413, f"at most {MOST_VOXELS}"),
    "negative": (header((-4, 5, 6)) + b"\0" * 500, 409, "expected a volume"),
    "2-D": (header((400, 5)) + b"\0" * 5000, 409, "expected a volume"),
    "two volumes": (nifti(np.ones((4, 5, 6, 2), np.int16)), 409, "one 3-D volume"),
    "bomb": (gzip.compress(SMALL + b"\0" * 40_000_000), 413, "more than the"),
    "complex": (nib.Nifti1Image(np.ones((4, 5, 6), np.complex64), np.eye(4)).to_bytes(), 409, "one number a voxel"),
}


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_what_is_no_volume_is_refused_and_not_kept(client, held, kind):
    content, status, words = HOSTILE[kind]
    answer = client.put("/images", params={"modality": "flair", "name": "x.nii.gz"}, content=content)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert str(held) not in answer.text
    assert state_of(client)["images"] == {}
    assert [path for path in held.rglob("*") if path.is_file()] == []


def test_the_limit_holds_for_what_comes_and_not_for_what_is_announced(client, held):
    large = SMALL + b"\0" * LIMIT
    whole = client.put("/images", params={"modality": "t1", "name": "x.nii"}, content=large)
    assert (whole.status_code, "--upload-limit" in whole.json()["error"]) == (413, True)
    arrived = []

    def pieces() -> Iterator[bytes]:
        for first in range(0, len(large), 1000):
            arrived.append(first)
            yield large[first : first + 1000]

    assert client.put("/images", params={"modality": "t1", "name": "x.nii"}, content=pieces()).status_code == 413
    assert [path for path in held.rglob("*") if path.is_file()] == []
    # and for all files together; one that takes the place of another has its room
    part = nifti(np.zeros((30, 100, 20), np.int16))
    for modality, status in (("t1", 200), ("t2", 413), ("t1", 200)):
        assert client.put("/images", params={"modality": modality, "name": "x.nii"}, content=part).status_code == status
    assert state_of(client)["room"] == LIMIT - len(part)


def test_what_was_announced_stays_reserved_while_it_arrives(client, trial):
    async def pieces() -> AsyncIterator[bytes]:
        yield SMALL[:100]
        yield SMALL[100:200]
        rooms.append(trial.state()["room"])
        yield SMALL[200:]

    rooms: list[int] = []
    asyncio.run(trial.receive("t1", "x.nii", pieces(), 150_000))
    assert rooms == [LIMIT - 150_000]
    assert trial.state()["room"] == LIMIT - len(SMALL)


def test_a_page_that_ends_while_a_file_arrives_keeps_nothing(explorer, trial, held):
    """Whether it ends before there is a folder, or between the pieces."""

    async def pieces() -> AsyncIterator[bytes]:
        yield SMALL[:100]
        explorer.trials.end(trial.id)
        yield SMALL[100:]

    with pytest.raises(Unreadable, match="removed"):
        asyncio.run(trial.receive("t1", "x.nii", pieces()))
    with pytest.raises(Unreadable, match="this page was left: reload it"):
        asyncio.run(trial.receive("t1", "x.nii", pieces()))
    assert list(held.glob("*/*")) == []
    assert not trial.holds_files


def test_folders_of_servers_that_were_killed_are_removed(held):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()  # its number is free
    own = PrivateFolder()
    mine = own.new().parent
    abandoned = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    assert abandoned != mine
    (abandoned / "page").mkdir(parents=True)
    (abandoned / "page" / "x.nii.gz").write_bytes(SMALL)
    elsewhere = held / f"calf-ui-another.machine-{ended.pid}-abc"
    link = abandoned.with_name(abandoned.name + "x")
    elsewhere.mkdir()
    link.symlink_to(elsewhere)
    remove_abandoned()
    assert sorted(held.iterdir()) == sorted([mine, elsewhere, link])
    own.remove()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../x.nii.gz", "x.nii.gz"),
        ("C:\\data\\p 1.nii", "p 1.nii"),
        ("<script>alert(1)</script>.nii.gz", "script>.nii.gz"),
        ("<img src=x onerror=alert(1)>.nii", "<img src=x onerror=alert(1)>.nii"),
        ("..", ".."),
        ("\0\n", "file"),
        ("a" * 900, "a" * 120),
    ],
)
def test_names_are_shown_and_lead_nowhere(client, held, name, shown):
    assert client.put("/images", params={"modality": "flair", "name": name}, content=SMALL).status_code == 200
    assert state_of(client)["images"]["flair"]["name"] == shown
    (file,) = (path for path in held.rglob("*") if path.is_file())
    assert re.fullmatch(r"calf-ui-[\w.-]+/[0-9a-f]{16}/[0-9a-f]{16}\.nii\.gz", str(file.relative_to(held)))
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent.parent, file.parent, file)] == [0o700, 0o700, 0o600]


def test_only_this_page_is_answered(client, explorer, trial):
    put = {"params": {"modality": "flair", "name": "x.nii"}, "content": SMALL}
    assert client.put("/images", headers={"origin": "http://evil.example"}, **put).status_code == 403
    assert client.put("/images", headers={"host": "evil.example"}, **put).status_code == 421
    with client_of(explorer, f"/api/try/{trial.id}", "secret") as locked:
        assert locked.put("/images", **put).status_code == 401
    for id in ("x", "..%2f..", "0" * 32, trial.id[:-1]):
        with client_of(explorer, f"/api/try/{id}") as other:
            assert [other.get("/runs").status_code, other.put("/images", **put).status_code] == [404, 404]
    assert client.put("/images", params={"modality": "../../x", "name": "x"}, content=SMALL).status_code == 404
    assert state_of(client)["images"] == {}


def test_a_prediction_needs_what_its_networks_need(client, tiny_runs, explorer):
    runs = ",".join(run.id for run in explorer.library.runs)
    ask = {"runs": runs, "device": "cpu"}
    missing = client.post("/prediction", params=ask)
    assert (missing.status_code, "missing flair, t1, t1ce, t2" in missing.json()["error"]) == (409, True), missing.text
    send(client, {"flair": phantom_case(tiny_runs)[1]["flair"]})
    assert "missing t1, t1ce, t2" in client.post("/prediction", params=ask).json()["error"]
    assert client.post("/prediction", params={"runs": "", "device": "cpu"}).status_code == 409
    assert client.post("/prediction", params={"runs": "000000000000"}).status_code == 404
    assert client.post("/prediction", params={"runs": runs, "device": "cuda:0; rm"}).status_code == 404
    assert client.get("/runs").status_code == client.get(f"/masks/{runs[:12]}").status_code == 404


def test_networks_that_cannot_be_used_together(copied):
    library = Library(copied)
    first, second = library.runs
    data = json.loads((first.folder / "data.json").read_text())
    other = data | {"preparation": data["preparation"] | {"modalities": ["flair"]}, "labels": {"0": "background", "1": "liver"}}
    (first.folder / "data.json").write_text(json.dumps(other))
    explorer = Explorer.of(Library(copied))
    with pytest.raises(Unreadable, match="different modalities"):
        explorer.trials.new().predict([first.id, second.id], "cpu")
    with pytest.raises(Unreadable, match="different things, liver and necrotic"):
        shared_labels([network_of(explorer.library, run.id) for run in (first, second)])
    # of what cannot be loaded it is said why
    (second.folder / "checkpoints" / "best.ckpt").write_bytes((second.folder / "checkpoints" / "best.ckpt").read_bytes()[:-500])
    (first.folder / "checkpoints" / "best.ckpt").unlink()
    found, left_out = networks(Library(copied))
    assert found == []
    assert "no longer there" in left_out[first.label]
    assert "cut short" in left_out[second.label]


@pytest.fixture
def made(explorer: Explorer, client: TestClient, trial: Trial, tiny_runs: Path, tmp_path: Path) -> Callable[[], OwnCase]:
    """The page as after a prediction; its masks are those that the runs wrote of this case themselves."""
    case, images, _ = phantom_case(tiny_runs)
    send(client, images)

    def make() -> OwnCase:
        chosen: list[Network] = networks(explorer.library)[0]
        paths = {modality: upload.path for modality, upload in trial.images.items()}
        prediction = Prediction(chosen, paths, {}, tmp_path / "masks", "cpu", lambda ended: None)
        for step in prediction.steps:
            step.state = DONE
            prediction.mask(step.network.run.id).parent.mkdir(parents=True)
            shutil.copy(step.network.run.folder / "predictions" / f"{case}.nii.gz", prediction.mask(step.network.run.id))
            prediction.labels(step.network.run.id).write_text('{"0": "background"}')
        prediction.cancel()  # which was never begun: it is over
        trial.prediction, trial.shown = prediction, OwnCase(prediction, trial.images, None)
        return trial.shown

    return make


def test_without_a_truth_nothing_is_scored(made, client):
    shown = made()
    scene = client.get(f"/cases/{shown.id}", params={"runs": ",".join(one.id for one in shown.runs)}).json()
    assert all(scene["truth_error"].values())
    for panel in scene["panels"]:
        assert panel["error"] == panel["warning"] == dict.fromkeys(scene["names"], "")
        for row in panel["rows"].values():
            assert (row["status"], row["reference_volume_mm3"]) == ("not scored", None)
            assert "dice" not in row
    along = client.get(f"/cases/{shown.id}/profile", params={"runs": shown.runs[0].id, "name": NAME}).json()
    assert (along["truth_mm2"], along["dice"]) == (None, {})
    # nor is the run's own test score told, which could be taken for one
    assert [(one["metric"], one["value"]) for one in client.get("/runs").json()["runs"]] == [(None, None)] * 2


def test_scores_against_a_truth_are_those_of_cases_csv(made, client, tiny_runs, explorer):
    before = made()
    case, _, truth = phantom_case(tiny_runs)
    answer = client.put("/truth", params={"name": "truth.nii.gz"}, content=truth.read_bytes()).json()
    assert answer["shown"]["scored"]
    assert answer["shown"]["case"] != before.id
    runs = answer["shown"]["runs"]
    scene = client.get(f"/cases/{answer['shown']['case']}", params={"runs": ",".join(runs)}).json()
    for panel in scene["panels"]:
        table = explorer.library.table(panel["id"]).set_index(["case", "class"])
        for name in scene["names"]:
            scored, own = table.loc[case, name], panel["rows"][name]
            assert own["status"] == scored["status"]
            for key in ("dice", "sensitivity", "precision", "iou", "reference_volume_mm3", "predicted_volume_mm3"):
                assert own[key] == pytest.approx(scored[key], rel=1e-12)
            assert panel["warning"][name] == ""
    query = {"runs": ",".join(runs), "panels": f"truth,{runs[0]}", "index": 5, "names": NAME, "overlay": "errors"}
    picture = client.get(f"/cases/{answer['shown']['case']}/slice", params=query)
    assert Image.open(BytesIO(picture.content)).size == (64, 32)
    gone = client.delete("/truth").json()
    assert (gone["truth"], gone["shown"]["scored"]) == (None, False)
    assert client.get(f"/cases/{answer['shown']['case']}", params={"runs": runs[0]}).status_code == 404


def test_a_truth_that_does_not_fit_is_refused(made, client, tiny_runs):
    shown, truth = made(), nib.load(phantom_case(tiny_runs)[2])
    labels = np.asarray(truth.dataobj)
    moved = truth.affine.copy()
    moved[0, 3] += 3
    for content, words in (
        (nib.Nifti1Image(np.full_like(labels, 77), truth.affine).to_bytes(), "unexpected label 77"),
        (nib.Nifti1Image(labels[:-1], truth.affine).to_bytes(), "expected the shape"),
        (nib.Nifti1Image(labels, moved).to_bytes(), "its affine differs"),
    ):
        answer = client.put("/truth", params={"name": "my truth.nii"}, content=content)
        assert (answer.status_code, words in answer.json()["error"]) == (409, True), answer.text
        assert "truth my truth.nii" in answer.json()["error"]
        assert "calf-ui-" not in answer.text
    state = state_of(client)
    assert (state["truth"], state["shown"]["case"], state["shown"]["scored"]) == (None, shown.id, False)


def test_another_image_takes_masks_and_scores_away(made, client, tiny_runs):
    shown = made()
    send(client, {"t1": phantom_case(tiny_runs)[1]["t1"]})
    state = state_of(client)
    assert (state["shown"], state["prediction"]) == (None, None)
    assert client.get(f"/masks/{shown.runs[0].id}").status_code == 404
    assert not shown.prediction.folder.exists()


def test_what_a_network_or_an_image_has_wrong_is_said(copied, tiny_runs, held, tmp_path):
    """A checkpoint with code in it is not run; an image with NaN is refused as by `calf predict`."""
    trapped, sound = Library(copied).runs
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, trapped.folder / "checkpoints" / "best.ckpt")
    explorer = Explorer.of(Library(copied))
    trial = explorer.trials.new()
    with client_of(explorer, f"/api/try/{trial.id}") as client:
        images = phantom_case(tiny_runs)[1]
        send(client, images)
        voxels = nib.load(images["t2"])
        broken = np.asarray(voxels.dataobj, np.float32)
        broken[3, 4, 5] = np.nan
        content = nib.Nifti1Image(broken, voxels.affine).to_bytes()
        client.put("/images", params={"modality": "t2", "name": "mine.nii"}, content=content)
        started = client.post("/prediction", params={"runs": f"{trapped.id},{sound.id}", "device": "cpu"})
        assert started.status_code == 200, started.text
        trial.prediction.wait()
        state = state_of(client)
    explorer.trials.close()
    first, second = state["prediction"]["networks"]
    assert (first["state"], second["state"], state["shown"]) == (FAILED, FAILED, None)
    assert first["error"].endswith("UnpicklingError: Weights only load failed")
    assert not (tmp_path / "sprung").exists()
    assert second["error"].startswith("mine.nii: expected finite voxels, got 1 NaN")
    assert str(tmp_path) not in json.dumps(state)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (str(self.path), "w"))


def test_one_at_a_time_and_cancelled_at_once(client, explorer, trial, tiny_runs):
    images, run = phantom_case(tiny_runs)[1], explorer.library.runs[0].id
    send(client, images)
    ask = {"runs": run, "device": "cpu"}
    assert client.post("/prediction", params=ask).status_code == 200
    assert "cancel it first" in client.post("/prediction", params=ask).json()["error"]
    running = trial.prediction
    while running._process is None and not running.over:
        os.sched_yield()
    process = running._process
    other = explorer.trials.new()
    with client_of(explorer, f"/api/try/{other.id}") as second:
        send(second, images)
        waiting = second.post("/prediction", params=ask).json()["prediction"]
        assert (waiting["ahead"], waiting["networks"][0]["state"]) == (1, "waiting")
        # one that waits is over at once, whatever the other does
        cancelled = second.delete("/prediction").json()["prediction"]
        assert (cancelled["over"], cancelled["networks"][0]["state"]) == (True, CANCELLED)
    assert running.steps[0].state == RUNNING
    client.delete("/prediction")
    running.wait()
    assert process.returncode == -signal.SIGKILL
    state = state_of(client)
    assert (state["prediction"]["networks"][0]["state"], state["shown"]) == (CANCELLED, None)
    assert list(running.folder.rglob("*.nii.gz")) == []
    client.delete(str(client.base_url).rstrip("/"))
    assert state_of(client)["images"] == {}


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_when_the_server_is_ended(tiny_runs, tmp_path, sent):
    command = [sys.executable, "-u", "-c", PROGRAM, "ui", str(tiny_runs), "--port", "0", "--no-browser"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}

    def heard() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has ignored

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=heard) as process:
        url = next(found[1] for line in process.stdout if (found := re.search(r"open (http://\S+)/ ", line)))
        page = urllib.request.urlopen(f"{url}/try").read().decode()
        base = url + re.search(r"/api/try/[\w-]+", page)[0]
        for modality, path in phantom_case(tiny_runs)[1].items():
            put(f"{base}/images?modality={modality}&name=x", path.read_bytes())
        assert len(list(tmp_path.glob("calf-ui-*/*/*.nii.gz"))) == 4
        run = Library(tiny_runs).runs[0].id
        put(f"{base}/prediction?runs={run}&device=cpu", b"", "POST")
        process.send_signal(sent)
        process.communicate(timeout=60)
    assert process.returncode in (0, -sent)
    assert list(tmp_path.glob("calf-ui-*")) == []
    assert not any(str(tmp_path) in line for line in commands())


def put(url: str, content: bytes, method: str = "PUT") -> None:
    with urllib.request.urlopen(urllib.request.Request(url, content, method=method)) as answer:
        assert answer.status == 200


def commands() -> Iterator[str]:
    """The command lines of this machine's processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
