"""Published numbers beside ours: what a file may say, which numbers stand beside each other, and that none is lost."""

from __future__ import annotations

import csv
import functools
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from calf.cli import app
from calf.report.beside import above, below, grid
from calf.report.findings import find
from calf.report.latex import MOST, latex
from calf.report.published import BESIDE_COLUMNS, Beside, read_published, set_beside
from calf.report.reproduction import dots
from calf.report.statistics import compare
from calf.report.tables import markdown, terminal

HEADER = ("dataset", "model", "loss", "metric", "value", "source", "note")
ROW = ("phantom", "unet", "calf", "dice", "0.9577", "Table 1", "")


@pytest.fixture
def write(tmp_path):
    """Write a file of published numbers; rows are cells, the first line the columns."""

    def to(*rows: tuple[str, ...], header: tuple[str, ...] = HEADER, name: str = "published.csv") -> Path:
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return tmp_path / name

    return to


@pytest.fixture
def make(make):
    """Run folders with few metrics: each costs an interval and tests."""

    def few(*arguments, **options) -> Path:
        if (run := make(*arguments, **options) / "cases.csv").exists():
            cases = pd.read_csv(run, dtype=str, keep_default_na=False)
            cases[cases["metric"].isin(["dice", "iou", "mae"])].to_csv(run, index=False)
        return run.parent

    return few


@pytest.fixture
def found(runs):
    """What the runs say at the first call."""
    return functools.cache(lambda: find(runs))


@pytest.fixture
def beside(write, found):
    """Rows of the file beside the runs of ``make``, all of which are made by then."""

    def of(*rows: tuple[str, ...], header: tuple[str, ...] = HEADER) -> Beside:
        path = write(*rows, header=header)
        return set_beside(path, read_published(path), found())

    return of


def renamed(run: Path, old: str, new: str) -> None:
    """Give a run that was made another data set or loss, in every file."""
    for path in (run / "cases.csv", run / "config.yaml", run / "result.json"):
        path.write_text(re.sub(rf"\b{old}\b", new, path.read_text()))


def second_class(run: Path, name: str = "oedema") -> None:
    cases = pd.read_csv(run / "cases.csv", dtype=str, keep_default_na=False)
    worse = (cases["metric"] == "dice") & (cases["value"] != "")
    other = cases.assign(**{"class": name, "value": cases["value"].mask(worse, "0.25")})
    pd.concat([cases, other]).to_csv(run / "cases.csv", index=False)


def shown(found, beside: Beside) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal(found, beside))
    return console.export_text()


def only(beside: Beside, **values: str) -> pd.Series:
    rows = beside.rows
    for column, value in values.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1, rows
    return rows.iloc[0]


def invoke(runs: Path, *options: str):
    return CliRunner().invoke(app, ["report", str(runs), *options])


def test_values_keep_their_digits_and_names_their_spaces_within(write):
    path = write(("T08", " unet ", "calf [x=1]", "dice", ".850", 'said "so", p. 3', " n "), header=HEADER)
    (row,) = read_published(path)
    assert (row.model, row.loss, row.source, row.note, row.class_name) == ("unet", "calf [x=1]", 'said "so", p. 3', "n", "")
    assert f"{row.value}" == "0.850"


def test_columns_may_stand_in_any_order_and_begin_with_a_byte_order_mark(write):
    path = write(("tumour", *ROW[::-1]), header=("class", *HEADER[::-1]))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (row,) = read_published(path)
    assert (row.class_name, row.dataset, float(row.value)) == ("tumour", "phantom", 0.9577)


