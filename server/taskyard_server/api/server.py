"""What anybody may ask the server about itself."""

from __future__ import annotations

import importlib.metadata
import time
from dataclasses import dataclass

from taskyard.wire import ServerInfo

from taskyard_server.api.route import allow, new_router
from taskyard_server.api.services import InServices

router = new_router("server")

VERSION = importlib.metadata.version("taskyard")


@dataclass(frozen=True, kw_only=True)
class Health:
    """Answer to `GET /health`."""

    status: str


@router.get("/info")
@allow(None)
async def read_info(services: InServices) -> ServerInfo:
    """Version, store and clock."""
    return ServerInfo(
        version=VERSION,
        store=services.store.kind,
        time=time.time(),
        generation=services.recovery.generation.number,
        recovering=services.recovery.recovering,
        artifacts=services.artifacts.limits,
    )


@router.get("/health")
@allow(None)
async def read_health(services: InServices) -> Health:
    """`ok` while the store answers; 503 otherwise."""
    await services.store.token_by_hash("")
    return Health(status="ok")
