"""Volume: the files that it is drawn from, voxel by voxel, and its picture in a real browser."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine
from PIL import Image
from starlette.testclient import TestClient

from calf.data.volumes import read_volume, to_original, write_volume
from calf.report.montage import TRUTH
from calf.ui import solid
from calf.ui.library import Library
from calf.ui.pages import volume
from calf.ui.regions import Cropped, Region, values
from calf.ui.render import PREDICTION
from calf.ui.safety import Guard
from calf.ui.server import Explorer, create_server
from calf.ui.volumes import OpenCase
from tests.ui import chromium
from tests.ui.conftest import started
from tests.ui.test_server import HOSTILE

NAME = "whole_tumour"
STATIC = Path(volume.__file__).parent / "static"
SIZE = (640, 520)


def opened(runs: Path, loss: str = "dice") -> OpenCase:
    explorer = Explorer.of(Library(runs))
    ids = [run.id for run in explorer.library.runs if run.loss == loss]
    return explorer.cases.open(explorer.library.cases(ids)["case_id"].iloc[0], ids)


def client_of(runs: Path) -> TestClient:
    explorer = Explorer.of(Library(runs))
    return TestClient(Guard(create_server(explorer, [volume.router(explorer)])), "http://127.0.0.1:8080")


def fetched(client: TestClient, case: OpenCase, file: str, **query: str) -> nib.Nifti1Image:
    answer = client.get(f"/api/cases/{case.id}/{file}.nii.gz", params={"run": next(iter(case.runs)), **query})
    assert answer.status_code == 200, answer.text
    return nib.Nifti1Image.from_stream(io.BytesIO(gzip.decompress(answer.content)))


def moved(runs: Path, place: Path, way: str) -> None:
    """Every file of the cases with other axes: in another order and flipped, or turned in the scanner."""
    turned = np.eye(4)
    if way == "oblique":
        a, b = np.deg2rad([25, -15])
        turned[:3, :3] = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
        turned[:3, :3] @= [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
        turned[:3, 3] = 7, -11, 3.5

    def copied(path: str | Path, to: Path) -> str:
        image = nib.load(path)
        if way == "flipped":
            image = image.as_reoriented([[2, 1], [0, -1], [1, 1]])
        to.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), turned @ image.affine), to)
        return str(to)

    for data in runs.rglob("data.json"):
        content = json.loads(data.read_text())
        for case, entry in content["test_cases"].items():
            entry["mask"] = copied(entry["mask"], place / case / "seg.nii.gz")
            for name, image in entry["images"].items():
                image[0] = copied(image[0], place / case / f"{name}.nii.gz")
            prediction = data.parent / "predictions" / f"{case}.nii.gz"
            copied(prediction, prediction.with_suffix(".new.nii.gz"))
            prediction.with_suffix(".new.nii.gz").replace(prediction)
        data.write_text(json.dumps(content))


@pytest.mark.parametrize("way", ["as it is", "flipped", "oblique"])
def test_files_are_those_of_the_case_voxel_for_voxel(copied: Path, tmp_path: Path, way: str) -> None:
    if way != "as it is":
        moved(copied, tmp_path / "moved", way)
    case = opened(copied)
    run = next(iter(case.runs.values()))
    mask = nib.load(case.files.mask)
    codes = nib.load(run.folder / "predictions" / f"{case.case}.nii.gz")
    labels = np.asanyarray(mask.dataobj)
    assert {"as it is": ("L", "P", "S"), "flipped": ("A", "S", "L"), "oblique": ("L", "P", "S")}[way] == nib.aff2axcodes(
        mask.affine
    )
    with client_of(copied) as client:
        for place, (name, members) in enumerate({NAME: (1, 2, 4), "tumour_core": (1, 4)}.items()):
            truth = fetched(client, case, "truth", name=name)
            prediction = fetched(client, case, "prediction", name=name)
            assert truth.get_data_dtype() == prediction.get_data_dtype() == np.uint8
            np.testing.assert_array_equal(np.asanyarray(truth.dataobj), np.isin(labels, members))
            np.testing.assert_array_equal(
                np.asanyarray(prediction.dataobj), np.asanyarray(codes.dataobj).astype(int) >> place & 1
            )
            assert np.asanyarray(truth.dataobj).any()
        image = fetched(client, case, "image", modality="flair")
    for file in (truth, prediction, image):
        np.testing.assert_allclose(file.affine, mask.affine, atol=1e-4)
        assert file.header["sform_code"] > 0
    voxels = nib.load(case.files.images["flair"].path).get_fdata()
    low, high = case.scan("flair").window
    grey = np.clip((voxels - low) / (high - low) * 255, 0, 255)
    np.testing.assert_allclose(np.asanyarray(image.dataobj), grey, atol=1.01)


def test_a_large_case_is_taken_together_and_no_voxel_of_a_mask_is_lost(tiny_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = opened(tiny_runs)
    assert solid.steps(case) == (1, 1, 1)
    monkeypatch.setattr(solid, "MOST_VOXELS", 32 * 32 * 10 // 8)
    assert solid.steps(case) == (3, 3, 1)  # voxels of 6 x 6 x 15 mm: the slices stay
    assert solid.sent_shape(case, (3, 3, 1)) == (11, 11, 10)
    inside = np.zeros(case.shape, bool)
    lesion = (31, 17, 4)  # one voxel, in the last block, which is not whole
    inside[lesion] = True
    codes = Region(Cropped.of(inside.astype(np.uint8)), values(1), "lesion")
    file = nib.Nifti1Image.from_stream(io.BytesIO(gzip.decompress(solid.mask_file(case, codes))))
    (place,) = np.argwhere(np.asanyarray(file.dataobj))
    away = apply_affine(file.affine, place) - apply_affine(case.grid.affine, lesion)
    assert (np.abs(away) <= [6.01, 6.01, 0.01]).all()  # of the middle of a block from that of a voxel in it
    image = nib.Nifti1Image.from_stream(io.BytesIO(gzip.decompress(solid.image_file(case, "flair"))))
    scan = case.scan("flair")
    block = scan.values[3:6, 12:15, 4].mean()
    own = np.linalg.inv(image.affine) @ [*apply_affine(case.grid.affine, (4, 13, 4)), 1]
    low, high = scan.window
    wanted = np.clip((scan.lowest + scan.step * block - low) / (high - low) * 255, 0, 255)
    assert image.dataobj[tuple(np.rint(own[:3]).astype(int))] == pytest.approx(wanted, abs=1.1)


def test_what_is_said_is_what_cases_csv_says(tiny_runs: Path) -> None:
    case = opened(tiny_runs)
    run = next(iter(case.runs))
    with client_of(tiny_runs) as client:
        told = client.get(f"/api/cases/{case.id}/solid", params={"run": run, "name": NAME}).json()
        other = client.get(f"/api/cases/{case.id}/solid", params={"run": run, "name": "nothing"}).json()
        runs = client.get("/api/volume/runs", params={"case": case.id}).json()["runs"]
    rows = pd.read_csv(case.runs[run].folder / "cases.csv")
    own = rows[(rows["case"] == case.case) & (rows["class"] == NAME)].iloc[0]
    assert told["truth"] == {"error": "", "empty": False, "volume_mm3": own["reference_volume_mm3"]}
    assert told["prediction"]["volume_mm3"] == own["predicted_volume_mm3"]
    assert (told["scored"], told["warning"], told["sent"], told["steps"]) == (True, "", [32, 32, 10], [1, 1, 1])
    assert other["name"] == NAME
    assert [one["id"] for one in runs] == [one.id for one in Library(tiny_runs).runs]


def test_what_is_missing_is_said_and_the_rest_is_sent(copied: Path) -> None:
    case = opened(copied)
    run = next(iter(case.runs))
    (case.runs[run].folder / "predictions" / f"{case.case}.nii.gz").unlink()
    with client_of(copied) as client:
        told = client.get(f"/api/cases/{case.id}/solid", params={"run": run, "name": NAME}).json()
        assert told["prediction"]["error"] == "its prediction was not saved"
        assert told["prediction"]["empty"] is False
        answer = client.get(f"/api/cases/{case.id}/prediction.nii.gz", params={"run": run, "name": NAME})
        assert (answer.status_code, answer.json()["error"]) == (409, "its prediction was not saved")
        assert np.asanyarray(fetched(client, case, "truth", name=NAME).dataobj).any()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_ids_are_refused(tiny_runs: Path, client: TestClient, hostile: str) -> None:
    case = opened(tiny_runs)
    run = next(iter(case.runs))
    for address in (
        *(f"/api/cases/{hostile}/{what}?run={run}&name={NAME}&modality=flair" for what in FILES),
        *(f"/api/cases/{case.id}/{what}?run={hostile}&name={NAME}&modality=flair" for what in FILES),
        *(
            f"/api/cases/{case.id}/{file}.nii.gz?run={run}&name={hostile}&modality={hostile}"
            for file in ("image", "truth", "prediction")
        ),
        f"/api/volume/runs?case={hostile}",
    ):
        answer = client.get(address)
        assert answer.status_code in (404, 414, 422), address
        assert str(tiny_runs.parent) not in answer.text
        assert "root:" not in answer.text


FILES = ("solid", "image.nii.gz", "truth.nii.gz", "prediction.nii.gz")


@pytest.fixture(scope="module")
def client(tiny_runs: Path) -> Iterator[TestClient]:
    with client_of(tiny_runs) as client:
        yield client


def test_niivue_is_the_file_that_its_note_says() -> None:
    folder = STATIC / "niivue"
    told = re.search(r"SHA-256\s+([0-9a-f]{64})", (folder / "VENDORED.txt").read_text())
    assert told
    assert hashlib.sha256((folder / "niivue.umd.js").read_bytes()).hexdigest() == told[1]
    assert (folder / "LICENSE.txt").read_text().count("Redistributions in binary form") == 1


@pytest.fixture(scope="module")
def placed(tiny_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny runs: one found a block at the patient's right, front and head, in the last case one voxel; the other nothing."""
    runs = Path(shutil.copytree(tiny_runs, tmp_path_factory.mktemp("placed") / "runs"))
    library = Library(runs)
    last = library.table(library.runs[0].id)["case"].iloc[-1]
    for run in library.runs:
        for path in (run.folder / "predictions").glob("*.nii.gz"):
            known = read_volume(path)
            codes = np.zeros(known.data.shape, np.uint8)
            if run.loss == "dice":
                codes[22:30, 22:30, 7:9] = 1
                if path.name.startswith(last):
                    codes[:] = 0
                    codes[20, 20, 5] = 1
            write_volume(path, to_original(codes, known.original_affine), known.original_affine)
    return runs


