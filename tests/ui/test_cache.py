from __future__ import annotations

import threading

import pytest

from calf.ui.cache import Cache


def test_the_oldest_is_dropped_beyond_the_limit():
    cache, loaded = Cache(10), []

    def get(key: str, size: int) -> str:
        return cache.get(key, lambda: loaded.append(key) or key, lambda _: size)

    for key, size in (("a", 4), ("b", 4), ("a", 4), ("c", 4), ("a", 4), ("b", 4)):
        assert get(key, size) == key
    assert loaded == ["a", "b", "c", "b"]
    assert cache.size_bytes == 8
    get("large", 100)
    assert cache.size_bytes == 100
    get("a", 4)
    assert cache.size_bytes == 4


def test_threads_wait_for_one_that_loads():
    cache, loads, begun, go = Cache(10), [], threading.Event(), threading.Event()

    def load() -> int:
        loads.append(1)
        begun.set()
        assert go.wait(30)
        return 7

    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get("k", load, lambda _: 1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    go.set()
    for thread in threads:
        thread.join()
    assert (found, len(loads)) == ([7] * 4, 1)


def test_what_fails_is_tried_again():
    cache = Cache(10)
    with pytest.raises(ZeroDivisionError):
        cache.get("k", lambda: 1 / 0, lambda _: 1)
    assert cache.get("k", lambda: 3, lambda _: 1) == 3
