"""Each restore begins another generation of a store, which recovers until it is resumed."""

from __future__ import annotations

from taskyard_server.store.base import Generation, Store


async def test_a_store_that_was_never_restored_is_the_first_generation(store: Store) -> None:
    assert await store.generation() == Generation()
    assert not (await store.resume_generation(5.0)).recovering
    assert (await store.generation()).number == 1


async def test_a_restored_store_recovers_until_it_is_resumed(store: Store) -> None:
    begun = await store.begin_generation(copied_at=100.0, now=200.0)

    assert (begun.number, begun.copied_at, begun.restored_at) == (200, 100.0, 200.0)
    assert begun.recovering
    assert await store.generation() == begun
    resumed = await store.resume_generation(300.0)
    assert (resumed.resumed_at, resumed.recovering) == (300.0, False)
    assert (await store.resume_generation(400.0)).resumed_at == 300.0


async def test_no_two_restores_are_the_same_generation(store: Store) -> None:
    first = await store.begin_generation(copied_at=100.0, now=200.0)
    await store.resume_generation(201.0)

    second = await store.begin_generation(copied_at=100.0, now=200.0)

    assert second.number > first.number
    assert second.recovering
