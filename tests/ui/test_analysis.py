"""What the Analysis page draws against cases.csv, in a real browser, and what it computes against the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pandas as pd
import pytest

from calf.metrics.calibration import calibration_scores
from calf.metrics.protocol import CASE_COLUMNS
from calf.report.findings import find
from calf.report.grids import comparisons, scores
from calf.report.statistics import compare, per_unit
from calf.report.volumes import Unreadable
from calf.ui.addresses import compare_address
from calf.ui.analyses import Analyses, Table, confusion_ml, equal_dice, pair
from calf.ui.library import Library, Unknown
from calf.ui.measures import levels, sweep
from calf.ui.pages.analysis import View
from calf.ui.pages.report_tables import Tables
from calf.ui.reliability import mean_sweep, reliability
from calf.ui.render import MOST_RUNS
from calf.ui.runs import case_id
from calf.ui.server import Explorer
from tests.ui.test_hostile_runs import CONFIG, RESULT
from tests.ui.test_volumes import edit_data

NAME = "whole_tumour"
CHARTS = ("distribution", "pair", "size", "sensitivity-precision", "volumes", "ece", "reliability", "sweep")
OPTION = "key => getElement(Number(document.querySelector(`[data-chart='${key}']`).id.slice(1))).chart.getOption()"
AT = """value => {
    const chart = getElement(Number(document.querySelector("[data-chart='pair']").id.slice(1))).chart;
    const place = chart.convertToPixel({seriesIndex: 0}, value), box = chart.getDom().getBoundingClientRect();
    return [box.x + place[0], box.y + place[1]];
}"""


def files(library: Library) -> pd.DataFrame:
    """Every row of cases.csv, read by pandas, with the id of its run."""
    return pd.concat(pd.read_csv(run.folder / "cases.csv").assign(run=run.id) for run in library.runs)


def table_of(explorer) -> Table:
    ids = [run.id for run in explorer.library.runs]
    return Analyses(explorer.library).table(ids, explorer.library.runs[0].dataset, NAME)


def ids_of(table: Table) -> dict[str, tuple[str, ...]]:
    return {loss: ids for (_, loss), ids in table.members.items()}


def test_rows_are_the_report_s(explorer):
    table = table_of(explorer)
    cases = explorer.library.gathered().cases.reset_index(drop=True)
    cases = cases[cases["class"] == NAME]
    values, found = per_unit(cases, "dice"), compare(cases, "dice", None, all_pairs=False).set_index("loss")
    assert table.per_case
    assert {loss for _, loss in table.members} == {"dice", "bce"}
    intervals = Analyses(explorer.library).intervals(table, "dice")
    for row, runs in table.members.items():
        assert table.values(runs, "dice").to_dict() == values[row].droplevel([0, 1, 2, 4]).to_dict()
        for part in ("mean", "low", "high"):
            assert intervals.loc[row, part] == found.loc[row[1], part]
        assert table.means("dice")[row] == pytest.approx(found.loc[row[1], "mean"], rel=1e-12)


def test_volumes_are_those_of_the_counts(explorer):
    table = table_of(explorer)
    volumes = confusion_ml(table)
    for row, own in table.cases.groupby(["model", "loss"]):
        reference, predicted = own["reference_volume_mm3"] / 1000, own["predicted_volume_mm3"] / 1000
        found = (own["dice"].fillna(0) * (reference + predicted) / 2).mean()  # Dice is 2 TP / (reference + predicted)
        assert volumes.loc[row, "found"] == pytest.approx(found, rel=1e-9)
        assert volumes.loc[row, "missed"] == pytest.approx(reference.mean() - found)
        assert volumes.loc[row, "false_positive"] == pytest.approx(predicted.mean() - found)


def test_a_case_without_reference_counts_as_false_positive_volume(explorer):
    table = table_of(explorer)
    empty = table.cases.iloc[:1].assign(
        reference_volume_mm3=0.0, predicted_volume_mm3=5000.0, sensitivity=np.nan, dice=np.nan, status="false_positive"
    )
    only = Table(**(vars(table) | {"cases": empty}))
    assert confusion_ml(only).iloc[0].to_dict() == {"found": 0.0, "missed": 0.0, "false_positive": 5.0}


def test_pairs_leave_out_what_one_of_them_lacks(explorer):
    table = table_of(explorer)
    first, second = ids_of(table)["bce"], ids_of(table)["dice"]
    lost = table.cases.index[table.cases["run"] == second[0]][0]
    cases = table.cases.copy()
    cases.loc[lost, "dice"] = np.nan
    found = pair(Table(**(vars(table) | {"cases": cases})), first, second, "dice")
    assert len(found.first) == found.num_units - 1
    assert cases.loc[lost, "unit"] not in found.second.index
    assert sum(found.better("dice")) <= len(found.first)
    assert found.better("mae") == found.better("dice")[::-1]


def paper_run(folder: Path, loss: str, fold: str, dice: list[float]) -> None:
    """A finished run of a pooled protocol, whose batches have these values."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.replace("loss: dice", f"loss: {loss}").replace("fold: null", f"fold: {fold}"))
    names = {"dataset": "d", "model": "unet", "loss": loss}
    (folder / "result.json").write_text(json.dumps(RESULT | {"names": names, "fold": int(fold), "protocol": "paper"}))
    rows = pd.DataFrame({"case": [f"batch-{number:04d}" for number in range(len(dice))], "value": dice})
    told = names | {"protocol": "paper", "split": "s", "fold": fold, "seed": 0, "patient": "", "class": "tumour"}
    told |= {"metric": "dice", "status": "pooled", "reference_volume_mm3": 8.0, "predicted_volume_mm3": 8.0}
    rows.assign(**told)[list(CASE_COLUMNS)].to_csv(folder / "cases.csv", index=False)


