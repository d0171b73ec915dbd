"""What the routers may reach, and the request as they see it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from taskyard_server.accounts import Accounts
from taskyard_server.adoption import Adoption
from taskyard_server.api.log_feeds import LogFeeds
from taskyard_server.artifacts.service import Artifacts
from taskyard_server.auth import Actor, Authenticator
from taskyard_server.claims import Claims
from taskyard_server.config import ServerConfig
from taskyard_server.disk_space import DiskSpace
from taskyard_server.exposition import Exposition
from taskyard_server.idempotency import Repeats
from taskyard_server.metrics import Metrics
from taskyard_server.queues import Queues
from taskyard_server.recovery import Recovery
from taskyard_server.runs import Runs
from taskyard_server.status import Status
from taskyard_server.store.base import BlobStore, Store
from taskyard_server.tasks import Tasks
from taskyard_server.terminals import Terminals
from taskyard_server.workers import Workers


@dataclass(frozen=True, kw_only=True)
class Services:
    """One of each, for the life of the server."""

    config: ServerConfig
    store: Store
    blobs: BlobStore
    disk: DiskSpace
    authenticator: Authenticator
    accounts: Accounts
    repeats: Repeats
    tasks: Tasks
    queues: Queues
    room: Claims
    recovery: Recovery
    adoption: Adoption
    workers: Workers
    runs: Runs
    artifacts: Artifacts
    metrics: Metrics
    log_feeds: LogFeeds
    exposition: Exposition
    status: Status
    terminals: Terminals
    administrator_created: bool = False
    """Whether this start made the first administrator's token."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by `stop`."""

    def stop(self) -> None:
        """Ends parked claims and streams: the server is about to stop."""
        self.stopping.set()
        self.room.close()
        self.log_feeds.close()
        self.terminals.close()


@dataclass(frozen=True, kw_only=True)
class Call:
    """One admitted request."""

    actor: Actor
    secret: str
    """The caller's token, to be asked again during a long stream."""


def services_of(request: Request) -> Services:
    """The application's services."""
    return cast(Services, request.app.state.services)


async def _services(request: Request) -> Services:
    return services_of(request)


def call_of(request: Request) -> Call:
    """Who was admitted with this request."""
    return cast(Call, request.scope["taskyard.call"])


async def _call(request: Request) -> Call:
    return call_of(request)


async def _actor(request: Request) -> Actor:
    return call_of(request).actor


InServices = Annotated[Services, Depends(_services)]
InCall = Annotated[Call, Depends(_call)]
InActor = Annotated[Actor, Depends(_actor)]
