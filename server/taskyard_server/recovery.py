"""After a restore: what agents report that the copy does not know, until an operator has decided.

What is heard is kept in memory: agents repeat it with every beat. The generation itself is the store's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from taskyard.wire import (
    Beat,
    KeptRun,
    Outcome,
    Phase,
    PhaseTime,
    Run,
    RunReport,
    StoreStatus,
    Task,
    TokenKind,
    UnknownKind,
    UnknownRun,
    UnknownToken,
    WorkerState,
)

from taskyard_server import lifecycle
from taskyard_server.auth import Actor
from taskyard_server.errors import Conflict, NotFound, Stale, Unavailable
from taskyard_server.store.base import Generation, RunRecord, Store, TaskRecord

logger = logging.getLogger(__name__)

MOST_REPORTS = 20_000
MOST_TOKENS = 1000
_STARTED = tuple(Phase)[tuple(Phase).index(Phase.RUNNING) :]
_PREFIXES = {f"ty_{kind}_": str(kind) for kind in TokenKind}


@dataclass(frozen=True, kw_only=True)
class Report:
    """A run that the copy does not know, as its agent reports it."""

    run: Run
    agent: str
    """Id of the agent's token."""
    agent_name: str
    boot_id: str
    control_hash: str
    heard_at: float
    report_hash: str = ""
    started: bool = False
    task: Task | None = None
    """Older agents do not send it."""
    outcome: Outcome | None = None
    ended_at: float | None = None
    """When the store that is lost acknowledged the end; None: the agent reports it until it is acknowledged."""
    phases: tuple[PhaseTime, ...] = ()

    @property
    def record(self) -> RunRecord:
        """The run as the store keeps it, alive."""
        run = replace(self.run, outcome=None, ended_at=None, log_bytes=None, unresponsive=False)
        return RunRecord(
            run=run,
            agent=self.agent,
            boot_id=self.boot_id,
            request_id=f"adopted {self.run.id}",
            control_hash=self.control_hash,
            report_hash=self.report_hash,
        )


