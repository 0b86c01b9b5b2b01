"""Compare in a real browser, over twelve runs: every pixel of every panel is that which ``calf.ui.render`` draws."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest

from calf.data.volumes import read_volume, to_original, write_volume
from calf.ui.library import Library
from calf.ui.measures import profile
from calf.ui.render import IMAGE, TRUTH_PANEL, View, sprite
from calf.ui.server import Explorer
from calf.ui.volumes import OpenCase
from tests.ui.conftest import started

NAME = "whole_tumour"
RUNS = 12
READ = """() => [...document.querySelectorAll('.panels canvas')].map(canvas => {
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return [canvas.height, canvas.width, btoa(String.fromCharCode(...data))];
})"""


@pytest.fixture(scope="module")
def many(tiny_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve runs: copies of the tiny ones that hold the truth, moved a little from run to run; the last one's are empty."""
    place = tmp_path_factory.mktemp("many")
    origins = Library(tiny_runs)
    ids = [run.id for run in origins.runs]
    explorer = Explorer.of(origins)
    for case in {row for id in ids for row in origins.table(id)["case_id"]}:
        opened = explorer.cases.open(case, ids)
        whole = tuple(slice(0, length) for length in opened.shape)
        codes = sum(opened.truth(name).within(whole).astype(np.uint8) << bit for bit, name in enumerate(opened.names))
        for number in range(RUNS):
            origin = origins.runs[number % len(ids)].folder
            copy = place / f"copy-{number:02d}" / origin.name
            if not copy.exists():
                shutil.copytree(origin, copy, ignore=shutil.ignore_patterns("checkpoints", "pictures"))
            path = copy / "predictions" / f"{opened.case}.nii.gz"
            affine = read_volume(path).original_affine
            moved = np.roll(codes, number + 1, axis=0) * np.uint8(number < RUNS - 1)
            write_volume(path, to_original(moved, affine), affine)
    return place


@pytest.fixture(scope="module")
def case(many: Path) -> OpenCase:
    library = Library(many)
    ids = [run.id for run in library.runs]
    first = library.table(ids[0])
    largest = first[first["class"] == NAME].sort_values("reference_volume_mm3")["case_id"].iloc[-1]
    return Explorer.of(library).cases.open(largest, ids)


@pytest.fixture(scope="module")
def url(many: Path) -> Iterator[str]:
    with started(many, "--port", 0) as (address, _):
        yield address.rstrip("/")


@pytest.fixture(scope="module")
def window(browser: object, url: str) -> Iterator[object]:
    """One tab for all tests: in the end it has asked nobody else, and nothing went wrong in it."""
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    page.close()
    assert {urlsplit(one).netloc for one in asked if not one.startswith(("data:", "blob:"))} == {urlsplit(url).netloc}
    assert [text for text in said if "willReadFrequently" not in text] == []  # which is of reading pixels here


def view(page: object, url: str, case: OpenCase, runs: int, **more: object) -> list[str]:
    """Open Compare; returns the panels that have to be there."""
    ids = list(case.runs)[:runs]
    query = {"case": case.id, "runs": ",".join(ids), "name": NAME, "plane": "axial", "index": 5} | more
    page.goto(f"{url}/compare?" + "&".join(f"{key}={value}" for key, value in query.items()))
    return [*([IMAGE] if more.get("image") else []), TRUTH_PANEL, *ids]


def settled(page: object, index: int) -> None:
    page.locator(f".calf-compare[data-shown='{index}']:not([data-waiting])").wait_for()


def pixels(page: object) -> np.ndarray:
    panels = [
        np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4) for height, width, data in page.evaluate(READ)
    ]
    return np.concatenate(panels, axis=1)


def check(page: object, case: OpenCase, panels: list[str], **shown: object) -> None:
    settled(page, shown["index"])
    seen = pixels(page)
    assert (seen[..., 3] == 255).all()
    wanted = View(**({"names": (NAME,), "modality": case.modalities[0]} | shown))
    np.testing.assert_array_equal(seen[..., :3], sprite(case, panels, wanted))


