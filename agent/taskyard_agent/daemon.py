"""The agent's composition root: builds the parts, starts the side loops, and ends them in order."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from taskyard import __version__
from taskyard.client import Client
from taskyard.errors import Refused, TaskyardError, Unavailable
from taskyard.wire import (
    Claim,
    ClaimRequest,
    Gpu,
    LogPosition,
    Outcome,
    RunDirective,
    Sample,
)

from . import endings, gpus, processes
from .checkout import CheckoutSettings
from .clock import ServerClock
from .config import AgentSettings
from .environments import EnvironmentSettings
from .errors import RunFailed, RunStopped, SettingsError
from .gpus import GpuLock
from .held import Cause, read_exit_record
from .journal import Journal, JournalledRun
from .lease import Lease
from .log_shipper import LogShipper
from .monitor import Monitor, WatchedRun, WatchedWorker
from .queues import order_from_server
from .run import RunServices
from .spare_keeper import SpareKeeper
from .variables import inherited
from .worker import AgentIdentity, Claimer, QueueOrder, Worker, jobs_of

logger = logging.getLogger(__name__)

LOGS_AFTER_DRAIN_SECONDS = 10.0
FAREWELL_SECONDS = 2.0
SETTLE_SECONDS = 10.0
"""How long a new daemon waits for the end of an earlier run to be reported before it goes on."""
KILLED_SECONDS = 10.0
"""Killed runs are reported in this time, or, when the server cannot be reached, by the next daemon."""


class End(enum.IntEnum):
    """What the operator wants of a daemon; each SIGTERM or Ctrl-C goes one further."""

    RUN = 0
    DRAIN = 1
    CANCEL = 2
    KILL = 3
    HAND_OVER = 4


@dataclass(frozen=True, kw_only=True)
class AgentParts:
    """The parts of one agent, started together."""

    settings: AgentSettings
    identity: AgentIdentity
    client: Client
    clock: ServerClock
    journal: Journal
    shipper: LogShipper
    workers: tuple[Worker, ...]
    lease: Lease
    services: RunServices
    order: QueueOrder

    @property
    def busy(self) -> bool:
        """Whether a run is being carried."""
        return any(worker.job for worker in self.workers)

    def secrets_of(self, run: JournalledRun) -> Mapping[str, str]:
        """Asks the server for a run's secrets again, by repeating its claim. Raises RunStopped when it is gone."""
        request = ClaimRequest(
            agent=self.identity.name,
            worker=run.run.worker,
            boot_id=self.identity.boot_id,
            request_id=run.tokens.request_id,
            control_hash=run.tokens.control_hash,
            report_hash=run.tokens.report_hash,
            wait_seconds=0.0,
        )
        claim = self._repeat_claim(request)
        if claim.run is None or claim.run.id != run.run.id:
            raise RunStopped("the run was given back while no agent carried it")
        return claim.secrets

    def _repeat_claim(self, request: ClaimRequest) -> Claim:
        while True:
            try:
                return self.client.claim(request)
            except Unavailable as error:
                logger.warning("cannot ask for the run again: %s", error, extra={"action": "claim_unavailable"})
            except Refused as error:
                raise RunStopped(str(error)) from error