@pytest.fixture(scope="module")
def url(placed: Path) -> Iterator[str]:
    with started(placed, "--port", 0) as (address, _):
        yield address.rstrip("/")


def launched(browser: Any, *flags: str) -> Any:
    return browser.browser_type.launch(executable_path=chromium.found(), args=["--no-sandbox", *flags])


@pytest.fixture(scope="module")
def asked() -> list[str]:
    return []


@pytest.fixture(scope="module")
def tab(browser: Any, url: str, asked: list[str]) -> Iterator[Any]:
    """A tab of a browser that needs no graphics card: in the end it has asked nobody else, and nothing went wrong in it."""
    drawing = launched(browser, "--enable-unsafe-swiftshader")
    page = drawing.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    drawing.close()
    assert {urlsplit(one).netloc for one in asked if not one.startswith(("data:", "blob:"))} == {urlsplit(url).netloc}
    # neither an error nor something that the policy had to forbid; Chromium tells how fast pixels were read here
    assert [text for text in said if "GL Driver Message" not in text] == []


@pytest.fixture(scope="module")
def case(placed: Path) -> OpenCase:
    library = Library(placed)
    ids = [run.id for run in sorted(library.runs, key=lambda run: run.loss != "dice")]
    return Explorer.of(library).cases.open(library.cases(ids)["case_id"].iloc[0], ids)