class Recovery:
    """Knows the store's generation, and collects what is unknown while it recovers."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self.generation = Generation()
        self._reports: dict[str, Report] = {}
        self._given_up: set[str] = set()
        self._heard: set[str] = set()
        self._tokens: dict[tuple[str, str], UnknownToken] = {}

    @property
    def recovering(self) -> bool:
        """Whether nothing is handed out."""
        return self.generation.recovering

    async def refresh(self) -> bool:
        """Reads the generation; returns whether a recovery has just ended. Raises Unavailable."""
        before, self.generation = self.generation, await self._store.generation()
        return before.recovering and not self.recovering

    async def resume(self) -> None:
        """Ends the recovery. Raises Conflict while there is a run to decide on."""
        undecided = [run for run in self._reports if run not in self._given_up]
        if self.recovering and undecided:
            raise Conflict(
                f"{len(undecided)} runs are undecided, such as {undecided[0]}: see `taskyard server status`, then"
                " `taskyard server adopt RUN` or `taskyard server give-up RUN`, or --all"
            )
        self.generation = await self._store.resume_generation(self._clock())
        for known in (self._reports, self._given_up, self._heard, self._tokens):
            known.clear()

    # --- What agents report

    def hear(self, run_id: str) -> None:
        """A run that the copy knows was reported."""
        if self.recovering:
            self._heard.add(run_id)

    def note_beat(self, report: RunReport, beat: Beat, control_hash: str, actor: Actor) -> None:
        """Notes a run that the copy does not know, of which no more is known than a beat says."""
        place = next((one.name for one in beat.workers if report.id in one.runs), beat.agent)
        started = report.phase in _STARTED
        run = _run(report.id, place, replace_from=report, now=self._clock(), started=started)
        self.note(
            Report(
                run=run,
                agent=actor.token,
                agent_name=actor.name,
                boot_id=beat.boot_id,
                control_hash=control_hash,
                heard_at=self._clock(),
                started=started,
            )
        )

    def note_end(self, run_id: str, outcome: Outcome, control_hash: str, actor: Actor) -> None:
        """Notes the end of a run that the copy does not know; its agent repeats it until it is acknowledged."""
        known = self._reports.get(run_id)
        if known is not None:
            if known.control_hash == control_hash and known.outcome is None:
                self._reports[run_id] = replace(known, outcome=outcome, heard_at=self._clock())
            return
        run = _run(run_id, actor.name, replace_from=None, now=self._clock(), started=outcome.phase in _STARTED)
        self.note(
            Report(
                run=run,
                agent=actor.token,
                agent_name=actor.name,
                boot_id="",
                control_hash=control_hash,
                heard_at=self._clock(),
                started=outcome.phase in _STARTED,
                outcome=outcome,
            )
        )

    def note(self, report: Report) -> None:
        """Keeps what says more; a run that another agent reported first stays that agent's."""
        known = self._reports.get(report.run.id)
        if known is None:
            if len(self._reports) < MOST_REPORTS:
                self._reports[report.run.id] = report
                logger.warning(
                    "run %s is not in the restored copy; %s reports it",
                    report.run.id,
                    report.agent_name,
                    extra={"action": "run_unknown", "run": report.run.id},
                )
            return
        if (known.agent, known.control_hash) != (report.agent, report.control_hash):
            return
        fuller = report if report.task is not None or known.task is None else known
        self._reports[report.run.id] = replace(
            fuller,
            outcome=report.outcome or known.outcome,
            ended_at=report.ended_at or known.ended_at,
            heard_at=report.heard_at,
        )

    def require_decided(self, run_id: str) -> None:
        """Raises Unavailable for a run that waits for the operator, Stale for one that was given up."""
        if run_id in self._given_up:
            raise Stale(f"run {run_id} was given up after a restore of the server: stop its process")
        raise Unavailable(
            f"the server was restored from a copy that does not know run {run_id}: its operator decides with"
            " `taskyard server status`"
        )

    def note_token(self, secret: str, address: str) -> None:
        """Notes a token that is unknown. Raises Unavailable where it may be a run's that is not adopted yet."""
        if not self.recovering:
            return
        kind = next((kind for prefix, kind in _PREFIXES.items() if secret.startswith(prefix)), None)
        if kind is None:
            raise Unavailable("the server was restored from a copy and may not know this run yet: try again")
        if len(self._tokens) < MOST_TOKENS:
            self._tokens[(kind, address)] = UnknownToken(kind=kind, address=address, seen_at=self._clock())

    # --- What the operator decides

    def report(self, run_id: str) -> Report:
        """Raises NotFound."""
        if run_id not in self._reports:
            raise NotFound(f"no agent reports an unknown run {run_id}: see `taskyard server status`")
        return self._reports[run_id]

    def undecided(self) -> list[str]:
        """The runs that agents report, in the order in which they were heard."""
        return [run for run in self._reports if run not in self._given_up]

    def given_up(self, run_id: str) -> bool:
        """Whether the operator gave the run up."""
        return run_id in self._given_up

    def give_up(self, run_id: str) -> None:
        """Its agent is to end it."""
        self._given_up.add(run_id)

    def adopted(self, run_id: str) -> None:
        """The store knows it now."""
        self._reports.pop(run_id, None)
        self._given_up.discard(run_id)
        self._heard.add(run_id)

    # --- What is unknown

    async def status(self, version: str) -> StoreStatus:
        """Everything that an operator must know before the store may go on. Raises Unavailable."""
        known = self.generation
        shown = StoreStatus(
            version=version,
            store=self._store.kind,
            generation=known.number,
            recovering=known.recovering,
            copied_at=known.copied_at,
            restored_at=known.restored_at,
            resumed_at=known.resumed_at,
        )
        if not known.recovering:
            return shown
        return replace(
            shown,
            runs=(*[await self._shown(report) for report in self._reports.values()], *await self._silent()),
            tokens=tuple(self._tokens.values()),
            silent_workers=await self._silent_workers(),
            valid_tokens=await self._valid_tokens(),
        )

    async def _shown(self, report: Report) -> UnknownRun:
        record = await self._find(report.run.id)
        name = record.spec.name if record else report.task.spec.name if report.task else ""
        return UnknownRun(
            run=report.run.id,
            task=lifecycle.task_of(report.run.id),
            kind=UnknownKind.RUNNING if report.outcome is None else UnknownKind.ENDED,
            name=name,
            state=str(record.state) if record else "",
            worker=report.run.worker,
            agent=report.agent_name,
            outcome=report.outcome,
            heard_at=report.heard_at,
            given_up=report.run.id in self._given_up,
            adoptable=record is not None or report.task is not None,
        )

    async def _find(self, run_id: str) -> TaskRecord | None:
        try:
            return await self._store.task(lifecycle.task_of(run_id))
        except NotFound:
            return None

    async def _silent(self) -> list[UnknownRun]:
        """Runs that live in the copy and that no agent reports: they have ended since, or their agent is away."""
        return [
            UnknownRun(
                run=record.runs[-1].run.id,
                task=record.id,
                kind=UnknownKind.SILENT,
                name=record.spec.name,
                state=str(record.state),
                worker=record.runs[-1].run.worker,
                adoptable=False,
            )
            for record in await self._store.active()
            if record.runs[-1].run.id not in self._heard
        ]

    async def _silent_workers(self) -> tuple[str, ...]:
        restored_at = self.generation.restored_at or 0.0
        return tuple(
            record.worker.name
            for record in await self._store.workers()
            if record.worker.last_seen_at < restored_at and record.worker.state is not WorkerState.STOPPED
        )

    async def _valid_tokens(self) -> tuple[str, ...]:
        now = self._clock()
        return tuple(
            f"{token.kind} {token.name} ({token.id[:8]})"
            for token in await self._store.tokens()
            if not (token.revoked or token.invitation) and (token.expires_at is None or token.expires_at > now)
        )


