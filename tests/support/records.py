"""Records and changes for tests of the stores."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace

from taskyard.wire import Resources, Run, TaskSpec, TaskState, TokenKind, Worker, WorkerState
from taskyard_server.store.base import (
    Change,
    Choose,
    Front,
    QueueRecord,
    RunRecord,
    Store,
    TaskRecord,
    TokenRecord,
    WorkerRecord,
)


def new_id() -> str:
    return uuid.uuid4().hex


def draft(*, task: str | None = None, created_at: float = 1.0, owner: str = "owner", **spec: object) -> TaskRecord:
    return TaskRecord(
        id=task or new_id(),
        spec=TaskSpec(**spec),  # type: ignore[arg-type]
        state=TaskState.DRAFT,
        created_at=created_at,
        updated_at=created_at,
        owner=owner,
    )


def queued(queue: str, *, gpus: int = 0, avoid: tuple[str, ...] = (), **rest: object) -> TaskRecord:
    """A task to be added to a queue; its shape says what it requires."""
    record = draft(resources=Resources(gpus=gpus), **rest)  # type: ignore[arg-type]
    shape = f"{gpus} {avoid}"
    return replace(record, state=TaskState.QUEUED, queue=queue, queued_at=1.0, shape=shape, avoid=avoid)


def queue(name: str = "default", *, paused: bool = False) -> QueueRecord:
    return QueueRecord(id=new_id(), name=name, description="", paused=paused, created_at=1.0)


def worker(name: str) -> WorkerRecord:
    place = Worker(name=name, agent="agent", host="host", state=WorkerState.IDLE)
    return WorkerRecord(worker=place, token="token")


def token(name: str = "ada", *, created_at: float = 1.0) -> TokenRecord:
    return TokenRecord(
        id=new_id(),
        hash=new_id(),
        kind=TokenKind.USER,
        name=name,
        owner="owner",
        created_at=created_at,
        expires_at=None,
    )


async def fill(store: Store, records: Sequence[TaskRecord]) -> list[str]:
    """Adds the records and returns their ids."""
    await store.add_tasks(records)
    return [record.id for record in records]


async def order(store: Store, queue_id: str) -> list[str]:
    """The ids of a queue's entries as they would be claimed."""
    return [record.id for record in await store.entries(queue_id, limit=10_000)]


def any_fits(fronts: Sequence[Front]) -> Sequence[Front]:
    return fronts


def at_most(gpus: int) -> Choose:
    return lambda fronts: [front for front in fronts if (front.candidate.resources.gpus or 0) <= gpus]


def prepare(*, request_id: str = "", report_hash: str = "", due_at: float | None = None) -> Change:
    """What a claim does to a record."""

    def change(record: TaskRecord) -> TaskRecord:
        number = len(record.runs) + 1
        run = RunRecord(
            run=Run(id=f"{record.id}.{number}", task=record.id, number=number, worker="host:cpu:0"),
            agent="agent",
            boot_id="boot",
            request_id=request_id or new_id(),
            control_hash="control",
            report_hash=report_hash or new_id(),
        )
        return replace(record, state=TaskState.PREPARING, runs=(*record.runs, run), due_at=due_at)

    return change


def enter(queue_id: str) -> Change:
    """Enqueues at the end."""
    return lambda record: replace(record, state=TaskState.QUEUED, queue=queue_id, rank=None)


def put_back(record: TaskRecord) -> TaskRecord:
    """Requeues at the place that it had."""
    return replace(record, state=TaskState.QUEUED)


def take_out(record: TaskRecord) -> TaskRecord:
    return replace(record, state=TaskState.DRAFT, queue=None, rank=None)


def become(state: TaskState) -> Change:
    return lambda record: replace(record, state=state)


async def eventually(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Polls until the condition holds; fails past the deadline."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition never held"
        await asyncio.sleep(0.01)
