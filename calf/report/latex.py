"""Writes the tables for a manuscript: LaTeX with booktabs, to be included with ``\\input``."""

from __future__ import annotations

from calf.report import words
from calf.report.findings import Findings
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
    return "\n\n".join(parts) + "\n"


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
    return "\n".join(
        [
            r"\begin{table}[p]",
            r"\centering\small",
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
            f"\\par\\smallskip\\begin{{minipage}}{{\\linewidth}}\\footnotesize {notes}\\end{{minipage}}",
            r"\end{table}",
        ]
    )


def _cell(cell: Cell) -> str:
    text = "--" if cell.text == NOTHING else _number(cell.text)
    return (f"\\textbf{{{text}}}" if cell.best else text) + escape(cell.rest).replace("{[}-", "{[}$-$").replace(", -", ", $-$")


def _number(text: str) -> str:
    """Escaped, a leading minus as one and no hyphen."""
    return f"$-${text[1:]}" if text[:1] == "-" and text[1:2].isdigit() else escape(text)
