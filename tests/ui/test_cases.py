"""Cases: which rows are shown in which order, against cases.csv as it is read here; and the page in a real browser."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest

from calf.ui.library import Library
from calf.ui.pages.case_rows import CaseRows, Wanted
from calf.ui.pages.cases import settled, shown
from calf.ui.server import Explorer

NAME = "whole_tumour"
METRIC = "dice"


@pytest.fixture(scope="module")
def edited(tiny_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs with other numbers, so that each row has its own: one undefined, one of an empty reference."""
    place = Path(
        shutil.copytree(tiny_runs, tmp_path_factory.mktemp("edited") / "runs", ignore=shutil.ignore_patterns("checkpoints"))
    )
    for number, path in enumerate(sorted(place.rglob("cases.csv"))):
        rows = pd.read_csv(path)
        rng = np.random.default_rng(number)
        rows.loc[rows["metric"] == METRIC, "value"] = rng.random((rows["metric"] == METRIC).sum())
        first = (rows["case"] == rows["case"].iloc[0]) & (rows["class"] == NAME)
        rows.loc[first, "reference_volume_mm3"] = 0.0
        rows.loc[first, "status"] = "true_negative"
        rows.loc[first & (rows["metric"] == METRIC), "value"] = np.nan
        rows.to_csv(path, index=False)
    return place


@pytest.fixture(scope="module")
def rows(edited: Path) -> CaseRows:
    return CaseRows(Explorer.of(Library(edited)))


def long(rows: CaseRows) -> pd.DataFrame:
    """cases.csv of every run, one row a case and target, read without the explorer."""
    found = []
    for id, run in rows.runs.items():
        own = pd.read_csv(run.folder / "cases.csv")
        found.append(own[own["metric"] == METRIC].assign(run=id))
    return pd.concat(found)


