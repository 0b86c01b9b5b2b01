"""From run folders to tables, figures and a page: ``calf report runs/<name>``. Knows a run by what it left on disk, and needs
no torch."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from calf.files import write_text
from calf.report.findings import Findings, find
from calf.report.latex import latex
from calf.report.tables import markdown, terminal

WIDTH = 100


def report(folder: Path, out: Path | None = None, baseline: str | None = None, metric: str = "dice") -> Path:
    """Print the tables of the runs at or below ``folder`` and write the report; returns the folder it was written to.

    Written to ``out``, or to ``report`` in ``folder``:

    * ``index.html``: everything on one page, which needs no other file;
    * ``report.md``, ``report.tex``: the tables for reading and for a manuscript;
    * ``report.csv``: one row a protocol, data set, class, model, loss and metric;
    * ``comparisons.csv``: mean with interval, difference to the baseline and its test, for each metric of the main tables;
    * ``cases.csv``: every case row of every finished run;
    * ``figures/``: every figure as PDF and PNG. An older report's are replaced.

    Args:
        folder: of runs.
        out: where to write.
        baseline: the loss that the others are compared with; None: ``bce`` where there is one, else the first by name.
        metric: the one declared in advance: it orders rows, and figures and comparisons are of it.

    Raises:
        ValueError: there is no run below ``folder``, runs were made so differently that they cannot be averaged, or no run has
            this baseline or metric.
    """
    folder = Path(folder)
    found = find(folder, baseline, metric)
    out = folder / "report" if out is None else Path(out)
    write_text(out / "cases.csv", found.gathered.cases.to_csv(index=False))
    write_text(out / "report.csv", found.summary.to_csv(index=False))
    write_text(out / "comparisons.csv", found.compared.to_csv(index=False))
    write_text(out / "report.md", markdown(found))
    write_text(out / "report.tex", latex(found))
    console = Console()
    if not console.is_terminal:  # a pipe has no width of its own
        console.width = WIDTH
    console.print(terminal(found))
    _illustrate(found, out)
    return out


def _illustrate(found: Findings, out: Path) -> None:
    """Figures, panels and the page that holds them."""
    # here, since who wants tables alone waits for neither matplotlib nor nibabel
    from calf.report import curves, figures
    from calf.report.document import document
    from calf.report.panels import panels
    from calf.report.rankings import critical_differences
    from calf.report.training import unreadable

    of_block, missing = [], unreadable(found.gathered)
    for block in found.blocks:
        drawn = figures.of_block(block)
        if (learning := curves.learning(found, block)) is not None:
            drawn.append(learning)
        shown, told = panels(found, block)
        of_block.append((drawn, shown))
        missing += told
    overall = [*critical_differences(found), *curves.branches(found)]
    page = document(found, of_block, overall, missing)
    _clear(out / "figures")
    for drawn, shown in of_block:
        for panel in shown:
            panel.write(out / "figures")
        for figure in drawn:
            figure.write(out / "figures")
    for figure in overall:
        figure.write(out / "figures")
    page.write(out / "index.html")


def _clear(folder: Path) -> None:
    """Take away the figures of an older report, which may be of losses that are no longer in it."""
    for kind in ("*.pdf", "*.png"):
        for path in folder.glob(kind):
            path.unlink()
