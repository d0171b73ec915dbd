"""The verbs of the store, each handed to the collection that it belongs to."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from uuid import uuid4

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError
from taskyard.wire import MoveTo, TaskEvent, TaskState

from taskyard_server.errors import Conflict, NotFound
from taskyard_server.mongodb import Database, Document, translating
from taskyard_server.store.base import (
    PAGE_BYTES,
    Answer,
    Change,
    Choose,
    Front,
    Generation,
    QueueRecord,
    RecordPage,
    RestRecord,
    TaskFilter,
    TaskRecord,
    TokenRecord,
    WorkerRecord,
)
from taskyard_server.store.codec import RESTS, TOKENS, WORKERS
from taskyard_server.store.events import FirstEvents
from taskyard_server.store.mongo import changes, documents
from taskyard_server.store.mongo.answers import Answers
from taskyard_server.store.mongo.claims import Claims
from taskyard_server.store.mongo.entries import Entries
from taskyard_server.store.mongo.gates import Gates
from taskyard_server.store.mongo.generations import Generations
from taskyard_server.store.mongo.queues import Queues
from taskyard_server.store.mongo.records import Records
from taskyard_server.store.mongo.tasks import Tasks
from taskyard_server.store.run_times import RunTimes

_FORCED_AT_ONCE = 10_000
_NEWEST = [("created_at", DESCENDING), ("_id", DESCENDING)]
_INDEXES = {
    "tasks": documents.INDEXES,
    "queues": [IndexModel([("name", ASCENDING)], name="by_name", unique=True)],
    "gates": [IndexModel([("queue", ASCENDING)], name="by_queue")],
    "tokens": [
        IndexModel([("hash", ASCENDING)], name="by_hash", unique=True),
        IndexModel([("created_at", DESCENDING), ("_id", DESCENDING)], name="by_age"),
    ],
    "answers": [IndexModel([("at", ASCENDING)], name="by_age")],
    "servers": [IndexModel([("at", DESCENDING)], name="by_time")],
}


class MongoStore:
    """See `base.Store`. Any number of server processes may share one database."""

    kind = "mongodb"

    def __init__(self, uri: str) -> None:
        self.database = Database(uri)
        for name, indexes in _INDEXES.items():
            self.database.declare(name, indexes)
        gates = Gates(self.database)
        self._tasks = Tasks(self.database, gates, writer=uuid4().hex)
        self._entries = Entries(self._tasks)
        self._queues = Queues(self.database, gates, self._tasks, self._entries)
        self._claims = Claims(self._tasks, self._entries, self._queues)
        self._workers: Records[WorkerRecord] = Records(self.database, "workers", WORKERS, _worker_copies)
        self._tokens: Records[TokenRecord] = Records(self.database, "tokens", TOKENS, _token_copies)
        self._rests: Records[RestRecord] = Records(self.database, "rests", RESTS, _rest_copies)
        self._answers = Answers(self.database)
        self._generations = Generations(self.database)

    async def open(self) -> None:
        await self.database.open()

    async def close(self) -> None:
        await self._claims.close()
        await self.database.close()

    # --- tasks

    @translating
    async def add_tasks(self, records: Sequence[TaskRecord]) -> None:
        await self._tasks.add(records)

    @translating
    async def task(self, task_id: str) -> TaskRecord:
        return (await self._tasks.find(task_id)).record

    @translating
    async def update(self, task_id: str, change: Change) -> TaskRecord:
        return await self._tasks.update(task_id, change)

    @translating
    async def update_all(self, task_ids: Sequence[str], change: Change) -> list[TaskRecord]:
        return await self._tasks.update_all(task_ids, change)

    @translating
    async def delete_task(self, task_id: str, allowed: Callable[[TaskRecord], None]) -> None:
        await self._tasks.delete(task_id, allowed)

    @translating
    async def tasks(self, wanted: TaskFilter, *, before: str | None = None, limit: int = 100) -> list[TaskRecord]:
        return await self._tasks.newest(wanted, before=before, limit=limit)

    @translating
    async def page(
        self, wanted: TaskFilter, *, before: str | None = None, limit: int = 100, most_bytes: int = PAGE_BYTES
    ) -> RecordPage:
        return await self._tasks.page(wanted, before=before, limit=limit, most_bytes=most_bytes)

    @translating
    async def latest_runs(self, wanted: TaskFilter, *, limit: int) -> list[RunTimes]:
        return await self._tasks.latest_runs(wanted, limit=limit)

    @translating
    async def events(
        self, *, since: float, kind: str | None = None, project: str | None = None, limit: int = 1000
    ) -> list[TaskEvent]:
        return await self._tasks.events(FirstEvents(since=since, kind=kind, limit=limit), project)

    @translating
    async def fronts(self, queues: Sequence[str]) -> list[Front]:
        return await self._claims.fronts(queues)

    @translating
    async def claim(self, queues: Sequence[str], choose: Choose, change: Change) -> TaskRecord | None:
        return await self._claims.claim(queues, choose, change)

    @translating
    async def run_of_request(self, request_id: str) -> TaskRecord | None:
        return await self._tasks.first({"requests": request_id})

    @translating
    async def task_of_report_token(self, report_hash: str) -> TaskRecord | None:
        return await self._tasks.first({"report_hash": report_hash})

    # --- queues

    @translating
    async def add_queue(self, queue: QueueRecord) -> None:
        await self._queues.add(queue)

    @translating
    async def queue(self, queue_id: str) -> QueueRecord:
        return await self._queues.records.get(queue_id)

    @translating
    async def queue_named(self, name: str) -> QueueRecord | None:
        return await self._queues.records.first({"name": name})

    @translating
    async def queues(self) -> list[QueueRecord]:
        return await self._queues.records.all([("name", ASCENDING)])

    @translating
    async def update_queue(self, queue_id: str, change: Callable[[QueueRecord], QueueRecord]) -> QueueRecord:
        return await self._queues.update(queue_id, change)

    @translating
    async def delete_queue(self, queue_id: str, *, force: Change | None = None) -> None:
        if force is None:
            await self._queues.delete_empty(queue_id)
            return
        # One step up to a bulk's size; beyond, a transaction would take too long.
        while not await self._queues.delete_some(queue_id, force, limit=_FORCED_AT_ONCE):
            pass

    @translating
    async def entries(self, queue_id: str, *, offset: int = 0, limit: int = 100) -> list[TaskRecord]:
        return await self._entries.page(queue_id, offset=offset, limit=limit)

    @translating
    async def position(self, task_id: str) -> int | None:
        return await self._entries.position(task_id)

    @translating
    async def move_entry(self, task_id: str, to: MoveTo | int) -> int:
        return await self._entries.move(task_id, to)

    @translating
    async def counts(self) -> dict[str, dict[TaskState, int]]:
        return await self._entries.counts()

    @translating
    async def shape_counts(self, queues: Sequence[str]) -> dict[tuple[str, str], int]:
        return await self._entries.shape_counts(queues)

    # --- leases

    @translating
    async def due(self, now: float, limit: int = 500) -> list[str]:
        return await self._tasks.due(now, limit)

    @translating
    async def active(self) -> list[TaskRecord]:
        return await self._tasks.active()

    @translating
    async def shift_leases(self, seconds: float) -> None:
        await self._tasks.shift_leases(seconds)

    @translating
    async def sign_of_life(self, server_id: str, now: float) -> float | None:
        return await self._answers.sign_of_life(server_id, now)

    # --- generations

    @translating
    async def generation(self) -> Generation:
        return await self._generations.latest()

    @translating
    async def begin_generation(self, *, copied_at: float, now: float) -> Generation:
        return await self._generations.begin(copied_at, now)

    @translating
    async def resume_generation(self, now: float) -> Generation:
        return await self._generations.resume(now)

    # --- workers

    @translating
    async def save_worker(self, name: str, change: Callable[[WorkerRecord | None], WorkerRecord]) -> WorkerRecord:
        return await self._workers.save(name, change)

    @translating
    async def worker(self, name: str) -> WorkerRecord:
        return await self._workers.get(name)

    @translating
    async def workers(self) -> list[WorkerRecord]:
        return await self._workers.all([("_id", ASCENDING)])

    @translating
    async def delete_worker(self, name: str) -> None:
        await self._workers.delete(name)

    # --- hosts that rest

    @translating
    async def rests(self) -> list[RestRecord]:
        return await self._rests.all([("_id", ASCENDING)])

    @translating
    async def save_rest(self, target: str, change: Callable[[RestRecord | None], RestRecord]) -> RestRecord:
        return await self._rests.save(target, change)

    @translating
    async def delete_rest(self, target: str) -> None:
        with contextlib.suppress(NotFound):
            await self._rests.delete(target)

    # --- tokens

    @translating
    async def add_token(self, token: TokenRecord) -> None:
        try:
            await self._tokens.add(token)
        except DuplicateKeyError as error:
            raise Conflict(f"token {token.id} exists already: draw another") from error

    @translating
    async def token_by_hash(self, token_hash: str) -> TokenRecord | None:
        return await self._tokens.first({"hash": token_hash})

    @translating
    async def tokens(self) -> list[TokenRecord]:
        return await self._tokens.all(_NEWEST)

    @translating
    async def update_token(self, token_id: str, change: Callable[[TokenRecord], TokenRecord]) -> TokenRecord:
        return await self._tokens.update(token_id, change)

    @translating
    async def update_token_among(
        self, token_id: str, change: Callable[[TokenRecord, Sequence[TokenRecord]], TokenRecord]
    ) -> TokenRecord:
        return await self._tokens.update_among(token_id, change, _NEWEST)

    @translating
    async def delete_token(self, token_id: str) -> None:
        await self._tokens.delete(token_id)

    # --- remembered answers

    @translating
    async def answer(self, key: str) -> Answer | None:
        return await self._answers.find(key)

    @translating
    async def remember(self, answer: Answer) -> None:
        await self._answers.remember(answer)

    @translating
    async def forget_answers(self, before: float) -> None:
        await self._answers.forget(before)

    # --- waking

    def changes(self) -> AsyncIterator[str]:
        return changes.changes(self._tasks)


def _worker_copies(record: WorkerRecord) -> Document:
    return {"_id": record.worker.name}


def _rest_copies(record: RestRecord) -> Document:
    return {"_id": record.target}


def _token_copies(record: TokenRecord) -> Document:
    return {"_id": record.id, "hash": record.hash, "created_at": record.created_at}
