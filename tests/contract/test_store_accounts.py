"""Workers, tokens and remembered answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from taskyard.wire import WorkerState
from taskyard_server.errors import Conflict, NotFound
from taskyard_server.store.base import Answer, Store, TokenRecord, WorkerRecord

from tests.contract.conftest import Backend
from tests.support.records import new_id, token, worker


async def test_a_worker_is_made_then_changed(store: Store) -> None:
    seen: list[WorkerRecord | None] = []

    def busy(record: WorkerRecord | None) -> WorkerRecord:
        seen.append(record)
        return replace(worker("host:gpu0"), token="token" if record is None else "another")

    first = await store.save_worker("host:gpu0", busy)
    second = await store.save_worker("host:gpu0", busy)

    assert first.token == "token"
    assert seen[-1] == first
    assert await store.worker("host:gpu0") == second


async def test_no_change_to_a_worker_is_lost(store: Store) -> None:
    def count(record: WorkerRecord | None) -> WorkerRecord:
        held = record or worker("w")
        return replace(held, worker=replace(held.worker, completed=held.worker.completed + 1))

    await asyncio.gather(*(store.save_worker("w", count) for _ in range(20)))

    assert (await store.worker("w")).worker.completed == 20


async def test_workers_are_listed_by_name_and_deleted(store: Store) -> None:
    for name in ("b ☃", "a.$x", "c"):
        await store.save_worker(name, lambda record, name=name: worker(name))  # type: ignore[misc]

    await store.delete_worker("c")

    assert [record.worker.name for record in await store.workers()] == ["a.$x", "b ☃"]


async def test_a_worker_that_does_not_exist_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.worker("nobody")
    with pytest.raises(NotFound):
        await store.delete_worker("nobody")


async def test_what_refuses_a_worker_leaves_it_as_it_was(store: Store) -> None:
    await store.save_worker("w", lambda record: worker("w"))

    def refuse(record: WorkerRecord | None) -> WorkerRecord:
        raise Conflict("another machine")

    with pytest.raises(Conflict, match="another machine"):
        await store.save_worker("w", refuse)
    assert (await store.worker("w")).worker.state is WorkerState.IDLE


async def test_a_token_is_found_by_its_hash_also_when_revoked(store: Store) -> None:
    record = token()
    await store.add_token(record)
    await store.update_token(record.id, lambda held: replace(held, revoked=True))

    assert await store.token_by_hash(record.hash) == replace(record, revoked=True)
    assert await store.token_by_hash(new_id()) is None


async def test_tokens_are_listed_newest_first_and_deleted(store: Store) -> None:
    tokens = [token(created_at=float(at)) for at in range(3)]
    for record in tokens:
        await store.add_token(record)

    await store.delete_token(tokens[1].id)

    assert await store.tokens() == [tokens[2], tokens[0]]
    assert await store.token_by_hash(tokens[1].hash) is None


async def test_a_token_is_added_once_and_must_exist_to_be_changed(store: Store) -> None:
    record = token()
    await store.add_token(record)

    with pytest.raises(Conflict):
        await store.add_token(record)
    with pytest.raises(NotFound):
        await store.update_token(new_id(), lambda held: held)
    with pytest.raises(NotFound):
        await store.delete_token(new_id())


async def test_a_code_is_used_once_however_many_try(store: Store) -> None:
    code = replace(token(), invitation=True)
    await store.add_token(code)

    def use(held: TokenRecord) -> TokenRecord:
        if held.revoked:
            raise Conflict("used before")
        return replace(held, revoked=True)

    used = await asyncio.gather(*(store.update_token(code.id, use) for _ in range(10)), return_exceptions=True)

    assert sum(isinstance(error, Conflict) for error in used) == 9


async def test_the_first_answer_of_a_key_stays(store: Store) -> None:
    first = Answer(key="token key", request_hash="a", status=200, body=b"\x00first", at=1.0)

    await store.remember(first)
    await store.remember(replace(first, body=b"second", status=500))

    assert await store.answer(first.key) == first
    assert await store.answer("another key") is None


async def test_old_answers_are_forgotten(store: Store) -> None:
    old = Answer(key="old", request_hash="a", status=200, body=b"", at=1.0)
    new = replace(old, key="new", at=2.0)
    for answer in (old, new):
        await store.remember(answer)

    await store.forget_answers(2.0)

    assert await store.answer("old") is None
    assert await store.answer("new") == new


async def test_two_last_administrators_cannot_end_each_other(backend: Backend, store: Store) -> None:
    tokens = [token("ada"), token("bob")]
    for record in tokens:
        await store.add_token(record)

    def revoke(record: TokenRecord, every: Sequence[TokenRecord]) -> TokenRecord:
        if all(one.revoked for one in every if one.id != record.id):
            raise Conflict("the last one")
        return replace(record, revoked=True)

    async with elsewhere(backend, store) as other:
        outcomes = await asyncio.gather(
            store.update_token_among(tokens[0].id, revoke),
            other.update_token_among(tokens[1].id, revoke),
            return_exceptions=True,
        )

    assert [type(outcome) for outcome in outcomes].count(Conflict) == 1
    assert [record.revoked for record in await store.tokens()].count(False) == 1


@asynccontextmanager
async def elsewhere(backend: Backend, store: Store) -> AsyncIterator[Store]:
    """The store of a second server, where a store can have one."""
    if backend.url.startswith("sqlite"):
        yield store
        return
    second = backend.stores()
    await second.open()
    yield second.store
    await second.close()