def test_batches_of_different_folds_are_different_units(tmp_path):
    """The first batch of fold 0 and the first of fold 1 are called alike and are of other slices."""
    values = {"bce": ([0.1, 0.2, 0.9], [0.4, 0.5]), "dice": ([0.2, 0.2, 0.8], [0.9, 0.9])}
    for loss, folds in values.items():
        for fold, dice in enumerate(folds):
            paper_run(tmp_path / f"{loss}-{fold}", loss, str(fold), dice)
    library = Library(tmp_path)
    table = Analyses(library).table([run.id for run in library.runs], "d", "tumour")
    of_report = compare(library.gathered().cases.reset_index(drop=True), "dice", None, all_pairs=False).set_index("loss")["mean"]
    runs = ids_of(table)
    for loss, folds in values.items():
        assert sorted(table.values(runs[loss], "dice")) == sorted(folds[0] + folds[1])
        assert table.values(runs[loss], "dice").mean() == pytest.approx(of_report[loss], rel=1e-12)
    found = pair(table, runs["bce"], runs["dice"], "dice")
    assert (len(found.first), found.num_units, found.better("dice")) == (5, 5, (1, 3))
    assert found.difference.mean() == pytest.approx(of_report["dice"] - of_report["bce"], rel=1e-12)


def test_compare_takes_runs_of_both_sides(explorer):
    table = table_of(explorer)
    line = table.cases.iloc[0]
    first, second = ([f"{side}{number}" for number in range(MOST_RUNS)] for side in "ab")
    cases = pd.DataFrame([line.to_dict() | {"run": id} for id in [*first, *second[5:]]])
    case, tested = Table(**(vars(table) | {"cases": cases})).shown(line["unit"], first, second)
    assert case == line["case_id"]
    assert tested[:4] == ["a0", "b5", "a1", "b6"]
    told = parse_qs(urlsplit(compare_address(case, tested, NAME)).query)["runs"][0].split(",")
    assert (len(told), sum(id.startswith("b") for id in told)) == (MOST_RUNS, MOST_RUNS // 2)
    assert table.shown("no such case", first, second) == ("", [])


def test_findings_are_kept_without_case_rows(explorer):
    """Which take most of their memory and of which no table is drawn; what is kept counts in full."""
    library = explorer.library
    whole = next(block for block in find(library.folder).blocks if block.name == NAME)
    analyses = Analyses(library)
    found = analyses.findings([run.id for run in library.runs], (whole.dataset, NAME), "dice", None)
    (block,) = found.blocks
    assert len(found.gathered.cases) == len(block.cases) == 0
    assert scores(block, block.main_metrics) == scores(whole, whole.main_metrics)
    assert comparisons(block) == comparisons(whole)
    kept = [found.gathered.runs, found.summary, found.history, block.summary, block.compared, block.strata, block.agreement]
    assert analyses._kept.size_bytes > 2**20 + 2 * sum(table.memory_usage(deep=False).sum() for table in kept)


def test_pages_share_what_was_computed(explorer):
    assert View(explorer, {}).analyses is explorer.analyses
    assert Tables(explorer, {}, None).analyses is explorer.analyses


def test_equal_dice():
    precision, sensitivity = equal_dice(0.6).T
    np.testing.assert_allclose(2 * precision * sensitivity / (precision + sensitivity), 0.6)
    assert sensitivity[0] == pytest.approx(1)
    assert sensitivity.max() < 1 + 1e-9


def test_reliability_of_a_case_gives_its_calibration_error(explorer):
    table = table_of(explorer)
    for run, own in table.cases.groupby("run"):
        for line in own.to_dict("records"):
            found = reliability(explorer.cases, str(run), [line["case_id"]], NAME)
            case = explorer.cases.open(line["case_id"], [str(run)])
            whole = tuple(slice(0, length) for length in case.shape)
            exact = calibration_scores(case.probability(str(run), NAME).within(whole), case.truth(NAME).whole())
            assert found.ece == pytest.approx(exact["ece"], rel=1e-12)
            assert found.ece == pytest.approx(line["ece"], abs=0.002)  # scored before they were rounded to steps of 1/255
            assert (found.num_cases, found.problems, found.remarks) == (1, (), ())
    together = reliability(explorer.cases, str(run), [*own["case_id"], "0" * 12], NAME)
    assert together.num_cases == len(own)
    assert together.problems  # a case that cannot be opened is said
    assert together.voxels.sum() == len(own) * 32 * 32 * 10


def test_slices_that_nobody_annotated_count_nowhere(copied):
    library = Library(copied)
    run = library.runs[0]
    id = library.table(run.id)["case_id"][0]
    edit_data(run.folder, {"annotated_slices": [3, 5]})
    explorer = Explorer.of(library)
    case = explorer.cases.open(id, [run.id])
    whole = tuple(slice(0, length) for length in case.shape)
    steps, truth = case.probability(run.id, NAME).within(whole)[:, :, [3, 5]], case.truth(NAME).whole()[:, :, [3, 5]]
    assert truth.any()
    assert truth.sum() < case.truth(NAME).count()
    counts = [np.bincount(steps.ravel(), minlength=256), np.bincount(steps[truth], minlength=256)]
    np.testing.assert_array_equal(levels(case, run.id, NAME), counts)
    found = reliability(explorer.cases, run.id, [id], NAME)
    assert found.ece == pytest.approx(calibration_scores(steps, truth)["ece"], rel=1e-12)
    assert found.remarks == ("only the annotated slices are scored",)
    swept = sweep(case, run.id, NAME)
    for step in (1, 40, 128):
        tp, predicted = np.count_nonzero(truth & (steps >= step)), np.count_nonzero(steps >= step)
        assert swept.dice[step - 1] == 2 * tp / (predicted + truth.sum())
        assert swept.sensitivity[step - 1] == tp / truth.sum()


def test_where_it_is_not_known_what_was_annotated_nothing_is_counted(copied):
    run = Library(copied).runs[0]
    rows = pd.read_csv(run.folder / "cases.csv")
    rows.loc[rows["metric"] == "hd95_mm", "status"] = "partly_labelled"
    rows.to_csv(run.folder / "cases.csv", index=False)
    for slices, why in ((None, "only some of its slices were annotated"), ([99], "slice 99 was annotated: the case has 10")):
        edit_data(run.folder, {"annotated_slices": slices})
        explorer = Explorer.of(Library(copied))
        id = explorer.library.table(run.id)["case_id"][0]
        found = reliability(explorer.cases, run.id, [id], NAME)
        assert found.num_cases == 0
        assert why in found.problems[0]
        with pytest.raises(Unreadable, match=why):
            sweep(explorer.cases.open(id, [run.id]), run.id, NAME)


def test_the_mean_sweep_is_that_of_the_cases(explorer):
    table = table_of(explorer)
    run = ids_of(table)["dice"][0]
    own = table.cases[table.cases["run"] == run]
    found, number = mean_sweep(explorer.cases, run, own["case_id"].tolist(), NAME)
    each = [sweep(explorer.cases.open(id, [run]), run, NAME).precision for id in own["case_id"]]
    np.testing.assert_allclose(found.precision, np.nanmean(each, axis=0))
    assert number == len(own)
    assert found.mask_step == 128
    assert found.dice[127] == pytest.approx(own["dice"].mean(), rel=1e-12)


def test_what_is_kept_follows_the_files(copied):
    library = Library(copied)
    analyses, ids = Analyses(library), [run.id for run in library.runs]
    before = analyses.table(ids, library.runs[0].dataset, NAME)
    assert analyses.table(ids, library.runs[0].dataset, NAME) is before
    path = library.runs[0].folder / "cases.csv"
    rows = pd.read_csv(path)
    rows.loc[(rows["class"] == NAME) & (rows["metric"] == "dice"), "value"] = 0.125
    rows.to_csv(path, index=False)
    library.refresh()
    after = analyses.table(ids, library.runs[0].dataset, NAME)
    assert set(after.values([ids[0]], "dice")) == {0.125}
    with pytest.raises(Unknown, match="none of the chosen runs"):
        analyses.table(ids, library.runs[0].dataset, "no such class")


def opened(browser, address: str) -> tuple[Any, list[str], list[str]]:
    """A page on which every chart is drawn; the addresses that it asked for, and what the console said."""
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    page.locator("[data-chart='sweep'] svg text").first.wait_for()
    return page, asked, said


def series(page: Any, key: str, number: int = 0) -> list[dict[str, Any]]:
    return page.evaluate(OPTION, key)["series"][number]["data"]


def test_every_plot_shows_the_numbers_of_cases_csv(served, browser, tiny_runs, explorer):
    library = explorer.library
    rows = files(library)
    rows = rows[rows["class"] == NAME]
    loss_of = {run.id: run.loss for run in library.runs}
    id_of = {loss: id for id, loss in loss_of.items()}
    wide = rows.pivot(index="case", columns=["loss", "metric"], values="value")
    page, asked, said = opened(browser, f"{served}analysis?{urlencode({'class': NAME})}")
    for key in CHARTS:
        assert page.locator(f"[data-chart='{key}'] svg path").count() > 5, key

    drawn = series(page, "distribution")
    assert sorted(point["value"][0] for point in drawn) == sorted(rows[rows["metric"] == "dice"]["value"].dropna())
    points = {point["unit"]: point["value"] for point in series(page, "pair")}
    dataset = library.runs[0].dataset
    assert points == {case: [line["bce", "dice"], line["dice", "dice"]] for case, line in wide.iterrows()}
    volumes = {(point["unit"], point["row"]): point["value"] for number in (0, 1) for point in series(page, "size", number)}
    for line in rows[rows["metric"] == "dice"].to_dict("records"):
        place = ("bce", "dice").index(line["loss"])
        assert volumes[line["case"], place] == [line["reference_volume_mm3"] / 1000, line["value"]]
    means = rows.groupby(["loss", "metric"])["value"].mean()
    option = page.evaluate(OPTION, "sensitivity-precision")
    shown = {line["name"]: line["data"][0]["value"] for line in option["series"] if line["type"] == "scatter"}
    for loss in ("bce", "dice"):
        assert shown[loss] == pytest.approx([means[loss, "precision"], means[loss, "sensitivity"]], rel=1e-12)
    option = page.evaluate(OPTION, "ece")
    for loss, bar in zip(option["yAxis"][0]["data"], option["series"][0]["data"], strict=True):
        assert bar["value"] == pytest.approx(means[loss, "ece"], rel=1e-12)
    swept = {point["threshold"]: point["value"][1] for point in series(page, "sweep")}
    first = rows[(rows["metric"] == "dice") & (rows["run"] == id_of["bce"])].sort_values("case").iloc[0]
    assert swept[128] == pytest.approx(first["value"], rel=1e-12)

    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(served).netloc}
    assert said == []

    # by keyboard: a link a case; by mouse: a point
    link = page.get_by_role("region", name="A against B, case by case").get_by_role("link").first
    worst = (wide["dice", "dice"] - wide["bce", "dice"]).abs().idxmax()
    query = parse_qs(urlsplit(link.get_attribute("href")).query)
    assert query == {"case": [case_id(dataset, worst)], "runs": [f"{id_of['bce']},{id_of['dice']}"], "name": [NAME]}
    page.locator("[data-chart='pair']").scroll_into_view_if_needed()
    case = wide.index[0]
    page.mouse.click(*page.evaluate(AT, points[case]))
    page.wait_for_url("**/compare?**")
    query = parse_qs(urlsplit(page.url).query)
    assert (query["case"], query["runs"]) == ([case_id(dataset, case)], [f"{id_of['bce']},{id_of['dice']}"])
    page.close()


