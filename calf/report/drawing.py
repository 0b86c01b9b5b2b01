"""What the figures of a report share: a figure with its words, the colours of losses, and the order of rows."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot

from calf.metrics.scores import LOWER_IS_BETTER
from calf.page import COLOURS, INK, STYLE, Figure, plot
from calf.report.findings import Block, Row

WIDTH = 4.9
COLUMNS = 3
ROW = 0.21  # inches a row of a figure with one row a loss
DPI = 200
MANY = 2000  # points from which on they are a picture within the figure: a page of 100,000 shapes does not open
LETTER = 0.06  # inches a letter of a legend takes
ROOM = 0.7  # inches that a legend has in any figure
LONGEST = 150  # bytes of a figure's name; file systems take 255 with the ending
SHADES = ("blue", "vermilion", "green", "orange", "purple", "sky")


@dataclass(frozen=True)
class Drawn:
    """A figure under the name of its files, with what it shows in words and the text under it."""

    name: str
    figure: Plot
    alt: str
    caption: str

    def __post_init__(self) -> None:
        # laid out once, and not anew for every format it is drawn in
        with rc_context(STYLE):
            self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")

    @property
    def wide(self) -> bool:
        """Whether it needs the width of a page."""
        return bool(self.figure.get_figwidth() > 1.2 * WIDTH)

    def embedded(self) -> Figure:
        """For the page."""
        return plot(self.figure, self.alt, self.caption)

    def write(self, folder: Path) -> None:
        """As ``<name>.pdf`` for a manuscript and ``<name>.png`` for everything else, black on white."""
        folder.mkdir(parents=True, exist_ok=True)
        with rc_context(STYLE | {"pdf.fonttype": 42}):
            self.figure.savefig(folder / f"{self.name}.pdf", bbox_inches="tight", metadata={"CreationDate": None})
            self.figure.savefig(folder / f"{self.name}.png", bbox_inches="tight", dpi=DPI, facecolor="white")


def axes(height: float, width: float = WIDTH) -> tuple[Plot, Axes]:
    """A figure of this height in inches with one set of axes; to be called within ``rc_context(STYLE)``."""
    figure = Plot(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot(facecolor="none")


def panels(number: int, width: float, height: float) -> tuple[Plot, list[Axes]]:
    """A figure of so many axes of this size in inches, ``COLUMNS`` beside each other, with one scale upwards."""
    columns = min(number, COLUMNS)
    rows = math.ceil(number / columns)
    figure = Plot(figsize=(width * columns + 0.3, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True, subplot_kw={"facecolor": "none"}).ravel()
    for spare in grid[number:]:
        spare.remove()
    return figure, list(grid[:number])


def legend(figure: Plot, plane: Axes, colours: dict[str, str], others: bool) -> None:
    """The losses by their colours, beside the axes, for which the figure grows as wide as a long name needs."""
    figure.set_figwidth(figure.get_figwidth() + max(0.0, LETTER * max(map(len, colours), default=0) - ROOM))
    handles = [plane.plot([], [], color=colour, lw=1.6, label=loss)[0] for loss, colour in colours.items()]
    if others:
        handles += plane.plot([], [], color=COLOURS["grey"], lw=0.8, label="other losses")
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, handlelength=1.2)


def ordered(block: Block) -> list[Row]:
    """The rows with a mean in the declared metric: by model, then from the best to the worst."""
    own = block.summary[(block.summary["metric"] == block.metric) & block.summary["mean"].notna()]
    sign = 1 if block.metric in LOWER_IS_BETTER else -1
    order = own.assign(key=sign * own["mean"]).sort_values(["model", "key", "loss"])
    return [(str(model), str(loss)) for model, loss in zip(order["model"], order["loss"], strict=True)]


def shades(block: Block) -> dict[str, str]:
    """A colour for the baseline, that of the text, and for the best of the other losses; the rest are grey, and not in it."""
    own = block.summary[block.summary["metric"] == block.metric].groupby("loss")["mean"].mean().dropna()
    best_first = own.sort_values(ascending=block.metric in LOWER_IS_BETTER, kind="stable").index
    others = [str(loss) for loss in best_first if loss != block.baseline]
    chosen = {loss: COLOURS[shade] for loss, shade in zip(others, SHADES, strict=False)}
    return ({block.baseline: INK} if block.baseline is not None else {}) | chosen


def names(rows: list[Row]) -> list[str]:
    """The loss alone where there is one model."""
    return [loss if len({model for model, _ in rows}) == 1 else f"{model} / {loss}" for model, loss in rows]


def spread(number: int, width: float = 0.5) -> npt.NDArray[np.float64]:
    """Offsets that keep equal points apart, the same every time."""
    return np.asarray((np.arange(number) * 0.618034 % 1 - 0.5) * width, np.float64)


def slug(*parts: str) -> str:
    """Parts of a file's name; one that is too long for a file system is cut, and told from others by a digest."""
    whole = "-".join("".join(sign if sign.isalnum() or sign in "_.=" else "-" for sign in part).strip("-") for part in parts)
    if len(whole.encode()) <= LONGEST:
        return whole
    return f"{whole.encode()[:LONGEST].decode(errors='ignore')}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
