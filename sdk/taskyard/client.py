"""One typed method per route of the server, named like it. Errors are those of `Transport.request`."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import quote

from taskyard.config import Connection
from taskyard.errors import NotFound, UsageError
from taskyard.transport import Stretch, Transport
from taskyard.wire import (
    ArtifactFile,
    Beat,
    BeatAnswer,
    BulkEnqueueRequest,
    Claim,
    ClaimRequest,
    CloneRequest,
    CloneRequests,
    EnqueueRequest,
    Entry,
    EntryPage,
    Explanation,
    FinishRequest,
    Invitation,
    IssuedToken,
    LogChunk,
    LoginRequest,
    LogPosition,
    MissingParts,
    MissingRequest,
    MoveRequest,
    NewArtifact,
    NewArtifacts,
    NewQueue,
    NewTask,
    NewTasks,
    NewTerminal,
    NewToken,
    PauseRequest,
    Queue,
    QueueChanges,
    RecoveryChoice,
    Run,
    RunArtifacts,
    RunOutputs,
    Series,
    ServerInfo,
    StartRequest,
    StopRequest,
    StoreStatus,
    Story,
    Task,
    TaskChanges,
    TaskEvent,
    TaskPage,
    TaskState,
    Terminal,
    TerminalInput,
    TerminalKeys,
    TerminalOutput,
    TerminalPosition,
    TerminalScreen,
    Token,
    Worker,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    import httpx

CONTROL_HEADER = "Taskyard-Control-Token"
BLOB_ANSWER_SECONDS = 300.0
PAGE_TASKS = 100
LOG_PIECE_BYTES = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LogSlice:
    """A stretch of a run's log."""

    data: bytes
    offset: int
    """Where `data` begins."""
    length: int
    """Bytes that the server holds now."""
    complete: bool
    """Whether nothing will be added."""