def test_the_choice_stands_in_the_address(served, browser, explorer):
    bce, dice = (run.id for run in sorted(explorer.library.runs, key=lambda run: run.loss))
    asked = urlencode({"class": "enhancing", "metric": "sensitivity", "a": dice, "b": bce})
    page, _, said = opened(browser, f"{served}analysis?{asked}")
    query = parse_qs(urlsplit(page.url).query)
    assert [query[key] for key in ("class", "metric", "a", "b")] == [["enhancing"], ["sensitivity"], [dice], [bce]]
    rows = files(explorer.library)
    rows = rows[(rows["class"] == "enhancing") & (rows["metric"] == "sensitivity")]
    assert {point["value"][0] for point in series(page, "pair")} == set(rows[rows["run"] == dice]["value"].dropna())
    page.get_by_label("metric").click()
    page.get_by_role("option", name="IoU").click()
    page.wait_for_url("**metric=iou**")
    page.locator("[data-chart='pair'][aria-label^='IoU']").wait_for()
    # the slider says what the file says, and takes its threshold along
    region = page.get_by_role("region", name="Threshold")
    region.locator("[data-chart='sweep'] svg text").first.wait_for()
    region.get_by_role("slider").locator("[tabindex]").focus()
    page.keyboard.press("ArrowRight")
    region.get_by_text("threshold 129/255").wait_for()
    assert "threshold=129" in region.get_by_role("link").get_attribute("href")
    assert said == []
    page.close()


@pytest.mark.parametrize("query", ["runs=..%2F..", "data=%3Cb%3E", "class=none", "losses=dice", "a=x"])
def test_what_is_not_there_is_said(served, browser, query):
    page = browser.new_page()
    page.goto(f"{served}analysis?{query}")
    page.get_by_role("alert").first.wait_for()
    assert page.get_by_role("alert").count() == 1
    assert page.locator("[data-chart]").count() == 0
    page.close()
