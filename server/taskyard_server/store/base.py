"""The store: what is kept, and the verbs that change it. The docstrings are the contract of every store.

A task, its place in a queue and its runs are one record, so that each change is one conditional write. Rules
(which state may follow which, what fits which worker) are pure functions that the services pass in; a store
knows what is atomic and what the order is, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from taskyard.wire import (
    Event,
    MoveTo,
    Policy,
    QueueKind,
    Resources,
    Run,
    Sample,
    Series,
    TaskEvent,
    TaskSpec,
    TaskState,
    TokenKind,
    WorkerState,
)
from taskyard.wire import Worker as WireWorker

from taskyard_server.store.run_times import RunTimes
from taskyard_server.targets import targets_of


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One attempt, with what only the server may see."""

    run: Run
    agent: str
    """Id of the agent's token: only it may report."""
    boot_id: str
    request_id: str
    control_hash: str
    report_hash: str


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """A task, its entry and its runs: the unit of every atomic change."""

    id: str
    spec: TaskSpec
    state: TaskState
    created_at: float
    updated_at: float
    """Stamped by the service's clock at each change; the order of `tasks(updated_since=…)`."""
    owner: str
    """Id of the token's account that created it; runs act for it."""
    created_by: str = ""
    """Name of that account."""
    parent: str | None = None
    queue: str | None = None
    """Id of its queue; stays set while it runs, so that a requeue finds its place again."""
    rank: bytes | None = None
    """Its place in the queue; given by the store, compared as bytes, lowest first."""
    queued_at: float | None = None
    shape: str = ""
    """Hash of what it requires; see `matching.shape`."""
    due_at: float | None = None
    """When the sweeper must look next: end of a wait, of the confirmation, of the lease, of `lost_after`."""
    runs: tuple[RunRecord, ...] = ()
    """Oldest first; the last is the current one while the state is preparing or running."""
    events: tuple[Event, ...] = ()
    retries_used: int = 0
    losses: int = 0
    unstarted: int = 0
    infrastructure_failures: int = 0
    """Those that no probe of the machine confirmed."""
    machine_failures: int = 0
    """All of them, in a row."""
    unavailable_since: float | None = None
    """Since when machines or a host keep it from starting; see `Policy.give_up_after_seconds`."""
    target: str = ""
    """The host that could not be reached for it last; part of the shape."""
    avoid: tuple[str, ...] = ()
    """Workers that failed it through no fault of its own; part of the shape."""
    reserved_for: str | None = None
    """The worker that is kept for it while it is queued; part of the shape."""
    secret_values: dict[str, str] = field(default_factory=dict)

    @property
    def candidate(self) -> Candidate:
        """What a claim may look at before it takes the task."""
        policy = self.spec.policy
        return Candidate(
            resources=self.spec.resources,
            avoid=tuple(sorted(self.avoid)),
            lasts_seconds=longest_seconds(policy),
            reserved_for=self.reserved_for,
            container=self.spec.container is not None,
            targets=tuple(sorted({*targets_of(self.spec), *filter(None, [self.target])})),
        )


@dataclass(frozen=True, kw_only=True)
class QueueRecord:
    """A queue; its entries are the queued tasks that name it."""

    id: str
    name: str
    description: str
    paused: bool
    created_at: float
    kind: QueueKind = QueueKind.TASKS
    owner: str = ""
    """The account that created it and whose own agents may serve it; empty for a queue of the administrators'."""
    owner_name: str = ""


@dataclass(frozen=True, kw_only=True)
class WorkerRecord:
    """A worker as last reported."""

    worker: WireWorker
    """Its queues are named by their ids."""
    token: str
    """Id of the agent's token that registered it."""
    instance: str = ""
    """Which agent it was that reported last; see `Beat`."""
    held: str = ""
    """Why the server or an operator lets it take nothing; its agent's own reasons come and go with the beats."""
    probe: str = ""
    """With a pause by the server: what its agent probes, as a `Reason`."""
    executed: int = 0
    """Runs that ended there, however."""


