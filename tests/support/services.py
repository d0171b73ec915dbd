"""The services on a real SQLite store with clocks that the test moves, and an agent that speaks to them."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskyard.wire import (
    Beat,
    BeatAnswer,
    Capacity,
    Claim,
    ClaimRequest,
    Command,
    FinishRequest,
    LogPosition,
    NewTask,
    Outcome,
    OutcomeKind,
    Phase,
    Reason,
    Run,
    RunReport,
    StartRequest,
    Task,
    TaskSpec,
    TokenKind,
    WorkerReport,
    WorkerState,
)
from taskyard_server.adoption import Adoption
from taskyard_server.artifacts.service import Artifacts
from taskyard_server.auth import Actor
from taskyard_server.claims import Claims
from taskyard_server.config import ServerConfig
from taskyard_server.queues import Queues
from taskyard_server.recovery import Recovery
from taskyard_server.runs import Runs, timing_of
from taskyard_server.store import Stores, open_store
from taskyard_server.sweeper import Sweeper
from taskyard_server.tasks import Tasks
from taskyard_server.workers import Workers

START = 1_000_000.0
ADA = Actor(token="ada-token", kind=TokenKind.USER, name="ada", owner="ada")
BOB = Actor(token="bob-token", kind=TokenKind.USER, name="bob", owner="bob")
COMPLETED = Outcome(kind=OutcomeKind.COMPLETED, reason=Reason.EXIT, phase=Phase.RUNNING, exit_code=0)
FAILED = Outcome(kind=OutcomeKind.FAILED, reason=Reason.EXIT, phase=Phase.RUNNING, exit_code=3)
CANCELLED = Outcome(kind=OutcomeKind.CANCELLED, reason=Reason.CANCELLED, phase=Phase.RUNNING)
DISK_FULL = Outcome(
    kind=OutcomeKind.FAILED,
    reason=Reason.DISK,
    phase=Phase.ENVIRONMENT,
    message="no space left",
    infrastructure=True,
)


@dataclass
class Clock:
    """Seconds; `move` moves the wall clock and the steady one, `set_ahead` the wall clock alone."""

    wall: float = START
    steady: float = 0.0

    def __call__(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def move(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def set_ahead(self, seconds: float) -> None:
        self.wall += seconds


def spec(**fields: Any) -> TaskSpec:
    return TaskSpec(**{"command": Command(target="train.py"), **fields})


async def present() -> bool:
    """A client that has not hung up."""
    return False


async def hung_up() -> bool:
    return True


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Services:
    """A server without HTTP."""

    clock: Clock
    config: ServerConfig
    stores: Stores
    claims: Claims
    tasks: Tasks
    queues: Queues
    workers: Workers
    runs: Runs
    sweeper: Sweeper
    recovery: Recovery
    adoption: Adoption
    artifacts: Artifacts

    async def enqueue(self, queue: str = "default", actor: Actor = ADA, **fields: Any) -> Task:
        return await self.tasks.create(NewTask(spec=spec(**fields), queue=queue), actor)

    async def task(self, task_id: str) -> Task:
        return await self.tasks.get(task_id, ADA)

    async def tick(self, seconds: float = 0.0) -> None:
        """Moves the clocks in steps that are no gap, as a server that runs without a break would see it."""
        while seconds > 0:
            step = min(4.0, seconds)
            self.clock.move(step)
            seconds -= step
            await self._tick_once()
        await self._tick_once()

    async def _tick_once(self) -> None:
        """With its housekeeping: the clock of a test moves faster than that ends by itself."""
        await self.sweeper.tick(self.clock())
        await self.sweeper.finish_housekeeping()

    def agent(self, name: str = "host:cpu:0", **fields: Any) -> FakeAgent:
        return FakeAgent(self, name, **fields)


@dataclass
class FakeAgent:
    """Speaks the protocol as an agent does; runs nothing."""

    services: Services
    name: str
    gpus: int = 0
    queues: tuple[str, ...] = ("default",)
    host: str = "host"
    boot_id: str = "boot-1"
    instance: str = ""
    """Empty: an agent of an older version."""
    token: str = "agent-token"
    held: dict[str, str] = field(default_factory=dict)
    """Run id → control token."""

    @property
    def actor(self) -> Actor:
        return Actor(token=self.token, kind=TokenKind.AGENT, name=self.name, owner=self.token)

    def request(self, **fields: Any) -> ClaimRequest:
        request_id = fields.pop("request_id", uuid.uuid4().hex)
        defaults: dict[str, Any] = {
            "agent": self.name,
            "worker": self.name,
            "boot_id": self.boot_id,
            "instance": self.instance,
            "request_id": request_id,
            "control_hash": sha256(f"control of {request_id}"),
            "report_hash": sha256(f"report of {request_id}"),
            "queues": self.queues,
            "free": Capacity(gpus=self.gpus),
            "total": Capacity(gpus=self.gpus),
            "runs": tuple(self.held),
            "wait_seconds": 0.0,
        }
        return ClaimRequest(**{**defaults, **fields})

    async def claim(self, gone: Any = present, **fields: Any) -> Claim:
        request = self.request(**fields)
        claim = await self.services.runs.claim(request, self.actor, gone)
        if claim.run is not None:
            self.held[claim.run.id] = f"control of {request.request_id}"
        return claim

    async def take(self, **fields: Any) -> Run:
        """Claims a task that must be there, and confirms it."""
        claim = await self.claim(**fields)
        assert claim.run is not None
        await self.beat()
        return claim.run

    async def take_and_start(self) -> Run:
        return await self.start(await self.take())

    async def park(self, **fields: Any) -> asyncio.Task[Claim]:
        """A claim that waits: it has looked, found nothing, and sits in the waiting room."""
        store = self.services.stores.store
        claim, looked = store.claim, asyncio.Event()

        async def watched(*args: Any) -> Any:
            try:
                return await claim(*args)
            finally:
                looked.set()

        store.claim = watched  # type: ignore[method-assign]
        waiting = asyncio.create_task(self.claim(wait_seconds=25.0, **fields))
        if fields.get("worker", self.name) is not None:
            await asyncio.wait_for(looked.wait(), 5)
        store.claim = claim  # type: ignore[method-assign]
        for _ in range(10):
            await asyncio.sleep(0)
        return waiting

    async def beat(
        self, state: WorkerState | None = None, phase: Phase = Phase.CHECKOUT, **fields: Any
    ) -> BeatAnswer:
        run = next(iter(self.held), None)
        report = WorkerReport(
            name=self.name,
            state=state or (WorkerState.BUSY if run else WorkerState.IDLE),
            queues=self.queues,
            runs=(run,) if run else (),
            total=Capacity(gpus=self.gpus),
            free=Capacity(slots=0 if run else 1, gpus=0 if run else self.gpus),
        )
        reports = tuple(RunReport(id=id, control_token=token, phase=phase) for id, token in self.held.items())
        beat = Beat(
            agent=self.name,
            host=self.host,
            boot_id=self.boot_id,
            instance=self.instance,
            version="1",
            workers=fields.pop("workers", (report,)),
            runs=fields.pop("runs", reports),
            **fields,
        )
        return await self.services.runs.beat(beat, self.actor)

    async def start(self, run: Run) -> Run:
        request = StartRequest(control_token=self.held[run.id])
        return await self.services.runs.start(run.id, request, self.actor)

    async def finish(self, run: Run, outcome: Outcome = COMPLETED, log_bytes: int = 0) -> Run:
        request = FinishRequest(control_token=self.held[run.id], outcome=outcome, log_bytes=log_bytes)
        return await self.services.runs.finish(run.id, request, self.actor)

    async def finish_and_forget(self, run: Run, outcome: Outcome = COMPLETED) -> Run:
        ended = await self.finish(run, outcome)
        del self.held[run.id]
        return ended

    async def log(self, run: Run, offset: int, data: bytes) -> LogPosition:
        return await self.services.runs.append_log(run.id, self.held[run.id], offset, data, self.actor)


@asynccontextmanager
async def open_services(data: Path, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Services]:
    """A server's services on the store below `data`; opened again, they find what was kept."""
    clock = clock or Clock()
    config = ServerConfig(data=data, min_free_disk_bytes=settings.pop("min_free_disk_bytes", 0), **settings)
    stores = open_store("", data)
    await stores.open()
    try:
        claims = Claims(stores.store, clock)
        recovery = Recovery(stores.store, clock)
        artifacts = Artifacts(stores.store, stores.artifacts, stores.artifact_parts, clock, config)
        runs = Runs(stores.store, claims, stores.logs, stores.samples, clock, config, recovery)
        services = Services(
            clock=clock,
            config=config,
            stores=stores,
            claims=claims,
            tasks=Tasks(stores.store, claims, runs.logs, stores.blobs, clock, artifacts=artifacts),
            artifacts=artifacts,
            queues=Queues(stores.store, claims, clock),
            workers=Workers(stores.store, claims, clock),
            runs=runs,
            sweeper=Sweeper(
                stores.store, claims, runs, stores.blobs, clock, config, clock.monotonic, artifacts=artifacts
            ),
            recovery=recovery,
            adoption=Adoption(stores.store, recovery, runs, claims, clock, timing_of(config)),
        )
        await services.queues.ensure_defaults()
        await recovery.refresh()
        yield services
        claims.close()
        await services.sweeper.finish_housekeeping()
    finally:
        await stores.close()
