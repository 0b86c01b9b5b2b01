"""From run folders to tables, figures and a page: ``calf report runs/<name>``. Knows a run by what it left on disk, and needs
no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from calf.files import write_text
from calf.report import challenger
from calf.report.findings import Findings, find
from calf.report.latex import latex
from calf.report.published import Beside, read_published, set_beside
from calf.report.ranks import friedman_table
from calf.report.tables import markdown, terminal

WIDTH = 100


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
    * ``figures/``: every figure as PDF and PNG. An older report's are replaced.

    Args:
        folder: of runs.
        out: where to write.
        baseline: the loss that the others are compared with; None: ``bce`` where there is one, else the first by name.
        metric: the one declared in advance: it orders rows, and figures and comparisons are of it.
        published: a CSV file of published numbers (:func:`calf.report.published.read_published`).
        panels: whether images of cases are shown, with what each loss predicted.

    Raises:
        ValueError: there is no run below ``folder``, runs were made so differently that they cannot be averaged, no run has
            this baseline or metric, or the published numbers cannot be read.
    """
    folder = Path(folder)
    numbers = None if published is None else read_published(published)
    found = find(folder, baseline, metric)
    compared = None if published is None or numbers is None else set_beside(published, numbers, found)
    out = folder / "report" if out is None else Path(out)
    write_text(out / "cases.csv", found.gathered.cases.to_csv(index=False))
    write_text(out / "report.csv", found.summary.to_csv(index=False))
    write_text(out / "comparisons.csv", found.compared.to_csv(index=False))
    _write_further(found, out)
    if compared is None:
        (out / "beside_published.csv").unlink(missing_ok=True)  # of an older report
    else:
        write_text(out / "beside_published.csv", compared.rows.to_csv(index=False))
    write_text(out / "report.md", markdown(found, compared))
    write_text(out / "report.tex", latex(found, compared))
    console = Console()
    if not console.is_terminal:  # a pipe has no width of its own
        console.width = WIDTH
    console.print(terminal(found, compared))
    _illustrate(found, compared, out, panels)
    return out


def _write_further(found: Findings, out: Path) -> None:
    """Tables of every block together, as CSV; those of an older report that this one has not are taken away."""
    every = {
        "strata": [block.strata for block in found.blocks],
        "brats": [block.brats.compared for block in found.blocks if block.brats is not None],
        "agreement": [block.agreement for block in found.blocks],
        "ranks": [found.ranks.assign(metric=found.metric)],
        "friedman": [friedman_table(found.friedman).assign(metric=found.metric)],
        "runs": [found.gathered.runs.assign(versions=found.gathered.runs["versions"].map(_json))],
    }
    for name, tables in every.items():
        if given := [table for table in tables if not table.empty]:
            write_text(out / f"{name}.csv", pd.concat(given, ignore_index=True).to_csv(index=False))
        else:
            (out / f"{name}.csv").unlink(missing_ok=True)
    for path in (out / "challengeR").glob("*.csv"):
        path.unlink()
    for metric, table in challenger.tables(found):
        write_text(out / "challengeR" / f"{metric}.csv", table.to_csv(index=False, na_rep="NA"))


def _json(versions: Any) -> str:
    return json.dumps(versions) if isinstance(versions, dict) else ""


def _illustrate(found: Findings, compared: Beside | None, out: Path, with_panels: bool) -> None:
    """Figures, panels and the page that holds them."""
    # here, since who wants tables alone waits for neither matplotlib nor nibabel
    from calf.report import curves, figures
    from calf.report.document import document
    from calf.report.panels import panels
    from calf.report.rankings import critical_differences
    from calf.report.reproduction import dots
    from calf.report.training import unreadable

    of_block, missing = [], unreadable(found.gathered)
    for block in found.blocks:
        drawn = figures.of_block(block)
        if (learning := curves.learning(found, block)) is not None:
            drawn.append(learning)
        shown, told = panels(found, block) if with_panels else ([], [])
        of_block.append((drawn, shown))
        missing += told
    overall = [*critical_differences(found), *curves.branches(found)]
    published = [] if compared is None else dots(compared)
    page = document(found, of_block, overall, missing, compared, published)
    _clear(out / "figures")
    for drawn, shown in of_block:
        for panel in shown:
            panel.write(out / "figures")
        for figure in drawn:
            figure.write(out / "figures")
    for figure in [*overall, *published]:
        figure.write(out / "figures")
    page.write(out / "index.html")


def _clear(folder: Path) -> None:
    """Take away the figures of an older report, which may be of losses that are no longer in it."""
    for kind in ("*.pdf", "*.png"):
        for path in folder.glob(kind):
            path.unlink()