def query_of(page: object, key: str, value: str) -> None:
    page.wait_for_function("([key, value]) => new URLSearchParams(location.search).get(key) === value", arg=[key, value])


@pytest.mark.parametrize("runs", [1, 4, RUNS])
def test_all_panels_show_the_same_slice(window, url, case, runs):
    panels = view(window, url, case, runs)
    check(window, case, panels, index=5)
    last = case.shape[2] - 1
    for key, index in (("ArrowUp", 6), ("ArrowRight", 7), ("ArrowDown", 6), ("End", last), ("ArrowUp", last), ("Home", 0)):
        window.keyboard.press(key)
        check(window, case, panels, index=index)
    window.locator(".frame").last.hover()
    window.mouse.wheel(0, -100)
    check(window, case, panels, index=1)
    query_of(window, "index", "1")
    # nothing lies outside of a laptop's screen
    boxes = [box.bounding_box() for box in window.locator("figure").all()]
    assert len(boxes) == runs + 1
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 1366 and box["y"] + box["height"] <= 768 for box in boxes)


def test_overlays_planes_and_targets_by_keys(window, url, case):
    panels = view(window, url, case, 2)
    settled(window, 5)
    window.keyboard.press("3")
    check(window, case, panels, index=5, overlay="errors")
    assert "missed" in window.locator(".legend").inner_text()
    window.keyboard.press("4")
    check(window, case, panels, index=5, overlay="probability")
    window.keyboard.press("2")
    window.keyboard.press("o")
    check(window, case, panels, index=5, overlay="fill", outline=False)
    window.keyboard.press("i")
    check(window, case, [IMAGE, *panels], index=5, overlay="fill", outline=False)
    window.keyboard.press("t")
    check(window, case, [IMAGE, *panels], index=5, overlay="fill", outline=False, names=(case.names[1],))
    window.keyboard.press("m")
    shown = {"overlay": "fill", "outline": False, "names": (case.names[1],), "modality": (case.modalities * 2)[1]}
    check(window, case, [IMAGE, *panels], index=5, **shown)
    window.get_by_label("plane").select_option("coronal")
    # a plane opens where the truth is largest
    largest = int(np.argmax(profile(case, case.names[1], [], "coronal").truth_mm2))
    check(window, case, [IMAGE, *panels], index=largest, plane="coronal", **shown)
    query_of(window, "plane", "coronal")
    window.reload()
    check(window, case, [IMAGE, *panels], index=largest, plane="coronal", **shown)


def test_window_zoom_and_place_are_shared(window, url, case):
    panels = view(window, url, case, 4)
    settled(window, 5)
    start = window.get_by_label("black at").input_value
    window.wait_for_function("() => document.querySelector('[aria-label=\"black at\"]').value !== ''")
    before = start()
    box = window.locator(".frame").nth(2).bounding_box()
    window.mouse.move(box["x"] + 50, box["y"] + 50)
    window.keyboard.down("Shift")
    window.mouse.down()
    window.mouse.move(box["x"] + 90, box["y"] + 30)
    window.mouse.up()
    window.keyboard.up("Shift")
    window.wait_for_function("() => new URLSearchParams(location.search).has('low')")
    told = parse_qs(urlsplit(window.url).query)
    low, high = (float(told[key][0]) for key in ("low", "high"))
    assert before != start()
    check(window, case, panels, index=5, window=(low, high))
    window.keyboard.press("+")
    window.keyboard.press("Shift+ArrowRight")
    moves = window.evaluate(
        "() => [...new Set([...document.querySelectorAll('.panels canvas')].map(one => one.style.transform))]"
    )
    assert len(moves) == 1
    query_of(window, "zoom", "1.25")
    query_of(window, "x", "0.58")
    window.get_by_label("black at").fill("0.1")
    window.get_by_label("black at").press("Tab")
    query_of(window, "low", "0.1")
    check(window, case, panels, index=5, window=(0.1, high))


