"""Tables beyond scores and comparisons, from runs that were scored with every metric that there is."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import yaml

from calf.metrics.protocol import CASE_COLUMNS, PerCase
from calf.metrics.volumetric import VolumeScores
from calf.report import report
from calf.report.brats import under_brats_rule
from calf.report.challenger import tables
from calf.report.findings import Findings, find
from calf.report.further import Part, further
from calf.report.grids import best, heading
from calf.report.latex import latex
from calf.report.ranks import kendall_tau
from calf.report.tables import markdown
from tests.report.table import rows

SHAPE, SPACING_MM = (12, 10, 4), (1.0, 1.0, 2.5)
MISSED = {"bce": 0.35, "calf": 0.1, "dice": 0.2, "focal": 0.6}  # the share of the lesion that is not found
EMPTY = {"c8": ("calf",), "c9": ("bce", "dice")}  # without lesion, and who finds one all the same
PARTLY, SILENT = "c7", ("focal", "c0")
PRIMARY = ["Dice", "NSD, 1 mm", "HD95, mm", "sensitivity", "specificity", "precision", "MAE"]


def scored(loss: str) -> pd.DataFrame:
    """Rows of ten cases as a run writes them: counts, volumes and calibration."""
    rng, found, counts = np.random.default_rng([*loss.encode()]), [], []
    scores = VolumeScores(tolerance_mm=1.0)
    cases = [f"c{number}" for number in range(10)]
    for number, case in enumerate(cases):
        truth = np.zeros(SHAPE, bool)
        if case not in EMPTY:
            truth[1 : 4 + number, 2:7, 1:3] = True
        prediction = truth & (rng.random(SHAPE) >= MISSED[loss])
        prediction[0, 0, 0] = case not in EMPTY or loss in EMPTY[case]
        if (loss, case) == SILENT:
            prediction[:] = False
        valid = np.ones(SHAPE, bool)
        valid[..., 3] = case != PARTLY
        probabilities = np.where(prediction, 0.9, 0.1)[None]
        volumes = scores.rows(case, case, prediction[None], truth[None], ("tumour",), SPACING_MM, probabilities, valid)
        found.append(volumes)
        masks = (truth & prediction, prediction & ~truth, truth & ~prediction, ~truth & ~prediction)
        counts.append([[(mask & valid).sum() for mask in masks]])
    of_case = pd.DataFrame({"patient": cases, "voxel_volume_mm3": math.prod(SPACING_MM)}, index=cases)
    counted = PerCase().rows(np.arange(10), np.array(counts), pd.DataFrame({"case": cases}), of_case, ("tumour",))
    return pd.concat([counted, *found], ignore_index=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("study") / "runs"
    for loss in MISSED:
        names = {"dataset": "lesions", "model": "unet", "loss": loss}
        folder = root / "lesions" / "unet" / loss / "seed-0-0123456789"
        folder.mkdir(parents=True)
        context = names | {"protocol": "per_case", "split": "s", "fold": "", "seed": 0}
        scored(loss).assign(**context)[list(CASE_COLUMNS)].to_csv(folder / "cases.csv", index=False)
        (folder / "config.yaml").write_text(yaml.safe_dump({"names": names, "seed": 0, "fold": None}))
        (folder / "data.json").write_text(json.dumps({"train_volumes_mm3": {"tumour": [0, 100, 150, 200, 230, 300, 320]}}))
        result = {"names": names, "seed": 0, "fold": None, "protocol": "per_case", "primary": {"metric": "dice", "value": 0.5}}
        result |= {"seconds": 60.0, "parameters": 1_500_000, "best_epoch": 2, "peak_memory_mb": 100.0, "peak_memory_of": "cuda"}
        result |= {"store_key": "d", "split_hash": "s", "versions": {}, "fingerprint": "f"}
        (folder / "result.json").write_text(json.dumps(result))
    return root


@pytest.fixture(scope="module")
def found(runs) -> Findings:
    return find(runs)


def part(found: Findings, key: str) -> Part:
    (own,) = [own for own in further(found.blocks[0]) if own.key == key]
    return own


def column(own: Part, name: str) -> dict[str, str]:
    assert own.grid is not None
    place = own.grid.header.index(name)
    return {row[1].text: row[place].text + row[place].rest for row in own.grid.rows}


def test_the_main_table_has_the_primary_metrics_and_every_other_one_has_a_place(found):
    block = found.blocks[0]
    assert list(map(heading, block.main_metrics)) == PRIMARY
    shown = [name for own in further(block) if own.supplementary and own.grid for name in own.grid.header[2:-1]]
    others = set(block.metrics) - set(block.main_metrics)
    assert sorted(shown) == sorted(map(heading, others))
    assert len(others) == 14
    assert "nothing is tested in them" in " ".join(further(block)[-1].notes)
    assert max(len(own.grid.header) for own in further(block) if own.grid) <= 10
    for name in ("HD, mm", "ASSD, mm", "FP lesions", "lesion F1", "volume difference, mL", "ECE", "balanced accuracy"):
        assert name in shown


def test_the_best_is_the_lowest_of_errors_and_there_is_none_of_signed_ones(found):
    marked, summary = best(found.blocks[0]), found.summary.set_index(["metric", "loss"])["mean"]
    for metric in ("assd_mm", "hd_mm", "relative_volume_error", "ece", "ace", "brier", "false_positive_lesions"):
        lowest = summary[metric].idxmin()
        assert ("unet", lowest) in marked.get(metric, {("unet", lowest)}), metric
        assert ("unet", summary[metric].idxmax()) not in marked.get(metric, ()), metric
    assert marked["assd_mm"] == {("unet", "calf")}
    assert marked["lesion_sensitivity"] == {("unet", loss) for loss in ("bce", "calf", "dice")}
    assert "volume_difference_ml" not in marked
    difference = column(part(found, "overlap"), "volume difference, mL")
    assert all(text[0] in "+-" for text in difference.values())
    assert "no sign" in " ".join(part(found, "overlap").notes)


def test_what_is_undefined_is_said_and_counted_apart(found):
    text = markdown(found)
    # surfaces are undefined in the two cases without lesion and in the one that is labelled in part
    assert "Dice, sensitivity, precision defined in 8 cases" in text
    assert "NSD, 1 mm, HD95, mm defined in 7 cases" in text
    assert "In a volume of which only a part was annotated" in text
    summary = found.summary.set_index(["metric", "loss"])
    assert summary.loc[("hd95_mm", "focal"), ["num_scored", "num_cases"]].tolist() == [7, 10]
    # the missed case counts with the diagonal of its image
    cases = found.blocks[0].cases.set_index(["metric", "loss", "case"])["value"]
    diagonal = math.dist((0, 0, 0), [step * size for step, size in zip(SPACING_MM, SHAPE, strict=True)])
    assert cases["hd95_mm", SILENT[0], SILENT[1]] == pytest.approx(diagonal, rel=0.3)


def test_the_brats_rule_scores_empty_references_one_or_nothing(found):
    own, usual = part(found, "brats"), found.summary.set_index(["metric", "loss"])["mean"]
    assert own.grid is not None
    assert own.grid.header == ["model", "loss", "Dice", "IoU", "NSD, 1 mm", "missed/FP/TN"]
    shown = column(own, "Dice")
    for loss, in_empty in (("bce", 1), ("calf", 1), ("dice", 1), ("focal", 2)):
        assert float(shown[loss].split(" ")[0]) == pytest.approx((usual["dice", loss] * 8 + in_empty) / 10, abs=5e-4), loss
    nsd = column(own, "NSD, 1 mm")
    assert float(nsd["focal"].split(" ")[0]) == pytest.approx((usual["nsd_1mm", "focal"] * 7 + 2) / 9, abs=5e-4)
    assert "HD95 is left out" in " ".join(own.notes)


def test_a_miss_and_a_partly_labelled_volume_keep_their_values_under_the_brats_rule():
    status = ["true_negative", "false_positive", "missed", "ok", "partly_labelled"]
    cases = pd.concat(
        rows({"a": [value]}, status=state, first=place)
        for place, (value, state) in enumerate(zip([np.nan, np.nan, 0.0, 0.7, np.nan], status, strict=True))
    )
    assert under_brats_rule(cases)["value"].tolist() == pytest.approx([1, 0, 0, 0.7, np.nan], nan_ok=True)
    assert under_brats_rule(cases.assign(metric="hd95_mm")).empty
    assert cases["value"].isna().sum() == 3  # the table it was made from is as it was


def test_without_an_empty_reference_the_brats_rule_is_a_sentence(make, tmp_path):
    for loss in ("bce", "calf"):
        make(loss, 0, cases=(0, 2))
    own = part(find(tmp_path / "runs"), "brats")
    assert own.grid is None
    assert "same numbers" in own.notes[0]


def test_the_agreement_of_metrics_is_kendalls_tau_of_their_means(found):
    own, summary = part(found, "agreement"), found.summary.set_index(["metric", "loss"])["mean"]
    assert own.grid is not None
    assert own.grid.header == ["ranking by", *PRIMARY, "cases ranked first"]
    cell = {row[0].text: [text.text for text in row[1:]] for row in own.grid.rows}
    assert cell["HD95, mm"][0] == f"{scipy.stats.kendalltau(summary['dice'], -summary['hd95_mm']).statistic:.2f}"
    assert cell["Dice"][:-1] == [""] * 7
    said = " ".join(own.notes)
    assert "rankings of 4 rows" in said
    assert "The ranking by Dice agrees least with that by specificity" in said
    assert "Ranking Dice within each case first gives tau" in said


def test_tau_is_not_given_where_it_says_nothing():
    two = rows({"a": [0.9, 0.8], "b": [0.7, 0.6]})
    table = kendall_tau(two, ["dice"])
    assert table["tau"].isna().all()
    assert table["note"].tolist() == ["fewer than 3 rows"]
    ties = pd.concat([rows({"a": [0.9], "b": [0.7], "c": [0.5]}), rows({"a": [0.5], "b": [0.5], "c": [0.5]}, metric="iou")])
    table = kendall_tau(ties, ["dice", "iou"]).set_index(["first", "second"])
    assert math.isnan(table.loc[("dice", "iou"), "tau"])
    assert table.loc[("dice", "iou"), "note"] == "all rows tie"
    partial = pd.concat([rows({"a": [0.9, 0.1], "b": [0.7, 0.1], "c": [0.5, np.nan]})])
    assert kendall_tau(partial, ["dice"])["note"].tolist() == ["1 cases left out, in which not every row has a value"]
    assert kendall_tau(two, ["volume_difference_ml"]).empty


def test_ties_count_for_neither_order():
    dice = rows({"a": [0.9], "b": [0.9], "c": [0.5], "d": [0.4]})
    iou = rows({"a": [0.8], "b": [0.7], "c": [0.3], "d": [0.5]}, metric="iou")
    table = kendall_tau(pd.concat([dice, iou]), ["dice", "iou"]).set_index(["first", "second"])
    # of six pairs one ties, four agree, one does not: (4 - 1) / sqrt(5 * 6)
    assert table.loc[("dice", "iou"), "tau"] == pytest.approx(3 / math.sqrt(30))


def test_two_losses_get_a_sentence_in_place_of_tau(make, tmp_path):
    for loss in ("bce", "calf"):
        make(loss, 0)
    own = part(find(tmp_path / "runs"), "agreement")
    assert own.grid is None
    assert own.notes == ["Kendall's tau between rankings is not given: it takes three models and losses, here are 2."]


def test_values_for_ranking_tools_hold_every_case_of_every_algorithm(found):
    of = dict(tables(found))
    assert set(of) == set(found.blocks[0].metrics) - {"volume_difference_ml"}
    dice = of["dice"]
    assert list(dice.columns) == ["task", "case", "algorithm", "value"]
    assert len(dice) == 4 * 10
    assert not dice.duplicated(["task", "case", "algorithm"]).any()
    assert dice.loc[dice["value"].isna(), "case"].value_counts().to_dict() == {"c8": 4, "c9": 4}
    own = found.blocks[0].cases
    own = own[(own["metric"] == "dice") & (own["loss"] == "calf") & (own["case"] == "c3")]
    shown = dice[(dice["algorithm"] == "unet / calf") & (dice["case"] == "c3")]
    assert shown[["task", "value"]].to_numpy().tolist() == [["lesions / tumour", own["value"].item()]]


def test_a_metric_that_some_runs_lack_is_told_and_the_report_stands(make, tmp_path):
    for loss in ("bce", "calf", "dice"):
        run = make(loss, 0)
        if loss != "bce":
            cases = pd.read_csv(run / "cases.csv", dtype=str, keep_default_na=False)
            more = cases[cases["metric"] == "dice"].assign(metric="hd95_mm")
            pd.concat([cases, more]).to_csv(run / "cases.csv", index=False)
    found = find(tmp_path / "runs")
    assert "per_case / phantom: 1 runs have no hd95_mm, which others have: unet / bce / 0." in found.notes
    assert found.blocks[0].scores()["unet", "bce"].keys() == {*found.blocks[0].metrics} - {"hd95_mm"}


def test_everything_is_written_where_another_metric_was_declared(runs, found, tmp_path):
    out = report(runs, tmp_path / "out", metric="hd95_mm")
    assert {path.stem for path in (out / "challengeR").iterdir()} == {*dict(tables(found))}
    assert ",NA\n" in (out / "challengeR" / "dice.csv").read_text()
    html = (out / "index.html").read_text()
    for said in ("Agreement of rankings", "Empty masks as BraTS scores them", "by size of the target", "Supplementary: lesions"):
        assert said in html
    assert pd.read_csv(out / "strata.csv")["edges_from"].unique().tolist() == ["tertiles of the 6 training references"]
    assert "HD95, mm minus that of bce (left: better)" in html


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_tables_compile_and_fit_their_page(found, tmp_path):
    text = latex(found)
    frame = "\\documentclass{{article}}\\usepackage{{booktabs,graphicx}}\\begin{{document}}{}\\end{{document}}"
    (tmp_path / "table.tex").write_text(frame.format(text))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.search(r"Overfull|Float too large", done.stdout)
    assert re.findall(r"\\label\{tab:(\w+?)1\}", text) == ["scores", "comparisons", "size", "brats", "agreement"]