class Daemon:
    """Claims and carries runs until it is told to end."""

    def __init__(self, settings: AgentSettings, client: Client) -> None:
        self._settings = settings
        self._client = client
        self._end = End.RUN
        self._told = threading.Event()

    def run(self) -> int:
        """Runs until a signal ends it; returns the exit code. Raises SettingsError for what cannot be followed."""
        with open_agent(self._settings, self._client) as parts, self._signals():
            claimer = Claimer(
                parts.identity, parts.workers, parts.order,
                client=self._client, journal=parts.journal, services=parts.services,
            )  # fmt: skip
            self._say_hello(parts)
            parts.services.keepers.prepare()
            carry_on(parts)
            parts.lease.start(on_drain=self.drain)
            claimer.start()
            self._wait_for_word(parts)
            claimer.stop()
            if self._end is not End.HAND_OVER:
                self._leave(parts, claimer)
        return 0

    def drain(self, reason: str) -> None:
        """Ends the daemon after what it runs, as one SIGTERM does. May be called from any thread, repeatedly."""
        if self._end is End.RUN:
            logger.info("going to end: %s", reason, extra={"action": "agent_told_to_drain"})
            self._end = End.DRAIN
            self._told.set()

    def _say_hello(self, parts: AgentParts) -> None:
        names = ", ".join(worker.name for worker in parts.workers)
        order = " in turn" if self._settings.order_fairness else " in this order"
        queues = ", ".join(map(repr, parts.order.queues))
        logger.info(
            "worker %s, server %s", names, self._settings.connection.server, extra={"action": "agent_started"}
        )
        logger.info(
            "serving %s%s; Ctrl-C drains",
            queues,
            order if len(parts.order.queues) > 1 else "",
            extra={"action": "agent_queues"},
        )

    # --- the end

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        handled = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        before = {number: signal.signal(number, self._on_signal) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self._end = End.HAND_OVER
        elif self._end < End.KILL:
            self._end = End(self._end + 1)
        self._told.set()

    def _wait_for_word(self, parts: AgentParts) -> None:
        self._told.wait()
        if self._end is End.HAND_OVER:
            logger.info("handing over: runs go on without me", extra={"action": "agent_hands_over"})
            return
        running = [job.id for job in jobs_of(parts.workers)]
        logger.info(
            "draining: nothing more is taken%s",
            f"; {', '.join(running)} goes on (once more to cancel, a third time to kill)" if running else "",
            extra={"action": "agent_drains"},
        )

    def _leave(self, parts: AgentParts, claimer: Claimer) -> None:
        """Waits for the runs, as far as the operator lets them go on, and tells the server the truth."""
        for worker in parts.workers:
            worker.draining = True
        self._tell_server(parts)
        claimer.join(FAREWELL_SECONDS)
        done, leave_at = End.DRAIN, float("inf")
        while parts.busy and self._end is not End.HAND_OVER and time.monotonic() < leave_at:
            if self._end > done:
                done = self._end
                _end_runs(parts, kill=done is End.KILL)
                leave_at = time.monotonic() + KILLED_SECONDS if done is End.KILL else leave_at
            self._told.clear()
            self._told.wait(0.05)
        if self._end is not End.HAND_OVER:
            self._ship_rest(parts)
            for worker in parts.workers:
                worker.stopped = True
            self._tell_server(parts)

    def _ship_rest(self, parts: AgentParts) -> None:
        deadline = time.monotonic() + LOGS_AFTER_DRAIN_SECONDS
        while parts.journal.runs() and time.monotonic() < deadline and self._end < End.KILL:
            time.sleep(0.02)
        if parts.journal.runs():
            logger.warning(
                "some logs wait on this machine; the next daemon ships them", extra={"action": "logs_wait"}
            )

    def _tell_server(self, parts: AgentParts) -> None:
        try:
            parts.lease.send(patience_seconds=FAREWELL_SECONDS)
        except TaskyardError as error:
            logger.warning("the server was not told: %s", error, extra={"action": "farewell_failed"})


def _end_runs(parts: AgentParts, *, kill: bool) -> None:
    for job in jobs_of(parts.workers):
        if kill:
            job.kill()
        else:
            job.stop(Cause.AGENT_STOPPED)


@contextlib.contextmanager
def open_agent(settings: AgentSettings, client: Client) -> Iterator[AgentParts]:
    """Builds and opens the parts of an agent, and closes them. Raises SettingsError."""
    devices = _choose_gpus(settings)
    name = settings.name or _default_name(settings.host, devices)
    identity = AgentIdentity(name=name, host=settings.host, boot_id=processes.boot_id(), version=__version__)
    journal = Journal(settings.local_dir / "agents" / _server_folder(settings.connection.server), name)
    order = QueueOrder(order_from_server(client, settings), fair=settings.order_fairness)
    journal.open()
    try:
        with contextlib.closing(_hold_gpus(devices, name)):
            parts = _assemble(settings, client, identity, journal, order, Worker(name, devices, order.queues))
            parts.shipper.start()
            try:
                yield parts
            finally:
                parts.lease.stop()
                parts.shipper.close()
                parts.services.keepers.close()
    finally:
        journal.close()


def _assemble(
    settings: AgentSettings,
    client: Client,
    identity: AgentIdentity,
    journal: Journal,
    order: QueueOrder,
    worker: Worker,
) -> AgentParts:
    clock = ServerClock()
    workers = (worker,)
    monitor = Monitor(disk=settings.local_dir, measure_gpu=gpus.measure, clock=clock.now)

    def append(run_id: str, control_token: str, offset: int, data: bytes) -> LogPosition:
        return client.append_log(run_id, offset, data, control_token=control_token, patience_seconds=0.0)

    def log_refused(run_id: str) -> None:
        for job in jobs_of(workers):
            if job.id == run_id:
                job.obey(RunDirective(run=run_id, stale=True))  # it closes its run itself
                return
        journal.close_run(run_id)

    shipper = LogShipper(append, on_stale=log_refused, on_complete=journal.close_run)
    lease = Lease(identity, workers, client=client, clock=clock, samples=lambda: _measure(monitor, workers))
    services = RunServices(
        client=client,
        journal=journal,
        shipper=shipper,
        clock=clock,
        checkout=checkout_settings(settings),
        environments=environment_settings(settings),
        inherited=inherited(settings.environ, settings.pass_env),
        server_variables=_server_variables(settings),
        send_beat=lease.poke,
        keepers=SpareKeeper(),
    )
    return AgentParts(
        settings=settings,
        identity=identity,
        client=client,
        clock=clock,
        journal=journal,
        shipper=shipper,
        workers=workers,
        lease=lease,
        services=services,
        order=order,
    )


def carry_on(parts: AgentParts) -> None:
    """Takes the runs over that an earlier daemon left in the journal."""
    for left in parts.journal.runs():
        run = left
        if run.boot_id != parts.identity.boot_id and run.progress.outcome is None:
            # What had ended before the machine did keeps its true end.
            outcome = _outcome_before_reboot(run)
            run = dataclasses.replace(run, progress=dataclasses.replace(run.progress, outcome=outcome))
        worker = next((worker for worker in parts.workers if worker.job is None), parts.workers[0])
        logger.info("carrying on with run %s", run.run.id, extra={"action": "run_carried_on", "run": run.run.id})
        if worker.job is None and run.progress.outcome is None:
            worker.take(
                run, parts.services, secrets=functools.partial(parts.secrets_of, run), done=parts.lease.poke
            )
        else:
            # Before the first beat: from that the server learns of a reboot, and gives up what it held.
            worker.settle(run, parts.services).join(SETTLE_SECONDS)


def _outcome_before_reboot(run: JournalledRun) -> Outcome:
    record = read_exit_record(run.directory.path)
    return endings.outcome_of(record, run.directory.spool) if record else endings.lost_with_machine()


def _measure(monitor: Monitor, workers: Sequence[Worker]) -> list[Sample]:
    watched = [WatchedWorker(name=worker.name, gpus=worker.devices) for worker in workers]
    runs = [
        WatchedRun(id=job.id, keeper_pid=job.keeper_pid, gpus=job.devices)
        for job in jobs_of(workers)
        if job.keeper_pid is not None
    ]
    return monitor.samples(watched, runs)


def _choose_gpus(settings: AgentSettings) -> tuple[Gpu, ...]:
    if settings.cpu_only:
        return ()
    there = gpus.devices()
    return tuple(there) if settings.gpus is None else gpus.parse_selection(settings.gpus, there)


def _hold_gpus(devices: tuple[Gpu, ...], name: str) -> GpuLock:
    """One agent at a time may have a GPU; each run's own lock is a second one, which its keeper holds."""
    try:
        return gpus.lock(devices, name, folder=gpus.LOCK_FOLDER / "agents")
    except RunFailed as error:
        raise SettingsError(
            f"another agent on this machine has it: {error}; choose other GPUs with --gpus, or --cpu-only"
        ) from error


def _default_name(host: str, devices: tuple[Gpu, ...]) -> str:
    if devices:
        return f"{host}:gpu{','.join(str(gpu.index) for gpu in devices)}"
    return f"{host}:cpu:0"


def _server_folder(server: str) -> str:
    return server.partition("://")[2].replace("/", "_").replace(":", "_")


def checkout_settings(settings: AgentSettings) -> CheckoutSettings:
    """The checkout's part of the settings."""
    return CheckoutSettings(
        folder=settings.local_dir / "git",
        allow_file=settings.allow_file_repositories,
        allow_filters=settings.allow_git_filters,
        submodule_hosts=settings.submodule_hosts,
        tokens=settings.git_tokens,
        ssh_key=settings.git_ssh_key,
        environ=settings.environ,
    )


def environment_settings(settings: AgentSettings) -> EnvironmentSettings:
    """The environments' part of the settings."""
    return EnvironmentSettings(
        root=settings.local_dir,
        variables=settings.environ,
        python=settings.python,
        python_downloads=settings.python_downloads,
        python_mirror=settings.python_mirror,
        allowed_indexes=settings.allow_indexes,
        max_environments=settings.cache_environments,
        max_bytes=settings.cache_bytes,
        min_free_bytes=settings.min_free_disk,
    )


def _server_variables(settings: AgentSettings) -> dict[str, str]:
    """How user code finds the server; its token is the run's own."""
    link = settings.connection
    found = {"TASKYARD_SERVER": link.server}
    if link.ca_file is not None:
        found["TASKYARD_CA_FILE"] = str(Path(link.ca_file).absolute())
    if link.insecure:
        found["TASKYARD_INSECURE"] = "1"
    return found