def test_numbers_are_those_of_cases_csv(window, url, case):
    panels = view(window, url, case, 4)
    settled(window, 5)
    window.locator("[data-what=slice]").first.wait_for()
    window.wait_for_function("() => [...document.querySelectorAll('[data-what=slice]')].every(one => one.textContent)")
    along = profile(case, NAME, panels[1:], "axial")
    for run in panels[1:]:
        rows = pd.read_csv(case.runs[run].folder / "cases.csv")
        own = rows[(rows["case"] == case.case) & (rows["class"] == NAME)].set_index("metric")
        figure = window.locator(f"figure[data-panel='{run}']")
        dice = float(own.loc["dice", "value"])
        assert figure.locator("[data-what=dice]").inner_text() == f"Dice {dice:.3f}"
        title = figure.locator("[data-what=dice]").get_attribute("title")
        assert float(title.removeprefix("dice in cases.csv: ")) == dice
        volume = float(own["predicted_volume_mm3"].iloc[0])
        assert figure.locator("[data-what=predicted_volume_mm3]").inner_text() == f"{volume / 1000:.2f} ml"
        here = along.dice[run][5]
        assert figure.locator("[data-what=slice]").inner_text() == ("slice –" if np.isnan(here) else f"slice {here:.3f}")  # noqa: RUF001
    window.keyboard.press("n")
    head = window.locator("dialog tr").first.locator("th").all_inner_texts()[1:]
    cells = window.locator("dialog tr").nth(1).locator("td").all_inner_texts()
    row = case.row(panels[1], NAME)
    assert {"dice", "status", "reference_volume_mm3"} < set(head)
    for metric, cell in zip(head, cells, strict=True):
        if metric in ("status", "note"):
            assert cell == (row["status"] if metric == "status" else case.warning(panels[1], NAME))
        else:
            assert np.isnan(row[metric]) if cell == "undefined" else float(cell) == row[metric]
    window.keyboard.press("Escape")
    window.locator("dialog").wait_for(state="detached")


def test_an_empty_mask(window, url, case):
    """What is empty is drawn as such; and where the mask is not the one that was scored, that stands beside it."""
    empty = list(case.runs)[-1]
    window.goto(f"{url}/compare?case={case.id}&runs={next(iter(case.runs))},{empty}&name={NAME}&index=5&overlay=errors")
    check(window, case, [TRUTH_PANEL, next(iter(case.runs)), empty], index=5, overlay="errors")
    figure = window.locator(f"figure[data-panel='{empty}']")
    assert "the prediction shown has 0 mm3" in figure.locator(".warning").inner_text()
    figure.locator("[data-what=slice]", has_text="0.000").wait_for()
    window.keyboard.press("Home")
    settled(window, 0)
    assert profile(case, NAME, [empty], "axial").truth_mm2[0] == 0
    figure.locator("[data-what=slice]", has_text="slice –").wait_for()  # noqa: RUF001


def test_the_strip_jumps(window, url, case):
    panels = view(window, url, case, 4)
    settled(window, 5)
    peak = int(np.argmax(profile(case, NAME, panels[1:], "axial").disagreement))
    window.get_by_text(f"most in slice {peak} ").wait_for()
    window.keyboard.press("Home")
    settled(window, 0)
    window.keyboard.press("d")
    check(window, case, panels, index=peak)
    strip = window.locator("canvas.strip")
    width = strip.bounding_box()["width"]
    strip.click(position={"x": 2.5 * width / case.shape[2], "y": 10})
    check(window, case, panels, index=2)
    window.get_by_label("slice", exact=True).press("ArrowRight")
    check(window, case, panels, index=3)


