"""Try it in a real browser: from files to masks that are those of `calf predict`, bit for bit, and to the pixels of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from calf.cli import app
from calf.data.volumes import read_header
from calf.ui.library import Library
from calf.ui.networks import networks
from calf.ui.own_case import OwnCase
from calf.ui.predictions import CASE, DONE, Prediction
from calf.ui.render import IMAGE, TRUTH_PANEL, View, sprite
from calf.ui.uploads import Upload
from calf.ui.volumes import OpenCase
from tests.ui.conftest import started
from tests.ui.test_compare import pixels, settled

NAME = "whole_tumour"
PATIENCE_MS = 300_000  # networks are loaded in processes of their own
FILES = {  # what the browser calls them
    "flair": "<script>document.title='no'</script>.nii.gz",
    "t1": "../../x.nii.gz",
    "t1ce": "t1ce.nii.gz",
    "t2": "t2.nii",
}


@pytest.fixture(scope="module")
def images(tiny_runs: Path) -> dict[str, bytes]:
    """Files of a phantom's case, and ``truth``; axes in another order, so that going back to the file's own matters."""
    case = next(iter(json.loads((Library(tiny_runs).runs[0].folder / "data.json").read_text())["test_cases"].values()))
    found = {}
    for name, path in {**{key: path for key, (path, _) in case["images"].items()}, "truth": case["mask"]}.items():
        turned = nib.load(path).as_reoriented(np.array([[2, 1], [0, -1], [1, -1]]))
        content = nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine).to_bytes()
        found[name] = content if name == "t2" else gzip.compress(content)
    return found


@pytest.fixture(scope="module")
def predicted(tiny_runs: Path, images: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    """What `calf predict` makes of the same files."""
    place = tmp_path_factory.mktemp("predicted")
    paths = {}
    for name, content in images.items():
        paths[name] = place / f"{name}.nii.gz"
        paths[name].write_bytes(content)
    chosen = networks(Library(tiny_runs))[0]
    prediction = Prediction(chosen, paths, {}, place, "cpu", lambda ended: None)
    for step in prediction.steps:
        out = prediction.mask(step.network.run.id).parent
        given = [f"{modality}={paths[modality]}" for modality in step.network.modalities]
        options = ["--out", str(out), "--name", CASE, "--device", "cpu"]
        done = CliRunner().invoke(app, ["predict", str(step.network.checkpoint), *given, *options])
        assert done.exit_code == 0, done.output
        step.state = DONE
    return prediction


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server makes its temporary folder."""
    return tmp_path_factory.mktemp("held")


@pytest.fixture(scope="module")
def url(tiny_runs: Path, held: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(held))
        with started(tiny_runs, "--port", 0, "--upload-limit", 0.001) as (address, _):
            yield address.rstrip("/")
    assert list(held.glob("calf-ui-*")) == []  # Ctrl-C


@pytest.fixture
def window(browser: object, url: str) -> Iterator[object]:
    page = browser.new_page(viewport={"width": 1366, "height": 768}, accept_downloads=True)
    page.set_default_timeout(PATIENCE_MS)
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{url}/try")
    page.locator(".calf-try .setup").wait_for()
    yield page
    page.close()
    assert {urlsplit(one).netloc for one in asked if not one.startswith(("data:", "blob:"))} == {urlsplit(url).netloc}
    known = ("willReadFrequently", "status of 409")  # reading pixels here; what was refused, which browsers say too
    assert [text for text in said if not any(word in text for word in known)] == []


def choose(page: object, label: str, name: str, content: bytes) -> None:
    page.get_by_label(label, exact=True).set_input_files({"name": name, "mimeType": "application/gzip", "buffer": content})


def load(page: object, images: dict[str, bytes]) -> None:
    for modality, name in FILES.items():
        choose(page, modality, name, images[modality])
    for modality, name in FILES.items():
        told = page.locator(".slot", has=page.get_by_label(modality, exact=True)).locator("output")
        told.filter(has_text="voxels of").wait_for()
        assert told.inner_text().startswith(name.rpartition("/")[2] + ": ")


def opened(predicted: Prediction, truth: bool) -> OpenCase:
    """The same image and masks, of files that the server never saw."""
    uploads = {key: Upload(path, key, 0, read_header(path)) for key, path in predicted.images.items() if key in (*FILES, "truth")}
    own = uploads.pop("truth")
    shown = OwnCase(predicted, uploads, own if truth else None)
    return shown.cases.open(shown.id, [run.id for run in shown.runs])


def check(page: object, case: OpenCase, panels: list[str], **view: object) -> None:
    settled(page, view["index"])
    np.testing.assert_array_equal(pixels(page)[..., :3], sprite(case, panels, View(names=(NAME,), modality="flair", **view)))


