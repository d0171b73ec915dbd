"""Tasks: create, read, change, and send on their way."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import Query, Response
from taskyard.wire import (
    CloneRequest,
    CloneRequests,
    EnqueueRequest,
    Entry,
    Explanation,
    MoveRequest,
    NewTask,
    NewTasks,
    StopRequest,
    Story,
    Task,
    TaskChanges,
    TaskEvent,
    TaskPage,
    TaskState,
)

from taskyard_server import explanations
from taskyard_server.api import bulk
from taskyard_server.api.route import KIB, MIB, allow, errors, new_router
from taskyard_server.api.services import InActor, InServices
from taskyard_server.auth import Right
from taskyard_server.schemas import adapter
from taskyard_server.store.base import TaskFilter

router = new_router("tasks")

_TASK, _EVENT = adapter(Task), adapter(TaskEvent)


@router.post("/tasks", responses=errors(404, 409))
@allow(Right.USE_TASKS, body_limit=4 * MIB)
async def create_task(body: NewTask, services: InServices, actor: InActor) -> Task:
    """Creates a draft or, with `queue`, a queued task. Repeating it with the same id is harmless."""
    return await services.tasks.create(body, actor)


@router.post("/tasks/bulk", responses=errors(404, 409))
@allow(Right.USE_TASKS, body_limit=64 * MIB, bulk="tasks")
async def create_tasks(body: NewTasks, services: InServices, actor: InActor) -> list[Task]:
    """Creates up to 10,000 tasks, all or none."""
    return await services.tasks.create_many(body.tasks, actor)


@router.post("/tasks/explain", responses=errors(404))
@allow(Right.USE_TASKS, body_limit=4 * MIB, repeatable=False)
async def explain_new_task(body: NewTask, services: InServices, actor: InActor) -> Explanation:
    """Who could take such a task, were it enqueued now, worker by worker. Nothing is created."""
    return await services.tasks.explain_new(body, actor)


@router.get("/tasks", response_model=TaskPage, responses=errors(404, 422))
@allow(Right.USE_TASKS)
async def list_tasks(
    services: InServices,
    actor: InActor,
    state: Annotated[list[TaskState] | None, Query()] = None,
    queue: str | None = None,
    project: str | None = None,
    tag: str | None = None,
    name: str | None = None,
    name_contains: str | None = None,
    before: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Newest first. `queue` is a name or an id; `before` is the `cursor` of the page before. A page of large tasks
    ends before `limit`, with a cursor."""
    wanted = TaskFilter(
        states=tuple(state) if state else None,
        queue=(await services.queues.find(queue)).id if queue is not None else None,
        project=project,
        tag=tag,
        name=name,
        name_contains=name_contains,
    )
    page = await services.tasks.list(wanted, before=before, limit=limit, actor=actor)
    tasks = await bulk.write(_TASK, page.tasks)
    content = b'{"tasks":%b,"cursor":%b}' % (tasks, json.dumps(page.cursor).encode())
    return Response(content, media_type="application/json")


@router.get("/tasks/resolve", responses=errors(404, 409, 422))
@allow(Right.USE_TASKS)
async def resolve_task(ref: str, services: InServices, actor: InActor) -> Task:
    """Finds a task by its id, a unique prefix of it, or its unique name; 409 names the candidates."""
    return await services.tasks.resolve(ref, actor)


@router.get("/tasks/{task_id}")
@allow(Right.READ_TASK)
async def read_task(task_id: str, services: InServices, actor: InActor) -> Task:
    """The task with its latest run."""
    return await services.tasks.get(task_id, actor)


@router.patch("/tasks/{task_id}", responses=errors(409))
@allow(Right.USE_TASKS, body_limit=4 * MIB)
async def change_task(task_id: str, body: TaskChanges, services: InServices, actor: InActor) -> Task:
    """Changes a draft; once queued, a task is fixed."""
    return await services.tasks.change(task_id, body, actor)


