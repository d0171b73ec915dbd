"""The composition root: opens the store, builds the services, mounts the routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from taskyard.wire import API_PREFIX

from taskyard_server.accounts import Accounts
from taskyard_server.adoption import Adoption
from taskyard_server.api import (
    artifacts,
    blobs,
    claims,
    front,
    openapi,
    problems,
    queues,
    recovery,
    runs,
    server,
    tasks,
    terminals,
    tokens,
    workers,
)
from taskyard_server.api.guard import Guard
from taskyard_server.api.log_feeds import LogFeeds
from taskyard_server.api.rates import Places, RateLimit
from taskyard_server.api.services import Services
from taskyard_server.artifacts.service import Artifacts
from taskyard_server.auth import Authenticator
from taskyard_server.census import Counting
from taskyard_server.claims import Claims
from taskyard_server.config import ServerConfig
from taskyard_server.copies.pins import remove_abandoned
from taskyard_server.disk_space import DiskSpace
from taskyard_server.exposition import Exposition, Sources
from taskyard_server.idempotency import Repeats
from taskyard_server.instruments import Instruments
from taskyard_server.metrics import Metrics
from taskyard_server.queues import Queues
from taskyard_server.recovery import Recovery
from taskyard_server.runs import Runs, timing_of
from taskyard_server.status import Status
from taskyard_server.store import Stores, control_file, open_store
from taskyard_server.store.emptiness import refuse_empty_beside_data
from taskyard_server.store.timed import timed
from taskyard_server.sweeper import Sweeper
from taskyard_server.tasks import Tasks
from taskyard_server.terminals import Terminals
from taskyard_server.workers import Workers

logger = logging.getLogger(__name__)

ROUTERS = (claims, runs, tasks, queues, workers, blobs, artifacts, tokens, server, recovery, terminals)
"""In the order in which they are looked through: the busiest first."""

MOST_PARKED_CLAIMS = 5000
"""Of one token: a whole cluster may share it, each of its agents with a claim that waits."""
MOST_LOG_STREAMS = 1000


def create_app(config: ServerConfig) -> FastAPI:
    """The ASGI application; its lifespan opens the store and starts the sweeper."""
    app = FastAPI(
        lifespan=_lifespan,
        openapi_url=f"{API_PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
        },  # asking whether it is on costs 30 µs a request
    )
    app.state.config = config
    app.state.rate_limit = RateLimit(config.rate_limit)
    app.state.login_rate_limit = RateLimit(config.login_rate_limit)
    app.state.parked_claims = Places(MOST_PARKED_CLAIMS, "claims that wait")
    app.state.log_streams = Places(MOST_LOG_STREAMS, "live logs open")
    for module in ROUTERS:
        app.router.routes.extend(module.router.routes)
    app.router.routes.extend(front.ROUTES)
    problems.install(app)
    app.state.instruments = Instruments()
    app.add_middleware(Guard, tls=config.tls, instruments=app.state.instruments)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    def described() -> dict[str, Any]:
        app.openapi_schema = app.openapi_schema or openapi.describe(app)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with running(app.state.config, app.state.instruments) as services:
        app.state.services = services
        yield


@contextlib.asynccontextmanager
async def running(config: ServerConfig, instruments: Instruments | None = None) -> AsyncIterator[Services]:
    """The services on an open store, with their loops; raises StartRefused when the store is unfit."""
    instruments = instruments or Instruments()
    stores = open_store(config.store, config.data, Path(config.artifacts) if config.artifacts else None)
    if control := control_file(config.store, config.data):
        refuse_empty_beside_data(control, config.data)
        remove_abandoned(config.data)
    config.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    await stores.open()
    try:
        services, room, sweeper = _compose(config, stores, instruments)
        await services.recovery.refresh()
        _warn_of_recovery(services)
        await services.queues.ensure_defaults()
        created = await services.accounts.ensure_administrator(
            config.admin_token_file, anew=config.new_administrator
        )
        async with _loops(sweeper.run(), room.listen(), instruments.watch_loop(), services.terminals.watch()):
            yield replace(services, administrator_created=created)
    finally:
        await stores.close()


def _warn_of_recovery(services: Services) -> None:
    if services.recovery.recovering:
        logger.warning(
            "the store was restored from a copy: nothing is handed out; see `taskyard server status`, then type"
            " `taskyard server resume`",
            extra={"action": "store_recovering", "generation": services.recovery.generation.number},
        )


def _compose(config: ServerConfig, stores: Stores, instruments: Instruments) -> tuple[Services, Claims, Sweeper]:
    clock, store = time.time, timed(stores.store, instruments.stored)
    authenticator = Authenticator(store, clock, refuse_unconfined=config.end_old_agent_tokens)
    room = Claims(store, clock)
    disk = DiskSpace(config.data, config.min_free_disk_bytes)
    recovered = Recovery(store, clock)
    kept = Artifacts(store, stores.artifacts, stores.artifact_parts, clock, config)
    open_terminals = Terminals(store, room, clock, time.monotonic)
    run_service = Runs(
        store, room, stores.logs, stores.samples, clock, config, recovered, instruments, open_terminals
    )
    counting = Counting(store, clock)
    sources = Sources(version=server.VERSION, store=store, data=config.data, room=room, recovery=recovered)
    services = Services(
        config=config,
        store=store,
        blobs=stores.blobs,
        disk=disk,
        authenticator=authenticator,
        accounts=Accounts(store, authenticator, clock),
        repeats=Repeats(store, clock),
        tasks=Tasks(store, room, run_service.logs, stores.blobs, clock, disk, kept),
        artifacts=kept,
        queues=Queues(store, room, clock),
        room=room,
        recovery=recovered,
        adoption=Adoption(store, recovered, run_service, room, clock, timing_of(config)),
        workers=Workers(store, room, clock),
        runs=run_service,
        metrics=Metrics(stores.samples, clock),
        log_feeds=LogFeeds(run_service),
        exposition=Exposition(instruments, counting, sources),
        terminals=open_terminals,
        status=Status(recovered, counting, stores.sizes, clock),
    )
    return services, room, Sweeper(store, room, run_service, stores.blobs, clock, config, artifacts=kept)


@contextlib.asynccontextmanager
async def _loops(*loops: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks_ = [asyncio.ensure_future(loop) for loop in loops]
    try:
        yield
    finally:
        for task in tasks_:
            task.cancel()
        await asyncio.gather(*tasks_, return_exceptions=True)