def test_each_metric_has_its_range(write):
    for metric, value in (
        ("hd95_mm", "32.5"),
        ("volume_difference_ml", "-3"),
        ("relative_volume_error", "1.7"),
        ("nsd_2.5mm", "1"),
    ):
        (row,) = read_published(write((*ROW[:3], metric, value, "s", "")))
        assert float(row.value) == float(value)


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ({"value": "95.77"}, r"line 3: dice is a share, between 0 and 1; got 95\.77\. Divide per cent by 100"),
        ({"value": "-0.1"}, "dice is a share"),
        ({"value": "0,95"}, "expected a number for dice, got '0,95'"),
        ({"value": "nan"}, "expected a number for dice, got 'nan'"),
        ({"value": "inf"}, "expected a number"),
        ({"value": ""}, "line 3: value empty; a number that was not published has no row"),
        ({"source": " "}, "source empty"),
        ({"metric": "dsc"}, "expected one of the metrics dice, iou, .*, nsd_<tolerance>mm; got dsc"),
        ({"metric": "hd95"}, "got hd95"),
        ({"metric": "nsd"}, "got nsd"),
        ({"metric": "hd95_mm", "value": "-1"}, "expected hd95_mm of 0 or more, got -1"),
        ({"loss": "calf"}, "lines 2 and 3 both give dice of phantom / unet / calf from Table 1"),
    ],
)
def test_what_a_row_must_not_say(write, cells, why):
    row = dict(zip(HEADER, ROW, strict=True)) | {"loss": "focal"} | cells
    with pytest.raises(ValueError, match=why):
        read_published(write(ROW, tuple(row.values())))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "dataset, model, loss, metric, value, source, note missing in an empty file"),
        ("dataset;model;loss;metric;value;source;note\n", "missing in dataset;model;loss"),
        ("dataset,model,loss,metric,value,note\n", "expected the columns .*; source missing"),
        (",".join((*HEADER, "clas")) + "\n", "got also 'clas'"),
        (",".join((*HEADER, "note")) + "\n", "each once; got also 'note'"),
        (",".join(HEADER) + "\nphantom,unet,calf,dice,0.9\n", "line 2: expected as many cells as the header has"),
        (",".join(HEADER) + "\nphantom,unet,calf,dice,0.9,Smith, 2020,\n", "a text that holds a comma needs quotes"),
        (",".join(HEADER) + '\n"phantom,unet', "it cannot be read"),
        (b"\xff\xfe\x00d", "as CSV in UTF-8; it cannot be read"),
        (None, "it cannot be read"),
    ],
)
def test_what_is_no_such_file(tmp_path, text, why):
    path = tmp_path / "published.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=why) as error:
        read_published(path)
    assert str(path) in str(error.value)


def test_ours_are_the_numbers_of_the_report_and_the_difference_is_ours_minus_theirs(make, found, beside):
    for seed, (calf, bce) in enumerate([(6, 2), (8, 5)]):
        make("calf", seed, tp=calf)
        make("bce", seed, tp=bce)
    table = beside(ROW, (*ROW[:3], "iou", "0.1", "Table 1", ""), (*ROW[:2], "bce", "mae", "0.0008", "Table 1", ""))
    assert tuple(table.rows.columns) == BESIDE_COLUMNS
    dice = only(table, metric="dice", our_loss="calf")
    ours = (12 / 16 + 16 / 18) / 2 / 2  # one case found by two seeds, one missed by both
    assert dice["ours"] == pytest.approx(ours)
    assert dice["difference"] == pytest.approx(ours - 0.9577)
    assert dice[["num_seeds", "num_patients", "num_cases", "num_scored"]].tolist() == [2, 4, 4, 2]
    compared = found().blocks[0].comparison("dice")["unet", "calf"]
    assert dice[["low", "high"]].tolist() == [compared["low"], compared["high"]]
    iou = only(table, metric="iou", our_loss="calf")  # in no comparison of the report
    direct = compare(found().gathered.cases, "iou", None).set_index("loss").loc["calf"]
    assert iou[["ours", "low", "high"]].tolist() == direct[["mean", "low", "high"]].tolist()
    assert np.isfinite(iou["low"])
    assert only(table, metric="mae", loss="bce")["difference"] > 0


