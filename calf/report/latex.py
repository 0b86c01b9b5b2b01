"""Writes the tables for a manuscript: LaTeX with booktabs, to be included with ``\\input``."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from calf.report import beside, words
from calf.report.findings import Block, Findings
from calf.report.further import further
from calf.report.grids import NOTHING, Cell, Grid, comparisons, cost, friedman, rested_on, scores
from calf.report.published import Beside

MOST = 40  # rows that a page holds
HEAD = "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}; written by calf report."
ESCAPED = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': "''",
    "±": r"$\pm$",
    "\n": " ",
}


def latex(found: Findings, compared: Beside | None = None) -> str:
    """One table of scores and one of comparisons for each protocol, data set and class, with their notes under them.

    ``compared``: published numbers beside ours, which get tables of their own, of at most ``MOST`` rows each.
    """
    parts, first = [HEAD], dict[str, str]()
    for number, block in enumerate(found.blocks, start=1):
        where, label = f"{block.dataset}: {block.name} ({block.protocol.replace('_', ' ')})", f"tab:scores{number}"
        notes = escape(f"{rested_on(block)}. {words.SCORES} {words.marked(block)} ")
        if (told := first.setdefault(block.protocol, label)) == label:
            notes += escape((words.PER_CASE if block.per_case else words.POOLED).replace("`", ""))
        else:
            notes += f"Empty masks as in Table~\\ref{{{told}}}."
        parts.append(_table(scores(block, block.main_metrics), f"{where}.", label, notes))
        if block.baseline is not None:
            notes, label = escape(" ".join([words.TEST, *words.caveats(block)])), f"tab:comparisons{number}"
            parts.append(_table(comparisons(block), f"{where}, against {block.baseline}.", label, notes))
        parts += _further(block, where, number)
    if found.friedman:
        parts.append(_table(friedman(found), "Friedman's tests.", "tab:friedman", escape(words.friedman(found))))
    parts += _beside(compared) if compared is not None else []
    parts += _pages(cost(found), "Cost of a run", "tab:cost", "") if found.blocks else []
    return "\n\n".join(parts) + "\n"


def _further(block: Block, where: str, number: int) -> list[str]:
    """The block's other tables but the supplementary ones, cut between their parts where they are too long for a page."""
    parts = []
    for part in further(block):
        if part.grid is None or part.supplementary:
            continue
        notes, grid = escape(" ".join(part.notes)), part.grid
        cuts = [0, *grid.breaks, len(grid.rows)] if len(grid.rows) > MOST else [0, len(grid.rows)]
        for place, (start, end) in enumerate(pairwise(cuts)):
            more, mark = (" (continued)", f"-{place + 1}") if place else ("", "")
            own = replace(grid, rows=grid.rows[start:end], breaks=grid.breaks if len(cuts) == 2 else ())
            parts.append(_table(own, f"{where}. {part.title}{more}.", f"tab:{part.key}{number}{mark}", notes))
            notes = f"Read as Table~\\ref{{tab:{part.key}{number}}}."
    return parts


def _beside(compared: Beside) -> list[str]:
    parts = []
    for number, protocol in enumerate(compared.protocols if compared.published else [], start=1):
        caption = beside.title(protocol).replace("`", "").replace("_", " ")
        said = " ".join(_ended(text) for text in (*beside.above(compared, protocol), *beside.below(compared, protocol)))
        parts += _pages(beside.grid(compared, protocol), caption, f"tab:published{number}", escape(said.replace("`", "")))
    return parts


def _pages(grid: Grid, caption: str, label: str, notes: str) -> list[str]:
    """A table of ``MOST`` rows at most, and as many that go on with it as it takes."""
    parts = []
    for start in range(0, len(grid.rows), MOST):
        part = replace(grid, rows=grid.rows[start : start + MOST])
        more, mark = (" (continued)", f"-{start // MOST + 1}") if start else ("", "")
        parts.append(_table(part, f"{caption}{more}.", label + mark, notes))
        notes = f"Read as Table~\\ref{{{label}}}." if notes else ""
    return parts


def _ended(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def escape(text: str) -> str:
    r"""Text that LaTeX prints as it is.

    >>> escape("calf[clamp=null] 5 % a_b")
    'calf{[}clamp=null{]} 5 \\% a\\_b'
    """
    # braces around brackets: one after \\ would be taken for an option
    return "".join({"[": "{[}", "]": "{]}"}.get(sign, ESCAPED.get(sign, sign)) for sign in text)


def _table(grid: Grid, caption: str, label: str, notes: str) -> str:
    """``notes``: LaTeX, the rest plain text."""
    columns = "l" * grid.num_text + "r" * (len(grid.header) - grid.num_text)
    lines = [" & ".join(escape(text) for text in grid.header), *(" & ".join(_cell(cell) for cell in row) for row in grid.rows)]
    head, *body = [f"  {line} \\\\" for line in lines]
    body = [line for place, row in enumerate(body) for line in ([r"  \midrule", row] if place in grid.breaks else [row])]
    return "\n".join(
        [
            r"\begin{table}[p]",
            r"\centering\small\setlength{\tabcolsep}{4pt}",
            f"\\caption{{{escape(caption)}}}",
            f"\\label{{{label}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            f"\\begin{{tabular}}{{{columns}}}",
            r"  \toprule",
            head,
            r"  \midrule",
            *body,
            r"  \bottomrule",
            r"\end{tabular}}",
            *([f"\\par\\smallskip\\begin{{minipage}}{{\\linewidth}}\\footnotesize {notes}\\end{{minipage}}"] if notes else []),
            r"\end{table}",
        ]
    )


def _cell(cell: Cell) -> str:
    text = "--" if cell.text == NOTHING else _number(cell.text)
    return (f"\\textbf{{{text}}}" if cell.best else text) + escape(cell.rest).replace("{[}-", "{[}$-$").replace(", -", ", $-$")


def _number(text: str) -> str:
    """Escaped, a leading minus as one and no hyphen."""
    return f"$-${text[1:]}" if text[:1] == "-" and text[1:2].isdigit() else escape(text)