def test_from_files_to_masks(window, url, images, predicted, held):
    page, runs = window, [step.network.run.id for step in predicted.steps]
    assert page.get_by_role("navigation").get_by_role("link", name="Try it").get_attribute("aria-current") == "page"
    predict = page.get_by_role("button", name="Predict")
    assert predict.is_disabled()
    # by keyboard alone, but for the files
    boxes = page.locator(".list input")
    for place in range(2):
        boxes.nth(place).focus()
        page.keyboard.press("Space")
    assert "missing: flair, t1, t1ce, t2" in page.locator(".go").inner_text()
    load(page, images)
    assert page.title() == "Try it - calf"
    page.get_by_label("device").select_option("cpu")
    predict.focus()
    page.keyboard.press("Enter")
    page.locator(".running", has_text="network 1 of 2").wait_for()
    assert predict.is_disabled()
    page.locator(".calf-compare[data-shown]:not([data-waiting])").wait_for()
    # without a truth: the image, the masks, and no score anywhere
    case = opened(predicted, truth=False)
    assert page.locator("figure").count() == 3
    page.keyboard.press("Home")
    for index in range(4):
        check(page, case, [IMAGE, *runs], index=index, outline=False)
        page.keyboard.press("ArrowUp")
    page.keyboard.press("2")
    check(page, case, [IMAGE, *runs], index=4, outline=False, overlay="fill")
    shown = page.locator(".shown").inner_text()
    assert "Dice" not in shown
    assert shown.count("not scored") == 2
    assert "No truth was loaded: nothing here is a score." in shown
    assert page.get_by_role("link", name="Volume").count() == 1  # the page of that name, which has no images of one's own
    # masks as the command wrote them
    for step in predicted.steps:
        run = step.network.run
        for kind, path in (("mask.nii.gz", predicted.mask(run.id)), ("labels.json", predicted.labels(run.id))):
            with page.expect_download() as download:
                page.get_by_role("link", name=f"{kind} of {run.label}").click()
            assert Path(download.value.path()).read_bytes() == path.read_bytes()
        assert run.loss in download.value.suggested_filename
    assert "values: 0 background, 1 whole_tumour" in page.locator(".masks").inner_text()
    image, mask = (nib.Nifti1Image.from_bytes(gzip.decompress(one)) for one in (images["flair"], path_of(predicted, runs[0])))
    np.testing.assert_array_equal(mask.affine, image.affine)
    assert mask.shape == image.shape
    # with a truth: errors and scores
    page.locator("summary", has_text="Networks and images").press("Enter")
    choose(page, "truth (optional)", "truth.nii.gz", images["truth"])
    page.locator("[data-what=dice]").first.wait_for()
    page.locator(".calf-compare[data-shown]:not([data-waiting])").wait_for()
    page.keyboard.press("3")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    check(page, opened(predicted, truth=True), [TRUTH_PANEL, *runs], index=1, overlay="errors")
    truth = np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(images["truth"])).dataobj) > 0
    for step in predicted.steps:
        own = np.asarray(nib.load(predicted.mask(step.network.run.id)).dataobj) & 1 == 1
        dice = 2 * np.sum(own & truth) / (np.sum(own) + np.sum(truth))
        told = page.locator(f"figure[data-panel='{step.network.run.id}'] [data-what=dice]")
        assert told.inner_text() == f"Dice {dice:.3f}"
        assert float(told.get_attribute("title").removeprefix("dice against your truth: ")) == dice
    page.keyboard.press("+")
    moves = "() => new Set([...document.querySelectorAll('.panels canvas')].map(one => one.style.transform)).size"
    assert page.evaluate(moves) == 1
    page.keyboard.press("c")
    page.locator("dialog label").first.wait_for()
    assert page.locator("dialog label").all_inner_texts() == [f"{one.label} · {one.dataset}" for one in case.runs.values()]
    page.keyboard.press("Escape")
    # whoever leaves takes everything along
    assert len(list(held.glob("calf-ui-*/*/*.nii.gz"))) == 5
    page.goto(f"{url}/compare")
    for _ in range(10_000):
        if not list(held.glob("calf-ui-*/*")):
            break
        page.evaluate("() => new Promise(requestAnimationFrame)")
    assert list(held.glob("calf-ui-*/*")) == []


def path_of(predicted: Prediction, run: str) -> bytes:
    return predicted.mask(run).read_bytes()


def test_what_is_refused_is_said_where_it_was_chosen(window, images, held):
    page = window
    # before it is known which images are needed, a first one cannot be taken for a truth
    page.locator(".slots", has_text="Choose a network first").wait_for()
    assert page.locator(".slot:visible").count() == 0
    page.locator(".list input").first.check()
    assert page.locator(".slot:visible").count() == 5
    slot = page.locator(".slot", has=page.get_by_label("flair", exact=True))
    choose(page, "flair", "notes.nii.gz", b"no image")
    slot.locator("output.alert", has_text="notes.nii.gz: expected a NIfTI file").wait_for()
    choose(page, "flair", "large.nii.gz", bytes(1_200_000))
    slot.locator("output.alert", has_text="1.2 MB is more than what is left of 1 MB").wait_for()
    assert [path for path in held.rglob("*") if path.is_file()] == []
    load(page, images)
    page.get_by_label("remove flair", exact=True).click()
    page.locator(".go", has_text="missing: flair").wait_for()
    choose(page, "flair", "<b>.nii.gz", images["flair"])
    slot.locator("output", has_text="<b>.nii.gz: 32 × 32 × 10 voxels").wait_for()  # noqa: RUF001
    # cancelled: nothing is shown, and it can begin again
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("button", name="Cancel").click()
    page.locator(".failed", has_text="cancelled").wait_for()
    assert page.locator(".shown").inner_text() == ""
    assert page.get_by_role("button", name="Predict").is_enabled()
    page.get_by_role("button", name="Remove everything").click()
    page.locator(".go", has_text="missing: flair, t1, t1ce, t2").wait_for()
    assert [path for path in held.rglob("*") if path.is_file()] == []
