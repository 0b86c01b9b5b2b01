"""Writes the tables for a manuscript: LaTeX with booktabs, to be included with ``\\input``."""

from __future__ import annotations

from calf.report import words
from calf.report.findings import Block, Findings
from calf.report.grids import NOTHING, Cell, Grid, comparisons, rested_on, scores

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


def latex(found: Findings) -> str:
    """One table of scores and one of comparisons for each protocol, data set and class, with their notes under them."""
    parts = [HEAD]
    for number, block in enumerate(found.blocks, start=1):
        where = f"{block.dataset}: {block.name} ({block.protocol.replace('_', ' ')})"
        notes = [f"{rested_on(block)}.", words.SCORES, words.marked(block), _rule(block)]
        parts.append(_table(scores(block, block.main_metrics), f"{where}.", f"scores{number}", notes))
        if block.baseline is not None:
            notes = [words.TEST, *words.caveats(block)]
            parts.append(_table(comparisons(block), f"{where}, against {block.baseline}.", f"comparisons{number}", notes))
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    r"""Text that LaTeX prints as it is.

    >>> escape("calf[clamp=null] 5 % a_b")
    'calf{[}clamp=null{]} 5 \\% a\\_b'
    """
    # braces around brackets: one after \\ would be taken for an option
    return "".join({"[": "{[}", "]": "{]}"}.get(sign, ESCAPED.get(sign, sign)) for sign in text)


def _rule(block: Block) -> str:
    return (words.PER_CASE if block.per_case else words.POOLED).replace("`", "")


def _table(grid: Grid, caption: str, label: str, notes: list[str]) -> str:
    columns = "l" * grid.num_text + "r" * (len(grid.header) - grid.num_text)
    lines = [" & ".join(escape(text) for text in grid.header), *(" & ".join(_cell(cell) for cell in row) for row in grid.rows)]
    head, *body = [f"  {line} \\\\" for line in lines]
    return "\n".join(
        [
            r"\begin{table}[p]",
            r"\centering\small",
            f"\\caption{{{escape(caption)}}}",
            f"\\label{{tab:{label}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            f"\\begin{{tabular}}{{{columns}}}",
            r"  \toprule",
            head,
            r"  \midrule",
            *body,
            r"  \bottomrule",
            r"\end{tabular}}",
            f"\\par\\smallskip\\begin{{minipage}}{{\\linewidth}}\\footnotesize {escape(' '.join(notes))}\\end{{minipage}}",
            r"\end{table}",
        ]
    )


def _cell(cell: Cell) -> str:
    text = "--" if cell.text == NOTHING else _number(cell.text)
    return (f"\\textbf{{{text}}}" if cell.best else text) + escape(cell.rest).replace("{[}-", "{[}$-$").replace(", -", ", $-$")


def _number(text: str) -> str:
    """Escaped, a leading minus as one and no hyphen."""
    return f"$-${text[1:]}" if text[:1] == "-" and text[1:2].isdigit() else escape(text)