def test_every_published_number_has_a_row_and_without_ours_it_says_why(make, beside):
    make("calf", 0)
    make("calf", 1, state="failed")
    make("bce", 0, state="failed")
    make("bce", 1, state="running")
    make("dice", 0, cases=(2, 4))  # nothing to be found in either
    rows = [ROW, (*ROW[:3], "dice", "0.95", "Table 2", "")]
    rows += [(*ROW[:2], loss, *ROW[3:]) for loss in ("bce", "focal", "dice")]
    rows += [("phantom", "fpn", *ROW[2:]), ("brain", *ROW[1:]), (*ROW[:3], "hd95_mm", "3.2", "Table 1", "")]
    table = beside(*rows)
    theirs = table.rows[table.rows["dataset"] != ""]
    assert list(theirs[list(HEADER[:4])].itertuples(index=False, name=None)) == [row[:4] for row in rows]
    partly = "1 of 2 runs, 1 failed"
    states = [
        partly,
        partly,
        "0 of 2 runs, 1 failed, 1 running",
        "not run",
        "undefined in every case",
        "not run",
        "not run",
        "metric not scored",
    ]
    assert theirs["state"].tolist() == states
    assert theirs["ours"].notna().tolist() == [True, True] + [False] * 6
    listed = grid(table, "per_case")
    assert [row[listed.header.index("runs")].text for row in listed.rows] == [partly, partly] + [""] * 6
    assert [row[listed.header.index("ours [95 % CI]")].text for row in listed.rows][2:] == states[2:]
    assert "2 of 8 published numbers have one of ours beside them." in above(table, "per_case")


def test_ours_that_were_not_published_are_listed(make, beside):
    for loss in ("calf", "bce"):
        make(loss, 0)
    table = beside(ROW, (*ROW[:3], "iou", "0.9", "Table 1", ""))
    left = table.rows[table.rows["state"] == "not published"]
    assert left[["model", "our_loss", "metric"]].to_numpy().tolist() == [["unet", "bce", "dice"], ["unet", "bce", "iou"]]
    assert left["difference"].isna().all()
    assert below(table, "per_case") == ["Source: Table 1", "Run on phantom / tumour and not published: unet / bce"]


def test_other_data_stand_in_and_that_is_said_first(make, found, beside):
    make("calf", 0)
    table = beside(("gliomas", *ROW[1:]), ("vessels", *ROW[1:3], "iou", "0.5", "Table 1", ""))
    assert table.stand_in == {"per_case": ("phantom",)}
    first = above(table, "per_case")[0]
    assert first.startswith("Ours are on `phantom`, theirs on `gliomas`, `vessels`: ")
    assert first.endswith("says nothing about reproduction.")
    assert table.rows["difference"].notna().tolist() == [True, True]
    drawn = dots(table)
    assert len(drawn) == 2
    assert all("nothing about reproduction" in figure.caption for figure in drawn)
    text = markdown(found(), table)
    assert text.index(first) < text.index("| data set |")


def test_what_stands_in_has_the_same_options_where_there_are_such(make, beside):
    for mark, ratio in (("0123456789", "0.1"), ("9876543210", "0.6")):
        renamed(make("calf", 0, mark=mark), "phantom", f"phantom[ratio={ratio}]")
    table = beside(("gliomas[ratio=0.6]", *ROW[1:]), ("gliomas", *ROW[1:]))
    pairs = table.rows[["dataset", "our_dataset"]].to_numpy().tolist()
    assert pairs[0] == ["gliomas[ratio=0.6]", "phantom[ratio=0.6]"]
    assert pairs[1:] == [["gliomas", f"phantom[ratio={ratio}]"] for ratio in ("0.1", "0.6")]


def test_one_common_data_set_is_enough_for_no_other_to_stand_in(make, beside):
    make("calf", 0)
    renamed(make("calf", 0, mark="9876543210"), "phantom", "brain")
    table = beside(("brain", *ROW[1:]), ("gliomas", *ROW[1:]))
    assert table.stand_in == {}
    assert only(table, dataset="brain")["our_dataset"] == "brain"
    assert only(table, dataset="gliomas")["state"] == "not run"
    assert only(table, state="not published")["our_dataset"] == "phantom"


def test_a_data_set_whose_every_run_failed_is_not_stood_in_for(make, beside):
    renamed(make("calf", 0), "phantom", "brain")
    make("calf", 0, state="failed", mark="9876543210", settings={"protocol": {"_target_": "calf.metrics.protocol.PerCase"}})
    table = beside(ROW)
    assert table.stand_in == {}
    assert only(table, dataset="phantom")["state"] == "failed"