@dataclass(frozen=True, kw_only=True)
class TokenRecord:
    """A token or an invitation; the secret itself is never kept."""

    id: str
    hash: str
    """SHA-256 of the secret, hexadecimal."""
    kind: TokenKind
    name: str
    owner: str
    """The account that it acts for; a token made by `POST /tokens` has its own id here."""
    created_at: float
    expires_at: float | None
    invitation: bool = False
    """A single-use code: good for `POST /login` and nothing else."""
    token_expires_at: float | None = None
    """For a code: when the token that it is exchanged for expires."""
    revoked: bool = False
    last_used_at: float | None = None
    queues: tuple[str, ...] = ()
    """Ids; names for those that the agent may yet create."""
    create_queues: bool = False
    own_queues: bool = False
    """An agent's token that a user issued: it serves queues of that account alone."""

    @property
    def unconfined(self) -> bool:
        """Whether a user issued it for an agent before such tokens were confined to queues of their account."""
        return self.kind is TokenKind.AGENT and self.owner not in ("", self.id) and not self.own_queues


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A remembered answer to a mutating request."""

    key: str
    """Token id and the client's idempotency key."""
    request_hash: str
    status: int
    body: bytes
    at: float


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How often the store was restored from a copy, and whether an operator has let it go on since."""

    number: int = 1
    """Higher with each restore; agents and people see it with every answer."""
    copied_at: float | None = None
    """The point in time of the copy; None: it was never restored."""
    restored_at: float | None = None
    resumed_at: float | None = None

    @property
    def recovering(self) -> bool:
        """Whether nothing is handed out, because runs may live that the copy does not know."""
        return self.restored_at is not None and self.resumed_at is None


def next_generation(before: Generation, *, copied_at: float, now: float) -> Generation:
    """The one that a restore begins: never a number that another restore of the same copy had."""
    return Generation(number=max(before.number + 1, int(now)), copied_at=copied_at, restored_at=now)


@dataclass(frozen=True, kw_only=True)
class TaskFilter:
    """Which tasks to list; None means any. `queue` is an id; `name` matches exactly, `name_contains` in part."""

    states: tuple[TaskState, ...] | None = None
    queue: str | None = None
    project: str | None = None
    tag: str | None = None
    name: str | None = None
    name_contains: str | None = None
    id_prefix: str | None = None
    owner: str | None = None
    updated_since: float | None = None


PAGE_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class RecordPage:
    """A part of a list of tasks."""

    records: Sequence[TaskRecord]
    more: bool
    """Whether others follow behind the last one."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a claim may look at before it takes an entry: equal for all entries of one shape."""

    resources: Resources
    avoid: tuple[str, ...] = ()
    lasts_seconds: float | None = None
    """The longest that its command runs, rounded up; None: as long as it likes."""
    reserved_for: str | None = None
    container: bool = False
    """Whether it asks to be run in one."""
    targets: tuple[str, ...] = ()
    """Hosts that it needs before it can start, as far as that is known; see `RestRecord`."""


def longest_seconds(policy: Policy) -> float | None:
    """How long a command can run, rounded up by at most a fifth: a sweep over time limits is no shape each."""
    if policy.timeout_seconds is None:
        return None
    return float(2 ** (math.ceil(4 * math.log2(policy.timeout_seconds + policy.grace_seconds)) / 4))


@dataclass(frozen=True, kw_only=True)
class RestRecord:
    """A host that could not be reached: for which workers, and until when its tasks wait."""

    target: str
    since: float
    """When it began to fail."""
    failed_at: float
    until: float
    failures: int
    detail: str = ""
    """What was met last, in words."""
    workers: tuple[str, ...] = ()
    """Those that cannot reach it: no other worker waits for their sake while one does reach it."""
    witnesses: tuple[str, ...] = ()
    """Those of them that administrators' agents run: a user's own agent speaks for itself alone."""
    reached: bool = False
    """Whether a worker has reached it since the last witness failed for the first time."""

    def concerns(self, worker: str) -> bool:
        """Whether the worker heeds it. A host that two witnesses cannot reach rests for all."""
        return worker in self.workers or (len(self.witnesses) > 1 and not self.reached)

    def binds(self, worker: str, now: float) -> bool:
        """Whether the worker takes none of its tasks now."""
        return now < self.until and self.concerns(worker)


