"""What travels between server, agent and SDK: frozen records and enums, and their JSON form.

Imports nothing of ours but how its records are made. Times are seconds since the epoch on the server's clock
unless a field says otherwise; sizes are bytes. A reader ignores fields that it does not know, so an older agent
works with a newer server; a field is only ever added, with a default. A word that a reader does not know stays
as it is.
"""

from __future__ import annotations

import builtins
import dataclasses
import enum
import functools
import json
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass

    from typing_extensions import Self
else:
    from taskyard.records import dataclass

API_VERSION = "v1"
API_PREFIX = f"/api/{API_VERSION}"
DEFAULT_PORT = 8420
SERVICES_QUEUE = "services"
DEFAULT_QUEUES = ("default", SERVICES_QUEUE)
PART_BYTES = 64 << 20
"""An artifact's file is sent and kept in parts of this size; the last one is what remains."""
CONTAINER_LABEL = "container"
"""Label of a worker that runs tasks in containers; its value is the engine."""
IDEMPOTENCY_HEADER = "Idempotency-Key"
LARGEST_ARGUMENT_BYTES = (128 << 10) - 1
"""Linux refuses to start a program with a longer argument, or a longer `NAME=value` in its environment."""
LARGEST_START_BYTES = 1 << 20
"""Arguments, variables and secrets of a task together: half of what Linux allows, the agent adds its own."""
GENERATION_HEADER = "Taskyard-Store-Generation"
"""Of every answer: see `ServerInfo.generation`."""
MARK_HEADER = "Taskyard-Version"
"""On every answer of a server: tells it from the answers of proxies and portals. Older servers lack it."""

_WORD = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)

T = TypeVar("T")


class Word(str, enum.Enum):
    """An enum whose members print and serialise as their value.

    A reader keeps a word that it does not know (`decode`): it equals its text, is no member, and none of the
    properties hold of it. So a newer version may add one.
    """

    def __str__(self) -> str:
        return str(self.value)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return type(self).decode, (self.value,)

    @classmethod
    def decode(cls, word: str) -> Self:
        """Return the member of this value, or the word itself. Raises ValueError for what is no text."""
        try:
            return cls(word)
        except ValueError:
            if not isinstance(word, str):
                raise
            return cls._unknown(word)

    @classmethod
    def _unknown(cls, word: str) -> Self:
        made = str.__new__(cls, word)
        made._name_, made._value_ = word.upper(), word
        return made

    @property
    def known(self) -> bool:
        """Whether this version has the word."""
        return self._name_ in type(self).__members__


class OpenWord(Word):
    """A word that agents report: the server, too, takes one of a newer agent as it is."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls._unknown(value) if isinstance(value, str) and _WORD.fullmatch(value) else None


class TaskState(Word):
    """`draft → (waiting →) queued → preparing → running → completed | failed | cancelled`."""

    DRAFT = "draft"
    WAITING = "waiting"
    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether no report can change it any more."""
        return self in (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED)

    @property
    def active(self) -> bool:
        """Whether a worker holds it."""
        return self in (TaskState.PREPARING, TaskState.RUNNING)


class Phase(OpenWord):
    """Where a run is; each phase is timed."""

    CLAIMED = "claimed"
    CONTAINER = "container"  # its image is fetched and prepared; tasks without a container have no such phase
    CHECKOUT = "checkout"
    ENVIRONMENT = "environment"
    RUNNING = "running"
    FINISHING = "finishing"


class OutcomeKind(Word):
    """How a run ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


class Reason(OpenWord):
    """Why a run ended as it did."""

    EXIT = "exit"  # the process ended by itself; see exit_code
    SIGNAL = "signal"  # the process was ended by a signal that Taskyard did not send
    CANCELLED = "cancelled"  # a user asked for it
    TIMEOUT = "timeout"  # the task's own time limit
    AGENT_STOPPED = "agent_stopped"  # the agent was told to end its runs
    CHECKOUT = "checkout"  # the code could not be reproduced
    ENVIRONMENT = "environment"  # the environment could not be built
    COMMAND = "command"  # the command could not be started
    DISK = "disk"  # the machine's disk is full or failing
    GIT_HOST = "git_host"  # the repository's host cannot be reached
    PACKAGE_INDEX = "package_index"  # the package index cannot be reached
    GPU = "gpu"  # a GPU is missing, held by a leftover or failing
    MEMORY = "memory"  # it used more memory than it was given
    IDLE_GPU = "idle_gpu"  # its GPUs did too little for too long
    IMAGE = "image"  # the container's image is missing, or cannot run the task
    CONTAINER = "container"  # the container engine failed or cannot be reached
    HOOK = "hook"  # one of the operator's hooks failed
    LEASE = "lease"  # nothing was heard of the run for too long
    KEEPER = "keeper"  # the process that held the run was killed
    REBOOT = "reboot"  # the machine restarted
    UNCONFIRMED = "unconfirmed"  # claimed, but the agent never confirmed or never started it
    EXCLUSIVE = "exclusive"  # an exclusive run was ended because its lease could not be renewed
    PREEMPTED = "preempted"  # the batch system took its machine back; see `Outcome.exact`
    TIME_LIMIT = "time_limit"  # the batch job that it ran in reached its time limit; see `Outcome.exact`
    INTERNAL = "internal"  # Taskyard's own fault


class OnLost(Word):
    """What becomes of a task whose run was lost."""

    REQUEUE = "requeue"
    FAIL = "fail"
    WAIT = "wait"


class WorkerState(OpenWord):
    """What a worker does just now."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    PAUSED = "paused"
    DRAINING = "draining"
    STOPPED = "stopped"
    LOST = "lost"