def see(page: Any, url: str, case: OpenCase, run: int = 0, **shown: object) -> None:
    query = {"case": case.id, "run": list(case.runs)[run], "class": NAME, "modality": "flair", **shown}
    page.goto(f"{url}/volume?" + "&".join(f"{key}={value}" for key, value in query.items()))
    drawn(page)


def drawn(page: Any) -> None:
    page.locator(".calf-volume:not([aria-busy]):not([data-waiting])").wait_for(timeout=120_000)


def picture(page: Any) -> np.ndarray:
    """The pixels, 0 to 255, without the cube."""
    png = page.locator(".calf-volume canvas").screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)
    pixels[-70:, :70] = 0
    return pixels


def brightness(page: Any) -> float:
    return float(picture(page).sum())


def colours(page: Any) -> tuple[np.ndarray, np.ndarray]:
    """Where the picture has the colour of the truth, and where that of the prediction, however bright."""
    pixels = picture(page)
    bright = pixels.max(axis=2)

    def of(colour: tuple[int, int, int]) -> np.ndarray:
        wanted = np.array(colour) * (bright / max(colour))[..., None]
        return (bright > 40) & (np.abs(pixels - wanted).max(axis=2) < 5 + 0.15 * bright)

    return of(TRUTH), of(PREDICTION)