@dataclass(frozen=True, kw_only=True)
class Front:
    """The first entry of its shape in a queue."""

    queue: str
    """Id of the queue."""
    shape: str
    rank: bytes
    candidate: Candidate


Choose = Callable[[Sequence[Front]], Sequence[Front]]
"""Pure, may run more than once: which of the fronts the claim may take, in the order in which they were given."""
Change = Callable[[TaskRecord], TaskRecord]
"""Pure, may run more than once: returns the changed record, the same object for no change, or raises."""


class Store(Protocol):
    """Durable records. Every acknowledged write survives `kill -9` of the server and power loss.

    Every verb raises Unavailable when the store cannot be reached or written; then nothing was changed, or,
    where the answer was lost on the way, repeating the verb is harmless.
    """

    kind: str
    """`sqlite` or `mongodb`."""

    async def open(self) -> None:
        """Connects and prepares indexes. Raises StartRefused with the cure when the store is unfit."""

    async def close(self) -> None:
        """Finishes what was taken and lets go."""

    # --- tasks

    async def add_tasks(self, records: Sequence[TaskRecord]) -> None:
        """Adds all or none. Records whose state is queued are given ranks after the last of their queue, in
        the order given. Raises Conflict naming the first id that exists, NotFound for a queue that is gone."""

    async def task(self, task_id: str) -> TaskRecord:
        """Returns the record as of the last acknowledged write. Raises NotFound."""

    async def update(self, task_id: str, change: Change) -> TaskRecord:
        """Atomically replaces the record by `change(record)` and returns what is now stored.

        No other write to the record happens between the read and the write. What `change` raises is raised
        here, and nothing is written. A record that becomes queued with `rank=None` is given a rank after the
        last of its queue; one that keeps its rank keeps its place. The last of a queue stands behind the places
        that its waiting, preparing and running tasks hold. Raises NotFound, also when the record becomes queued
        in a queue that is gone.
        """

    async def update_all(self, task_ids: Sequence[str], change: Change) -> list[TaskRecord]:
        """As `update` for each id in turn, all or nothing; new ranks follow the order given."""

    async def delete_task(self, task_id: str, allowed: Callable[[TaskRecord], None]) -> None:
        """Atomically removes the record unless `allowed(record)` raises. Raises NotFound."""

    async def tasks(self, wanted: TaskFilter, *, before: str | None = None, limit: int = 100) -> list[TaskRecord]:
        """Lists newest first (created_at, then id, descending), those behind the task with id `before`. Raises
        NotFound when that task is gone."""

    async def page(
        self, wanted: TaskFilter, *, before: str | None = None, limit: int = 100, most_bytes: int = PAGE_BYTES
    ) -> RecordPage:
        """As `tasks`, ending early where the records would take more than `most_bytes` as they are kept; there is
        always one."""

    async def latest_runs(self, wanted: TaskFilter, *, limit: int) -> list[RunTimes]:
        """Of the tasks that `tasks` would list, those that ever ran: the times of their latest runs."""

    async def events(
        self, *, since: float, kind: str | None = None, project: str | None = None, limit: int = 1000
    ) -> list[TaskEvent]:
        """The first `limit` events since a time, oldest first. The cost grows with `limit`, and with the number of
        tasks that were created before the last of these and changed since, not with that of all tasks."""

    async def fronts(self, queues: Sequence[str]) -> list[Front]:
        """The first entry of each shape, queue (id) by queue in the order given, each by rank. Paused queues are
        passed over. The cost does not grow with the number of entries."""

    async def claim(self, queues: Sequence[str], choose: Choose, change: Change) -> TaskRecord | None:
        """Atomically takes the first entry of the shapes that `choose` names among the `fronts` of these queues.

        The record is replaced by `change(record)`, as in `update`; two claims never take one entry, and one
        request never takes two: its second claim raises Conflict, whichever server it came to. The cost does not
        grow with the number of entries, fitting or not. Returns None when `choose` names nothing.
        """

    async def run_of_request(self, request_id: str) -> TaskRecord | None:
        """Finds the record whose current or past run was created by this claim request."""

    async def task_of_report_token(self, report_hash: str) -> TaskRecord | None:
        """Finds the record whose latest run has this report token."""

    # --- queues

    async def add_queue(self, queue: QueueRecord) -> None:
        """Raises Conflict when the id or the name exists."""

    async def queue(self, queue_id: str) -> QueueRecord:
        """Raises NotFound."""

    async def queue_named(self, name: str) -> QueueRecord | None:
        """Names are compared exactly, after Unicode NFC by the service."""

    async def queues(self) -> list[QueueRecord]:
        """All queues by name."""

    async def update_queue(self, queue_id: str, change: Callable[[QueueRecord], QueueRecord]) -> QueueRecord:
        """As `update`. Raises NotFound, and Conflict when the new name exists."""

    async def delete_queue(self, queue_id: str, *, force: Change | None = None) -> None:
        """Removes the queue. While it holds entries: raises Conflict, or with `force` applies it to each entry
        (it returns the record taken out of the queue). No entry is ever left in a queue that is gone."""

    async def entries(self, queue_id: str, *, offset: int = 0, limit: int = 100) -> list[TaskRecord]:
        """The queued records in the order of claiming."""

    async def position(self, task_id: str) -> int | None:
        """How many entries stand before it; None when it is not queued."""

    async def move_entry(self, task_id: str, to: MoveTo | int) -> int:
        """Atomically changes the place of a queued task and returns its new position. An index beyond the end
        means last. Raises NotFound, Conflict when it is not queued."""

    async def counts(self) -> dict[str, dict[TaskState, int]]:
        """Queue id → state → number, for the states waiting, queued, preparing and running."""

    async def shape_counts(self, queues: Sequence[str]) -> dict[tuple[str, str], int]:
        """(Queue id, shape) → number of entries, of these queues."""

    # --- leases

    async def due(self, now: float, limit: int = 500) -> list[str]:
        """Ids of the tasks whose due_at is not later than `now`, earliest first."""

    async def active(self) -> list[TaskRecord]:
        """All records that are preparing or running."""

    async def shift_leases(self, seconds: float) -> None:
        """Adds `seconds` to the due_at of every record that is preparing or running."""

    async def sign_of_life(self, server_id: str, now: float) -> float | None:
        """Records that a server of this store was alive at `now`; returns the latest such time of any server
        before this call, None when there was none."""

    # --- generations

    async def generation(self) -> Generation:
        """The current one; the first where the store was never restored."""

    async def begin_generation(self, *, copied_at: float, now: float) -> Generation:
        """Begins the next one: the store was just restored from a copy that was made at `copied_at`."""

    async def resume_generation(self, now: float) -> Generation:
        """Ends its recovery; a repeat changes nothing."""

    # --- workers

    async def save_worker(self, name: str, change: Callable[[WorkerRecord | None], WorkerRecord]) -> WorkerRecord:
        """Atomically replaces the worker's record, as `update`; `change` is given None for a new one."""

    async def worker(self, name: str) -> WorkerRecord:
        """Raises NotFound."""

    async def workers(self) -> list[WorkerRecord]:
        """All workers by name."""

    async def delete_worker(self, name: str) -> None:
        """Raises NotFound."""

    # --- hosts that rest

    async def rests(self) -> list[RestRecord]:
        """All of them, by target."""

    async def save_rest(self, target: str, change: Callable[[RestRecord | None], RestRecord]) -> RestRecord:
        """Atomically replaces the record, as `save_worker`."""

    async def delete_rest(self, target: str) -> None:
        """Forgets it; one that is gone is no error."""

    # --- tokens

    async def add_token(self, token: TokenRecord) -> None:
        """Raises Conflict when the id exists."""

    async def token_by_hash(self, token_hash: str) -> TokenRecord | None:
        """Finds a token or invitation, also revoked or expired ones."""

    async def tokens(self) -> list[TokenRecord]:
        """All tokens and invitations, newest first."""

    async def update_token(self, token_id: str, change: Callable[[TokenRecord], TokenRecord]) -> TokenRecord:
        """As `update`. Raises NotFound; what `change` raises is raised, so a code is used once."""

    async def update_token_among(
        self, token_id: str, change: Callable[[TokenRecord, Sequence[TokenRecord]], TokenRecord]
    ) -> TokenRecord:
        """As `update_token`, but `change` also sees all tokens, and such updates happen one after the other.

        Of two at the same time, through whichever servers, the second sees what the first wrote.
        """

    async def delete_token(self, token_id: str) -> None:
        """Raises NotFound."""

    # --- remembered answers, settings

    async def answer(self, key: str) -> Answer | None:
        """The remembered answer of this idempotency key."""

    async def remember(self, answer: Answer) -> None:
        """Keeps an answer; the first one of a key stays."""

    async def forget_answers(self, before: float) -> None:
        """Drops those older than `before`."""

    # --- waking

    def changes(self) -> AsyncIterator[str]:
        """Yields the id of a queue whenever an entry may have appeared in it through *another* server process,
        or the empty string when any queue may have one. An embedded store never yields. Never ends by itself."""


