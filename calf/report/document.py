"""The report as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from calf.page import Block as PageBlock
from calf.page import Facts, Page, Points, Row, Section, Table, Text
from calf.report import beside, words
from calf.report.drawing import Drawn
from calf.report.findings import Block, Findings
from calf.report.further import further
from calf.report.grids import Cell, Grid, comparisons, cost, friedman, incomplete, provenance, rested_on, scores, versions
from calf.report.panels import Panel
from calf.report.published import Beside
from calf.report.units import same_patients

FOLDED = 12  # rows from which on a table that is no result is folded
LONG = 60  # those from which on one of results is


def document(
    found: Findings,
    of_block: Sequence[tuple[Sequence[Drawn], Sequence[Panel]]],
    overall: Sequence[Drawn],
    missing: Sequence[str],
    compared: Beside | None = None,
    published: Sequence[Drawn] = (),
) -> Page:
    """The whole page.

    Args:
        found: what it says.
        of_block: figures and panels of each of ``found.blocks``.
        overall: figures of more than one table.
        missing: sentences on panels that could not be drawn.
        compared: published numbers beside ours.
        published: figures of them.
    """
    finished = found.gathered.finished
    sections = [Section("At a glance", [Facts(facts_of(found))])]
    if found.notes:
        sections.append(Section("Notes", [_points(found.notes)]))
    for block, (figures, panels) in zip(found.blocks, of_block, strict=True):
        sections.append(Section(_title(block, found), _block(block, figures, panels)))
    if found.friedman:
        sections.append(Section("Do the rows differ at all?", [_table(friedman(found)), Text(words.friedman(found), small=True)]))
    if compared is not None:
        sections += _beside(compared, published)
    if overall:
        sections.append(Section("Across tables and training", _figures(overall)))
    if not found.gathered.incomplete.empty:
        sections.append(Section("Incomplete runs", [Text("These are in no mean above."), _table(incomplete(found))]))
    if found.blocks:
        sections.append(Section("How to read this", [Text(text.replace("`", ""), small=True) for text in words.foot(found)]))
        sections.append(Section("Cost", [_table(cost(found), folded=f"what {len(finished)} runs took")]))
    if missing:
        sections.append(Section("Not shown", [_points(missing)]))
    if not finished.empty:
        rows = provenance(found)
        made = [Text(f"Made with {text}.", small=True) for text in versions(found)]
        sections.append(Section("Provenance", [*made, _table(rows, folded=f"all {len(rows.rows)} runs")]))
    return Page(found.title, words.lead(found), sections)


def facts_of(found: Findings) -> list[tuple[str, str]]:
    """What a report is made of, in numbers; a patient whom several data sets share (``same_patients``) is counted once."""
    runs, finished, cases = found.gathered.runs, found.gathered.finished, found.gathered.cases
    scored = cases[cases["protocol"] == "per_case"]
    facts = [(f"{len(finished)} of {len(runs)}", "runs finished")]
    if not scored.empty:
        facts.append((str(len(scored.drop_duplicates(["dataset", "case"]))), "cases scored"))
        persons = scored.assign(first=scored["dataset"].map(same_patients(scored)))
        facts.append((str(len(persons.drop_duplicates(["first", "patient"]))), "patients"))
    for column, one, many in (("loss", "loss", "losses"), ("model", "network", "networks"), ("seed", "seed", "seeds")):
        number = finished[column].nunique()
        facts.append((str(number), one if number == 1 else many))
    return facts


def _title(block: Block, found: Findings) -> str:
    protocols = {own.protocol for own in found.blocks}
    return f"{block.dataset}: {block.name}" + (f" ({block.protocol})" if len(protocols) > 1 else "")


def _block(block: Block, figures: Sequence[Drawn], panels: Sequence[Panel]) -> list[PageBlock]:
    blocks: list[PageBlock] = [
        _table(scores(block, block.main_metrics)),
        Text(f"{rested_on(block)}. {words.SCORES} {words.marked(block)}", small=True),
    ]
    if not block.compared.empty:
        blocks.append(_table(comparisons(block)))
        blocks += [Text(note, small=True) for note in words.caveats(block)]
    for part in further(block):
        if part.grid is not None:
            table = _table(part.grid, part.title, above=0 if part.supplementary else LONG)
            blocks += [table] if table.folded else [Text(f"{part.title}."), table]
        blocks += [Text(" ".join(part.notes), small=True)] if part.notes else []
    blocks += [panel.embedded() for panel in panels]
    return [*blocks, *_figures(figures)]


def _beside(compared: Beside, figures: Sequence[Drawn]) -> list[Section]:
    """A section a protocol; figures stand in that of their own."""
    sections = []
    for protocol in compared.protocols:
        said: list[PageBlock] = [Text(text.replace("`", "")) for text in beside.above(compared, protocol)]
        if compared.published:
            said.append(_table(beside.grid(compared, protocol), f"all {len(compared.published)} published numbers", above=LONG))
        said += [Text(text, small=True) for text in beside.below(compared, protocol)]
        own = [drawn for drawn in figures if drawn.name.startswith(f"{protocol}-")]
        sections.append(Section(beside.title(protocol).replace("`", ""), [*said, *_figures(own)]))
    return sections


def _figures(figures: Sequence[Drawn]) -> list[PageBlock]:
    """Narrow ones side by side, wide ones below."""
    narrow = [drawn.embedded() for drawn in figures if not drawn.wide]
    return [*([Row(narrow)] if narrow else []), *(drawn.embedded() for drawn in figures if drawn.wide)]


def _points(texts: Sequence[str]) -> Points:
    """Sentences that begin with the place they are about."""
    split = [text.partition(": ") for text in texts]
    return Points([(f"{where}:", what, "") if colon else ("", where, "") for where, colon, what in split])


def _table(grid: Grid, folded: str | None = None, above: int = FOLDED) -> Table:
    """``folded``: under a line with this text where there are more than ``above`` rows."""
    rows = [[_cell(cell) for cell in row] for row in grid.rows]
    return Table(grid.header, rows, grid.num_text, folded if len(rows) > above else None)


def _cell(cell: Cell) -> str:
    # markup is text that is escaped already
    return Markup("<b>{}</b>{}" if cell.best else "{}{}").format(
        cell.text, Markup("<small>{}</small>").format(cell.rest) if cell.rest else ""
    )
