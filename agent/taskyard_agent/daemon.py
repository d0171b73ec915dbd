"""The agent's composition root: builds the parts, starts the side loops, and ends them in order."""

from __future__ import annotations

import contextlib
import enum
import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from taskyard import __version__
from taskyard.client import Client
from taskyard.errors import Refused, Unavailable
from taskyard.wire import (
    Claim,
    ClaimRequest,
    LogPosition,
    RunDirective,
    Sample,
)

from . import gpus, means
from .checkout import CheckoutSettings
from .clock import ServerClock
from .config import AgentSettings
from .containers import Containers, ContainerSettings
from .environments import EnvironmentSettings
from .errors import AgentNotStarted, RunStopped
from .held import Cause
from .hooks import Hook, HookFailed, Hooks
from .idle_gpus import IdleGpus
from .introduction import Introduction
from .journal import Journal, JournalledRun, folder_name
from .keeper import processes
from .lease import Lease
from .leftovers import Leftovers
from .life.duties import Life
from .life.running import Announcement
from .log_shipper import LogShipper
from .monitor import Monitor, WatchedRun, WatchedWorker
from .pressure import Pressure, on_this_machine
from .queues import ServedQueue, order_from_server
from .run_as import BUILDS_NOTHING, UMASK, Account, account_of, check_reach
from .run_services import RunServices
from .spare_keeper import SpareKeeper
from .variables import INSIDE, inherited
from .watchman import Watchman
from .worker import AgentIdentity, Claimer, QueueOrder, Worker

logger = logging.getLogger(__name__)