class LogStore(Protocol):
    """The bytes of each run's log. Durable once answered."""

    async def append(self, run_id: str, offset: int, data: bytes, *, cap: int) -> int:
        """Writes the part of `data` that lies beyond the length held and returns the new length.

        Resending is harmless. An `offset` beyond the length held changes nothing: the answer is the length
        held, and the caller sends from there. Bytes beyond `cap` are dropped (the length stays at `cap`).
        Concurrent appends to one run never interleave. Raises Unavailable."""

    async def read(self, run_id: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes from `offset`; empty at the end and for a run without a log."""

    async def length(self, run_id: str) -> int:
        """Bytes held; 0 for a run without a log."""

    async def delete(self, run_id: str) -> None:
        """Forgets the log; nothing happens when there is none."""


class BlobStore(Protocol):
    """Immutable bytes under their SHA-256: packs and archives."""

    async def put(self, digest: str, chunks: AsyncIterator[bytes], *, limit: int) -> int:
        """Stores durably and returns the size. Raises Invalid when the bytes do not have that digest, TooLarge
        beyond `limit`; a blob that exists is left alone."""

    async def size(self, digest: str) -> int | None:
        """None when it is not held. Asking is a use: whoever was given a size finds the blob for a while."""

    def get(self, digest: str) -> AsyncIterator[bytes]:
        """The bytes in chunks. Raises NotFound at the first."""

    async def forget_unused(self, used: Collection[str], before: float) -> int:
        """Forgets those not in `used` (digests) that nobody put or asked for since `before`, an hour ago at least.
        Returns how many. A use at the same time keeps the blob, or does not find it."""


class SampleStore(Protocol):
    """Measurements as time series. May lose the last seconds in a crash."""

    async def add(self, samples: Sequence[Sample]) -> None:
        """Keeps them."""

    async def series(
        self, subject: str, *, start: float, end: float, points: int, names: Sequence[str] = ()
    ) -> list[Series]:
        """Per name, at most `points` buckets over [start, end) with minimum, mean and maximum; empty buckets
        are left out. `at` is the middle of a bucket."""

    async def forget(self, before: float) -> None:
        """Drops samples older than `before`. Of very many series a call looks at some, the next one at others."""


LIVE_WORKER_STATES = (
    WorkerState.STARTING,
    WorkerState.IDLE,
    WorkerState.BUSY,
    WorkerState.PAUSED,
    WorkerState.DRAINING,
)
