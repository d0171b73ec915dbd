"""The collection of tasks: every write names the version that it replaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pymongo import ASCENDING, DESCENDING, ReplaceOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import BulkWriteError, DuplicateKeyError
from taskyard.wire import TaskEvent, TaskState

from taskyard_server.errors import Conflict, NotFound
from taskyard_server.mongodb import Database, Document
from taskyard_server.pace import Pace
from taskyard_server.store.base import Change, RecordPage, TaskFilter, TaskRecord
from taskyard_server.store.events import FEW_TASKS, FirstEvents
from taskyard_server.store.mongo.documents import (
    BY_AGE,
    BY_CHANGE,
    HOLDING_STATES,
    NEEDED,
    PLACES,
    Found,
    from_document,
    to_document,
)
from taskyard_server.store.mongo.gates import Gates
from taskyard_server.store.ranks import key_after
from taskyard_server.store.run_times import RunTimes, latest

_ACTIVE = {"$in": [state.value for state in TaskState if state.active]}
_DUPLICATE = 11000
_READ_AT_ONCE = 200
_SENT_AT_ONCE = 200
"""The driver encodes a message in one go."""
_NEWEST = [("created_at", DESCENDING), ("_id", DESCENDING)]


class Tasks:
    """Reads and writes task records. `writer` marks what this server wrote."""

    def __init__(self, database: Database, gates: Gates, *, writer: str) -> None:
        self._database = database
        self._gates = gates
        self.writer = writer

    @property
    def collection(self) -> AsyncCollection[Document]:
        """The documents themselves."""
        return self._database.collection("tasks")

    async def find(self, task_id: str) -> Found:
        """Raises NotFound."""
        document = await self.collection.find_one({"_id": task_id}, NEEDED)
        if document is None:
            raise _no_task(task_id)
        return from_document(document)

    async def first(self, query: Document) -> TaskRecord | None:
        """Returns a record that the query finds."""
        document = await self.collection.find_one(query, NEEDED)
        return None if document is None else from_document(document).record

    async def active(self) -> list[TaskRecord]:
        """Those that a worker holds."""
        cursor = self.collection.find({"state": _ACTIVE}, NEEDED).sort(_NEWEST)
        return [from_document(document).record async for document in cursor]

    async def newest(self, wanted: TaskFilter, *, before: str | None, limit: int) -> list[TaskRecord]:
        """Raises NotFound when the task of `before` is gone."""
        if limit <= 0:
            return []
        cursor = await self._newest(wanted, before, limit)
        return [from_document(document).record async for document in cursor]

    async def page(self, wanted: TaskFilter, *, before: str | None, limit: int, most_bytes: int) -> RecordPage:
        """As `newest`, within a number of bytes."""
        records: list[TaskRecord] = []
        size, pace = 0, Pace()
        async for document in await self._newest(wanted, before, limit + 1):
            size += len(document["body"])
            if len(records) == limit or (records and size > most_bytes):
                return RecordPage(records=records, more=True)
            records.append(from_document(document).record)
            await pace.step()
        return RecordPage(records=records, more=False)

    async def _newest(self, wanted: TaskFilter, before: str | None, limit: int) -> AsyncCursor[Document]:
        conditions = _conditions(wanted)
        if before is not None:
            conditions.append(await self._behind(before))
        query = {"$and": conditions} if conditions else {}
        found: AsyncCursor[Document] = self.collection.find(query, NEEDED).sort(_NEWEST).limit(limit)
        return found

    async def latest_runs(self, wanted: TaskFilter, *, limit: int) -> list[RunTimes]:
        """Decodes nothing but these."""
        pace, found = Pace(), []
        async for document in await self._newest(wanted, None, limit):
            found.append(latest(document["body"]))
            await pace.step()
        return [times for times in found if times is not None]

    async def events(self, first: FirstEvents, project: str | None) -> list[TaskEvent]:
        """Gathers them; see `FirstEvents`."""
        query: Document = {"updated_at": {"$gte": float(first.since)}}
        few = await self.collection.count_documents(query, limit=FEW_TASKS + 1, hint=BY_CHANGE) <= FEW_TASKS
        if project is not None:
            query["project"] = project
        cursor = self.collection.find(query, {"created_at": 1, "body": 1}, hint=BY_CHANGE if few else BY_AGE)
        pace = Pace()
        async with cursor.sort([("created_at", ASCENDING), ("_id", ASCENDING)]).batch_size(_READ_AT_ONCE) as found:
            async for document in found:
                if first.enough(document["created_at"]):
                    break
                first.add(document["_id"], document["body"])
                await pace.step()
        return first.found()

    async def due(self, now: float, limit: int) -> list[str]:
        """Ids, earliest first."""
        cursor = self.collection.find({"due_at": {"$lte": float(now)}}, {"_id": 1}).sort("due_at").limit(limit)
        return [document["_id"] async for document in cursor]

    # --- writing

    async def add(self, records: Sequence[TaskRecord]) -> None:
        """Adds all or none. Raises Conflict naming the first id that exists, NotFound for a missing queue."""
        if len(records) == 1 and records[0].state is not TaskState.QUEUED:
            await self._insert(records, None)
        elif records:
            await self._database.transaction(lambda session: self._add_in(session, records))

    async def update(self, task_id: str, change: Change) -> TaskRecord:
        """Raises NotFound, and what `change` raises."""
        while True:
            found = await self.find(task_id)
            if (stored := await self.put(found, change(found.record))) is not None:
                return stored

    async def update_all(self, task_ids: Sequence[str], change: Change) -> list[TaskRecord]:
        """As `update`, all or nothing."""
        if not task_ids:
            return []
        return await self._database.transaction(lambda session: self._update_all_in(session, task_ids, change))

    async def put(self, found: Found, changed: TaskRecord) -> TaskRecord | None:
        """Writes `changed` in the place of what was found; None when somebody else wrote in between."""
        if changed is found.record:
            return changed
        if not _enters(changed, found.record) and not _lacks_place(changed):
            return changed if await self._replace(found, changed, None) else None
        return await self._database.transaction(lambda session: self._put_in(session, found, changed))

    async def delete(self, task_id: str, allowed: Callable[[TaskRecord], None]) -> None:
        """Raises NotFound, and what `allowed` raises."""
        while True:
            found = await self.find(task_id)
            allowed(found.record)
            gone = await self.collection.delete_one({"_id": task_id, "version": found.version})
            if gone.deleted_count:
                return

    async def shift_leases(self, seconds: float) -> None:
        """Moves the due time of every active task; all or nothing, so that a repeat shifts once."""
        query = {"state": _ACTIVE, "due_at": {"$gt": float("-inf")}}
        shift = {"$inc": {"due_at": float(seconds), "version": 1}}
        await self._database.transaction(
            lambda session: self.collection.update_many(query, shift, session=session)
        )

    def prepare(self, found: Found, changed: TaskRecord) -> Write:
        """Raises TooLarge, Invalid for text that is not Unicode, Conflict for a run of a request that took one."""
        if _claims_again(found.record, changed):
            raise _request_used(changed)
        document = to_document(changed, version=found.version + 1, writer=self.writer)
        return Write(found=found, changed=changed, document=document)

    async def write_each(self, writes: Sequence[Write]) -> list[bool | Conflict]:
        """Sends the writes in one message; says of each whether it was done, or somebody else wrote before.

        A Conflict in its place: its request has taken another task.
        """
        if not writes:
            return []
        refused: set[int] = set()
        try:
            result = await self.collection.bulk_write([write.replacement for write in writes], ordered=False)
            if result.matched_count == len(writes):
                return [True] * len(writes)
        except BulkWriteError as error:
            refused = _refused_as_duplicates(error)
        stored = await self._stored([write.changed.id for write in writes])
        return [
            _request_used(write.changed) if place in refused else write.stands_in(stored.get(write.changed.id, {}))
            for place, write in enumerate(writes)
        ]

    async def _stored(self, ids: Sequence[str]) -> dict[str, Document]:
        """What tells whose write stands in each record now."""
        cursor = self.collection.find({"_id": {"$in": list(ids)}}, {"version": 1, "writer": 1, "requests": 1})
        return {document["_id"]: document async for document in cursor}

    async def replace_all(self, changes: Sequence[tuple[Found, TaskRecord]], session: AsyncClientSession) -> None:
        """Replaces records that were read in the same transaction."""
        pace, writes = Pace(), []
        for found, changed in changes:
            if changed is not found.record:
                writes.append(self.prepare(found, changed).replacement)
            await pace.step()
        for first in range(0, len(writes), _SENT_AT_ONCE):
            await self.collection.bulk_write(writes[first : first + _SENT_AT_ONCE], session=session)

    async def last_rank(self, queue_id: str | None, session: AsyncClientSession | None = None) -> bytes | None:
        """The highest rank of a queue, also among the places that are held by tasks out of it."""
        query = {"state": {"$in": HOLDING_STATES}, "queue": queue_id, "rank": {"$gte": ""}}
        cursor = self.collection.find(query, {"rank": 1, "_id": 0}, session=session, hint=PLACES)
        async for document in cursor.sort("rank", DESCENDING).limit(1):
            return bytes.fromhex(document["rank"])
        return None

    # --- inside of a transaction

    async def _add_in(self, session: AsyncClientSession, records: Sequence[TaskRecord]) -> None:
        entrance = _Entrance(self, self._gates, session)
        await self._insert([await entrance.admit(record, was=None) for record in records], session)

    async def _put_in(self, session: AsyncClientSession, found: Found, changed: TaskRecord) -> TaskRecord | None:
        placed = await _Entrance(self, self._gates, session).admit(changed, was=found.record)
        return placed if await self._replace(found, placed, session) else None

    async def _update_all_in(
        self, session: AsyncClientSession, task_ids: Sequence[str], change: Change
    ) -> list[TaskRecord]:
        found = await self._find_all(task_ids, session)
        latest = {task_id: each.record for task_id, each in found.items()}
        entrance = _Entrance(self, self._gates, session)
        answer = []
        pace = Pace()
        for task_id in task_ids:
            changed = change(latest[task_id])
            latest[task_id] = await entrance.admit(changed, was=latest[task_id])
            answer.append(latest[task_id])
            await pace.step()
        await self.replace_all([(found[task_id], record) for task_id, record in latest.items()], session)
        return answer

    async def _find_all(self, task_ids: Sequence[str], session: AsyncClientSession) -> dict[str, Found]:
        cursor = self.collection.find({"_id": {"$in": list(task_ids)}}, NEEDED, session=session)
        pace, found = Pace(), {}
        async for document in cursor:
            found[document["_id"]] = from_document(document)
            await pace.step()
        for task_id in task_ids:
            if task_id not in found:
                raise _no_task(task_id)
        return found

    async def _insert(self, records: Sequence[TaskRecord], session: AsyncClientSession | None) -> None:
        pace, documents = Pace(), []
        for record in records:
            documents.append(to_document(record, version=1, writer=self.writer))
            await pace.step()
        try:
            for first in range(0, len(documents), _SENT_AT_ONCE):
                await self.collection.insert_many(documents[first : first + _SENT_AT_ONCE], session=session)
        except (BulkWriteError, DuplicateKeyError) as error:
            if (existing := _duplicate(error)) is None:
                raise
            raise Conflict(f"task {existing} exists already: choose another id, or none") from error

    async def _replace(self, found: Found, changed: TaskRecord, session: AsyncClientSession | None) -> bool:
        """Writes unless somebody else wrote since the record was found."""
        write = self.prepare(found, changed)
        try:
            result = await self.collection.replace_one(write.condition, write.document, session=session)
        except DuplicateKeyError as error:
            raise _request_used(changed) from error
        return result.matched_count == 1

    async def _behind(self, task_id: str) -> Document:
        document = await self.collection.find_one({"_id": task_id}, {"created_at": 1})
        if document is None:
            raise NotFound(
                f"task {task_id}, where the page before ended, is gone: start again from the first page"
            )
        at = document["created_at"]
        # The first condition alone bounds the search along the index.
        return {"created_at": {"$lte": at}, "$or": [{"created_at": {"$lt": at}}, {"_id": {"$lt": task_id}}]}


@dataclass(frozen=True, kw_only=True, eq=False)
class Write:
    """A record that is to stand in the place of the one that was found."""

    found: Found
    changed: TaskRecord
    document: Document

    @property
    def condition(self) -> Document:
        """Nobody wrote since it was found."""
        return {"_id": self.found.record.id, "version": self.found.version}

    @property
    def replacement(self) -> ReplaceOne[Document]:
        """The write as part of a message."""
        return ReplaceOne(self.condition, self.document)

    def stands_in(self, stored: Document) -> bool:
        """Whether it was done: it is what is stored, or the run that it created is."""
        if (stored.get("version"), stored.get("writer")) == (self.document["version"], self.document["writer"]):
            return True
        return bool(self.changed.runs) and self.changed.runs[-1].request_id in stored.get("requests", [])


class _Entrance:
    """Lets records into queues within one transaction, and gives them places in the order in which they come."""

    def __init__(self, tasks: Tasks, gates: Gates, session: AsyncClientSession) -> None:
        self._tasks = tasks
        self._gates = gates
        self._session = session
        self._passed: set[str | None] = set()
        self._last: dict[str | None, bytes | None] = {}

    async def admit(self, record: TaskRecord, *, was: TaskRecord | None) -> TaskRecord:
        """Returns the record with its place. Raises NotFound when it enters a queue that is gone."""
        if _enters(record, was) and record.queue not in self._passed:
            await self._gates.pass_through(record.queue, self._session)
            self._passed.add(record.queue)
        return await self._placed(record) if _lacks_place(record) else record

    async def _placed(self, record: TaskRecord) -> TaskRecord:
        if record.queue not in self._last:
            self._last[record.queue] = await self._tasks.last_rank(record.queue, self._session)
        rank = key_after(self._last[record.queue])
        self._last[record.queue] = rank
        return replace(record, rank=rank)


def _enters(record: TaskRecord, was: TaskRecord | None) -> bool:
    """Whether the change from `was` puts the record into a queue."""
    if record.state is not TaskState.QUEUED:
        return False
    return was is None or was.state is not TaskState.QUEUED or was.queue != record.queue


def _lacks_place(record: TaskRecord) -> bool:
    return record.state is TaskState.QUEUED and record.rank is None


def _no_task(task_id: str) -> NotFound:
    return NotFound(f"there is no task {task_id}: it was never created, or was deleted")


def _claims_again(before: TaskRecord, changed: TaskRecord) -> bool:
    """The index tells the requests of two tasks apart, not those of one."""
    known = {run.request_id for run in before.runs}
    return any(run.request_id in known for run in changed.runs[len(before.runs) :])


def _request_used(record: TaskRecord) -> Conflict:
    return Conflict(f"the request that claims task {record.id} took another one: ask for that")


def _refused_as_duplicates(error: BulkWriteError) -> set[int]:
    """The places of the writes whose request has a run elsewhere. Raises the error when there is another fault."""
    details: Any = error.details
    faults = details["writeErrors"]
    if details["writeConcernErrors"] or any(fault["code"] != _DUPLICATE for fault in faults):
        raise error
    return {fault["index"] for fault in faults}


def _duplicate(error: BulkWriteError | DuplicateKeyError) -> str | None:
    """The id that was refused because it exists."""
    details: Any = error.details or {}
    for refused in details.get("writeErrors", [details]):
        if refused.get("code") == _DUPLICATE:
            return str(refused.get("keyValue", {}).get("_id", "?"))
    return None


def _conditions(wanted: TaskFilter) -> list[Document]:
    states = None if wanted.states is None else {"$in": [state.value for state in wanted.states]}
    tests: dict[str, Any] = {
        "state": states,
        "queue": wanted.queue,
        "project": wanted.project,
        "tags": wanted.tag,
        "name": wanted.name,
        "owner": wanted.owner,
    }
    conditions: list[Document] = [{name: value} for name, value in tests.items() if value is not None]
    if wanted.name_contains is not None:
        # No regular expression, so no character in it means anything.
        place = {"$indexOfCP": ["$name", {"$literal": wanted.name_contains}]}
        conditions.append({"$expr": {"$gte": [place, 0]}})
    if wanted.id_prefix is not None:
        conditions.append({"_id": {"$gte": wanted.id_prefix, "$lt": wanted.id_prefix + "\U0010ffff"}})
    if wanted.updated_since is not None:
        conditions.append({"updated_at": {"$gte": float(wanted.updated_since)}})
    return conditions
