"""Pages that are one file: HTML with its style and its figures inside, which opens from disk and needs no network.

A page is a :class:`Page` of :class:`Section` of blocks. Everything is escaped but what this module draws itself. Figures take
the colour of the page's text wherever they are drawn in ``INK``, so that they can be read on light and on dark screens.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from calf.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot
    from PIL.Image import Image

#: What a plot draws in this colour has that of the page's text.
INK = "#010203"
#: Okabe and Ito's colours but for black and yellow: told apart by colour-blind readers, visible on white and on black.
COLOURS = {
    "blue": "#0072b2",
    "sky": "#56b4e9",
    "green": "#009e73",
    "orange": "#e69f00",
    "vermilion": "#d55e00",
    "purple": "#cc79a7",
    "grey": "#8a8a8a",
}
#: Of CALF's branches; the two log branches, of one family, are two blues.
BRANCH_COLOURS = {
    "fisher": COLOURS["vermilion"],
    "logit": COLOURS["orange"],
    "arcsine": COLOURS["purple"],
    "ln": COLOURS["blue"],
    "log10": COLOURS["sky"],
    "bce_dice": COLOURS["green"],
}
#: For ``matplotlib.rc_context``: text stays text, names with dollars stay names, and the same numbers give the same bytes.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "calf",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Text:
    """A paragraph; ``small`` for what explains."""

    text: str
    small: bool = False
    kind: str = "text"


@dataclass(frozen=True)
class Facts:
    """Numbers in large type, each with what it is."""

    facts: Sequence[tuple[str, str]]
    kind: str = "facts"


@dataclass(frozen=True)
class Points:
    """A list; each entry a statement, what it means and, in small type, what it rests on."""

    points: Sequence[tuple[str, str, str]]
    kind: str = "points"


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first ``num_text`` columns are words, the others numbers, set to the right.

    ``folded``: under a line to click, with this text.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_text: int = 1
    folded: str | None = None
    kind: str = "table"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"expected rows of {len(self.header)} cells, {list(self.header)}, got {list(row)}")


@dataclass(frozen=True)
class Figure:
    """A plot or a picture, with a caption and, for who cannot see it, what it shows."""

    content: Markup
    caption: str
    kind: str = "figure"


@dataclass(frozen=True)
class Row:
    """Figures side by side, as many as there is room for."""

    figures: Sequence[Figure]
    kind: str = "row"


Block = Text | Facts | Points | Table | Figure | Row


@dataclass(frozen=True)
class Section:
    """A heading and what is under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A title, a line under it, and sections."""

    title: str
    lead: str
    sections: Sequence[Section] = field(default_factory=tuple)

    def html(self) -> str:
        """The page as one self-contained document."""
        return _TEMPLATE.render(page=self)

    def write(self, path: Path) -> None:
        """Write the page; a reader sees the old one or the new one, never a part."""
        write_text(path, self.html())


def plot(figure: Plot, alt: str, caption: str) -> Figure:
    """A matplotlib figure, made within ``rc_context(STYLE)``, as SVG in the page.

    Args:
        alt: what it shows, in words, for who cannot see it.
        caption: the text under it.
    """
    import matplotlib

    text = StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the ids of groups are the same in every figure, and nothing refers to them
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    return Figure(Markup(svg), caption)


def picture(image: Image, alt: str, caption: str) -> Figure:
    """A raster picture as PNG in the page."""
    content = BytesIO()
    image.save(content, "png", optimize=True)
    data = base64.b64encode(content.getvalue()).decode()
    return Figure(
        Markup('<img alt="{}" width="{}" height="{}" src="data:image/png;base64,{}">').format(
            alt, image.width, image.height, data
        ),
        caption,
    )


_CSS = """
:root { color-scheme: light dark;
  --ink: #1b1f24; --dim: #5b646e; --paper: #ffffff; --line: #d7dce1; --tint: #f3f5f7; --mark: #0072b2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --dim: #9aa5b0; --paper: #15191d; --line: #353c44; --tint: #1e2429; --mark: #56b4e9 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 80rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line) }
p { margin: .5rem 0; max-width: 50rem }
.lead, .small, figcaption, .from { color: var(--dim) }
.lead { overflow-wrap: anywhere }
.small, figcaption, .from { font-size: .87rem }
nav { display: flex; flex-wrap: wrap; gap: 0 1rem; margin: .8rem 0; font-size: .9rem }
nav a { color: var(--mark) }
.facts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; padding: 0; list-style: none }
.facts li { background: var(--tint); border-radius: 6px; padding: .5rem .9rem; min-width: 8rem }
.facts b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums }
.facts span { color: var(--dim); font-size: .87rem }
ul.points { padding: 0; list-style: none; max-width: 56rem }
ul.points li { border-left: 3px solid var(--mark); padding: .1rem 0 .1rem .9rem; margin: .9rem 0 }
.from { display: block }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: .8rem 0; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .55rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top }
td { white-space: nowrap }
td.w { white-space: normal }
th { color: var(--dim); font-weight: 600; vertical-align: bottom }
.w { text-align: left }
details { margin: .8rem 0 }
summary { cursor: pointer; color: var(--mark) }
.row { display: flex; flex-wrap: wrap; gap: 1.2rem 2rem; align-items: flex-start }
figure { margin: .8rem 0; max-width: 100% }
.row figure { max-width: 32rem }
figcaption { max-width: 50rem; margin-top: .3rem }
svg, img { display: block; max-width: 100%; height: auto }
img { background: #000 }
"""

_HTML = """{% macro drawn(figure) -%}
<figure>{{ figure.content }}<figcaption>{{ figure.caption }}</figcaption></figure>
{%- endmacro -%}
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ page.title }}</title><style>{{ css }}</style></head>
<body>
<header><h1>{{ page.title }}</h1><p class="lead">{{ page.lead }}</p>
<nav>{% for section in page.sections %}<a href="#s{{ loop.index }}">{{ section.title }}</a>{% endfor %}</nav></header>
{% for section in page.sections %}
<section id="s{{ loop.index }}"><h2>{{ section.title }}</h2>
{% for block in section.blocks %}
{% if block.kind == "text" %}<p{% if block.small %} class="small"{% endif %}>{{ block.text }}</p>
{% elif block.kind == "facts" %}<ul class="facts">{% for number, what in block.facts %}
<li><b>{{ number }}</b><span>{{ what }}</span></li>{% endfor %}</ul>
{% elif block.kind == "points" %}<ul class="points">{% for statement, meaning, basis in block.points %}
<li><b>{{ statement }}</b> {{ meaning }} <span class="from">{{ basis }}</span></li>{% endfor %}</ul>
{% elif block.kind == "table" %}
{% if block.folded %}<details><summary>{{ block.folded }}</summary>{% endif %}
<div class="scroll"><table><thead><tr>{% for cell in block.header %}
<th{% if loop.index <= block.num_text %} class="w"{% endif %}>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in block.rows %}<tr>{% for cell in row -%}
<td{% if loop.index <= block.num_text %} class="w"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% if block.folded %}</details>{% endif %}
{% elif block.kind == "figure" %}{{ drawn(block) }}
{% elif block.kind == "row" %}<div class="row">{% for figure in block.figures %}{{ drawn(figure) }}{% endfor %}</div>
{% endif %}
{% endfor %}
</section>
{% endfor %}
</body>
</html>
"""

_ENVIRONMENT = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.globals["css"] = Markup(_CSS)
_TEMPLATE = _ENVIRONMENT.from_string(_HTML)
