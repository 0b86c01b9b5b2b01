"""From run folders to tables, figures and a page: ``calf report runs/<name>``. Knows a run by what it left on disk, and needs
no torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from calf.files import write_json, write_text
from calf.report import challenger
from calf.report.findings import Findings, find
from calf.report.friedman import friedman_table
from calf.report.latex import latex
from calf.report.published import Beside, read_published, set_beside
from calf.report.reading import DATA_BYTES, read_json
from calf.report.tables import markdown, terminal

if TYPE_CHECKING:
    from calf.page import Page
    from calf.report.drawing import Drawn
    from calf.report.panels import Panel

WIDTH = 100
PAGE, LIST, MADE_BY = "index.html", "report.json", "calf report"
FIGURES, FOLDERS = "figures", ("challengeR", "figures")
SHOWN = 5  # files that are named
ODD = r"[^\w.=-]"  # in a file's name
PLACE = re.compile(r"((challengeR|figures)/)?[^/\\:]+")  # of a file of a report: never outside of its folder
# reports had no list once; their pages and the names of their files
HEAD_BYTES = 4096
PAGE_MARKS = (b"<title>Results of ", b"--ink: #1b1f24")
UNLISTED = re.compile(
    r"index\.html|report\.(md|tex|csv)|challengeR/\w+\.csv|figures/((per_case|paper)-.+|.+-branches)\.(pdf|png)|"
    r"(agreement|beside_published|brats|cases|comparisons|friedman|ranks|runs|strata)\.csv"
)


def report(
    folder: Path,
    out: Path | None = None,
    baseline: str | None = None,
    metric: str = "dice",
    published: Path | None = None,
    panels: bool = True,
) -> Path:
    """Print the tables of the runs at or below ``folder`` and write the report; returns the folder it was written to.

    Written to ``out``, or to ``report`` in ``folder``:

    * ``index.html``: everything on one page, which needs no other file;
    * ``report.md``, ``report.tex``: the tables for reading and for a manuscript;
    * ``report.csv``: one row a protocol, data set, class, model, loss and metric;
    * ``comparisons.csv``: mean with interval, difference to the baseline and its test, for each metric of the main tables;
    * ``cases.csv``: every case row of every finished run;
    * ``strata.csv``: the declared metric by volume of the reference, with tests against the baseline;
    * ``brats.csv``: comparisons under the BraTS rule for empty masks; only where a case has no reference;
    * ``agreement.csv``: Kendall's tau between rankings by metric and by order of averaging;
    * ``ranks.csv``: ranks by the declared metric in both orders of averaging, with how they vary with the patients drawn;
    * ``friedman.csv``: Friedman's tests of the declared metric over data sets and over patients, with every pair of rows;
    * ``runs.csv``: every run, how it ended and what it was made from;
    * ``challengeR/<metric>.csv``: values by case as ranking tools read them;
    * ``beside_published.csv``: ours beside every published number, with the difference; only where such are given;
    * ``figures/``: every figure as PDF and PNG;
    * ``report.json``: the names of all these, by which a later report knows what it may replace or take away.

    Nothing else is ever replaced or taken away. A report from before there was such a list is known by its ``index.html``; files
    beside that, and in its ``challengeR/`` and ``figures/``, with names that a report gives are taken for its own
    (``UNLISTED``). Links are not followed.

    Args:
        folder: of runs.
        out: where to write.
        baseline: the loss that the others are compared with; None: ``bce`` where there is one, else the first by name.
        metric: the one declared in advance: it orders rows, and figures and comparisons are of it.
        published: a CSV file of published numbers (:func:`calf.report.published.read_published`).
        panels: whether images of cases are shown, with what each loss predicted.

    Raises:
        ValueError: there is no run below ``folder``, runs were made so differently that they cannot be averaged, no run has
            this baseline or metric, the published numbers cannot be read, or a file would be replaced that is of no older report;
            then nothing is written.
    """
    folder = Path(folder)
    numbers = None if published is None else read_published(published)
    found = find(folder, baseline, metric)
    compared = None if published is None or numbers is None else set_beside(published, numbers, found)
    out = folder / "report" if out is None else Path(out)
    texts = _texts(found, compared)
    _check_place(out, [*texts, PAGE])  # figures take minutes
    console = Console()
    if not console.is_terminal:  # a pipe has no width of its own
        console.width = WIDTH
    console.print(terminal(found, compared))
    _write(out, texts, *_illustrate(found, compared, panels))
    return out


def _texts(found: Findings, compared: Beside | None) -> dict[str, str]:
    """Everything but figures and the page, by the names of the files."""
    texts = {
        "cases.csv": found.gathered.cases.to_csv(index=False),
        "report.csv": found.summary.to_csv(index=False),
        "comparisons.csv": found.compared.to_csv(index=False),
        "report.md": markdown(found, compared),
        "report.tex": latex(found, compared),
    }
    if compared is not None:
        texts["beside_published.csv"] = compared.rows.to_csv(index=False)
    of_blocks = {
        "strata": [block.strata for block in found.blocks],
        "brats": [block.brats.compared for block in found.blocks if block.brats is not None],
        "agreement": [block.agreement for block in found.blocks],
        "ranks": [found.ranks.assign(metric=found.metric)],
        "friedman": [friedman_table(found.friedman).assign(metric=found.metric)],
        "runs": [found.gathered.runs.assign(versions=found.gathered.runs["versions"].map(_json))],
    }
    for name, tables in of_blocks.items():
        if given := [table for table in tables if not table.empty]:
            texts[f"{name}.csv"] = pd.concat(given, ignore_index=True).to_csv(index=False)
    for metric, table in challenger.tables(found):
        texts[f"challengeR/{re.sub(ODD, '-', metric)}.csv"] = table.to_csv(index=False, na_rep="NA")
    return texts


def _json(versions: Any) -> str:
    return json.dumps(versions) if isinstance(versions, dict) else ""


def _illustrate(found: Findings, compared: Beside | None, with_panels: bool) -> tuple[list[Drawn | Panel], Page]:
    """Figures and panels, and the page that holds them."""
    # here, since who wants tables alone waits for neither matplotlib nor nibabel
    from calf.report import curves, figures
    from calf.report.document import document
    from calf.report.panels import panels
    from calf.report.rankings import critical_differences
    from calf.report.reproduction import dots

    of_block: list[tuple[list[Drawn], list[Panel]]] = []
    missing: list[str] = []
    for block in found.blocks:
        drawn = figures.of_block(block)
        if (learning := curves.learning(found, block)) is not None:
            drawn.append(learning)
        shown, told = panels(found, block) if with_panels else ([], [])
        of_block.append((drawn, shown))
        missing += told
    overall = [*critical_differences(found), *curves.branches(found)]
    published = [] if compared is None else dots(compared)
    every: list[Drawn | Panel] = [*overall, *published]
    for drawn, shown in of_block:
        every += [*shown, *drawn]
    return every, document(found, of_block, overall, missing, compared, published)


def _write(out: Path, texts: dict[str, str], pictures: Sequence[Drawn | Panel], page: Page) -> None:
    """Everything, in place of an older report. Interrupted, it leaves a list that names what is of either of them."""
    from calf.report.panels import Panel

    names = [*texts, PAGE]  # a panel is no PDF
    for picture in pictures:
        names += [f"{FIGURES}/{picture.name}.{ending}" for ending in ("pdf", "png")[isinstance(picture, Panel) :]]
    older = _check_place(out, names)
    write_json(out / LIST, {"made_by": MADE_BY, "files": sorted(older | set(names))})
    for name in older - set(names):
        (out / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(out / name, text)
    for picture in pictures:
        picture.write(out / FIGURES)
    page.write(out / PAGE)
    write_json(out / LIST, {"made_by": MADE_BY, "files": sorted(names)})


def _check_place(out: Path, names: Sequence[str]) -> set[str]:
    """The files of an older report in ``out``; ValueError where one of ``names`` would replace any other."""
    older = _older(out)
    taken = [name for name in names if name not in older and os.path.lexists(out / name)]
    taken += [name for name in FOLDERS if os.path.islink(out / name) or os.path.isfile(out / name)]  # a link may lead out of it
    if taken:
        named = ", ".join(taken[:SHOWN]) + (f" and {len(taken) - SHOWN} more" if len(taken) > SHOWN else "")
        raise ValueError(
            f"{out} holds what this report would replace and no report is known to have written: {named}. "
            "Nothing was written. Take another folder with --out, or move these away."
        )
    return older


def _older(out: Path) -> set[str]:
    """The files of an older report in ``out``, by their names relative to it; none that a link leads to.

    Those in its list; where there is no list beside a page that calf wrote, those of the names that it gives.
    """
    if os.path.lexists(out / LIST):
        names = _listed(out / LIST)
    elif _is_page(out / PAGE):
        found = [path.relative_to(out).as_posix() for folder in (".", *FOLDERS) for path in (out / folder).glob("*")]
        names = [name for name in found if UNLISTED.fullmatch(name)]
    else:
        names = []
    return {name for name in names if PLACE.fullmatch(name) and _is_own(out, name)}


def _listed(path: Path) -> list[str]:
    try:
        content = read_json(path, DATA_BYTES)
    except ValueError:
        content = {}
    names = content.get("files")
    if content.get("made_by") != MADE_BY or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} is no list of a report's files. Take another folder with --out, or move it away.")
    return names


def _is_page(path: Path) -> bool:
    """Whether it is a report's page."""
    if not os.path.isfile(path):
        return False
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return all(mark in head for mark in PAGE_MARKS)


def _is_own(out: Path, name: str) -> bool:
    """Whether it is an ordinary file, and neither it nor the folder of a report that it lies in is a link."""
    path = out / name
    linked = os.path.islink(path) or (path.parent != out and os.path.islink(path.parent))
    return os.path.isfile(path) and not linked
