"""Hosts that rest, on every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from taskyard_server.store.base import RestRecord, Store

HOST = "git.example.org:8443"


def rest(target: str = HOST) -> RestRecord:
    return RestRecord(target=target, since=1.0, failed_at=2.0, until=7.0, failures=1, workers=("a", "b"))


async def test_a_rest_is_kept_changed_and_forgotten(store: Store) -> None:
    kept = await store.save_rest(HOST, lambda _: rest())
    changed = await store.save_rest(HOST, lambda known: replace(known or rest("other"), failures=2))
    await store.save_rest("a.org", lambda _: rest("a.org"))

    assert (kept, changed) == (rest(), replace(rest(), failures=2))
    assert await store.rests() == [rest("a.org"), changed]

    await store.delete_rest(HOST)
    await store.delete_rest(HOST)

    assert await store.rests() == [rest("a.org")]


async def test_changes_of_one_rest_at_once_all_count(store: Store) -> None:
    await store.save_rest(HOST, lambda _: rest())

    def further(known: RestRecord | None) -> RestRecord:
        assert known is not None
        return replace(known, failures=known.failures + 1)

    await asyncio.gather(*(store.save_rest(HOST, further) for _ in range(20)))

    assert (await store.rests())[0].failures == 21
