"""The store in a SQLite file: embedded, one server process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

from taskyard.wire import MoveTo, TaskEvent, TaskState

from taskyard_server.pace import Pace
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
from taskyard_server.store.database import Database
from taskyard_server.store.events import FirstEvents
from taskyard_server.store.remembered import Remembered
from taskyard_server.store.run_times import RunTimes
from taskyard_server.store.schema import CONTROL
from taskyard_server.store.tables import answers, entries, generations, queues, rests, tasks, tokens, workers

_FORCED_AT_ONCE = 500
_READ_AT_ONCE = 200


class SqliteStore:
    """See `base.Store`: each verb is one operation on the tables, in the thread where it belongs."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self._database = Database(path, CONTROL)
        self._shapes = entries.Shapes()
        self._queues: Remembered[QueueRecord] = Remembered()
        self._workers: Remembered[WorkerRecord] = Remembered()

    @property
    def database(self) -> Database:
        """The file, for what else is kept in it."""
        return self._database

    async def open(self) -> None:
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    # --- tasks

    async def add_tasks(self, records: Sequence[TaskRecord]) -> None:
        pace, ready = Pace(), []
        for record in records:
            await pace.step()  # before: what adds one record never waits, and keeps its turn
            ready.append(tasks.ready(record))
        await self._database.write(lambda connection: tasks.add_all(connection, ready))

    async def task(self, task_id: str) -> TaskRecord:
        return self._database.look_up(lambda connection: tasks.get(connection, task_id))

    async def update(self, task_id: str, change: Change) -> TaskRecord:
        return await self._database.write(lambda connection: tasks.update(connection, task_id, change))

    async def update_all(self, task_ids: Sequence[str], change: Change) -> list[TaskRecord]:
        ready = await self._changed(task_ids, change)
        return await self._database.write(lambda connection: tasks.update_all(connection, task_ids, ready, change))

    async def _changed(self, task_ids: Sequence[str], change: Change) -> dict[str, tasks.Ready]:
        """Does outside of the writer what takes long: it stores what nothing has changed since."""
        pace, ready = Pace(), {}
        for first in range(0, len(task_ids), _READ_AT_ONCE):
            portion = task_ids[first : first + _READ_AT_ONCE]
            found = await self._database.read(partial(tasks.rows, task_ids=portion))
            for task_id, row in found.items():
                ready[task_id] = tasks.changed(row, change)
                await pace.step()
        return ready

    async def delete_task(self, task_id: str, allowed: Callable[[TaskRecord], None]) -> None:
        await self._database.write(lambda connection: tasks.delete(connection, task_id, allowed))

    async def tasks(self, wanted: TaskFilter, *, before: str | None = None, limit: int = 100) -> list[TaskRecord]:
        return await self._database.read(
            lambda connection: tasks.newest(connection, wanted, before=before, limit=limit)
        )

    async def page(
        self, wanted: TaskFilter, *, before: str | None = None, limit: int = 100, most_bytes: int = PAGE_BYTES
    ) -> RecordPage:
        return await self._database.read(
            lambda connection: tasks.page(connection, wanted, before=before, limit=limit, most_bytes=most_bytes)
        )

    async def latest_runs(self, wanted: TaskFilter, *, limit: int) -> list[RunTimes]:
        return await self._database.read(lambda connection: tasks.latest_runs(connection, wanted, limit=limit))

    async def events(
        self, *, since: float, kind: str | None = None, project: str | None = None, limit: int = 1000
    ) -> list[TaskEvent]:
        first = FirstEvents(since=since, kind=kind, limit=limit)
        return await self._database.read(lambda connection: tasks.events(connection, first, project))

    async def fronts(self, queues: Sequence[str]) -> list[Front]:
        # By the writer, who alone remembers the shapes.
        return await self._database.write(lambda connection: entries.fronts(connection, self._shapes, queues))

    async def claim(self, queues: Sequence[str], choose: Choose, change: Change) -> TaskRecord | None:
        return await self._database.write(
            lambda connection: entries.claim(connection, self._shapes, queues, choose, change)
        )

    async def run_of_request(self, request_id: str) -> TaskRecord | None:
        return self._database.look_up(lambda connection: tasks.of_request(connection, request_id))

    async def task_of_report_token(self, report_hash: str) -> TaskRecord | None:
        return self._database.look_up(lambda connection: tasks.of_report_token(connection, report_hash))

    # --- queues

    async def add_queue(self, queue: QueueRecord) -> None:
        await self._queues.forgetting(self._database.write(lambda connection: queues.add(connection, queue)))

    async def queue(self, queue_id: str) -> QueueRecord:
        return self._database.look_up(lambda connection: queues.get(connection, queue_id))

    async def queue_named(self, name: str) -> QueueRecord | None:
        return self._queues.get(
            name, lambda: self._database.look_up(lambda connection: queues.named(connection, name))
        )

    async def queues(self) -> list[QueueRecord]:
        return await self._database.read(queues.by_name)

    async def update_queue(self, queue_id: str, change: Callable[[QueueRecord], QueueRecord]) -> QueueRecord:
        return await self._queues.forgetting(
            self._database.write(lambda connection: queues.update(connection, queue_id, change))
        )

    async def delete_queue(self, queue_id: str, *, force: Change | None = None) -> None:
        if force is None:
            delete_empty = partial(queues.delete_empty, queue_id=queue_id)
            await self._queues.forgetting(self._database.write(delete_empty))
            return
        # In portions, so that a long queue does not hold up everybody else.
        portion = partial(queues.delete_some, queue_id=queue_id, force=force, limit=_FORCED_AT_ONCE)
        while not await self._queues.forgetting(self._database.write(portion)):
            pass

    async def entries(self, queue_id: str, *, offset: int = 0, limit: int = 100) -> list[TaskRecord]:
        return await self._database.read(
            lambda connection: entries.page(connection, queue_id, offset=offset, limit=limit)
        )

    async def position(self, task_id: str) -> int | None:
        return await self._database.read(lambda connection: entries.position(connection, task_id))

    async def move_entry(self, task_id: str, to: MoveTo | int) -> int:
        if isinstance(to, MoveTo):
            place: MoveTo | entries.Gap = to
        else:
            # Walking the queue is left to a reader; what enters or leaves meanwhile came after this move.
            place = await self._database.read(lambda connection: entries.gap_at(connection, task_id, to))
        await self._database.write(lambda connection: entries.move(connection, task_id, place))
        return await self.position(task_id) or 0

    async def counts(self) -> dict[str, dict[TaskState, int]]:
        return await self._database.read(queues.counts)

    async def shape_counts(self, queues: Sequence[str]) -> dict[tuple[str, str], int]:
        return await self._database.read(lambda connection: entries.shape_counts(connection, queues))

    # --- leases

    async def due(self, now: float, limit: int = 500) -> list[str]:
        return await self._database.read(lambda connection: tasks.due(connection, now, limit))

    async def active(self) -> list[TaskRecord]:
        return await self._database.read(tasks.active)

    async def shift_leases(self, seconds: float) -> None:
        await self._database.write(lambda connection: tasks.shift_leases(connection, seconds))

    async def sign_of_life(self, server_id: str, now: float) -> float | None:
        return await self._database.write(lambda connection: answers.sign_of_life(connection, server_id, now))

    # --- generations

    async def generation(self) -> Generation:
        return await self._database.read(generations.latest)

    async def begin_generation(self, *, copied_at: float, now: float) -> Generation:
        return await self._database.write(lambda connection: generations.begin(connection, copied_at, now))

    async def resume_generation(self, now: float) -> Generation:
        return await self._database.write(lambda connection: generations.resume(connection, now))

    # --- workers

    async def save_worker(self, name: str, change: Callable[[WorkerRecord | None], WorkerRecord]) -> WorkerRecord:
        return await self._workers.forgetting(
            self._database.write(lambda connection: workers.save(connection, name, change)), name
        )

    async def worker(self, name: str) -> WorkerRecord:
        found = self._workers.get(
            name, lambda: self._database.look_up(lambda connection: workers.find(connection, name))
        )
        return workers.require(found, name)

    async def workers(self) -> list[WorkerRecord]:
        return await self._database.read(workers.by_name)

    async def delete_worker(self, name: str) -> None:
        await self._workers.forgetting(
            self._database.write(lambda connection: workers.delete(connection, name)), name
        )

    # --- hosts that rest

    async def rests(self) -> list[RestRecord]:
        return await self._database.read(rests.by_target)

    async def save_rest(self, target: str, change: Callable[[RestRecord | None], RestRecord]) -> RestRecord:
        return await self._database.write(lambda connection: rests.save(connection, target, change))

    async def delete_rest(self, target: str) -> None:
        await self._database.write(lambda connection: rests.delete(connection, target))

    # --- tokens

    async def add_token(self, token: TokenRecord) -> None:
        await self._database.write(lambda connection: tokens.add(connection, token))

    async def token_by_hash(self, token_hash: str) -> TokenRecord | None:
        return self._database.look_up(lambda connection: tokens.by_hash(connection, token_hash))

    async def tokens(self) -> list[TokenRecord]:
        return await self._database.read(tokens.newest)

    async def update_token(self, token_id: str, change: Callable[[TokenRecord], TokenRecord]) -> TokenRecord:
        return await self._database.write(lambda connection: tokens.update(connection, token_id, change))

    async def update_token_among(
        self, token_id: str, change: Callable[[TokenRecord, Sequence[TokenRecord]], TokenRecord]
    ) -> TokenRecord:
        def write(connection: sqlite3.Connection) -> TokenRecord:
            every = tokens.newest(connection)
            return tokens.update(connection, token_id, lambda token: change(token, every))

        return await self._database.write(write)

    async def delete_token(self, token_id: str) -> None:
        await self._database.write(lambda connection: tokens.delete(connection, token_id))

    # --- remembered answers

    async def answer(self, key: str) -> Answer | None:
        return self._database.look_up(lambda connection: answers.find(connection, key))

    async def remember(self, answer: Answer) -> None:
        await self._database.write(lambda connection: answers.remember(connection, answer))

    async def forget_answers(self, before: float) -> None:
        await self._database.write(lambda connection: answers.forget(connection, before))

    # --- waking

    async def changes(self) -> AsyncIterator[str]:
        """Nothing else writes the file, so there is nothing to tell."""
        await asyncio.Event().wait()
        yield ""
