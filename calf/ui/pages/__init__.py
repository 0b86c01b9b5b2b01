"""The pages of the explorer. A page is a module ``calf/ui/pages/<name>.py`` whose name stands in ``PAGES``, with

* ``PATH``: where it is, such as ``/compare``; ``TITLE``: its name in the navigation;
* ``build(explorer, query)``: fills the page for one browser, with NiceGUI's elements; ``async def`` if it waits for something.
  ``query`` is what stands in the address after the question mark: ``/compare?case=ID&runs=ID,ID``. Ids in it are looked up
  with ``explorer.library``, which raises ``Unknown``; the frame then shows its sentence, as that of ``Unreadable``;
* ``router(explorer)``, where it needs routes of its own: a FastAPI ``APIRouter``, included below ``/api``;
* ``RECONNECT_S``, where a browser that is not heard of should be waited for longer than NiceGUI's 3 seconds.

The frame (navigation, light and dark) is :mod:`calf.ui.app`'s. Whatever reads files or computes runs in a thread:
``await nicegui.run.io_bound(case.load)``. Pictures of slices are ``/api/cases/CASE/slice`` (:mod:`calf.ui.server`). Nothing
may be loaded from another host; the browser refuses it.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Mapping
from typing import Protocol, cast

from fastapi import APIRouter

from calf.ui.server import Explorer

PAGES = ("runs", "compare", "cases", "analysis", "volume", "try_it")  # in the order of the navigation


class Page(Protocol):
    """What a page's module has; ``router`` may be missing."""

    PATH: str
    TITLE: str

    def build(self, explorer: Explorer, query: Mapping[str, str]) -> Awaitable[None] | None: ...


def pages() -> list[Page]:
    """The modules of ``PAGES``."""
    return [cast(Page, importlib.import_module(f"calf.ui.pages.{name}")) for name in PAGES]


def routers(explorer: Explorer) -> list[APIRouter]:
    """The routes that pages bring along."""
    return [page.router(explorer) for page in pages() if hasattr(page, "router")]
