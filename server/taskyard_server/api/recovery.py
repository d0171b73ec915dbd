"""After a restore: what is unknown, and what the operator decides."""

from __future__ import annotations

from taskyard.wire import RecoveryChoice, StoreStatus

from taskyard_server.api.route import MIB, allow, errors, new_router
from taskyard_server.api.server import VERSION
from taskyard_server.api.services import InActor, InServices
from taskyard_server.auth import Right

router = new_router("server")


@router.get("/recovery")
@allow(Right.RECOVER)
async def read_recovery(services: InServices) -> StoreStatus:
    """What an operator sees at a glance; while the store recovers from a restore, what the copy does not know."""
    return await services.status.read(VERSION)


@router.post("/recovery/adopt", responses=errors(404, 409))
@allow(Right.RECOVER, body_limit=MIB)
async def adopt_runs(body: RecoveryChoice, services: InServices, actor: InActor) -> StoreStatus:
    """Makes runs that agents report, and that the copy does not know, runs of their tasks."""
    await services.adoption.adopt(body, actor)
    return await services.recovery.status(VERSION)


@router.post("/recovery/give-up", responses=errors(404, 409))
@allow(Right.RECOVER, body_limit=MIB)
async def give_up_runs(body: RecoveryChoice, services: InServices, actor: InActor) -> StoreStatus:
    """Lets agents end such runs; their tasks go on as the copy has them. A silent run is lost at once."""
    await services.adoption.give_up(body, actor)
    return await services.recovery.status(VERSION)


@router.post("/recovery/resume", responses=errors(409))
@allow(Right.RECOVER)
async def resume_store(services: InServices, actor: InActor) -> StoreStatus:
    """Hands tasks out again; 409 while a run is undecided. A repeat is harmless."""
    await services.adoption.resume(actor)
    return await services.recovery.status(VERSION)