def report_of(kept: KeptRun, control_hash: str, actor: Actor, *, now: float) -> Report:
    """What an agent's journal holds of a run, as it is noted."""
    run = replace(
        kept.run,
        phases=kept.phases or kept.run.phases,
        gpus=kept.gpus or kept.run.gpus,
        confirmed_at=kept.run.confirmed_at or kept.run.claimed_at,
    )
    if kept.started:
        run = replace(run, phase=Phase.RUNNING, started_at=run.started_at or run.claimed_at)
    return Report(
        run=run,
        agent=actor.token,
        agent_name=actor.name,
        boot_id=kept.boot_id,
        control_hash=control_hash,
        report_hash=kept.report_hash,
        heard_at=now,
        started=kept.started,
        task=kept.task,
        outcome=kept.outcome,
        ended_at=kept.ended_at,
        phases=kept.phases,
    )


def _run(run_id: str, worker: str, *, replace_from: RunReport | None, now: float, started: bool) -> Run:
    number = run_id.rpartition(".")[2]
    run = Run(
        id=run_id,
        task=lifecycle.task_of(run_id),
        number=int(number) if number.isdecimal() else 0,
        worker=worker,
        claimed_at=now,
        confirmed_at=now,
        started_at=now if started else None,
        phase=Phase.RUNNING if started else Phase.CLAIMED,
    )
    if replace_from is None:
        return run
    began: Mapping[Phase, float] = {time.phase: time.started_at for time in replace_from.phases}
    return replace(
        run,
        phase=replace_from.phase,
        phases=replace_from.phases,
        gpus=replace_from.gpus,
        claimed_at=min(began.values(), default=now),
        started_at=began.get(Phase.RUNNING, now) if started else None,
    )