def middle(found: np.ndarray) -> tuple[float, float]:
    """Of the pixels that are true: right and down from the middle of the picture."""
    down, right = np.argwhere(found).mean(axis=0) - (np.array(found.shape) - 1) / 2
    return right, down


def test_truth_and_prediction_have_their_colours_and_opacities(tab: Any, url: str, case: OpenCase) -> None:
    see(tab, url, case, truth=100, prediction=0, image=0)
    truth, prediction = colours(tab)
    assert truth.sum() > 100
    assert prediction.sum() == 0
    tab.locator(".area").focus()
    tab.keyboard.press("p")
    tab.keyboard.press("t")
    drawn(tab)
    assert parse_qs(urlsplit(tab.get_by_role("link", name="Compare", exact=True).last.get_attribute("href")).query)["name"] == [
        NAME
    ]
    truth, prediction = colours(tab)
    assert truth.sum() == 0
    assert prediction.sum() > 100
    full = brightness(tab)
    tab.get_by_label("opacity of the prediction").fill("5")
    drawn(tab)
    assert 0 < brightness(tab) < 0.7 * full
    tab.wait_for_function("() => new URLSearchParams(location.search).get('prediction') === '5'")


def test_a_lesion_of_one_voxel_is_seen(tab: Any, url: str, case: OpenCase, placed: Path) -> None:
    run = next(iter(case.runs))
    last = Library(placed).table(run)["case_id"].iloc[-1]
    assert last != case.id
    see(tab, url, Explorer.of(Library(placed)).cases.open(last, [run]))
    assert colours(tab)[1].sum() > 20


def test_sides_are_those_of_the_patient(tab: Any, url: str, case: OpenCase) -> None:
    """A block at the right, front and head, seen from every side."""
    see(tab, url, case, truth=0, prediction=100, image=0, zoom=1)
    tab.locator(".area").focus()
    # of what is seen: to the right of the picture, down
    for key, side, right, down in (
        ("1", "right", 1, -1),
        ("2", "left", -1, -1),
        ("3", "front", -1, -1),
        ("4", "back", 1, -1),
        ("5", "above", 1, -1),
        ("6", "below", -1, -1),
    ):
        tab.keyboard.press(key)
        drawn(tab)
        seen = middle(colours(tab)[1])
        assert (np.sign(seen[0]), np.sign(seen[1])) == (right, down), (side, seen)