@router.delete("/tasks/{task_id}", status_code=204, response_class=Response, responses=errors(409))
@allow(Right.USE_TASKS)
async def delete_task(task_id: str, services: InServices, actor: InActor) -> None:
    """Forgets the task, its runs and their logs; an active one must be stopped first."""
    await services.tasks.delete(task_id, actor)


@router.post("/tasks/{task_id}/enqueue", responses=errors(409))
@allow(Right.USE_TASKS, body_limit=64 * KIB)
async def enqueue_task(task_id: str, body: EnqueueRequest, services: InServices, actor: InActor) -> Task:
    """Puts the task at the end of a queue."""
    return await services.tasks.enqueue(task_id, body.queue, actor)


@router.post("/tasks/{task_id}/dequeue", responses=errors(409))
@allow(Right.USE_TASKS)
async def dequeue_task(task_id: str, services: InServices, actor: InActor) -> Task:
    """Takes the task out of its queue; it is a draft again."""
    return await services.tasks.dequeue(task_id, actor)


@router.post("/tasks/{task_id}/stop", responses=errors(409))
@allow(Right.USE_TASKS, body_limit=64 * KIB)
async def stop_task(task_id: str, body: StopRequest, services: InServices, actor: InActor) -> Task:
    """Cancels it; with `requeue`, it goes back to its queue once its run has ended."""
    return await services.tasks.stop(task_id, body, actor)


@router.post("/tasks/{task_id}/retry", responses=errors(409))
@allow(Right.USE_TASKS)
async def retry_task(task_id: str, services: InServices, actor: InActor) -> Task:
    """Queues an ended task again."""
    return await services.tasks.retry(task_id, actor)


@router.post("/tasks/{task_id}/clone", responses=errors(409))
@allow(Right.USE_TASKS, body_limit=4 * MIB)
async def clone_task(task_id: str, body: CloneRequest, services: InServices, actor: InActor) -> Task:
    """Creates a new task like this one, with changes."""
    return await services.tasks.clone(task_id, body, actor)


@router.post("/tasks/{task_id}/clones", responses=errors(409))
@allow(Right.USE_TASKS, body_limit=64 * MIB, bulk="clones")
async def clone_task_often(task_id: str, body: CloneRequests, services: InServices, actor: InActor) -> list[Task]:
    """Creates up to 10,000 tasks like this one, each with its changes: all or none."""
    return await services.tasks.clone_many(task_id, body.clones, actor)


@router.post("/tasks/{task_id}/move", responses=errors(409))
@allow(Right.USE_TASKS, body_limit=64 * KIB)
async def move_task(task_id: str, body: MoveRequest, services: InServices, actor: InActor) -> Entry:
    """Changes the task's place in its queue."""
    return await services.tasks.move(task_id, body, actor)


@router.get("/tasks/{task_id}/explain")
@allow(Right.USE_TASKS)
async def explain_task(task_id: str, services: InServices, actor: InActor) -> Explanation:
    """Why the task waits, worker by worker."""
    found = await services.tasks.explain(task_id, actor)
    return explanations.while_recovering(found) if services.recovery.recovering else found


@router.get("/tasks/{task_id}/story")
@allow(Right.USE_TASKS)
async def read_story(task_id: str, services: InServices, actor: InActor) -> Story:
    """Everything that happened to the task: its runs and events."""
    return await services.tasks.story(task_id, actor)


@router.get("/events", response_model=list[TaskEvent], responses=errors(404, 422))
@allow(Right.READ_EVENTS)
async def list_events(
    services: InServices,
    actor: InActor,
    since: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0.0,
    task: str | None = None,
    kind: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Response:
    """Events of all tasks since a time, oldest first."""
    events = await services.tasks.events(since=since, task=task, kind=kind, limit=limit, actor=actor)
    return Response(await bulk.write(_EVENT, events), media_type="application/json")
