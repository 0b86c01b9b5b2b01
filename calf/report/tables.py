"""Writes the tables for readers: Markdown, and the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from calf.report import words
from calf.report.findings import Block, Findings
from calf.report.grids import EMPTY, NOTHING, RUNS, Cell, Grid, comparisons, cost, heading, incomplete, rested_on, scores

SHORT = {"sensitivity": "sens.", "specificity": "spec.", "precision": "prec."}


def markdown(found: Findings) -> str:
    """The whole report as Markdown: tables by protocol, data set and class, what they mean, and what is not in them."""
    parts = [f"# {found.title}", words.lead(found)]
    for block in found.blocks:
        parts += [f"## {block.dataset}: {block.name} (`{block.protocol}`)", _grid(scores(block, block.main_metrics))]
        parts += [f"{rested_on(block)}. {words.SCORES} {words.marked(block)}"]
        if not block.compared.empty:
            parts.append(_grid(comparisons(block)))
            parts += words.caveats(block)
        if rest := [metric for metric in block.metrics if metric not in block.main_metrics]:
            parts += ["Supplementary:", _grid(scores(block, rest))]
    if found.blocks:
        parts += [*words.foot(found), "## Cost", _grid(cost(found))]
    else:
        parts.append("No run has finished yet.")
    if found.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in found.notes)]
    if not found.gathered.incomplete.empty:
        parts += ["## Incomplete runs", "These are in no mean above.", _grid(incomplete(found))]
    return "\n\n".join(parts) + "\n"


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


def terminal(found: Findings) -> RenderableType:
    """The main tables for the eye, 100 columns wide; SD stands under the mean."""
    parts: list[RenderableType] = [Text(words.lead(found), style="bold"), *(_block(block) for block in found.blocks)]
    if found.blocks:
        tested = any(block.baseline is not None for block in found.blocks)
        alike = ", and what does not differ from it significantly" if tested else ""
        parts.append(Text(f"mean, and below it the SD over cases (batches); the best in green{alike}", style="dim"))
    else:
        parts = [Text("no run has finished yet", style="bold")]
    parts += [Text(note, style="yellow") for note in found.notes]
    for run in found.gathered.incomplete.to_dict("records"):
        parts.append(Text.assemble((f"{run['state']}: ", "bold red"), run["folder"], (f"  {run['error']}", "dim")))
    return Group(*parts)


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