def test_the_side_that_is_named_is_cut_away(tab: Any, url: str, case: OpenCase) -> None:
    see(tab, url, case, truth=0, prediction=100, image=0, masks=1, depth=50)
    whole = colours(tab)[1].sum()
    tab.locator(".area").focus()
    left = {}
    for side in ("right", "left", "front", "back", "above", "below"):
        tab.keyboard.press("c")
        drawn(tab)
        assert tab.get_by_label("cut away").input_value() == side
        left[side] = colours(tab)[1].sum()
    assert [side for side, pixels in left.items() if pixels == 0] == ["right", "front", "above"]
    assert min(left[side] for side in ("left", "back", "below")) > 0.5 * whole


def test_another_run_another_picture_and_an_empty_one_is_said(tab: Any, url: str, case: OpenCase) -> None:
    see(tab, url, case, truth=0, prediction=100, image=0)
    assert colours(tab)[1].sum() > 100
    # the mask was changed after it was scored
    assert "that which was scored" in tab.locator(".alert").inner_text()
    found, empty = case.runs
    rows = pd.read_csv(case.runs[empty].folder / "cases.csv")
    own = rows[(rows["case"] == case.case) & (rows["class"] == NAME)].iloc[0]
    tab.get_by_label("run", exact=True).select_option(empty)
    drawn(tab)
    assert colours(tab)[1].sum() == 0
    assert "the prediction is empty: nothing of it is drawn" in tab.locator(".foot").inner_text()
    assert tab.locator(".alert").inner_text() == case.warning(empty, NAME)
    volume_ml = tab.locator("[data-what=prediction]")
    assert volume_ml.inner_text() == f"{own['predicted_volume_mm3'] / 1000:.2f} ml"
    assert volume_ml.get_attribute("title") == f"{float(own['predicted_volume_mm3']):g} mm³ in cases.csv"
    assert tab.locator("[data-what=truth]").inner_text() == f"{own['reference_volume_mm3'] / 1000:.2f} ml"
    tab.get_by_label("run", exact=True).select_option(found)
    drawn(tab)
    assert colours(tab)[1].sum() > 100


def test_there_from_compare_and_back(tab: Any, url: str, case: OpenCase, asked: list[str]) -> None:
    del asked[:]
    tab.goto(f"{url}/compare?case={case.id}&runs={','.join(case.runs)}&name=tumour_core&index=5")
    tab.locator(".calf-compare[data-shown='5']").wait_for()
    assert not any("niivue" in one and one.endswith(".js") for one in asked)  # only where it is needed
    tab.locator(".calf-compare").get_by_role("link", name="Volume").click()
    drawn(tab)
    assert any("niivue" in one for one in asked)
    told = parse_qs(urlsplit(tab.url).query)
    assert (told["case"], told["run"], told["class"]) == ([case.id], [next(iter(case.runs))], ["tumour_core"])
    tab.locator(".calf-volume").get_by_role("link", name="Compare").click()
    tab.locator(".calf-compare[data-shown]").wait_for()
    told = parse_qs(urlsplit(tab.url).query)
    assert (told["case"], told["name"]) == ([case.id], ["tumour_core"])


def test_without_webgl_a_sentence(browser: Any, url: str) -> None:
    plain = launched(browser, "--disable-3d-apis")
    page = plain.new_page()
    page.goto(f"{url}/volume")
    page.get_by_role("alert").filter(has_text="no WebGL 2").wait_for()
    plain.close()


def test_hostile_addresses_of_the_page(tab: Any, url: str, case: OpenCase) -> None:
    run = next(iter(case.runs))
    tab.goto(f"{url}/volume?case=..%2f..%2fetc&run={run}")
    tab.get_by_text("there is no such case").wait_for()
    tab.goto(f"{url}/volume?case={case.id}&run=000000000000")
    tab.get_by_text("there is no run of this id").wait_for()
    see(tab, url, case, zoom="1e9", cut="nowhere", azimuth="NaN", prediction=-5)
    tab.locator(".area").focus()
    tab.keyboard.press("0")
    drawn(tab)
    tab.wait_for_function("() => new URLSearchParams(location.search).get('prediction') === '0'")
    assert "cut" not in parse_qs(urlsplit(tab.url).query)
