"""How agents get work and report that they live."""

from __future__ import annotations

import asyncio

from fastapi import Request
from taskyard.wire import Beat, BeatAnswer, Claim, ClaimRequest

from taskyard_server.api.rates import Places
from taskyard_server.api.route import MIB, allow, errors, new_router
from taskyard_server.api.services import InActor, InServices, call_of
from taskyard_server.auth import Right

router = new_router("claims")


@router.post("/claims", responses=errors(404, 409))
@allow(Right.CLAIM, body_limit=MIB, repeatable=False)
async def claim(body: ClaimRequest, request: Request, services: InServices, actor: InActor) -> Claim:
    """Takes the first fitting task of the queues, waiting up to `wait_seconds`. A repeated `request_id` is
    answered with the same run."""
    secret = call_of(request).secret
    parked: Places = request.app.state.parked_claims
    parked.require(actor.token)
    hang_up = asyncio.ensure_future(request.receive())  # the body is read: only a disconnect can follow

    async def gone() -> bool:
        await asyncio.sleep(0)  # a disconnect that is already known reaches its waiter first
        await services.authenticator.actor(secret)  # nothing is handed to a token revoked while its claim waited
        return hang_up.done()

    try:
        with parked.taken(actor.token):
            return await services.runs.claim(body, actor, gone)
    finally:
        hang_up.cancel()


@router.post("/beats", responses=errors(404, 409))
@allow(Right.CLAIM, body_limit=4 * MIB, repeatable=False)
async def beat(body: Beat, services: InServices, actor: InActor) -> BeatAnswer:
    """Renews the leases of the agent's runs, keeps its measurements, and answers with what it must do."""
    return await services.runs.beat(body, actor)