class Client:
    """The server's routes as methods. Threads may share one."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @classmethod
    def of(
        cls,
        connection: Connection,
        *,
        patience_seconds: float = 30.0,
        tell: Callable[[str], None] | None = None,
        renewed_token: Callable[[], str | None] = lambda: None,
        names_strangers: bool = False,
    ) -> Client:
        """A client for where and whom `config.connection` resolved; the options are those of Transport."""
        return cls(
            Transport(
                connection.server,
                connection.token,
                ca_file=connection.ca_file,
                insecure=connection.insecure,
                patience_seconds=patience_seconds,
                tell=tell,
                renewed_token=renewed_token,
                names_strangers=names_strangers,
            )
        )

    @property
    def server(self) -> str:
        """The server's address."""
        return self.transport.server

    def close(self) -> None:
        """Lets go of the connections."""
        self.transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- getting in

    def info(self, *, patience_seconds: float | None = None) -> ServerInfo:
        """Version and time of the server; needs no token."""
        return self._get(ServerInfo, "/info", patience_seconds=patience_seconds)

    def health(self, *, patience_seconds: float | None = None) -> str:
        """`ok` when the server and its store can take work; raises Unavailable otherwise."""
        return self.transport.ask(
            lambda answer: str(answer.json()["status"]), "GET", "/health", patience_seconds=patience_seconds
        )

    def whoami(self) -> Token:
        """The token that this client acts with."""
        return self._get(Token, "/whoami")

    def login(self, request: LoginRequest) -> IssuedToken:
        """Exchanges a single-use code for a token."""
        return self._send(IssuedToken, "POST", "/login", request)

    def invite(self, new: NewToken) -> Invitation:
        """Makes a single-use code for a person or a machine."""
        return self._send(Invitation, "POST", "/invitations", new)

    def tokens(self) -> list[Token]:
        """All tokens that the caller may see."""
        return self._list(Token, "/tokens")

    def create_token(self, new: NewToken) -> IssuedToken:
        """Makes a token; its secret is in this answer and nowhere else."""
        return self._send(IssuedToken, "POST", "/tokens", new)

    def revoke_token(self, token_id: str) -> Token:
        """Ends a token's rights at once."""
        return self._send(Token, "POST", f"/tokens/{_part(token_id)}/revoke")

    # --- after a restore

    def recovery(self) -> StoreStatus:
        """Which copy of itself the store is, and what it does not know since a restore."""
        return self._get(StoreStatus, "/recovery")

    def adopt_runs(self, runs: Iterable[str], *, every: bool = False) -> StoreStatus:
        """Makes runs that agents report runs of their tasks; `every`: all that are undecided."""
        return self._send(StoreStatus, "POST", "/recovery/adopt", RecoveryChoice(runs=tuple(runs), all=every))

    def give_up_runs(self, runs: Iterable[str], *, every: bool = False) -> StoreStatus:
        """Lets agents end such runs; `every`: all that are undecided."""
        return self._send(StoreStatus, "POST", "/recovery/give-up", RecoveryChoice(runs=tuple(runs), all=every))

    def resume_store(self) -> StoreStatus:
        """Hands tasks out again; refused while a run is undecided."""
        return self._send(StoreStatus, "POST", "/recovery/resume")

    # --- blobs

    def put_blob(self, sha256: str, content: Path | bytes) -> None:
        """Stores bytes under their digest, unless they are there."""
        if not self.has_blob(sha256):
            self.transport.request(
                "PUT", f"/blobs/{_part(sha256)}", content=content, timeout_seconds=BLOB_ANSWER_SECONDS
            )

    def has_blob(self, sha256: str) -> bool:
        """Whether the server holds the blob."""
        try:
            self.transport.request("HEAD", f"/blobs/{_part(sha256)}")
        except NotFound:
            return False
        return True

    def get_blob(self, sha256: str, target: Path) -> int:
        """Writes the blob to `target`, whole or not at all, its digest checked; returns its size."""
        return self.transport.download(f"/blobs/{_part(sha256)}", target, sha256=sha256)

    # --- tasks

    def create_task(self, new: NewTask) -> Task:
        """Creates a task, and enqueues it where `new.queue` is set."""
        return self._send(Task, "POST", "/tasks", new)

    def create_tasks(self, new: Iterable[NewTask]) -> list[Task]:
        """Creates all or none."""
        return self._send_for_list(Task, "/tasks/bulk", NewTasks(tasks=tuple(new)))

    def tasks(
        self,
        *,
        states: Sequence[TaskState] = (),
        queue: str | None = None,
        project: str | None = None,
        tag: str | None = None,
        name: str | None = None,
        name_contains: str | None = None,
        before: str | None = None,
        limit: int | None = None,
    ) -> TaskPage:
        """A page of tasks, newest first; `before` is the cursor of the page before."""
        params = {
            "state": [state.value for state in states] or None,
            "queue": queue,
            "project": project,
            "tag": tag,
            "name": name,
            "name_contains": name_contains,
            "before": before,
            "limit": limit,
        }
        return self._get(TaskPage, "/tasks", params)

    def all_tasks(self, *, limit: int | None = None, **wanted: Any) -> Iterator[Task]:
        """Goes through the pages of `tasks`, newest first, to the end or to `limit` tasks."""
        before, left = None, limit
        while left is None or left > 0:
            page = self.tasks(**wanted, before=before, limit=PAGE_TASKS if left is None else min(left, PAGE_TASKS))
            yield from page.tasks
            before = page.cursor
            if before is None:
                return
            left = None if left is None else left - len(page.tasks)

    def resolve_task(self, ref: str) -> Task:
        """The task with this id, unique id prefix or unique name."""
        return self._get(Task, "/tasks/resolve", {"ref": ref})

    def task(self, task_id: str) -> Task:
        """The task with this id."""
        return self._get(Task, _task(task_id))

    def change_task(self, task_id: str, changes: TaskChanges) -> Task:
        """Edits a draft."""
        return self._send(Task, "PATCH", _task(task_id), changes)

    def delete_task(self, task_id: str) -> None:
        """Removes the task with its runs and logs."""
        self.transport.request("DELETE", _task(task_id))

    def enqueue(self, task_id: str, queue: str) -> Task:
        """Puts the task at the end of a queue, named or by id."""
        return self._send(Task, "POST", _task(task_id, "enqueue"), EnqueueRequest(queue=queue))

    def enqueue_all(self, queue_id: str, task_ids: Iterable[str]) -> list[Task]:
        """Puts all or none at the end of a queue, in this order."""
        request = BulkEnqueueRequest(tasks=tuple(task_ids))
        return self._send_for_list(Task, f"/queues/{_part(queue_id)}/entries", request)

    def dequeue(self, task_id: str) -> Task:
        """Takes the task out of its queue; it becomes a draft."""
        return self._send(Task, "POST", _task(task_id, "dequeue"))

    def stop_task(self, task_id: str, *, requeue: bool = False) -> Task:
        """Ends the task's run; with `requeue` it goes back to its queue."""
        return self._send(Task, "POST", _task(task_id, "stop"), StopRequest(requeue=requeue))

    def retry_task(self, task_id: str) -> Task:
        """Enqueues an ended task once more."""
        return self._send(Task, "POST", _task(task_id, "retry"))

    def clone_task(self, task_id: str, request: CloneRequest) -> Task:
        """Copies the task with changes, and enqueues the copy where `request.queue` is set."""
        return self._send(Task, "POST", _task(task_id, "clone"), request)

    def clone_task_often(self, task_id: str, requests: Iterable[CloneRequest]) -> list[Task]:
        """Copies the task once for each request: all or none."""
        return self._send_for_list(Task, _task(task_id, "clones"), CloneRequests(clones=tuple(requests)))

    def move_task(self, task_id: str, request: MoveRequest) -> Entry:
        """Changes the task's place in its queue."""
        return self._send(Entry, "POST", _task(task_id, "move"), request)

    def explain_new(self, new: NewTask) -> Explanation:
        """Who could take such a task, were it enqueued now, worker by worker. Nothing is created."""
        return self._send(Explanation, "POST", "/tasks/explain", new)

    def explain(self, task_id: str) -> Explanation:
        """Why the task waits, worker by worker."""
        return self._get(Explanation, _task(task_id, "explain"))

    def story(self, task_id: str) -> Story:
        """Everything that happened to the task."""
        return self._get(Story, _task(task_id, "story"))

    def events(
        self,
        *,
        since: float | None = None,
        task: str | None = None,
        kind: str | None = None,
        limit: int | None = None,
    ) -> list[TaskEvent]:
        """Events of all tasks, or of one."""
        return self._list(TaskEvent, "/events", {"since": since, "task": task, "kind": kind, "limit": limit})

    # --- queues

    def queues(self, *, name: str | None = None) -> list[Queue]:
        """All queues, or the one of that name."""
        return self._list(Queue, "/queues", {"name": name})

    def resolve_queue(self, ref: str) -> Queue:
        """The queue with this name or id. Raises UsageError with the nearest names and how to create it."""
        queues = self.queues()
        for queue in queues:
            if ref in (queue.name, queue.id):
                return queue
        raise UsageError(_unknown_queue(ref, [queue.name for queue in queues]))

    def queue(self, queue_id: str) -> Queue:
        """The queue with this id."""
        return self._get(Queue, f"/queues/{_part(queue_id)}")

    def create_queue(self, new: NewQueue) -> Queue:
        """Creates a queue; refused where the name exists."""
        return self._send(Queue, "POST", "/queues", new)

    def change_queue(self, queue_id: str, changes: QueueChanges) -> Queue:
        """Renames, describes, pauses or resumes a queue."""
        return self._send(Queue, "PATCH", f"/queues/{_part(queue_id)}", changes)

    def delete_queue(self, queue_id: str, *, force: bool = False) -> None:
        """Removes a queue; refused while it holds tasks, unless forced: they become drafts."""
        params = {"force": "true" if force else "false"}
        self.transport.request("DELETE", f"/queues/{_part(queue_id)}", params=params)

    def entries(self, queue_id: str, *, offset: int = 0, limit: int = 100) -> EntryPage:
        """A stretch of a queue in the order of claiming."""
        params = {"offset": offset, "limit": limit}
        return self._get(EntryPage, f"/queues/{_part(queue_id)}/entries", params)

    # --- workers

    def workers(self) -> list[Worker]:
        """All workers that ever registered and were not deleted."""
        return self._list(Worker, "/workers")

    def worker(self, name: str) -> Worker:
        """The worker of that name."""
        return self._get(Worker, _worker(name))

    def delete_worker(self, name: str) -> None:
        """Forgets a worker that is gone."""
        self.transport.request("DELETE", _worker(name))

    def drain_worker(self, name: str) -> Worker:
        """Lets a worker's agent take nothing more, and end after what it runs."""
        return self._send(Worker, "POST", _worker(name) + "/drain")

    def pause_worker(self, name: str, reason: str = "") -> Worker:
        """Lets a worker take nothing until it is resumed; what it runs goes on."""
        return self._send(Worker, "POST", _worker(name) + "/pause", PauseRequest(reason=reason))

    def resume_worker(self, name: str) -> Worker:
        """Lets a worker that was paused take tasks again."""
        return self._send(Worker, "POST", _worker(name) + "/resume")

    def worker_metrics(self, name: str, **wanted: Any) -> list[Series]:
        """Downsampled measurements of the last hour; `wanted` as for `run_metrics`."""
        return self._metrics(_worker(name) + "/metrics", **wanted)

    def run_metrics(self, run_id: str, **wanted: Any) -> list[Series]:
        """Downsampled measurements: `start` and `end` in epoch seconds, at most `points` each, `names`.

        Without a start or an end they are the run's own.
        """
        return self._metrics(_run(run_id, "metrics"), **wanted)

    def _metrics(
        self,
        path: str,
        *,
        start: float | None = None,
        end: float | None = None,
        points: int | None = None,
        names: Sequence[str] = (),
    ) -> list[Series]:
        params = {"start": start, "end": end, "points": points, "name": list(names) or None}
        return self._list(Series, path, params)

    # --- runs

    def claim(self, request: ClaimRequest, *, patience_seconds: float | None = None) -> Claim:
        """Waits for the next task, or for a directive, at most `request.wait_seconds`."""
        return self._send(
            Claim,
            "POST",
            "/claims",
            request,
            keyed=False,  # repeated by its request_id
            timeout_seconds=request.wait_seconds + 15.0,
            patience_seconds=patience_seconds,
        )

    def beat(self, beat: Beat, *, patience_seconds: float | None = None) -> BeatAnswer:
        """Renews leases, reports, and returns directives."""
        return self._send(BeatAnswer, "POST", "/beats", beat, keyed=False, patience_seconds=patience_seconds)

    def start_run(self, run_id: str, request: StartRequest, *, patience_seconds: float | None = None) -> Run:
        """The last word before user code starts. Raises Stale."""
        path = _run(run_id, "start")
        return self._send(Run, "POST", path, request, keyed=False, patience_seconds=patience_seconds)

    def finish_run(self, run_id: str, request: FinishRequest, *, patience_seconds: float | None = None) -> Run:
        """Reports how the run ended; a repeat is harmless. Raises Stale."""
        path = _run(run_id, "finish")
        return self._send(Run, "POST", path, request, keyed=False, patience_seconds=patience_seconds)

    def append_log(
        self,
        run_id: str,
        offset: int,
        data: bytes,
        *,
        control_token: str,
        patience_seconds: float | None = None,
    ) -> LogPosition:
        """Adds raw bytes to the run's log; the answer says how many the server holds. Raises Stale."""
        return self.transport.ask(
            _reader(LogPosition),
            "POST",
            _run(run_id, "logs"),
            content=data,
            params={"offset": offset},
            headers={CONTROL_HEADER: control_token, "Content-Type": "application/octet-stream"},
            keyed=False,
            patience_seconds=patience_seconds,
        )

    # --- artifacts

    def missing_parts(
        self, run_id: str, digests: Sequence[str], *, control_token: str, patience_seconds: float | None = None
    ) -> list[str]:
        """Those that must be sent before the run can name them. Raises Stale."""
        request = MissingRequest(run=run_id, digests=tuple(digests))
        answer = self._send(
            MissingParts,
            "POST",
            "/artifacts/missing",
            request,
            headers={CONTROL_HEADER: control_token},
            keyed=False,
            patience_seconds=patience_seconds,
        )
        return list(answer.digests)

    def put_part(
        self,
        sha256: str,
        content: Stretch | bytes,
        *,
        run: str,
        control_token: str,
        patience_seconds: float | None = None,
    ) -> None:
        """Sends one part that the run will name. Raises Stale, and what reading `content` raises."""
        self.transport.request(
            "PUT",
            f"/artifacts/parts/{_part(sha256)}",
            content=content,
            params={"run": run},
            headers={CONTROL_HEADER: control_token, "Content-Type": "application/octet-stream"},
            timeout_seconds=BLOB_ANSWER_SECONDS,
            patience_seconds=patience_seconds,
        )

    def attach_artifacts(
        self,
        run_id: str,
        artifacts: Sequence[NewArtifact],
        *,
        control_token: str,
        patience_seconds: float | None = None,
    ) -> RunArtifacts:
        """Names what was sent; a repeat is harmless. Raises Stale, and Refused while a part is missing."""
        return self._send(
            RunArtifacts,
            "POST",
            _run(run_id, "artifacts"),
            NewArtifacts(artifacts=tuple(artifacts)),
            headers={CONTROL_HEADER: control_token},
            keyed=False,
            patience_seconds=patience_seconds,
        )

    def report_outputs(
        self, run_id: str, outputs: RunOutputs, *, control_token: str, patience_seconds: float | None = None
    ) -> Run:
        """Says how far the outputs of a run that has ended have come. Raises Stale."""
        return self._send(
            Run,
            "POST",
            _run(run_id, "outputs"),
            outputs,
            headers={CONTROL_HEADER: control_token},
            keyed=False,
            patience_seconds=patience_seconds,
        )

    def artifacts(self, run_id: str) -> RunArtifacts:
        """What the run keeps, by name."""
        return self._get(RunArtifacts, _run(run_id, "artifacts"))

    def read_artifact(
        self,
        run_id: str,
        name: str,
        file: ArtifactFile,
        target: BinaryIO,
        *,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Appends to `target` what it lacks of a file of an artifact; the digest is for the caller to check."""
        params = {"name": name, "file": file.path}
        path = _run(run_id, "artifacts/content")
        self.transport.download_further(path, target, params=params, tag=f'"{file.sha256}"', advance=advance)

    # --- terminals

    def open_terminal(self, task_id: str, new: NewTerminal) -> Terminal:
        """Opens a terminal in the task's run."""
        return self._send(Terminal, "POST", _task(task_id, "terminals"), new)

    def type_keys(
        self, terminal_id: str, keys: TerminalKeys, *, patience_seconds: float | None = None
    ) -> TerminalPosition:
        """Types; what lies beyond the answered offset is to be sent again."""
        return self._ask_terminal(TerminalPosition, terminal_id, "keys", keys, patience_seconds)

    def read_screen(
        self, terminal_id: str, offset: int, *, patience_seconds: float | None = None
    ) -> TerminalScreen:
        """Waits for what the terminal shows from `offset` on."""
        return self.transport.ask(
            _reader(TerminalScreen),
            "GET",
            f"/terminals/{quote(terminal_id, safe='')}/screen",
            params={"offset": offset},
            patience_seconds=patience_seconds,
        )

    def show_output(
        self, terminal_id: str, output: TerminalOutput, *, patience_seconds: float | None = None
    ) -> TerminalPosition:
        """Shows what the agent's terminal wrote. Raises Stale."""
        return self._ask_terminal(TerminalPosition, terminal_id, "output", output, patience_seconds)

    def await_keys(
        self, terminal_id: str, asked: TerminalInput, *, patience_seconds: float | None = None
    ) -> TerminalKeys:
        """Waits for what is typed into the agent's terminal. Raises Stale."""
        return self._ask_terminal(TerminalKeys, terminal_id, "input", asked, patience_seconds)

    def _ask_terminal(
        self, kind: type[T], terminal_id: str, verb: str, body: Any, patience_seconds: float | None
    ) -> T:
        path = f"/terminals/{quote(terminal_id, safe='')}/{verb}"
        return self._send(kind, "POST", path, body, keyed=False, patience_seconds=patience_seconds)

    # --- runs and logs

    def run(self, run_id: str) -> Run:
        """One attempt at a task."""
        return self._get(Run, _run(run_id))

    def read_log(self, run_id: str, *, offset: int = 0, limit: int | None = None) -> LogSlice:
        """Raw bytes of the run's log from an offset."""
        return self._log(run_id, {"offset": offset, "limit": limit})

    def whole_log(self, run_id: str) -> Iterator[LogSlice]:
        """All that the server holds of the run's log, piece by piece."""
        offset = 0
        while True:
            part = self.read_log(run_id, offset=offset, limit=LOG_PIECE_BYTES)
            if part.data:
                yield part
            offset = part.offset + len(part.data)
            if not part.data or offset >= part.length:
                return

    def tail_log(self, run_id: str, lines: int) -> LogSlice:
        """The last lines of the run's log."""
        return self._log(run_id, {"tail_lines": lines})

    def follow_log(
        self, run_id: str, *, offset: int = 0, patience_seconds: float | None = None
    ) -> Iterator[bytes | Run]:
        """Yields the log from `offset` as it grows, and last the run as it ended; survives reconnects."""
        held = offset
        path = _run(run_id, "logs/stream")
        for event in self.transport.events(path, params={"offset": offset}, patience_seconds=patience_seconds):
            if event.kind == "end":
                yield from_json(Run, json.loads(event.data))
                return
            if event.kind == "log":
                chunk = from_json(LogChunk, json.loads(event.data))
                data = base64.b64decode(chunk.data)[max(0, held - chunk.offset) :]
                held += len(data)
                if data:
                    yield data

    def _log(self, run_id: str, params: dict[str, int | None]) -> LogSlice:
        return self.transport.ask(_log_slice, "GET", _run(run_id, "logs"), params=params)

    # --- JSON

    def _get(self, kind: type[T], path: str, params: Any = None, *, patience_seconds: float | None = None) -> T:
        return self.transport.ask(_reader(kind), "GET", path, params=params, patience_seconds=patience_seconds)

    def _list(self, kind: type[T], path: str, params: Any = None) -> list[T]:
        return self.transport.ask(_list_reader(kind), "GET", path, params=params)

    def _send(self, kind: type[T], method: str, path: str, body: Any = None, **options: Any) -> T:
        return self.transport.ask(_reader(kind), method, path, json=_body(body), **options)

    def _send_for_list(self, kind: type[T], path: str, body: Any) -> list[T]:
        return self.transport.ask(_list_reader(kind), "POST", path, json=_body(body))


def _body(record: Any) -> Any:
    return None if record is None else to_json(record)


def _reader(kind: type[T]) -> Callable[[httpx.Response], T]:
    return lambda answer: from_json(kind, answer.json())


def _list_reader(kind: type[T]) -> Callable[[httpx.Response], list[T]]:
    def read(answer: httpx.Response) -> list[T]:
        items = answer.json()
        if not isinstance(items, list):
            raise TypeError(f"a list was expected, not {type(items).__name__}")
        return [from_json(kind, item) for item in items]

    return read


def _log_slice(answer: httpx.Response) -> LogSlice:
    return LogSlice(
        data=answer.content,
        offset=int(answer.headers["Taskyard-Log-Offset"]),
        length=int(answer.headers["Taskyard-Log-Length"]),
        complete=answer.headers["Taskyard-Log-Complete"] == "true",
    )


def _unknown_queue(name: str, names: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`taskyard queues` lists them."
    return f"there is no queue {name!r}; {hint} Create it with: taskyard queue create {shlex.quote(name)}"


def _part(text: str) -> str:
    """One part of a path, whatever it holds."""
    return quote(text, safe="")


def _task(task_id: str, verb: str = "") -> str:
    return f"/tasks/{_part(task_id)}" + (f"/{verb}" if verb else "")


def _run(run_id: str, verb: str = "") -> str:
    return f"/runs/{_part(run_id)}" + (f"/{verb}" if verb else "")


def _worker(name: str) -> str:
    return f"/workers/{_part(name)}"
