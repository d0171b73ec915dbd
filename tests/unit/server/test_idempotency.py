"""Answers once per key, on a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from taskyard_server.errors import Conflict, Invalid
from taskyard_server.idempotency import KEEP_SECONDS, Repeats, Reply
from taskyard_server.store.sqlite import SqliteStore


class Action:
    """Counts how often it is done."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> Reply:
        self.times += 1
        await asyncio.sleep(0)
        return Reply(status=200, body=b"answer %d" % self.times)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "control.db")
    await store.open()
    yield store
    await store.close()


async def test_repeat_is_given_the_first_answer_also_by_another_process(store: SqliteStore) -> None:
    act = Action()
    first = await Repeats(store, lambda: 0.0).once("k", "h", act, secret=False)

    second = await Repeats(store, lambda: 0.0).once("k", "h", act, secret=False)

    assert (second, act.times) == (first, 1)


async def test_concurrent_repeats_wait_for_the_first(store: SqliteStore) -> None:
    act, repeats = Action(), Repeats(store, lambda: 0.0)

    replies = await asyncio.gather(*(repeats.once("k", "h", act, secret=False) for _ in range(10)))

    assert act.times == 1
    assert {reply.body for reply in replies} == {b"answer 1"}


async def test_key_of_another_request_is_refused(store: SqliteStore) -> None:
    repeats = Repeats(store, lambda: 0.0)
    await repeats.once("k", "h", Action(), secret=False)

    with pytest.raises(Invalid, match="another request"):
        await repeats.once("k", "other", Action(), secret=False)


async def test_refused_request_may_be_tried_again(store: SqliteStore) -> None:
    async def refuse() -> Reply:
        raise Conflict("not now")

    repeats = Repeats(store, lambda: 0.0)
    with pytest.raises(Conflict):
        await repeats.once("k", "h", refuse, secret=False)

    assert (await repeats.once("k", "h", Action(), secret=False)).status == 200


async def test_answer_is_forgotten_after_a_day(store: SqliteStore) -> None:
    act = Action()
    await Repeats(store, lambda: 0.0).once("k", "h", act, secret=False)

    await Repeats(store, lambda: KEEP_SECONDS).once("k", "h", act, secret=False)

    assert act.times == 2


async def test_secret_answer_is_repeated_from_memory_and_never_stored(store: SqliteStore, tmp_path: Path) -> None:
    act, repeats = Action(), Repeats(store, lambda: 0.0)
    await repeats.once("k", "h", act, secret=True)

    await repeats.once("k", "h", act, secret=True)

    assert act.times == 1
    assert await store.answer("k") is None
