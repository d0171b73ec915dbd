"""Queues and what stands in them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response
from taskyard.wire import BulkEnqueueRequest, EntryPage, NewQueue, Queue, QueueChanges, Task

from taskyard_server.api.route import KIB, MIB, allow, errors, new_router
from taskyard_server.api.services import InActor, InServices
from taskyard_server.auth import Right

router = new_router("queues")

LARGEST_OFFSET = 2**31


@router.get("/queues", responses=errors(422))
@allow(Right.READ)
async def list_queues(services: InServices, name: str | None = None) -> list[Queue]:
    """All queues by name, or the one with this very name."""
    return await services.queues.list(name)


@router.post("/queues", responses=errors(409))
@allow(Right.CREATE_QUEUES, body_limit=64 * KIB)
async def create_queue(body: NewQueue, services: InServices, actor: InActor) -> Queue:
    """Creates a queue; its name may hold spaces and any letters."""
    return await services.queues.create(body, actor)


@router.get("/queues/{queue_id}")
@allow(Right.READ)
async def read_queue(queue_id: str, services: InServices) -> Queue:
    """One queue, with its length and its workers."""
    return await services.queues.get(queue_id)


@router.patch("/queues/{queue_id}", responses=errors(409))
@allow(Right.CHANGE_QUEUES, body_limit=64 * KIB)
async def change_queue(queue_id: str, body: QueueChanges, services: InServices, actor: InActor) -> Queue:
    """Renames, describes, pauses or resumes the queue."""
    return await services.queues.change(queue_id, body, actor)


@router.delete("/queues/{queue_id}", status_code=204, response_class=Response, responses=errors(409))
@allow(Right.CHANGE_QUEUES)
async def delete_queue(queue_id: str, services: InServices, actor: InActor, force: bool = False) -> None:
    """Removes an empty queue; with `force` also one with entries, which become drafts."""
    await services.queues.delete(queue_id, force, actor)


@router.get("/queues/{queue_id}/entries", responses=errors(422))
@allow(Right.READ_ENTRIES)
async def list_entries(
    queue_id: str,
    services: InServices,
    offset: Annotated[int, Query(ge=0, le=LARGEST_OFFSET)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> EntryPage:
    """A stretch of the queue, in the order of claiming."""
    return await services.queues.entries(queue_id, offset, limit)


@router.post("/queues/{queue_id}/entries", responses=errors(409))
@allow(Right.USE_TASKS, body_limit=4 * MIB)
async def enqueue_tasks(
    queue_id: str, body: BulkEnqueueRequest, services: InServices, actor: InActor
) -> list[Task]:
    """Enqueues up to 10,000 tasks in this order, all or none."""
    return await services.tasks.enqueue_many(queue_id, body.tasks, actor)