def test_protocols_are_kept_apart_and_each_says_its_unit(make, beside):
    make("calf", 0, tp=6)
    make("calf", 0, protocol="paper", tp=6, mark="9876543210")
    table = beside((*ROW[:-1], "batch-pooled"))
    assert table.protocols == ("per_case", "paper")
    case, batch = (only(table, protocol=protocol) for protocol in table.protocols)
    assert case["ours"] == pytest.approx((12 / 16 + 0) / 2)
    assert batch["ours"] == pytest.approx(12 / (12 + 9 + 8))
    assert np.isnan(batch["low"])
    assert any("not of the same unit as ours" in said for said in above(table, "per_case"))
    assert "Source or note speaks of batches for 1 of 1 published numbers." in above(table, "per_case")
    assert any("Only a published number that was pooled over batches" in said for said in above(table, "paper"))
    assert {"patients", "cases"} < set(grid(table, "per_case").header)
    assert grid(table, "paper").header[-3:] == ["seeds", "batches", "note"]


def test_classes_are_not_averaged(make, beside):
    second_class(make("calf", 0, tp=6))
    table = beside(ROW)
    assert table.rows[["our_class", "ours"]].to_numpy().tolist() == [["oedema", 0.25], ["tumour", 0.375]]
    assert any("ours has 2 (oedema, tumour): each is given by itself" in said for said in above(table, "per_case"))
    header = (*HEADER, "class")
    assert only(beside((*ROW, "oedema"), header=header), **{"class": "oedema"})["ours"] == 0.25
    unknown = only(beside((*ROW, "necrosis"), header=header), **{"class": "necrosis"})
    assert unknown["state"] == "no class necrosis in ours (oedema, tumour)"
    assert np.isnan(unknown["ours"])
    other = beside(("gliomas", *ROW[1:], "necrosis"), header=header)
    assert [row[2].text for row in grid(other, "per_case").rows] == ["necrosis (ours: oedema)", "necrosis (ours: tumour)"]


def test_settings_that_were_told_apart_have_a_row_each(make, beside):
    make("calf", 0, tp=6)
    make("calf", 0, tp=8, settings={"optim": {"lr": 0.01}}, mark="9876543210")
    table = beside(ROW)
    assert table.rows["our_loss"].tolist() == ["calf [optim.lr=0.001]", "calf [optim.lr=0.01]"]
    assert table.rows["ours"].tolist() == pytest.approx([12 / 16 / 2, 16 / 18 / 2])
    assert "Ours of calf were run with several settings, each of which has a row." in above(table, "per_case")
    exact = beside((*ROW[:2], "calf [optim.lr=0.01]", *ROW[3:]))
    assert only(exact, loss="calf [optim.lr=0.01]")["difference"] == pytest.approx(16 / 18 / 2 - 0.9577)


def test_an_option_in_the_name_is_another_loss(make, beside):
    renamed(make("calf", 0), "calf", "calf[clamp=null]")
    table = beside(ROW, (*ROW[:2], "calf[clamp=null]", *ROW[3:]))
    assert only(table, loss="calf")["state"] == "not run"
    assert only(table, loss="calf[clamp=null]")["ours"] == 0.375


def test_parts_of_joined_data_have_a_row_each(make, beside):
    run = make("calf", 0)
    cases = pd.read_csv(run / "cases.csv", dtype=str, keep_default_na=False)
    cases["dataset"] = "phantom/" + cases["case"].map({"001": "a", "002": "a"}).fillna("b")
    cases.to_csv(run / "cases.csv", index=False)
    table = beside((*ROW[:3], "mae", "0.01", "Table 1", ""))
    assert table.rows["our_dataset"].tolist() == ["phantom/a", "phantom/b"]
    assert table.stand_in == {}
    assert "Ours of phantom were tested apart on its parts, each of which has rows: none is the whole." in above(
        table, "per_case"
    )
    assert grid(table, "per_case").header[0] == "ours on"


def test_names_that_meet_nothing_are_asked_about(make, beside):
    make("calf", 0)
    table = beside(("phantom", "U-Net", "adaptive", *ROW[3:]))
    assert "are they named as in the tables of this report?" in above(table, "per_case")[-1]
    assert not dots(table)


def test_nothing_published(make, runs, write):
    make("calf", 0)
    done = invoke(runs, "--published", str(write()))
    assert done.exit_code == 0, done.output
    said = "published.csv has no row: nothing was published"
    for name in ("report.md", "index.html"):
        assert said in (runs / "report" / name).read_text()
    assert said in done.output
    assert (runs / "report" / "beside_published.csv").read_text() == ",".join(BESIDE_COLUMNS) + "\n"