LOGS_AFTER_DRAIN_SECONDS = 10.0
FAREWELL_SECONDS = 2.0
UNATTENDED_SECONDS = 5.0
"""How long runs that an earlier daemon left may wait for GPUs that others left: far less than a lease."""
LOOK_SECONDS = 0.05
LOOPBACK = ("127.0.0.1", "localhost", "::1")
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
    worker: Worker
    lease: Lease
    services: RunServices
    served: tuple[ServedQueue, ...]
    order: QueueOrder

    @property
    def leftovers(self) -> Leftovers:
        """What an earlier daemon left to this one."""
        return Leftovers(
            journal=self.journal,
            boot_id=self.identity.boot_id,
            services=self.services,
            secrets_of=self.secrets_of,
        )

    @contextlib.contextmanager
    def hooks_at_both_ends(self, handed_over: Callable[[], bool]) -> Iterator[None]:
        """The operator's `start` and `stop`, which is not run where runs go on. Raises AgentNotStarted."""
        told = {"TASKYARD_WORKER": self.identity.name}
        try:
            self.services.hooks.run(Hook.START, told, say=_log_hook)
        except HookFailed as error:
            raise AgentNotStarted(f"the agent does not start: {error}") from error
        yield
        if handed_over():
            return
        try:
            self.services.hooks.run(Hook.STOP, told, say=_log_hook)
        except HookFailed as error:
            logger.error("%s", error, extra={"action": "hook_failed"})

    @property
    def busy(self) -> bool:
        """Whether a run is being carried."""
        return bool(self.worker.jobs)

    def secrets_of(self, run: JournalledRun) -> Mapping[str, str]:
        """Asks the server for a run's secrets again, by repeating its claim. Raises RunStopped when it is gone."""
        request = ClaimRequest(
            agent=self.identity.name,
            worker=run.run.worker,
            boot_id=self.identity.boot_id,
            instance=self.identity.instance,
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

    def __init__(self, settings: AgentSettings, client: Client, *, clearing: threading.Thread) -> None:
        """`clearing` ends what others left on this machine, before anything is taken."""
        self._settings = settings
        self._client = client
        self._clearing = clearing
        self._end = End.RUN
        self._told = threading.Event()
        self.begins_anew = False
        """Whether it ended in order to be started again."""

    def run(self) -> int:
        """Runs until a signal ends it; returns the exit code. Raises SettingsError for what cannot be followed."""
        self._clearing.join(UNATTENDED_SECONDS if self._left_runs() else None)
        with open_agent(self._settings, self._client, self._journal_of) as parts, self._signals():
            claimer = Claimer(
                parts.identity, parts.worker, parts.order,
                client=self._client, journal=parts.journal, services=parts.services,
            )  # fmt: skip
            life = self._life_of(parts, claimer)
            with parts.hooks_at_both_ends(lambda: self._end is End.HAND_OVER), self._served(parts, claimer):
                self._say_hello(parts)
                parts.services.keepers.prepare()
                with life:
                    if Introduction(parts.lease, parts.leftovers.reports()).made(self._told):
                        self._work(parts, claimer, life)
            self.begins_anew = life.begins_anew and self._end is End.DRAIN
        return 0

    def _journal_of(self, name: str) -> Journal:
        return Journal(agents_folder(self._settings), name)

    def _left_runs(self) -> bool:
        return self._settings.name is not None and bool(self._journal_of(self._settings.name).runs())

    def _work(self, parts: AgentParts, claimer: Claimer, life: Life) -> None:
        parts.leftovers.hand_to(parts.worker)
        parts.lease.start(on_drain=self.drain)
        if self._cleared():
            claimer.start()
        life.ready()
        self._wait_for_word(parts)
        claimer.stop()
        if self._end is not End.HAND_OVER:
            self._leave(parts, claimer)

    def _cleared(self) -> bool:
        """Waits until nothing of others is left; False when it was told to end before."""
        while self._clearing.is_alive():
            if self._told.wait(LOOK_SECONDS):
                return False
        return True

    def drain(self, reason: str) -> bool:
        """Ends the daemon after what it runs, as one SIGTERM does; whether nobody had done so before.

        May be called from any thread, repeatedly.
        """
        if self._end is not End.RUN:
            return False
        logger.info("going to end: %s", reason, extra={"action": "agent_told_to_drain"})
        self._end = End.DRAIN
        self._told.set()
        return True

    def _served(self, parts: AgentParts, claimer: Claimer) -> contextlib.AbstractContextManager[None]:
        """Answers monitoring, where that is asked for; the library is imported only then."""
        if self._settings.http is None:
            return contextlib.nullcontext()
        from .life.endpoint import Vitals, served

        lives = functools.partial(_lives, parts, claimer)
        vitals = Vitals(parts.worker, parts.services.tally, parts.lease, lives=lives)
        return served(self._settings.http, vitals)

    def _life_of(self, parts: AgentParts, claimer: Claimer) -> Life:
        return Life(
            self._settings,
            parts.services.tally,
            hold=parts.worker.hold,
            drain=self.drain,
            tell_server=parts.lease.poke,
            lives=functools.partial(_lives, parts, claimer),
            announcement=Announcement(parts.journal.folder, parts.identity.name, self._settings.connection.server),
        )

    def _say_hello(self, parts: AgentParts) -> None:
        order = " in turn" if self._settings.order_fairness else " in this order"
        queues = ", ".join(repr(queue.name) for queue in parts.served)
        logger.info(
            "worker %s, server %s",
            parts.worker.name,
            self._settings.connection.server,
            extra={"action": "agent_started"},
        )
        logger.info(
            "serving %s%s; Ctrl-C drains",
            queues,
            order if len(parts.served) > 1 else "",
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
        running = [job.id for job in parts.worker.jobs]
        logger.info(
            "draining: nothing more is taken%s",
            f"; {', '.join(running)} goes on (once more to cancel, a third time to kill)" if running else "",
            extra={"action": "agent_drains"},
        )

    def _leave(self, parts: AgentParts, claimer: Claimer) -> None:
        """Waits for the runs, as far as the operator lets them go on, and tells the server the truth."""
        parts.worker.draining = True
        parts.lease.tell(patience_seconds=FAREWELL_SECONDS)
        claimer.join(FAREWELL_SECONDS)
        done, leave_at = End.DRAIN, float("inf")
        while parts.busy and self._end is not End.HAND_OVER and time.monotonic() < leave_at:
            if self._end > done:
                done = self._end
                _end_runs(parts.worker, kill=done is End.KILL)
                leave_at = time.monotonic() + KILLED_SECONDS if done is End.KILL else leave_at
            self._told.clear()
            self._told.wait(0.05)
        if self._end is not End.HAND_OVER:
            self._ship_rest(parts)
            parts.worker.stopped = True
            parts.lease.tell(patience_seconds=FAREWELL_SECONDS)

    def _ship_rest(self, parts: AgentParts) -> None:
        deadline = time.monotonic() + LOGS_AFTER_DRAIN_SECONDS
        while parts.journal.runs() and time.monotonic() < deadline and self._end < End.KILL:
            time.sleep(0.02)
        if parts.journal.runs():
            logger.warning(
                "some logs wait on this machine; the next daemon ships them", extra={"action": "logs_wait"}
            )


def _log_hook(line: str) -> None:
    logger.info("hook: %s", line, extra={"action": "hook_output"})


def _lives(parts: AgentParts, claimer: Claimer) -> bool:
    return parts.lease.turns and claimer.turns


def _end_runs(worker: Worker, *, kill: bool) -> None:
    runs = ", ".join(job.id for job in worker.jobs)
    if kill:
        logger.warning("killing %s", runs, extra={"action": "agent_kills"})
    else:
        logger.info("cancelling %s; once more to kill", runs, extra={"action": "agent_cancels"})
    for job in worker.jobs:
        if kill:
            job.kill()
        else:
            job.stop(Cause.AGENT_STOPPED)


@contextlib.contextmanager
def open_agent(
    settings: AgentSettings,
    client: Client,
    journal_of: Callable[[str], contextlib.AbstractContextManager[Journal]],
) -> Iterator[AgentParts]:
    """Builds and opens the parts of an agent, and closes them. Raises SettingsError.

    `journal_of` opens the journal of an agent of that name.
    """
    account = _account(settings)
    devices = means.choose_gpus(settings)
    if account is not None and devices:
        gpus.guard()
    name = settings.name or means.default_name(settings, devices)
    served = order_from_server(client, settings)
    worker = Worker(
        name,
        means.of(settings, devices, served),
        tuple(queue.id for queue in served),
        labels=means.labels(settings, devices),
        shows_places=settings.services_mode is not None,
    )
    with journal_of(name) as journal, contextlib.closing(means.hold_gpus(devices, name)):
        with agent_on(journal, worker, served, settings, client, account) as parts:
            yield parts


@contextlib.contextmanager
def agent_on(
    journal: Journal,
    worker: Worker,
    served: tuple[ServedQueue, ...],
    settings: AgentSettings,
    client: Client,
    account: Account | None = None,
) -> Iterator[AgentParts]:
    """The parts of the agent whose journal that is, which is open."""
    parts = _assemble(settings, client, _identity(settings, worker, journal), journal, served, worker, account)
    parts.shipper.start()
    try:
        yield parts
    finally:
        parts.lease.stop()
        parts.shipper.close()
        parts.services.keepers.close()


def _identity(settings: AgentSettings, worker: Worker, journal: Journal) -> AgentIdentity:
    return AgentIdentity(
        name=worker.name,
        host=settings.host,
        boot_id=processes.boot_id(),
        version=__version__,
        instance=journal.instance,
    )


def _assemble(
    settings: AgentSettings,
    client: Client,
    identity: AgentIdentity,
    journal: Journal,
    served: tuple[ServedQueue, ...],
    worker: Worker,
    account: Account | None,
) -> AgentParts:
    clock = ServerClock()
    monitor = Monitor(disk=settings.local_dir, measure_gpu=gpus.measure, clock=clock.now)

    watchman = Watchman(worker, IdleGpus(settings.idle_gpu_percent), _pressure(settings))
    watchman.hold_where_full()  # the first claim does not wait for the first beat

    def measure() -> list[Sample]:
        samples = _measure(monitor, worker)
        watchman.heed(samples)
        return samples

    def append(run_id: str, control_token: str, offset: int, data: bytes) -> LogPosition:
        return client.append_log(run_id, offset, data, control_token=control_token, patience_seconds=0.0)

    def log_refused(run_id: str) -> None:
        for job in worker.jobs:
            if job.id == run_id:
                job.obey(RunDirective(run=run_id, stale=True))  # it closes its run itself
                return
        journal.close_run(run_id)

    shipper = LogShipper(append, on_stale=log_refused, on_complete=journal.close_run)
    lease = Lease(identity, worker, client=client, clock=clock, samples=measure)
    services = RunServices(
        client=client,
        journal=journal,
        shipper=shipper,
        clock=clock,
        checkout=checkout_settings(settings),
        environments=environment_settings(settings),
        containers=Containers(settings=container_settings(settings, journal.folder)),
        inherited=inherited(settings.environ, settings.pass_env) | (account.variables if account else {}),
        account=account,
        inherited_inside=inherited(settings.environ, settings.pass_env, base=INSIDE),
        server_variables=_server_variables(settings),
        server_files=_server_files(settings),
        send_beat=lease.poke,
        keepers=SpareKeeper(),
        hooks=Hooks(
            folder=settings.hooks,
            timeout_seconds=settings.hook_timeout,
            variables=inherited(settings.environ, settings.pass_env),
        ),
    )
    return AgentParts(
        settings=settings,
        identity=identity,
        client=client,
        clock=clock,
        journal=journal,
        shipper=shipper,
        worker=worker,
        lease=lease,
        services=services,
        served=served,
        order=QueueOrder(worker.queues, fair=settings.order_fairness),
    )


def _account(settings: AgentSettings) -> Account | None:
    """Whom tasks run as; what the agent makes for them is readable for that user."""
    if settings.run_as is None:
        return None
    account = account_of(settings.run_as)
    os.umask(UMASK)
    check_reach(account, settings.local_dir)
    return account


def _pressure(settings: AgentSettings) -> Pressure | None:
    return None if settings.pause_at is None else on_this_machine(settings.pause_at, settings.local_dir)


def _measure(monitor: Monitor, worker: Worker) -> list[Sample]:
    runs = [
        WatchedRun(id=job.id, keeper_pid=job.keeper_pid, container_pid=job.container_pid, gpus=job.devices)
        for job in worker.jobs
        if job.keeper_pid is not None
    ]
    return monitor.samples(WatchedWorker(name=worker.name, gpus=worker.devices), runs)


def agents_folder(settings: AgentSettings) -> Path:
    """Where the agents of this machine for one server have their folders."""
    return settings.local_dir / "agents" / _server_folder(settings)


def executes_folder(settings: AgentSettings) -> Path:
    """Where `agent execute` has its folders on this machine: where several share a user's folder, none may take
    another's for abandoned."""
    return settings.local_dir / "executes" / _server_folder(settings) / folder_name(settings.host)


def _server_folder(settings: AgentSettings) -> str:
    return settings.connection.server.partition("://")[2].replace("/", "_").replace(":", "_")


def checkout_settings(settings: AgentSettings) -> CheckoutSettings:
    """The checkout's part of the settings."""
    return CheckoutSettings(
        folder=settings.local_dir / "git",
        allow_file=settings.allow_file_repositories,
        allow_filters=settings.allow_git_filters,
        submodule_hosts=settings.submodule_hosts,
        tokens=settings.git_tokens,
        ssh_key=settings.git_ssh_key,
        mirror_bytes=settings.cache_mirror_bytes,
        min_free_bytes=settings.min_free_disk,
        environ=settings.environ,
    )


def environment_settings(settings: AgentSettings) -> EnvironmentSettings:
    """The environments' part of the settings."""
    return EnvironmentSettings(
        root=settings.local_dir,
        variables=settings.environ if settings.run_as is None else {**settings.environ, **BUILDS_NOTHING},
        builds=settings.run_as is None,
        inherit=settings.inherit,
        python=settings.python,
        python_downloads=settings.python_downloads,
        python_mirror=settings.python_mirror,
        allowed_indexes=settings.allow_indexes,
        allowed_channels=settings.allow_channels,
        conda_binary=settings.conda_binary,
        max_environments=settings.cache_environments,
        max_bytes=settings.cache_bytes,
        max_download_bytes=settings.cache_download_bytes,
        min_free_bytes=settings.min_free_disk,
    )


def container_settings(settings: AgentSettings, agent: Path) -> ContainerSettings:
    """The containers' part of the settings. Raises SettingsError for arguments that are none."""
    found = ContainerSettings(
        enabled=settings.docker is not None,
        image=settings.docker or "",
        args=settings.docker_args,
        allowed=settings.docker_allow,
        kept_images=settings.cache_environments,
        folder=settings.local_dir,
        agent=str(agent),
        environ=settings.environ,
    )
    found.check()
    if found.enabled and os.geteuid() == 0 and settings.run_as is None:
        logger.warning(
            "tasks in containers run as root inside, and what they write is root's: start the agent as another "
            "user, or name one with --run-as",
            extra={"action": "containers_as_root"},
        )
    server = settings.connection.server
    if found.enabled and urlsplit(server).hostname in LOOPBACK and "host" not in settings.docker_args:
        logger.warning(
            "containers cannot reach %s: their tasks run, but the SDK in them cannot report; give the server an "
            "address, or --docker-args '--network host'",
            server,
            extra={"action": "server_out_of_reach"},
        )
    return found


def _server_files(settings: AgentSettings) -> tuple[Path, ...]:
    ca_file = settings.connection.ca_file
    return () if ca_file is None else (Path(ca_file).absolute(),)


def _server_variables(settings: AgentSettings) -> dict[str, str]:
    """How user code finds the server; its token is the run's own."""
    link = settings.connection
    found = {"TASKYARD_SERVER": link.server}
    if link.ca_file is not None:
        found["TASKYARD_CA_FILE"] = str(Path(link.ca_file).absolute())
    if link.insecure:
        found["TASKYARD_INSECURE"] = "1"
    return found