def test_one_picture_a_step_and_none_that_is_late(window, url, case):
    """A picture that comes after another one was asked for is not shown; neighbours are fetched once and ahead."""
    panels = view(window, url, case, RUNS)
    settled(window, 5)
    asked, held = [], []
    window.on("request", lambda request: asked.append(request.url) if "/slice?" in request.url else None)

    def hold(route: object) -> None:
        held.append(route) if "overlay=errors" in route.request.url else route.continue_()

    window.route(re.compile("/slice"), hold)
    for key, index in (("ArrowUp", 6), ("ArrowUp", 7), ("ArrowDown", 6), ("ArrowDown", 5), ("ArrowUp", 6)):
        window.keyboard.press(key)
        check(window, case, panels, index=index)
    assert len(asked) == len(set(asked))
    window.evaluate(
        """() => {
            const {drawImage} = CanvasRenderingContext2D.prototype;
            window.draws = 0;
            CanvasRenderingContext2D.prototype.drawImage = function (...given) {
                window.draws += 1;
                return drawImage.apply(this, given);
            };
        }"""
    )
    with window.expect_request(re.compile("overlay=errors")):
        window.keyboard.press("3")
    window.keyboard.press("1")  # is there already
    settled(window, 6)
    window.keyboard.press("2")  # has to be fetched, after what is held
    held.pop().continue_()
    check(window, case, panels, index=6, overlay="fill")
    assert window.evaluate("() => window.draws") == 2 * len(panels)  # contours and areas, never the errors
    window.unroute_all()


def test_runs_are_chosen_by_keys(window, url, case):
    panels = view(window, url, case, 2)
    settled(window, 5)
    window.keyboard.press("c")
    window.get_by_label("filter runs").wait_for()
    boxes = window.locator("dialog input[type=checkbox]")
    assert boxes.count() == RUNS
    third = boxes.nth(2)
    added = third.get_attribute("value")
    third.focus()
    window.keyboard.press("Space")
    window.keyboard.press("Escape")
    window.locator(f"figure[data-panel='{added}']").wait_for()
    check(window, case, [*panels, added], index=5)
    query_of(window, "runs", ",".join([*panels[1:], added]))
    window.keyboard.press("?")
    window.get_by_role("dialog", name="Keys").wait_for()
    window.keyboard.press("Escape")
    chosen = window.get_by_label("case", exact=True)
    now = chosen.input_value()
    window.keyboard.press("[" if chosen.evaluate("one => one.selectedIndex") else "]")
    window.wait_for_function("now => document.querySelector('select.case').value !== now", arg=now)
    window.get_by_label("plane").press("Tab")
    assert window.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize(
    "query", ["case=../../etc/passwd&runs=..", "case=<img src=x onerror=alert(1)>", "runs=<script>alert(1)</script>"]
)
def test_hostile_ids_are_unknown(window, url, query):
    window.goto(f"{url}/compare?{query}")
    alert = window.get_by_role("alert")
    alert.wait_for()
    assert "there is no" in alert.inner_text()
    assert window.locator("img[src=x]").count() == 0


def test_hostile_views_are_put_right_and_said(window, url, case):
    hostile = "<img src=x onerror=alert(1)>"
    panels = view(
        window, url, case, 2, plane=hostile, modality=hostile, overlay="__proto__", index="1e99", zoom="-3", low="NaN", high=4
    )
    check(window, case, panels, index=case.shape[2] - 1)
    assert "there is no plane of the name asked for" in window.get_by_role("alert").inner_text()
    assert window.locator("img[src=x]").count() == 0
    window.goto(f"{url}/compare?case={'0' * 12}&runs={next(iter(case.runs))}")
    window.get_by_text("there is no such case").wait_for()


def test_without_an_address_something_is_shown(window, url, case):
    window.goto(f"{url}/compare")
    window.locator(".calf-compare[data-shown]").wait_for()
    assert window.locator("figure").count() == 3  # the truth and a run of each loss
