"""What other servers put into the queues: a change stream, and every two seconds the word to look at all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.errors import PyMongoError
from taskyard.log_lines import Outage
from taskyard.wire import TaskState

from taskyard_server.errors import Unavailable
from taskyard_server.mongodb import Document
from taskyard_server.store.mongo.tasks import Tasks

logger = logging.getLogger(__name__)

ANY_QUEUE = ""
_POLL_SECONDS = 2.0


async def changes(tasks: Tasks) -> AsyncIterator[str]:
    """See `Store.changes`. What was missed while a stream was broken is covered by the poll."""
    outage = Outage(logger, "cannot hear of other servers' entries", "changes_interrupted")
    while True:
        try:
            async with await _watch(tasks) as stream:
                outage.over()
                async for queue_id in _queues_of(stream):
                    yield queue_id
        except (PyMongoError, Unavailable) as error:
            outage.failed(error)
        yield ANY_QUEUE
        await asyncio.sleep(_POLL_SECONDS)


async def _watch(tasks: Tasks) -> AsyncChangeStream[Document]:
    entries = {
        "operationType": {"$in": ["insert", "replace"]},
        "fullDocument.state": TaskState.QUEUED.value,
        "fullDocument.writer": {"$ne": tasks.writer},
    }
    # The driver resumes by the token that stands in _id, and the rest of the record is not wanted here.
    pipeline: list[Document] = [{"$match": entries}, {"$project": {"queue": "$fullDocument.queue"}}]
    return await tasks.collection.watch(pipeline, max_await_time_ms=int(_POLL_SECONDS * 1000))


async def _queues_of(stream: AsyncChangeStream[Document]) -> AsyncIterator[str]:
    polled_at = time.monotonic()
    while stream.alive:
        change: Any = await stream.try_next()
        if change is not None:
            yield change["queue"]
        if time.monotonic() - polled_at >= _POLL_SECONDS:
            polled_at = time.monotonic()
            yield ANY_QUEUE
