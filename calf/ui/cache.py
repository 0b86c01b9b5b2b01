"""Keeps what was loaded last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Cache:
    """What was asked for last, up to a number of bytes; safe to use from threads, which wait for a key that another one loads.

    Args:
        limit_bytes: beyond it what was not asked for the longest is dropped; the last that was loaded stays, however large.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._loading: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """Of everything that is kept."""
        return self._bytes

    def get(self, key: Hashable, load: Callable[[], T], size_bytes: Callable[[T], int]) -> T:
        """What ``load`` gave for this key, loaded now if it is not kept. What ``load`` raises is passed on, and not kept.

        The key has to change where the files behind it do.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            turn = self._loading.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                if key in self._kept:
                    return self._kept[key][0]
            try:
                value = load()
                self._keep(key, value, size_bytes(value))
            finally:
                with self._lock:
                    self._loading.pop(key, None)
        return value

    def _keep(self, key: Hashable, value: Any, size: int) -> None:
        with self._lock:
            self._kept[key] = value, size
            self._bytes += size
            while self._bytes > self.limit_bytes and len(self._kept) > 1:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._bytes -= dropped
