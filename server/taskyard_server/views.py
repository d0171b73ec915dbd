"""Records as people and agents see them: without what only the server may know."""

from __future__ import annotations

from taskyard.wire import Entry, Task, TaskState

from taskyard_server.store.base import TaskRecord


def task_view(record: TaskRecord, queue: str | None) -> Task:
    """The task; `queue` is the name of its queue."""
    return Task(
        id=record.id,
        spec=record.spec,
        state=record.state,
        created_at=record.created_at,
        updated_at=record.updated_at,
        created_by=record.created_by,
        parent=record.parent,
        queue=queue,
        queue_id=record.queue,
        queued_at=record.queued_at,
        wake_at=record.due_at if record.state is TaskState.WAITING else None,
        run=record.runs[-1].run if record.runs else None,
        run_count=len(record.runs),
        retries_used=record.retries_used,
        losses=record.losses,
        unstarted=record.unstarted,
    )


def entry_view(record: TaskRecord, position: int) -> Entry:
    """The task's place in its queue."""
    return Entry(
        position=position,
        task=record.id,
        name=record.spec.name,
        queued_at=record.queued_at or record.created_at,
        gpus=record.spec.resources.gpus or 0,
        created_by=record.created_by,
    )
