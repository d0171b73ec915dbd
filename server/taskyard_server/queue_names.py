"""Which queue is meant by an id or a name. Inside the server it is the id: a queue may be renamed at any time."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from taskyard.wire import Worker, WorkerReport

from taskyard_server.errors import NotFound
from taskyard_server.names import is_id, normalised
from taskyard_server.store.base import QueueRecord, Store

T = TypeVar("T")


async def find_queue(store: Store, ref: str) -> QueueRecord:
    """Finds a queue by id or name. Raises NotFound naming the nearest ones."""
    record = await _look_up(store, ref)
    if record is None:
        raise NotFound(_unknown(ref, [queue.name for queue in await store.queues()]))
    return record


async def known_queues(store: Store, refs: Iterable[str]) -> dict[str, QueueRecord]:
    """By id or name as given, in that order; what names no queue (any more) is left out."""
    found = {ref: await _look_up(store, ref) for ref in dict.fromkeys(refs)}
    return {ref: queue for ref, queue in found.items() if queue is not None}


async def by_queue_id(store: Store, given: Mapping[str, T]) -> dict[str, T]:
    """What was given for each queue, by its id; what names no queue (any more) is left out."""
    return {queue.id: given[ref] for ref, queue in (await known_queues(store, given)).items()}


async def queue_names(store: Store) -> dict[str, str]:
    """Id → what the queue is called now."""
    return {queue.id: queue.name for queue in await store.queues()}


def named(queues: Iterable[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """Queues as people know them; what is no queue's id (any more) stays as it is."""
    return tuple(names.get(queue, queue) for queue in queues)


async def report_by_ids(store: Store, report: WorkerReport) -> WorkerReport:
    """What an agent says of its worker, with the ids of the queues; a queue that is none stays as it is."""
    known = await known_queues(store, report.queues)
    queues = (known[ref].id if ref in known else normalised(ref) for ref in report.queues)
    return replace(
        report, queues=tuple(dict.fromkeys(queues)), queue_gpus=await by_queue_id(store, report.queue_gpus)
    )


def worker_by_names(worker: Worker, names: Mapping[str, str]) -> Worker:
    """The worker as people see it."""
    given = {names.get(queue, queue): gpus for queue, gpus in worker.queue_gpus.items()}
    return replace(worker, queues=named(worker.queues, names), queue_gpus=given)


async def _look_up(store: Store, ref: str) -> QueueRecord | None:
    if is_id(ref):
        try:
            return await store.queue(ref)
        except NotFound:
            pass  # a name may look like an id
    return await store.queue_named(normalised(ref))


def _unknown(ref: str, names: Sequence[str]) -> str:
    """What to say of a queue that does not exist."""
    near = difflib.get_close_matches(ref, names, n=3, cutoff=0.5) or sorted(names)[:3]
    known = f"; the nearest are {', '.join(repr(name) for name in near)}" if near else ""
    return f"there is no queue {ref!r}{known}; create it with `taskyard queue create {ref!r}`"
