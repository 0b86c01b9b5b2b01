"""The LaTeX tables: names as they are, as many cells as columns, and compiled where there is a compiler."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from calf.report.findings import find
from calf.report.latex import escape, latex

ODD = "50%_of{a}&b#$~^\\<[x=1|2]>"


@pytest.fixture
def text(make, runs) -> str:
    for loss, tp in (("bce", 2), (ODD, 8)):
        make("bce" if loss == "bce" else "odd", 0, tp=tp, names={"dataset": "phantom", "model": "unet", "loss": loss})
    for path in runs.glob("*/*/odd/*/cases.csv"):
        path.write_text(path.read_text().replace(",odd,", f",{ODD},"))
    for path in runs.glob("*/*/odd/*/config.yaml"):
        path.write_text(path.read_text().replace("loss: odd", f"loss: '{ODD}'"))
    return latex(find(runs))


def test_names_are_escaped():
    assert escape("a_b&c%") == r"a\_b\&c\%"
    assert escape("\\{}") == r"\textbackslash{}\{\}"
    assert escape("[x]") == "{[}x{]}"
    assert escape("0.1 ± 0.2") == r"0.1 $\pm$ 0.2"


def test_every_line_has_the_columns_of_its_table(text):
    tables = re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    # scores, comparisons, two strata by size, the BraTS rule; each has a header, bce and the odd one; Friedman's test, cost
    for (columns, body), strata, of_stratum in zip(tables, (1, 1, 2, 1, 1, 1), (2, 2, 2, 2, 1, 2), strict=True):
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) == 1 + of_stratum * strata
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns) - 1}
        assert [body.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, strata, 1]
    assert escape(ODD) in text


def test_notes_say_the_rule_and_the_test(text):
    for said in ("The unit is the case", "counted as a true negative", "sign-flip test", r"95 \% CI", r"\textbf{0.444}"):
        assert said in text


def test_the_rule_is_told_once_a_protocol(make, runs):
    make("calf", 0)
    make("calf", 0, mark="9876543210", names={"dataset": "other", "model": "unet", "loss": "calf"})
    told = runs / "phantom" / "unet" / "calf" / "seed-0-9876543210"
    for name in ("cases.csv", "config.yaml"):
        (told / name).write_text((told / name).read_text().replace("phantom", "other"))
    text = latex(find(runs))
    assert text.count("counted as a true negative") == 1
    assert r"as in Table~\ref{tab:scores1}" in text
    assert text.count(r"\label{tab:scores") == 2


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_it_compiles(text, tmp_path):
    frame = "\\documentclass{{article}}\\usepackage{{booktabs,graphicx}}\\begin{{document}}{}\\end{{document}}"
    (tmp_path / "table.tex").write_text(frame.format(text))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
