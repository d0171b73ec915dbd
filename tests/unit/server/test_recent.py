"""Caches of bounded size."""

from __future__ import annotations

import re
from pathlib import Path

import taskyard_server
from taskyard_server.recent import Recent


def test_full_cache_forgets_what_was_used_longest_ago() -> None:
    cache: Recent[str, int] = Recent(3)
    for name, number in [("a", 1), ("b", 2), ("c", 3)]:
        cache[name] = number
    assert cache.get("a") == 1

    cache["d"] = 4

    assert [name for name in "abcd" if name in cache] == ["a", "c", "d"]
    assert len(cache) == 3
    assert cache.get("b") is None


def test_no_cache_of_the_server_forgets_everything_when_it_is_full() -> None:
    full = re.compile(r"if len\(self\.\w+\) >= [\w.]+:\s+self\.\w+\.clear\(\)")
    sources = Path(taskyard_server.__file__).parent.rglob("*.py")

    assert [path.name for path in sources if full.search(path.read_text())] == []