def test_nothing_finished(make, runs, write):
    make("calf", 0, state="failed")
    done = invoke(runs, "--published", str(write(ROW)))
    assert done.exit_code == 0, done.output
    text = (runs / "report" / "report.md").read_text()
    assert "No run has finished: there is none of ours." in text
    assert "| unet | calf | Dice | 0.9577 | failed | - |" in text


def test_every_form_of_the_report_has_them(make, runs, write):
    for loss in ("bce", "calf"):
        make(loss, 0)
    path = write(ROW, (*ROW[:2], "tversky", "dice", "0.8898", "sheet", "from the authors"))
    done = invoke(runs, "--published", str(path))
    assert done.exit_code == 0, done.output
    out = runs / "report"
    html, text, tex = ((out / name).read_text() for name in ("index.html", "report.md", "report.tex"))
    low, high = pd.read_csv(out / "beside_published.csv").loc[0, ["low", "high"]]
    numbers = ["0.9577", f"0.375 [{low:.3f}, {high:.3f}]", "-0.583"]
    assert f"| unet | calf | Dice | {' | '.join(numbers)} | 1 | 4 | 2 of 4 | 1 |  |" in text
    for said in (*numbers, "not run", "Source 2: sheet", "Note 1: from the authors", "is not of the same unit as ours"):
        assert said in text
        assert said in re.sub(r"<[^>]+>", "", html)
    assert r"not run & -- & -- & -- & -- & 2 & 1 \\" in tex
    assert r"\caption{Beside published numbers (per case).}" in tex
    assert "-0.583" in done.output
    assert len(list((out / "figures").glob("per_case-phantom-tumour-published.*"))) == 2
    assert pd.read_csv(out / "beside_published.csv", dtype=str)["theirs"].tolist()[:2] == ["0.9577", "0.8898"]
    assert invoke(runs).exit_code == 0
    assert not (out / "beside_published.csv").exists()  # of a report that no longer shows it
    assert not list((out / "figures").glob("*published*"))


def test_a_file_that_is_refused_leaves_no_report(make, runs, write):
    make("calf", 0)
    done = invoke(runs, "--published", str(write((*ROW[:4], "95.8", "Table 1", ""))))
    assert done.exit_code == 1
    assert "dice is a share" in done.output
    assert "Traceback" not in done.output
    assert not (runs / "report").exists()


def test_long_tables_are_divided_for_print_and_lose_no_row(make, found, beside, tmp_path):
    make("calf", 0)
    rows = [(*ROW[:2], f"loss_{number}", *ROW[3:]) for number in range(2 * MOST + 1)]
    table = beside(*rows)
    assert f"The table of {len(rows)} rows is in report.md." in shown(found(), table)
    text = latex(found(), table)
    tables = re.findall(r"Beside published numbers.*?\\midrule(.*?)\\bottomrule", text, re.DOTALL)
    assert [part.count(r"\\") for part in tables] == [MOST, MOST, 1]
    assert len(set(re.findall(r"loss\\_\d+", text))) == len(rows)
    assert text.count("\\label{tab:published") == 3
    if shutil.which("pdflatex") is not None:
        frame = "\\documentclass{{article}}\\usepackage{{booktabs,graphicx}}\\begin{{document}}{}\\end{{document}}"
        (tmp_path / "table.tex").write_text(frame.format(text))
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_figures_show_theirs_and_ours(make, beside):
    make("calf", 0)
    (drawn,) = dots(beside(ROW, (*ROW[:2], "focal", *ROW[3:]), (*ROW[:3], "hd95_mm", "3", "Table 1", "")))
    (plane,) = drawn.figure.axes  # of HD95, which was not scored, there is nothing to see
    points = {line.get_marker(): [] for line in plane.lines}
    for line in plane.lines:
        points[line.get_marker()] += [tuple(map(float, point)) for point in line.get_xydata()]
    assert points["o"] == [(0.9577, 0.0), (0.9577, 1.0)]
    assert points["D"][0] == (0.375, 0.0)
    assert [label.get_text() for label in plane.get_yticklabels()] == ["calf", "focal"]
