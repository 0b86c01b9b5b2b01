"""Writes the tables for readers: Markdown, and the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from calf.report import beside, words
from calf.report.findings import Block, Findings
from calf.report.further import further
from calf.report.grids import (
    EMPTY,
    NOTHING,
    RUNS,
    Cell,
    Grid,
    comparisons,
    cost,
    friedman,
    heading,
    incomplete,
    made_of,
    rested_on,
    scores,
    versions,
)
from calf.report.published import Beside
from calf.report.results import WAITING

MOST = 40  # rows of published numbers that the terminal shows
SHORT = {"sensitivity": "sens.", "specificity": "spec.", "precision": "prec."}


def markdown(found: Findings, compared: Beside | None = None) -> str:
    """The whole report as Markdown: tables by protocol, data set and class, what they mean, and what is not in them.

    ``compared``: published numbers beside ours, which get a section.
    """
    parts = [f"# {found.title}", words.lead(found)]
    for block in found.blocks:
        parts += [f"## {block.dataset}: {block.name} (`{block.protocol}`)", _grid(scores(block, block.main_metrics))]
        parts += [f"{rested_on(block)}. {words.SCORES} {words.marked(block)}"]
        if not block.compared.empty:
            parts.append(_grid(comparisons(block)))
            parts += words.caveats(block)
        for part in further(block):
            parts += [
                *([] if part.grid is None else [f"### {part.title}", _grid(part.grid)]),
                *([" ".join(part.notes)] if part.notes else []),
            ]
    if found.friedman:
        parts += ["## Do the rows differ at all?", _grid(friedman(found)), words.friedman(found)]
    parts += words.foot(found) if found.blocks else ["No run has finished yet."]
    parts += _beside(compared) if compared is not None else []
    parts += ["## Cost", _grid(cost(found))] if found.blocks else []
    if found.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in found.notes)]
    if not found.gathered.incomplete.empty:
        parts += ["## Incomplete runs", "These are in no mean above.", _grid(incomplete(found))]
    if not found.gathered.finished.empty:
        parts += ["## Provenance", "\n".join(f"- {line}" for line in _made(found)), "Every run by itself is in runs.csv."]
    return "\n\n".join(parts) + "\n"


def _made(found: Findings) -> list[str]:
    """What the finished runs were made from and with."""
    return [_safe(line) for line in (*made_of(found), *(f"Made with {text}." for text in versions(found)))]


def _beside(compared: Beside) -> list[str]:
    parts = []
    for protocol in compared.protocols:
        parts += [f"## {beside.title(protocol)}", *beside.above(compared, protocol)]
        parts += [_grid(beside.grid(compared, protocol))] if compared.published else []
        parts += ["\n".join(f"- {_safe(line)}" for line in beside.below(compared, protocol))]
    return [part for part in parts if part]


def _grid(grid: Grid) -> str:
    rule = ["---"] * grid.num_text + ["---:"] * (len(grid.header) - grid.num_text)
    rows = [[_cell(cell) for cell in row] for row in grid.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [[_safe(text) for text in grid.header], rule, *rows])


def _cell(cell: Cell) -> str:
    return (f"**{_safe(cell.text)}**" if cell.best else _safe(cell.text)) + _safe(cell.rest)


def _safe(text: str) -> str:
    for sign in ("\\", "|", "*", "<"):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")


def terminal(found: Findings, compared: Beside | None = None) -> RenderableType:
    """The main tables for the eye, 100 columns wide; SD stands under the mean."""
    parts: list[RenderableType] = [Text(words.lead(found), style="bold"), *(_block(block) for block in found.blocks)]
    if found.blocks:
        tested = any(block.baseline is not None for block in found.blocks)
        alike = ", with what does not differ from it significantly where that was tested" if tested else ""
        parts.append(Text(f"mean, and below it the SD over cases (batches); the best in green{alike}", style="dim"))
    else:
        parts = [Text("no run has finished yet", style="bold")]
    parts += _published(compared) if compared is not None else []
    parts += [Text(note, style="yellow") for note in found.notes]
    missing = found.gathered.incomplete
    waiting = missing["state"] == WAITING
    for run in missing[~waiting].to_dict("records"):
        parts.append(Text.assemble((f"{run['state']}: ", "bold red"), run["folder"], (f"  {run['error']}", "dim")))
    if waiting.any():
        parts.append(Text(f"{WAITING}: {waiting.sum()} runs of a grid at work", style="bold red"))
    return Group(*parts)


def _published(compared: Beside) -> list[RenderableType]:
    """Theirs, ours and the difference; what they rest on, sources and notes are in the files."""
    parts: list[RenderableType] = []
    for protocol in compared.protocols:
        parts += [Text(beside.title(protocol)), *(Text(text, style="dim") for text in beside.above(compared, protocol))]
        if not compared.published:
            continue
        grid, table = beside.grid(compared, protocol), Table(box=SIMPLE_HEAD)
        if len(grid.rows) > MOST:
            parts.append(Text(f"The table of {len(grid.rows)} rows is in report.md.\n"))
            continue
        shown = [place for place, name in enumerate(grid.header) if place <= grid.header.index(beside.DIFFERENCE) or name == RUNS]
        for place in shown:
            table.add_column(grid.header[place], justify="left" if place < grid.num_text else "right", overflow="fold")
        for row in grid.rows:
            table.add_row(*(_styled(row[place]) for place in shown))
        parts.append(table)
    return parts


def _block(block: Block) -> Table:
    metrics = block.main_metrics
    grid = scores(block, metrics)
    title = Text(f"{block.dataset}: {block.name} ({block.protocol})")
    table = Table(title=title, caption=rested_on(block), title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    names = [*grid.header[:2], *(SHORT.get(metric, heading(metric)) for metric in metrics), *grid.header[2 + len(metrics) :]]
    shown = [*range(2 + len(metrics)), *(place for place, name in enumerate(names) if name in (EMPTY, RUNS))]
    for place in shown:
        number = 2 <= place < 2 + len(metrics)
        table.add_column(names[place], justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in grid.rows:
        table.add_row(*(_styled(row[place]) for place in shown))
    return table


def _styled(cell: Cell) -> Text:
    # as text, or rich would take calf[clamp=null] for markup and print calf
    rest = cell.rest.replace(" ± ", "\n±").replace("±0.", "±.")
    return Text.assemble((cell.text, "bold green" if cell.best else "dim" if cell.text == NOTHING else ""), (rest, "dim"))