class TokenKind(Word):
    """The four kinds of token; rights are in `docs/explanation/security.md`."""

    ADMINISTRATOR = "administrator"
    USER = "user"
    AGENT = "agent"
    RUN = "run"


class CommandKind(Word):
    """How the target of a command is started."""

    SCRIPT = "script"  # python TARGET ARGS
    MODULE = "module"  # python -m TARGET ARGS
    EXECUTABLE = "executable"  # TARGET ARGS, looked up on the environment's PATH


class Manager(Word):
    """What builds the environment."""

    UV = "uv"
    PIP = "pip"
    POETRY = "poetry"
    CONDA = "conda"
    INHERIT = "inherit"


class RequirementsKind(Word):
    """Where the requirements come from."""

    NONE = "none"
    PACKAGES = "packages"  # `packages`, given by flags
    IMPORTS = "imports"  # `packages`, found by reading the script's imports
    SCRIPT = "script"  # the PEP 723 block of `path`
    REQUIREMENTS_TXT = "requirements.txt"
    PYPROJECT = "pyproject.toml"
    UV_LOCK = "uv.lock"
    PYLOCK = "pylock.toml"
    POETRY_LOCK = "poetry.lock"
    ENVIRONMENT_YML = "environment.yml"


class QueueKind(Word):
    """What a queue is for."""

    TASKS = "tasks"
    SERVICES = "services"  # controllers and other light tasks: none that takes a GPU


class OutputsState(OpenWord):
    """How far the outputs of a run that has ended have come."""

    UPLOADING = "uploading"
    KEPT = "kept"


class MoveTo(Word):
    """Where an entry goes within its queue."""

    FIRST = "first"
    UP = "up"
    DOWN = "down"
    LAST = "last"


