"""What the pages that draw share: a card with a heading, a chart, a sentence, an address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlencode

from nicegui import events, run, ui

from calf.report.volumes import Unreadable

DIM = "text-sm opacity-75"
P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What it gives, computed while other browsers are served.

    The function must not give None: that is what NiceGUI gives instead while the server is ending, which raises
    :class:`Unreadable`.
    """
    found = await run.io_bound(function, *args, **kwargs)
    if found is None:
        raise Unreadable("the server is ending")
    return found


def card(title: str) -> ui.card:
    """A card with a heading, as a region that screen readers know by its name."""
    with ui.card().classes("w-full gap-2 min-w-0") as shown:
        shown.props["role"] = "region"
        shown.props["aria-label"] = title
        ui.label(title).classes("text-base font-bold").props("role=heading aria-level=2")
    return shown


def plot(key: str, option: dict[str, Any], alt: str, height: int = 320, click: Callable[[Any], None] | None = None) -> ui.echart:
    """A chart; ``click`` is told the data of a point. ``key`` names it on the page, ``alt`` for who cannot see it."""

    def clicked(event: events.EChartPointClickEventArguments) -> None:
        if click is not None and isinstance(event.data, dict):
            click(event.data)

    chart = ui.echart(option, on_point_click=clicked, renderer="svg").classes("w-full").style(f"height: {height}px")
    chart.props["role"], chart.props["aria-label"], chart.props["data-chart"] = "img", alt, key
    return chart


def replace(chart: ui.echart, option: Mapping[str, Any]) -> None:
    """Draw something else in a chart that is there."""
    chart.options.clear()
    chart.options.update(option)
    chart.update()


def note(text: str) -> ui.label:
    return ui.label(text).classes(DIM)


def problem(text: str) -> ui.label:
    """Why something is not shown."""
    return ui.label(text).props("role=alert")


def keep_address(path: str, state: Mapping[str, str | None]) -> None:
    """Write what is shown into the browser's address, so that it can be kept, shared and reloaded."""
    query = urlencode({key: value for key, value in state.items() if value}, safe=",")
    ui.navigate.history.replace(path + (f"?{query}" if query else ""))
