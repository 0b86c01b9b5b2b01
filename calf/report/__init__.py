"""From run folders to tables: ``calf report runs/<name>``. Knows a run by what it left on disk, and needs no torch."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from calf.files import write_text
from calf.report.checks import check_comparable, notes
from calf.report.results import gather
from calf.report.summary import summarise
from calf.report.tables import markdown, terminal

WIDTH = 100


def report(folder: Path, out: Path | None = None) -> Path:
    """Print the table of the runs at or below ``folder`` and write it; returns the folder it was written to.

    Written to ``out``, or to ``report`` in ``folder``: ``report.md`` for reading, ``report.csv`` with one row a protocol,
    data set, class, model, loss and metric, ``cases.csv`` with every case row of every finished run.

    Raises:
        ValueError: there is no run below ``folder``, or runs were made so differently that they cannot be averaged.
    """
    folder = Path(folder)
    gathered = gather(folder)
    check_comparable(gathered)
    summary, remarks = summarise(gathered.cases), notes(gathered)
    out = folder / "report" if out is None else Path(out)
    write_text(out / "cases.csv", gathered.cases.to_csv(index=False))
    write_text(out / "report.csv", summary.to_csv(index=False))
    write_text(out / "report.md", markdown(gathered, summary, remarks))
    console = Console()
    if not console.is_terminal:  # a pipe has no width of its own
        console.width = WIDTH
    console.print(terminal(gathered, summary, remarks))
    return out