# --- Tasks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A snapshot commit shipped as a git pack, thin against commits that the remote has."""

    commit: str
    """The snapshot commit: 40 to 64 lower-case hexadecimal digits."""
    blob: str
    """SHA-256 of the pack's bytes, which are stored under `/blobs/{blob}`."""
    size: int
    needs: tuple[str, ...] = ()
    """Commits that must be fetched from the remote first; empty for a whole pack."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """What to check out. Exactly one of `repository`, `pack` without `needs`, and `archive` is the source."""

    repository: str | None = None
    """URL of the remote as git resolves it, without user info."""
    branch: str | None = None
    commit: str | None = None
    """The commit that the submitter had checked out."""
    pack: Pack | None = None
    archive: str | None = None
    """SHA-256 of a gzipped tar of a folder without git."""
    patch: str | None = None
    """A unified diff given through the API or edited, applied with `git apply` after the checkout."""
    diff: str = ""
    """What the snapshot changes against `commit`, for people; cut at 256 KiB."""
    working_dir: str = "."
    """The command's working folder, relative to the repository's root."""
    empty_submodules: tuple[str, ...] = ()
    """Submodules that the submitter never checked out, relative to the root: they are left empty."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to start."""

    kind: CommandKind = CommandKind.SCRIPT
    target: str = ""
    """Script (relative to the working folder), module or executable."""
    args: tuple[str, ...] = ()
    """The arguments that run, unless `written` is false and `parameters` say otherwise."""
    python_args: tuple[str, ...] = ()
    """Options for the interpreter itself, such as `-O`."""
    written: bool = False
    """Whether `args` hold the parameters already; else the agent writes them in."""
    typed: tuple[str, ...] | None = None
    """The arguments before parameters were written into them; None: they are `args`."""
    interface: dict[str, Any] | None = None
    """What the submitter's side read in the script of its options, for later changes; see `taskyard.interface`."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the command needs installed. Never changed by Taskyard: what was installed is on the run."""

    manager: Manager = Manager.UV
    python: str | None = None
    """`3.11` or `3.11.7`; never another minor version. None: the agent's default."""
    requirements: RequirementsKind = RequirementsKind.NONE
    path: str | None = None
    """The file of the requirements, relative to the repository's root."""
    packages: tuple[str, ...] = ()
    """Requirements one by one; beside those of a `path` that is no lock."""
    torch_backend: str = "auto"
    import_from: tuple[str, ...] = ()
    """Folders, relative to the repository's root, in which Python looks for modules after all others."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """What the command runs in, instead of the machine itself."""

    image: str = ""
    """Empty: the agent's default image."""
    args: tuple[str, ...] = ()
    """Arguments as for `docker run`; the agent lets through those of its allow-list."""
    setup_script: str = ""
    """Shell script that root runs in it before the checkout; what it leaves behind is kept for the next run."""
    apt: tuple[str, ...] = ()
    """Debian packages installed before the checkout, and kept likewise."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the task occupies. Tasks with equal resources share one shape."""

    gpus: int | None = None
    """Exactly so many, to itself; None takes whatever the worker has, be it none."""
    gpu_memory_bytes: int | None = None
    """Part of one GPU that others share, instead of `gpus`; only where the operator allows it."""
    memory_bytes: int | None = None
    """The most it may hold; 0 for no limit. None with no fraction: an equal share of its worker's memory."""
    memory_fraction: float | None = None
    """The same as a part (0 to 1) of its worker's memory."""
    custom: dict[str, float] = field(default_factory=dict)
    """Amounts of what operators declare with `--resources`, such as licences."""
    requires: dict[str, str] = field(default_factory=dict)
    """Labels that its worker must have."""
    worker: str | None = None
    """The only worker that may take it."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What a worker has to give: in all, or free just now."""

    slots: int = 1
    """Tasks at once."""
    gpus: int = 0
    """Whole GPUs."""
    gpu_memory_bytes: tuple[int, ...] = ()
    """Per GPU, what tasks that share it may take; empty where sharing is not allowed."""
    memory_bytes: int | None = None
    """None: not limited."""
    custom: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GpuRange:
    """How many GPUs a task of a queue gets (`--dynamic-gpus --queue two=1-2`)."""

    least: int
    most: int


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a task is treated when something goes wrong."""

    retries: int = 0
    """How often a failed task is tried again at the user's own account."""
    retry_delay_seconds: float = 0.0
    """Delay before the first retry; doubled for each further one, at most an hour."""
    timeout_seconds: float | None = None
    """Limit of the running phase."""
    grace_seconds: float = 10.0
    """Between SIGTERM and SIGKILL."""
    on_lost: OnLost = OnLost.REQUEUE
    exclusive: bool = False
    """Ended by its own machine before the server could hand it out again."""
    max_idle_gpu_seconds: float | None = None
    """Ended when none of its GPUs did anything to speak of for so long; None: never."""
    give_up_after_seconds: float = 1800.0
    """How long a host that the task needs, or its machines, may be out of order before the task fails."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """What to do: editable as a draft, fixed once queued."""

    name: str = ""
    project: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    code: Code = field(default_factory=Code)
    command: Command = field(default_factory=Command)
    environment: Environment = field(default_factory=Environment)
    container: Container | None = None
    resources: Resources = field(default_factory=Resources)
    policy: Policy = field(default_factory=Policy)
    parameters: dict[str, dict[str, str]] = field(default_factory=dict)
    """Section → name → value as text. The section `Args` mirrors the command line."""
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Section → name → JSON value, of those that are no texts: a boolean, a number, a list of such, null."""
    env: dict[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    """Names of variables whose values the server holds apart and gives to the run alone."""
    report_token: bool = True
    """Whether user code gets a token that acts for its submitter inside the project."""
    outputs: tuple[str, ...] = ()
    """Patterns of files, relative to the working folder, that are kept once the command has ended: `*` stops at a
    slash, `**` does not, and a folder's name stands for all that it holds."""


@dataclass(frozen=True, kw_only=True)
class PhaseTime:
    """One phase of a run; `seconds` is None while it lasts."""

    phase: Phase
    started_at: float
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    kind: OutcomeKind
    reason: Reason
    phase: Phase
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    infrastructure: bool = False
    """Not the task's failure: not charged to the user. With `target` it is not the machine's either."""
    target: str = ""
    """The host that could not be reached just now: its tasks wait for it."""
    confirmed: bool | None = None
    """Whether a probe found that part of the machine out of order: only then it counts against the worker.
    None: an older agent, which does not probe."""
    exact: Reason | None = None
    """The reason in a word that older readers do not know; `reason` is the nearest that they do."""

    @property
    def why(self) -> Reason:
        """The reason in the most exact word that there is."""
        return self.reason if self.exact is None else self.exact


@dataclass(frozen=True, kw_only=True)
class SkippedOutput:
    """A file that a task's `outputs` match and that is not kept."""

    name: str
    reason: str
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class RunOutputs:
    """What became of the files of a run that its task's `outputs` match."""

    state: OutputsState = OutputsState.UPLOADING
    files: int = 0
    """Those that are kept, or will be."""
    bytes: int = 0
    skipped: tuple[SkippedOutput, ...] = ()
    """The first of those that are not kept, each with its reason."""
    skipped_files: int = 0
    """All of them."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt at a task by one worker. Its id is `<task>.<number>`."""

    id: str
    task: str
    number: int
    worker: str
    phase: Phase = Phase.CLAIMED
    outcome: Outcome | None = None
    unresponsive: bool = False
    claimed_at: float = 0.0
    confirmed_at: float | None = None
    started_at: float | None = None
    """When user code was allowed to start."""
    ended_at: float | None = None
    phases: tuple[PhaseTime, ...] = ()
    cancel_requested_at: float | None = None
    requeue_on_cancel: bool = False
    gpus: tuple[str, ...] = ()
    """UUIDs or indices of the devices that the agent picked."""
    command_line: tuple[str, ...] = ()
    """What was really started."""
    parameters: dict[str, dict[str, str]] = field(default_factory=dict)
    python: str | None = None
    packages: tuple[str, ...] = ()
    """What is installed, as `name==version`."""
    environment_key: str | None = None
    environment_reused: bool | None = None
    image_digest: str | None = None
    """Of the container's image, `sha256:…`."""
    log_bytes: int | None = None
    """The final length of the log; None until the run ended. The log is complete when it is held up to it."""
    output_offset: int | None = None
    """Where in the log the command's own output begins; before it stand checkout and environment."""
    outputs: RunOutputs | None = None
    """None before its end, for a task without `outputs`, and from an agent that keeps none."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of a task's story."""

    at: float
    kind: str
    """created, enqueued, claimed, confirmed, phase, started, cancel_requested, unresponsive, revived, lost …"""
    run: int | None = None
    by: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task as the server answers it."""

    id: str
    spec: TaskSpec
    state: TaskState
    created_at: float
    updated_at: float
    created_by: str = ""
    parent: str | None = None
    """The task whose run created it."""
    queue: str | None = None
    """Name of the queue that it is in, or was claimed from."""
    queue_id: str | None = None
    queued_at: float | None = None
    wake_at: float | None = None
    """When a waiting task is queued."""
    run: Run | None = None
    """The latest run."""
    run_count: int = 0
    retries_used: int = 0
    losses: int = 0
    unstarted: int = 0
    dropped_secrets: tuple[str, ...] = ()
    """In the answer to an edit or enqueue by another account: secrets of its owner that this removed."""


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """Body of `POST /tasks`. A client may choose the id (32 hexadecimal digits); a repeat is then harmless."""

    spec: TaskSpec
    id: str | None = None
    queue: str | None = None
    """Name or id of a queue to enqueue it in at once."""
    secret_values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NewTasks:
    """Body of `POST /tasks/bulk`: all or nothing, at most 10,000."""

    tasks: tuple[NewTask, ...]


@dataclass(frozen=True, kw_only=True)
class TaskChanges:
    """Body of `PATCH /tasks/{id}` and part of a clone. None leaves a part as it is."""

    name: str | None = None
    project: str | None = None
    description: str | None = None
    tags: tuple[str, ...] | None = None
    code: Code | None = None
    command: Command | None = None
    environment: Environment | None = None
    container: Container | None = None
    """One without image, args, script and packages takes the container away."""
    resources: Resources | None = None
    policy: Policy | None = None
    parameters: dict[str, dict[str, str]] | None = None
    """Merged into the task's, value by value; with a `command` that is `written`, `Args` replaces the task's."""
    values: dict[str, dict[str, Any]] | None = None
    """As in `TaskSpec`. A value without a text in `parameters` gets one."""
    env: dict[str, str] | None = None
    """Merged into the task's."""
    secret_values: dict[str, str] | None = None
    """Merged into the task's; their names join `secrets`."""
    outputs: tuple[str, ...] | None = None
    """In place of the task's."""


@dataclass(frozen=True, kw_only=True)
class CloneRequest:
    """Body of `POST /tasks/{id}/clone`."""

    id: str | None = None
    changes: TaskChanges = field(default_factory=TaskChanges)
    queue: str | None = None


@dataclass(frozen=True, kw_only=True)
class CloneRequests:
    """Body of `POST /tasks/{id}/clones`: all or nothing, at most 10,000."""

    clones: tuple[CloneRequest, ...]


@dataclass(frozen=True, kw_only=True)
class EnqueueRequest:
    """Body of `POST /tasks/{id}/enqueue`; queue is a name or an id."""

    queue: str


@dataclass(frozen=True, kw_only=True)
class BulkEnqueueRequest:
    """Body of `POST /queues/{id}/entries`: all or nothing, in this order, at most 10,000."""

    tasks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StopRequest:
    """Body of `POST /tasks/{id}/stop`."""

    requeue: bool = False


@dataclass(frozen=True, kw_only=True)
class MoveRequest:
    """Body of `POST /tasks/{id}/move`: exactly one of the two."""

    to: MoveTo | None = None
    position: int | None = None
    """From 0, the next to be claimed."""


@dataclass(frozen=True, kw_only=True)
class TaskPage:
    """Newest first; `cursor` names the next page, None on the last."""

    tasks: tuple[Task, ...]
    cursor: str | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerVerdict:
    """Why one worker does or does not take a task."""

    worker: str
    fits: bool
    reason: str
    watches: bool = True
    """Whether it serves the task's queue at all."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a task waits, worker by worker."""

    task: str
    state: TaskState
    summary: str
    position: int | None = None
    workers: tuple[WorkerVerdict, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Story:
    """Everything that happened to a task."""

    task: Task
    runs: tuple[Run, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True, kw_only=True)
class TaskEvent:
    """One event, with the task that it belongs to."""

    task: str
    event: Event


# --- Queues ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Queue:
    """An ordered list of queued tasks."""

    id: str
    name: str
    description: str = ""
    kind: QueueKind = QueueKind.TASKS
    paused: bool = False
    created_at: float = 0.0
    waiting: int = 0
    """Queued tasks."""
    running: int = 0
    """Tasks claimed from it that have not ended."""
    workers: tuple[str, ...] = ()
    """Names of the live workers that watch it."""
    owner: str = ""
    """Name of the user whose own agents may serve it; empty for a queue of the administrators'."""
    estimated_wait_seconds: float | None = None
    """For a task enqueued now, from the recent run times; None where nothing is known."""


@dataclass(frozen=True, kw_only=True)
class NewQueue:
    """Body of `POST /queues`."""

    name: str
    description: str = ""
    kind: QueueKind = QueueKind.TASKS
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class QueueChanges:
    """Body of `PATCH /queues/{id}`."""

    name: str | None = None
    description: str | None = None
    paused: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A task's place in a queue."""

    position: int
    task: str
    name: str
    queued_at: float
    gpus: int = 0
    created_by: str = ""


@dataclass(frozen=True, kw_only=True)
class EntryPage:
    """A stretch of a queue, in the order in which it is claimed."""

    entries: tuple[Entry, ...]
    total: int


# --- Agents, workers, runs -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU of a machine."""

    index: int
    uuid: str
    name: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class WorkerCounters:
    """A worker's work in numbers (Dask's words)."""

    executing: int = 0
    """Runs just now."""
    executed: int = 0
    """Runs that ended there, however."""
    ready: int = 0
    """Queued tasks of its queues that it could take now."""
    constrained: int = 0
    """Queued tasks of its queues that would fit it, but not what it has free now."""
    waiting: int = 0
    """Tasks of its queues that wait for a time or a retry."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A named place that runs tasks, one at a time unless it has slots for more, as the server knows it."""

    name: str
    agent: str
    host: str
    state: WorkerState
    queues: tuple[str, ...] = ()
    """Names, in the order in which they are tried."""
    gpus: tuple[Gpu, ...] = ()
    version: str = ""
    boot_id: str = ""
    registered_at: float = 0.0
    last_seen_at: float = 0.0
    runs: tuple[str, ...] = ()
    total: Capacity = field(default_factory=Capacity)
    free: Capacity = field(default_factory=Capacity)
    labels: dict[str, str] = field(default_factory=dict)
    queue_gpus: dict[str, GpuRange] = field(default_factory=dict)
    """GPUs for each task, by its queue; see `ClaimRequest`."""
    parent: str | None = None
    """For the place of one running task in services mode: the worker that claimed it."""
    drain_requested: bool = False
    """Somebody told it to end after what it runs."""
    paused_reason: str = ""
    """Why it takes nothing: in the words of who paused it, of its agent or of the server."""
    counters: WorkerCounters | None = None
    """Only where one worker is asked for."""
    ends_at: float | None = None
    """When the batch job ends that its agent lives in: it is given nothing that may run longer."""
    takes_endless: bool = True
    """Whether it takes tasks without a time limit."""
    completed: int = 0
    failed: int = 0
    infrastructure_failures: int = 0
    """In a row; three pause the worker."""
    shell: bool = False
    """Its operator lets tasks' owners open terminals in their runs."""


@dataclass(frozen=True, kw_only=True)
class PauseRequest:
    """Body of `POST /workers/{name}/pause`."""

    reason: str = ""
    """For people who ask why it takes nothing."""


@dataclass(frozen=True, kw_only=True)
class WorkerReport:
    """What an agent says of one of its workers in a beat; the fields mean what they mean in `Worker`.

    Queues are named by their ids, which a new name leaves as they are, or by their names.
    """

    name: str
    state: WorkerState
    queues: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    runs: tuple[str, ...] = ()
    total: Capacity = field(default_factory=Capacity)
    free: Capacity = field(default_factory=Capacity)
    labels: dict[str, str] = field(default_factory=dict)
    queue_gpus: dict[str, GpuRange] = field(default_factory=dict)
    parent: str | None = None
    paused_reason: str = ""
    """Why its agent lets it take nothing just now: memory or disk too full, outside its hours."""
    healthy: bool = False
    """The probe that the server asked for (`WorkerDirective.probe`) finds nothing wrong any more."""
    ends_at: float | None = None
    takes_endless: bool = True
    shell: bool = False
    """Its operator lets tasks' owners open terminals in their runs."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What an agent says of one of its runs in a beat."""

    id: str
    control_token: str
    phase: Phase
    phases: tuple[PhaseTime, ...] = ()
    gpus: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Short lines for the story: `the disk is full: output is held back`."""


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """A run as its agent's journal holds it, or held it until its end was acknowledged. Sent in beats while the
    server recovers from a restore, because the restored copy may not know it."""

    run: Run
    task: Task
    control_token: str
    report_hash: str
    boot_id: str
    started: bool = False
    """Whether user code was allowed to start."""
    gpus: tuple[str, ...] = ()
    phases: tuple[PhaseTime, ...] = ()
    outcome: Outcome | None = None
    """How it ended; None while it lives."""
    ended_at: float | None = None
    """When its end was acknowledged; None while it is still to be reported."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One measured value. Names are `cpu_percent memory_bytes memory_percent disk_percent
    disk_read_bytes_per_second disk_write_bytes_per_second network_receive_bytes_per_second
    network_send_bytes_per_second gpu_percent:<index> gpu_memory_bytes:<index> gpu_celsius:<index>`."""

    subject: str
    """`worker:<name>` or `run:<id>`."""
    name: str
    at: float
    value: float


@dataclass(frozen=True, kw_only=True)
class Beat:
    """Body of `POST /beats`: one per agent for all its workers and runs."""

    agent: str
    host: str
    boot_id: str
    version: str
    instance: str = ""
    """Which agent speaks, whatever its name: drawn once for its folder. Empty from older agents."""
    workers: tuple[WorkerReport, ...] = ()
    runs: tuple[RunReport, ...] = ()
    samples: tuple[Sample, ...] = ()
    kept: tuple[KeptRun, ...] = ()
    """A portion of what the journal holds, where the last answer had `copied_at`."""


@dataclass(frozen=True, kw_only=True)
class RunDirective:
    """What an agent must do with one of its runs; repeated in every answer until the run ends."""

    run: str
    stale: bool = False
    """The run is not this agent's any more: stop the process, keep its log."""
    cancel: bool = False
    """End it: SIGTERM, the grace period, SIGKILL."""
    terminals: tuple[Terminal, ...] = ()
    """Open ones; each is to be served once."""


class TerminalKind(Word):
    """What a person at a terminal reaches of a run."""

    SHELL = "shell"  # a new shell, or command, in the run's environment
    SIGNALS = "signals"  # the run's own command: Ctrl-C and Ctrl-\\ become its signals


@dataclass(frozen=True, kw_only=True)
class NewTerminal:
    """Body of `POST /tasks/{id}/terminals`."""

    kind: TerminalKind = TerminalKind.SHELL
    command: tuple[str, ...] = ()
    """Empty for a shell."""
    rows: int = 24
    columns: int = 80
    term: str = ""
    """The variable TERM."""


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """One person's terminal in a run, for as long as they have it open."""

    id: str
    run: str
    kind: TerminalKind = TerminalKind.SHELL
    command: tuple[str, ...] = ()
    rows: int = 24
    columns: int = 80
    term: str = ""


@dataclass(frozen=True, kw_only=True)
class TerminalKeys:
    """Body of `POST /terminals/{id}/keys`, and what its agent is answered: what was typed, from an offset on."""

    offset: int = 0
    data: str = ""
    """Base64 of the bytes that begin at `offset`."""
    rows: int = 24
    columns: int = 80
    closed: bool = False
    """The person has gone: end everything that the terminal started."""


@dataclass(frozen=True, kw_only=True)
class TerminalScreen:
    """What the terminal showed, from an offset on."""

    offset: int = 0
    data: str = ""
    """Base64 of the bytes that begin at `offset`."""
    ended: bool = False
    """Nothing follows `data`."""
    exit_code: int | None = None
    """Of the shell or command; 128 and the signal's number where one ended it. None: it was never started, or cut
    off, and `message` says why."""
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class TerminalOutput:
    """Body of `POST /terminals/{id}/output`: what the agent's terminal shows."""

    control_token: str
    screen: TerminalScreen


@dataclass(frozen=True, kw_only=True)
class TerminalInput:
    """Body of `POST /terminals/{id}/input`: the agent waits for what is typed."""

    control_token: str
    offset: int = 0
    """Where what it wants begins; everything before it is done with."""
    wait_seconds: float = 20.0


@dataclass(frozen=True, kw_only=True)
class TerminalPosition:
    """How many bytes were taken; what was sent beyond them is sent again from there."""

    offset: int


@dataclass(frozen=True, kw_only=True)
class WorkerDirective:
    """What an agent must do with one of its workers."""

    worker: str
    paused: bool = False
    reason: str = ""
    drain: bool = False
    """Take nothing more, and end after what runs."""
    probe: str = ""
    """With a pause by the server: the `Reason` of the failures. It ends once a probe of that part passes."""
    taken_seconds: float | None = None
    """The name is another agent's, and stays that for so long unless it is heard again: nothing was kept of this
    worker, and it is given nothing."""
    heard_at: float | None = None
    """With it: when that other agent was last heard, on some server's clock. It stays the same in later answers
    unless that agent was heard again."""


@dataclass(frozen=True, kw_only=True)
class BeatAnswer:
    """Answer to a beat; every run that is not named as stale has its lease renewed."""

    server_time: float
    lease_seconds: float
    runs: tuple[RunDirective, ...] = ()
    workers: tuple[WorkerDirective, ...] = ()
    generation: int = 0
    """Changes when the store was restored from a copy: then the server may lack what it acknowledged before."""
    copied_at: float | None = None
    """While the server recovers from a restore: the time of the copy. Runs that ended later are to be reported."""


@dataclass(frozen=True, kw_only=True)
class ClaimRequest:
    """Body of `POST /claims`. Repeating a request_id returns the same run."""

    agent: str
    worker: str | None
    """The worker that is free, or None to wait for directives alone."""
    boot_id: str
    request_id: str
    instance: str = ""
    """As in `Beat`."""
    control_hash: str = ""
    """SHA-256 (hexadecimal) of the control token that the agent drew and journalled."""
    report_hash: str = ""
    queues: tuple[str, ...] = ()
    """Ids or names, in the order in which they are to be tried."""
    free: Capacity = field(default_factory=Capacity)
    total: Capacity = field(default_factory=Capacity)
    labels: dict[str, str] = field(default_factory=dict)
    queue_gpus: dict[str, GpuRange] = field(default_factory=dict)
    """Queue → how many GPUs each of its tasks is given, for an agent that gives them out by queue."""
    runs: tuple[str, ...] = ()
    """Ids of the agent's runs, so that a directive for one of them ends the wait."""
    task: str | None = None
    """Take this task and no other (`agent execute`). A task without a queue gets the first of `queues`, to go back
    to if its run is lost."""
    wait_seconds: float = 25.0
    ends_at: float | None = None
    """As in `Worker`, and so is the next one."""
    takes_endless: bool = True
    names_obstacle: bool = False
    """With `task`: one that has ended, or runs, is answered with `Claim.obstacle` and is no conflict."""


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """Why a task that was asked for by its id was not taken."""

    state: TaskState
    detail: str
    unresponsive: bool = False
    """It is with a worker that fell silent: its run may soon be lost."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Answer to a claim. `run` is None when nothing was taken in time or a directive ended the wait."""

    run: Run | None = None
    task: Task | None = None
    secrets: dict[str, str] = field(default_factory=dict)
    lease_seconds: float = 60.0
    directives: tuple[RunDirective, ...] = ()
    beat: bool = False
    """There is word for one of the agent's workers, which the answer to a beat brings: send one now."""
    obstacle: Obstacle | None = None


@dataclass(frozen=True, kw_only=True)
class StartRequest:
    """Body of `POST /runs/{id}/start`: the last word before user code starts."""

    control_token: str
    phases: tuple[PhaseTime, ...] = ()
    gpus: tuple[str, ...] = ()
    command_line: tuple[str, ...] = ()
    parameters: dict[str, dict[str, str]] = field(default_factory=dict)
    python: str | None = None
    packages: tuple[str, ...] = ()
    environment_key: str | None = None
    environment_reused: bool | None = None
    image_digest: str | None = None
    output_offset: int | None = None


@dataclass(frozen=True, kw_only=True)
class FinishRequest:
    """Body of `POST /runs/{id}/finish`; a repeat is harmless."""

    control_token: str
    outcome: Outcome
    log_bytes: int
    phases: tuple[PhaseTime, ...] = ()
    notes: tuple[str, ...] = ()
    """Last words for the story: what went wrong around the run without changing how it ended."""
    outputs: RunOutputs | None = None
    """What of the run's files is about to be sent."""


@dataclass(frozen=True, kw_only=True)
class LogPosition:
    """Answer to an append: how many bytes of the run's log the server holds."""

    offset: int
    capped: bool = False
    """The run's log reached the server's cap: the rest is dropped, and marked."""


@dataclass(frozen=True, kw_only=True)
class LogChunk:
    """One event of a live log: `data` is base64 of the raw bytes that begin at `offset`."""

    offset: int
    data: str


@dataclass(frozen=True, kw_only=True)
class SeriesPoint:
    """One bucket of a series."""

    at: float
    minimum: float
    mean: float
    maximum: float


@dataclass(frozen=True, kw_only=True)
class Series:
    """One downsampled series."""

    subject: str
    name: str
    points: tuple[SeriesPoint, ...]


# --- Artifacts -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ArtifactFile:
    """One file of an artifact: its manifest."""

    path: str
    """Relative, with slashes; the last part of the artifact's name where it is a single file."""
    size: int
    sha256: str
    """Of the whole file. The server has checked those of the parts; this one is for those who fetch the file."""
    parts: tuple[str, ...] = ()
    """Digests of its parts, each of PART_BYTES but for the last; none for an empty file."""


@dataclass(frozen=True, kw_only=True)
class NewArtifact:
    """Files that a run keeps under a name; the same name again replaces them."""

    name: str
    files: tuple[ArtifactFile, ...]
    kind: str = "output"


@dataclass(frozen=True, kw_only=True)
class NewArtifacts:
    """Body of `POST /runs/{id}/artifacts`: all or none, at most 100."""

    artifacts: tuple[NewArtifact, ...]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a run keeps under a name."""

    run: str
    name: str
    kind: str
    size: int
    created_at: float
    files: tuple[ArtifactFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunArtifacts:
    """Answer to `GET /runs/{id}/artifacts`."""

    artifacts: tuple[Artifact, ...]
    """By name."""
    outputs: RunOutputs | None = None
    """As on the run: whether more are on their way, and what is not kept."""


@dataclass(frozen=True, kw_only=True)
class MissingRequest:
    """Body of `POST /artifacts/missing`: which of these parts must be sent before the run can name them."""

    run: str
    digests: tuple[str, ...]
    """At most 1,000."""


@dataclass(frozen=True, kw_only=True)
class MissingParts:
    """Answer to it: those that this account has not sent, whatever others have."""

    digests: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ArtifactLimits:
    """What the server keeps of one run at most."""

    file_bytes: int
    run_bytes: int
    run_files: int


# --- Getting in ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token as it may be shown; the secret itself is answered once, at its creation."""

    id: str
    kind: TokenKind
    name: str
    created_at: float
    expires_at: float | None = None
    revoked: bool = False
    last_used_at: float | None = None
    queues: tuple[str, ...] = ()
    """For an agent: the names of the queues it may claim from, ids of those that are gone; empty for all."""
    create_queues: bool = False
    invitation: bool = False
    """It is a code that nobody has exchanged for a token yet."""
    own_queues: bool = False
    """An agent's token that a user issued: it serves queues that this user created, and no others."""
    unconfined: bool = False
    """Likewise, but issued before such tokens were confined: it may serve queues of others."""


@dataclass(frozen=True, kw_only=True)
class NewToken:
    """Body of `POST /tokens` and `POST /invitations`."""

    kind: TokenKind
    name: str = ""
    expires_in_seconds: float | None = None
    queues: tuple[str, ...] = ()
    """Ids or names. They exist, unless the agent may create queues."""
    create_queues: bool = False


@dataclass(frozen=True, kw_only=True)
class IssuedToken:
    """A token with its secret, answered once."""

    token: Token
    secret: str


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """A single-use code, valid for ten minutes; until then it is listed and revoked as a token is."""

    id: str
    code: str
    kind: TokenKind
    expires_at: float


@dataclass(frozen=True, kw_only=True)
class LoginRequest:
    """Body of `POST /login`: exchanges a code for a token."""

    code: str
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    """Answer to `GET /info`, which needs no token."""

    version: str
    api: str = API_VERSION
    store: str = ""
    time: float = 0.0
    generation: int = 1
    """Higher with each restore of the store from a copy; every answer has it in `Taskyard-Store-Generation`."""
    recovering: bool = False
    """Whether nothing is handed out until an operator types `taskyard server resume`."""
    artifacts: ArtifactLimits | None = None
    """None: it keeps no outputs. Older servers keep none."""


class UnknownKind(Word):
    """What is unknown of a run after a restore."""

    RUNNING = "running"  # an agent runs it, and the copy does not know it
    ENDED = "ended"  # an agent says how it ended, and the copy does not know it
    SILENT = "silent"  # the copy has it running, and no agent has reported it since the restore


@dataclass(frozen=True, kw_only=True)
class UnknownRun:
    """A run of which agents and the restored copy know different things."""

    run: str
    task: str
    kind: UnknownKind
    name: str = ""
    """The task's name."""
    state: str = ""
    """The task's state in the copy; empty where the copy does not know the task."""
    worker: str = ""
    agent: str = ""
    """Name of the token of the agent that reports it."""
    outcome: Outcome | None = None
    heard_at: float | None = None
    given_up: bool = False
    """Whether the operator gave it up: its agent ends it, its task goes on as the copy has it."""
    adoptable: bool = True
    """Whether it can be adopted; not where the copy lacks the task and its agent does not send it."""


@dataclass(frozen=True, kw_only=True)
class UnknownToken:
    """A token that was presented since the restore and that the copy does not know."""

    kind: str
    """As the token itself says: administrator, user, agent."""
    address: str
    """Where it was presented from."""
    seen_at: float


@dataclass(frozen=True, kw_only=True)
class StoreStatus:
    """Answer to `GET /recovery`: which copy of itself the store is, and what is unknown since a restore."""

    version: str
    store: str
    generation: int
    recovering: bool
    copied_at: float | None = None
    restored_at: float | None = None
    resumed_at: float | None = None
    runs: tuple[UnknownRun, ...] = ()
    tokens: tuple[UnknownToken, ...] = ()
    silent_workers: tuple[str, ...] = ()
    """Workers of the copy that had not stopped and were not heard since the restore."""
    valid_tokens: tuple[str, ...] = ()
    """Names of the tokens that are valid: one that was revoked after the copy is among them again."""
    uptime_seconds: float | None = None
    """Of the server that answers; None from an older one."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Part of the store → bytes on the disk."""
    queues: int | None = None
    tasks: dict[str, int] = field(default_factory=dict)
    """State → number of tasks that have not ended."""
    workers: dict[str, int] = field(default_factory=dict)
    """State → number."""


@dataclass(frozen=True, kw_only=True)
class RecoveryChoice:
    """Body of `POST /recovery/adopt` and `/recovery/give-up`: these runs, or all that are undecided."""

    runs: tuple[str, ...] = ()
    all: bool = False


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Body of every error answer."""

    error: str
    """A stable word: not_found, conflict, stale, refused, invalid, unauthorised, forbidden, full …"""
    detail: str
    """What happened, to what, and what to do next."""


# --- Parameters ------------------------------------------------------------------------------------------


def typed_parameters(spec: TaskSpec) -> dict[str, dict[str, Any]]:
    """Return section → name → JSON value: the texts of `parameters` under the typed ones of `values`."""
    names = dict.fromkeys((*spec.parameters, *spec.values))
    return {name: {**spec.parameters.get(name, {}), **spec.values.get(name, {})} for name in names}


def as_text(value: Any) -> str:
    """Return a parameter's value as text: `true`, `null`, `0.1`, `["a", "b"]`, and a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def too_large_to_start(texts: Iterable[str], what: str) -> str:
    """Return why no program can be started with these arguments or `NAME=value` variables; empty where one can."""
    sizes = [len(text) if text.isascii() else len(text.encode("utf-8", "replace")) for text in texts]
    if max(sizes, default=0) > LARGEST_ARGUMENT_BYTES:
        return (
            f"{what} has {max(sizes)} bytes; no program can be started with one of more than "
            f"{LARGEST_ARGUMENT_BYTES}: put it into a file"
        )
    total = sum(sizes) + 9 * len(sizes)  # a NUL and a pointer each
    if total > LARGEST_START_BYTES:
        return (
            f"arguments and variables have {total} bytes together, {LARGEST_START_BYTES} are allowed: "
            "put some of them into a file"
        )
    return ""


# --- JSON ------------------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """Returns `value` as what the json module can write: records as dicts, tuples as lists, enums as words."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value):
        kind: Any = type(value)
        return {name: to_json(getattr(value, name)) for name in _fields(kind)}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], data: Any) -> T:
    """Builds a `kind` from what the json module read. Unknown fields are ignored.

    Raises ValueError when a field is missing, TypeError when a value has the wrong shape. Unknown words stay
    as they are, see `Word`.
    """
    return typing.cast(T, _decode(kind, data))


@functools.cache
def _fields(kind: type[Any]) -> dict[str, Any]:
    return {f.name: _hint(kind.__module__, str(f.type)) for f in dataclasses.fields(kind)}


@functools.cache
def _hint(module: str, annotation: str) -> Any:
    """Return the type that an annotation of a module names; each text is there many times, and read once."""
    names = vars(sys.modules[module])
    simple = names.get(annotation, getattr(builtins, annotation, None))
    return eval(annotation, names) if simple is None else simple  # noqa: S307  # a source file's own annotation


@functools.cache
def _defaults(kind: type[Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields that may be left out, with their default and what makes it."""
    fields = {f.name: (f.default, f.default_factory) for f in dataclasses.fields(kind)}
    return {name: pair for name, pair in fields.items() if pair != (dataclasses.MISSING, dataclasses.MISSING)}


def _decode(kind: Any, data: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return _decode_record(kind, data)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        (inner,) = [option for option in typing.get_args(kind) if option is not type(None)]
        return None if data is None else _decode(inner, data)
    if origin is tuple:
        return tuple(_decode(typing.get_args(kind)[0], item) for item in data)
    if origin is dict:
        if not isinstance(data, Mapping):
            raise TypeError(f"an object was expected, not {type(data).__name__}")
        value_kind = typing.get_args(kind)[1]
        return {key: _decode(value_kind, item) for key, item in data.items()}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind.decode(data) if issubclass(kind, Word) else kind(data)
    if kind is float:
        return float(data)
    return data


def _decode_record(kind: Any, data: Any) -> Any:
    if not isinstance(data, Mapping):
        raise TypeError(f"{kind.__name__} must be an object, not {type(data).__name__}")
    values = {name: _decode(hint, data[name]) for name, hint in _fields(kind).items() if name in data}
    for name, (default, factory) in _defaults(kind).items():
        if name not in values:
            values[name] = default if factory is dataclasses.MISSING else factory()
    missing = [name for name in _fields(kind) if name not in values]
    if missing:
        raise ValueError(f"{kind.__name__} lacks {', '.join(missing)}")
    record = object.__new__(kind)  # its __init__ would be compiled for this alone, and checks nothing more
    record.__dict__.update(values)
    return record
