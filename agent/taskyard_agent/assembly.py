"""The parts of one agent, put together on its journal."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from taskyard import __version__
from taskyard.client import Client
from taskyard.errors import TaskyardError
from taskyard.wire import (
    Claim,
    ClaimRequest,
    LogPosition,
    RunDirective,
    Sample,
)

from . import gpus, job_folder, means, probes
from .answers import Act, Conversation, Route, Troubles, until_answered
from .batch import BatchJob
from .clock import ServerClock
from .config import AgentSettings
from .containers import Containers
from .environments import unreachable_index
from .errors import AgentNotStarted, RunGone
from .held import LaunchJob
from .hooks import Hook, HookFailed, Hooks
from .idle_gpus import IdleGpus
from .journal import Journal, JournalledRun
from .keeper import processes
from .lease import Lease
from .leftovers import Leftovers
from .log_shipper import LogShipper
from .monitor import Monitor, WatchedRun, WatchedWorker
from .outputs import Uploads
from .part_settings import (
    checkout_settings,
    container_settings,
    environment_settings,
    output_limits,
    server_files,
    server_variables,
)
from .pressure import floor_of, on_this_machine
from .queues import ServedQueue, order_from_server
from .restored import Restored
from .run_as import UMASK, Account, account_of, check_reach
from .run_services import RunServices
from .spare_keeper import SpareKeeper
from .terminals import Terminals
from .variables import INSIDE, inherited
from .watchman import Gauge, Watchman
from .worker import AgentIdentity, Horizon, QueueOrder, Worker

logger = logging.getLogger(__name__)


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
        """Asks the server for a run's secrets again, by repeating its claim. Raises RunGone when it is gone."""
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
            raise RunGone("the run was given back while no agent carried it")
        return claim.secrets

    def _repeat_claim(self, request: ClaimRequest) -> Claim:
        conversation = Conversation(Route.CLAIM, request.agent)
        while True:
            try:
                return self.client.claim(request, patience_seconds=0.0)
            except TaskyardError as error:
                if conversation.heed(error) is Act.DRAW_AGAIN:
                    raise RunGone(str(error)) from error
                time.sleep(conversation.pause)


@contextlib.contextmanager
def open_agent(
    settings: AgentSettings,
    client: Client,
    journal_of: Callable[[str], contextlib.AbstractContextManager[Journal]],
) -> Iterator[AgentParts]:
    """Builds and opens the parts of an agent, and closes them. Raises SettingsError.

    `journal_of` opens the journal of an agent of that name.
    """
    with job_folder.opened(settings) as placed, _opened(placed, client, journal_of) as parts:
        yield parts


@contextlib.contextmanager
def _opened(
    settings: AgentSettings,
    client: Client,
    journal_of: Callable[[str], contextlib.AbstractContextManager[Journal]],
) -> Iterator[AgentParts]:
    account = _account(settings)
    devices = means.choose_gpus(settings)
    if account is not None and devices:
        gpus.guard()
    name = settings.name or means.default_name(settings, devices)
    served = until_answered(lambda: order_from_server(client, settings))
    worker = Worker(
        name,
        means.of(settings, devices, served),
        tuple(queue.id for queue in served),
        labels=means.labels(settings, devices),
        shows_places=settings.services_mode is not None,
        allows_shell=settings.allow_shell,
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
        parts.services.uploads.stop()
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
    if settings.job is not None:
        worker.horizon = functools.partial(_horizon, settings.job, settings.endless_until, clock)
    monitor = Monitor(disk=settings.local_dir, measure_gpu=gpus.measure, clock=clock.now)

    watchman = Watchman(worker, IdleGpus(settings.idle_gpu_percent), _gauges(settings))
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
        uploads.close_run(run_id)

    troubles = Troubles()
    users = {account.uid if account else os.geteuid()}
    uploads = Uploads(client, journal.close_run, output_limits(settings), users)
    shipper = LogShipper(append, on_stale=log_refused, on_complete=uploads.close_run)
    environments = environment_settings(settings)
    containers = Containers(settings=container_settings(settings, journal.folder))
    shared = bool(worker.means.capacity.gpu_memory_bytes)
    checks = probes.of_this_machine(
        settings.local_dir,
        index=lambda: unreachable_index(environments),
        engine=containers.problem,
        gpus=lambda devices: gpus.problem(devices, shared=shared),
    )

    def problem(part: str) -> str | None:
        return checks.problem(part, worker.idle_devices)

    restored = Restored(kept=journal.kept_runs, on_restore=shipper.start_over)
    lease = Lease(
        identity,
        worker,
        client=client,
        clock=clock,
        samples=measure,
        problem=problem,
        restored=restored,
        troubles=troubles,
    )
    services = RunServices(
        client=client,
        journal=journal,
        shipper=shipper,
        clock=clock,
        checkout=checkout_settings(settings),
        environments=environments,
        containers=containers,
        inherited=inherited(settings.environ, _passed(settings)) | (account.variables if account else {}),
        account=account,
        inherited_inside=inherited(settings.environ, settings.pass_env, base=INSIDE),
        server_variables=server_variables(settings),
        server_files=server_files(settings),
        send_beat=lease.poke,
        probes=checks,
        keepers=SpareKeeper(),
        uploads=uploads,
        job=_launch_job(settings),
        gpus_by_index=settings.gpu_ids == "index",
        terminals=Terminals(client, allowed=settings.allow_shell),
        troubles=troubles,
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


def _horizon(job: BatchJob, endless_until: float, clock: ServerClock) -> Horizon:
    """The end of the batch job, on the server's clock."""
    if job.ends_at is None or job.last_end_at is None:
        return Horizon()
    now = time.time()
    return Horizon(ends_at=clock.now() + job.last_end_at - now, takes_endless=job.ends_at - now >= endless_until)


def _launch_job(settings: AgentSettings) -> LaunchJob | None:
    own = processes.identify(os.getpid())
    if settings.job is None or own is None:
        return None
    return LaunchJob(
        agent_pid=own.pid,
        agent_start_ticks=own.start_ticks,
        grace_seconds=settings.job.grace_seconds,
        limit_at=settings.job.limit_at,
    )


def _passed(settings: AgentSettings) -> tuple[str, ...]:
    return (*settings.pass_env, "SLURM_TMPDIR") if settings.job else settings.pass_env


def _account(settings: AgentSettings) -> Account | None:
    """Whom tasks run as; what the agent makes for them is readable for that user."""
    if settings.run_as is None:
        return None
    account = account_of(settings.run_as)
    os.umask(UMASK)
    check_reach(account, settings.local_dir)
    return account


def _gauges(settings: AgentSettings) -> Iterator[Gauge]:
    yield floor_of(settings.local_dir, settings.least_free_disk)
    if settings.pause_at is not None:
        yield on_this_machine(settings.pause_at, settings.local_dir)


def _measure(monitor: Monitor, worker: Worker) -> list[Sample]:
    runs = [
        WatchedRun(id=job.id, keeper_pid=job.keeper_pid, container_pid=job.container_pid, gpus=job.devices)
        for job in worker.jobs
        if job.keeper_pid is not None
    ]
    return monitor.samples(WatchedWorker(name=worker.name, gpus=worker.devices), runs)


def _log_hook(line: str) -> None:
    logger.info("hook: %s", line, extra={"action": "hook_output"})
