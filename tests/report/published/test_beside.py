"""Which published numbers stand beside which of ours, and that none is lost."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from calf.report.beside import above, below, grid
from calf.report.published import BESIDE_COLUMNS
from calf.report.reproduction import dots
from calf.report.statistics import compare
from calf.report.tables import markdown
from tests.report.published.rows import HEADER, ROW, invoke, only, renamed, second_class


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
