"""Workers, and what was measured on their machines."""

from __future__ import annotations

from fastapi import Response
from taskyard.wire import PauseRequest, Series, Worker

from taskyard_server.api.measurements import InTimeRange
from taskyard_server.api.route import KIB, allow, errors, new_router
from taskyard_server.api.services import InActor, InServices
from taskyard_server.auth import Right

router = new_router("workers")


@router.get("/workers")
@allow(Right.READ)
async def list_workers(services: InServices) -> list[Worker]:
    """All workers by name."""
    return await services.workers.list()


@router.get("/workers/{name}")
@allow(Right.READ)
async def read_worker(name: str, services: InServices) -> Worker:
    """One worker with its counters; its name is percent-encoded in the address."""
    return await services.workers.get(name)


@router.delete("/workers/{name}", status_code=204, response_class=Response, responses=errors(409))
@allow(Right.CHANGE_WORKERS)
async def delete_worker(name: str, services: InServices, actor: InActor) -> None:
    """Forgets a worker that is gone; a live one registers again with its next beat."""
    await services.workers.delete(name, actor)


@router.post("/workers/{name}/drain", responses=errors(409))
@allow(Right.CHANGE_WORKERS)
async def drain_worker(name: str, services: InServices, actor: InActor) -> Worker:
    """Lets the worker's agent take nothing more, and end after what it runs."""
    return await services.workers.drain(name, actor)


@router.post("/workers/{name}/pause", responses=errors(409))
@allow(Right.CHANGE_WORKERS, body_limit=4 * KIB)
async def pause_worker(name: str, body: PauseRequest, services: InServices, actor: InActor) -> Worker:
    """Lets the worker take nothing until it is resumed; what it runs goes on."""
    return await services.workers.pause(name, body.reason, actor)


@router.post("/workers/{name}/resume", responses=errors(409))
@allow(Right.CHANGE_WORKERS)
async def resume_worker(name: str, services: InServices, actor: InActor) -> Worker:
    """Lets a worker claim again that was paused by a user, or for failures of its machine."""
    return await services.workers.resume(name, actor)


@router.get("/workers/{name}/metrics", responses=errors(422))
@allow(Right.READ)
async def read_worker_metrics(name: str, wanted: InTimeRange, services: InServices) -> list[Series]:
    """What was measured on the worker's machine, downsampled."""
    worker = await services.workers.get(name)
    return await services.metrics.of_worker(worker.name, wanted)