def keys(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    return list(zip(table["run"], table["case"], table["class"], strict=True))


def test_rows_are_narrowed_and_sorted(rows):
    everything = long(rows)
    assert sorted(keys(rows.chosen(Wanted()))) == sorted(keys(everything))
    own = everything[(everything["loss"] == "dice") & (everything["class"] == NAME)]
    for wanted, right in (
        (Wanted(loss="dice", target=NAME), own),
        (Wanted(loss="dice", target=NAME, model="none"), own.iloc[:0]),
        (Wanted(empty="only"), everything[everything["reference_volume_mm3"] == 0]),
        (Wanted(empty="no"), everything[everything["reference_volume_mm3"] > 0]),
        (Wanted(modality="flair"), everything),
        (Wanted(modality="ct"), everything.iloc[:0]),
        (Wanted(text=everything["case"].iloc[0].upper()), everything[everything["case"] == everything["case"].iloc[0]]),
    ):
        assert sorted(keys(rows.chosen(wanted))) == sorted(keys(right)), wanted
    middle = float(everything["reference_volume_mm3"].median())
    large = rows.chosen(Wanted(least_ml=middle / 1000))
    assert sorted(keys(large)) == sorted(keys(everything[everything["reference_volume_mm3"] >= middle]))
    for descending in (False, True):
        values = rows.chosen(Wanted(sort=METRIC, descending=descending))[METRIC]
        defined = values.dropna()
        assert values.isna().sum() == 2
        assert values.iloc[: len(defined)].tolist() == sorted(everything["value"].dropna(), reverse=descending)
    assert rows.chosen(Wanted(sort="run", descending=True))["run"].iloc[0] == list(rows.choices.runs)[-1]


def test_picks(rows):
    everything = long(rows).dropna(subset="value").sort_values("value")
    wanted = settled(Wanted(metric=METRIC), rows)
    best, median, worst, gap = rows.picks(rows.chosen(wanted), wanted)
    for pick, place in ((best, -1), (median, len(everything) // 2), (worst, 0)):
        row = everything.iloc[place]
        assert pick.whole == f"{METRIC}: {float(row['value'])!r}"
        assert parse_qs(urlsplit(pick.href).query)["runs"][0].split(",")[0] == row["run"]
        assert parse_qs(urlsplit(pick.href).query)["name"] == [row["class"]]
    both = everything.pivot(index=["case", "class"], columns="run", values="value")
    gaps = (both[wanted.first] - both[wanted.second]).abs()
    case, name = gaps.idxmax()
    values = both.loc[(case, name)]
    assert gap.whole == f"{METRIC}: {float(values[wanted.first])!r} and {float(values[wanted.second])!r}"
    assert gap.text.startswith(f"{case}, {name}: ")
    assert parse_qs(urlsplit(gap.href).query)["runs"] == [f"{wanted.first},{wanted.second}"]
    # mae: lower is better
    errors = rows.chosen(wanted)["mae"]
    best, _, worst, _ = rows.picks(rows.chosen(wanted), settled(Wanted(metric="mae"), rows))
    assert (best.whole, worst.whole) == (f"mae: {float(errors.min())!r}", f"mae: {float(errors.max())!r}")
    assert rows.picks(rows.chosen(wanted).iloc[:0], wanted) == []


def test_what_a_page_shows_is_cases_csv(rows):
    wanted = Wanted(sort=METRIC, rows=25)
    found = rows.chosen(wanted)
    entries = shown(rows, found, wanted)
    values = long(rows).set_index(["run", "case", "class"])["value"]
    assert len(entries) == min(25, len(found))
    for entry, (_, row) in zip(entries, found.iterrows(), strict=False):
        value = values[row["run"], row["case"], row["class"]]
        assert entry[METRIC] == ("-" if np.isnan(value) else f"{value:.3f}")
        assert entry["whole"][METRIC] == f"{METRIC}: " + ("undefined" if np.isnan(value) else repr(float(value)))
        assert entry["whole"]["reference_volume_mm3"] == f"reference_volume_mm3: {float(row['reference_volume_mm3'])!r}"


def test_an_address_and_back(rows):
    wanted = Wanted(loss="dice", least_ml=1.5, descending=True, page=2, rows=50, sort="mae", text="a b&c")
    again = Wanted.of({key: values[0] for key, values in parse_qs(wanted.query()).items()})
    assert again == wanted
    hostile = Wanted.of(
        {"page": "1e400", "rows": "9999999", "least_ml": "nan", "loss": "<script>", "sort": "__class__", "first": ".."}
    )
    put_right = settled(hostile, rows)
    assert (put_right.page, put_right.rows, put_right.least_ml) == (1, 25, None)
    assert (put_right.loss, put_right.sort, put_right.first in rows.runs) == ("", "", True)


def test_the_page_by_keys(served, browser, tiny_runs):
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{served}cases?loss=dice&target={NAME}&sort={METRIC}&descending=1&first=../..")
    first = page.locator(".calf-cases tbody a").first
    first.wait_for()
    table = CaseRows(Explorer.of(Library(tiny_runs))).chosen(Wanted(loss="dice", target=NAME, sort=METRIC, descending=True))
    cells = page.locator(".calf-cases tbody tr")
    assert [row.locator("td").first.inner_text() for row in cells.all()] == table["case"].tolist()
    titles = [one.get_attribute("title") for one in cells.first.locator("td").all()]
    assert f"{METRIC}: {float(table[METRIC].iloc[0])!r}".replace("nan", "undefined") in titles
    assert page.locator(".calf-cases .q-table__bottom").inner_text().count(f"1-{len(table)} of {len(table)}") == 1
    page.get_by_role("columnheader", name="iou").click()
    page.wait_for_function("() => new URLSearchParams(location.search).get('sort') === 'iou'")
    page.get_by_label("case or patient").fill(table["case"].iloc[-1])
    page.wait_for_function("() => document.querySelectorAll('.calf-cases tbody tr').length === 1")
    page.wait_for_function("() => new URLSearchParams(location.search).has('text')")
    page.reload()
    page.wait_for_function("() => document.querySelectorAll('.calf-cases tbody tr').length === 1")
    first.focus()
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("?")
    page.get_by_role("button", name="Close").click()
    first.press("Enter")
    page.wait_for_url("**/compare?**")
    page.locator(".calf-compare[data-shown]").wait_for()
    told = parse_qs(urlsplit(page.url).query)
    assert (told["case"], told["name"]) == ([table["case_id"].iloc[-1]], [NAME])
    assert len(told["runs"][0].split(",")) == 2  # this run, and that of the other loss
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {urlsplit(served).netloc}
    assert said == []
    page.close()
