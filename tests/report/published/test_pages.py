"""Published numbers in every form of a report."""

from __future__ import annotations

import re
import shutil
import subprocess

import pandas as pd

from calf.report.latex import MOST, latex
from calf.report.reproduction import dots
from tests.report.published.rows import ROW, invoke, shown


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
