from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure as Plot
from PIL import Image

from calf.page import INK, STYLE, Facts, Figure, Page, Points, Row, Section, Table, Text, picture, plot

VOID = {"meta", "img", "br"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed but not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def drawn(label: str = "area") -> Figure:
    with rc_context(STYLE):
        figure = Plot(figsize=(2, 1))
        figure.add_subplot().plot([1, 3], label=label)
        figure.axes[0].set_xlabel(label)
    return plot(figure, f"alt of {label}", "caption")


def page(*blocks: object) -> str:
    return Page("title <t>", "lead & more", [Section("one", blocks)]).html()  # type: ignore[arg-type]


def test_every_kind_of_block_is_shown_and_tags_are_balanced():
    html = page(
        Text("a paragraph"),
        Facts([("41", "slices")]),
        Points([("says", "means", "basis")]),
        Table(["name", "number"], [["a", "1"]], folded="all"),
        drawn(),
        Row([drawn(), picture(Image.new("L", (3, 2)), "black", "a picture")]),
    )
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    for text in ("a paragraph", "41", "slices", "says", "means", "basis", '<td class="w">a</td>', "<summary>all", "a picture"):
        assert text in html
    assert html.count("<figure>") == 3


def test_whatever_comes_from_data_is_escaped():
    bad = '<script>"&'
    html = page(
        Text(bad),
        Facts([(bad, bad)]),
        Points([(bad, bad, bad)]),
        Table([bad], [[bad]], folded=bad),
        drawn(bad),
        picture(Image.new("L", (1, 1)), bad, bad),
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 12
    assert "<t>" not in html


def test_nothing_is_fetched_from_anywhere():
    html = page(drawn(), picture(Image.new("L", (3, 2)), "alt", "caption"))
    assert re.findall(r"""(?:src|href)=["'](?!data:image/png;base64,|#)[^"']*""", html) == []
    assert not re.search(r"@import|url\((?!#)|<link|<script", html)


def test_a_plot_takes_the_colour_of_the_text_and_the_same_plot_the_same_bytes():
    figure = drawn()
    assert "currentColor" in figure.content
    assert INK not in figure.content
    assert drawn().content == figure.content
    assert 'aria-label="alt of area"' in figure.content
    assert "area</text>" in figure.content  # text that can be searched and copied


def test_two_plots_of_a_page_do_not_share_an_id_for_different_things():
    ids = {}
    for figure in (drawn("one"), drawn("two")):
        for tag, name in re.findall(r'<(\w+) id="([^"]+)"', figure.content):
            assert tag != "g"
            content = figure.content.split(f'id="{name}"')[1].split("/>")[0]
            assert ids.setdefault(name, content) == content


def test_a_dollar_in_a_name_is_a_dollar():
    assert "$x_1$" in drawn("$x_1$").content


def test_a_picture_keeps_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    content = picture(Image.fromarray(pixels), "alt", "").content
    data = re.search(r"base64,([^\"]+)", content)
    assert data is not None
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data[1])))), pixels)


def test_a_row_of_another_length_than_its_header_is_refused():
    with pytest.raises(ValueError, match="expected rows of 2 cells"):
        Table(["a", "b"], [["1", "2"], ["1"]])


def test_light_and_dark_are_both_there():
    assert "prefers-color-scheme: dark" in page()
    assert "color-scheme: light dark" in page()
