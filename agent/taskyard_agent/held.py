"""The daemon's view of a keeper: start one, find one again, end what it holds, read how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import fcntl
import json
import logging
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskyard.wire import Phase, Reason

from taskyard_agent.errors import RunFailed
from taskyard_agent.keeper import cgroups, masking, processes
from taskyard_agent.keeper.processes import ProcessIdentity, boot_clock

__all__ = [
    "Cause",
    "ExitRecord",
    "HeldRun",
    "KeeperRefused",
    "Launch",
    "LaunchUser",
    "WarmKeeper",
    "boot_clock",
    "read_exit_record",
]

logger = logging.getLogger(__name__)

START_SECONDS = 30.0
POLL_SECONDS = 0.05
KEEPER = "import sys; sys.path.append(sys.argv.pop(1)); from taskyard_agent.keeper.main import main; main()"
"""What `python -I -S` is given to run."""

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


class Cause(str, enum.Enum):
    """Why a keeper's child ended."""

    EXIT = "exit"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    EXCLUSIVE = "exclusive"
    AGENT_STOPPED = "agent_stopped"
    MEMORY = "memory"
    IDLE_GPU = "idle_gpu"
    PREEMPTED = "preempted"
    TIME_LIMIT = "time_limit"
    """The batch job's, not the task's."""
    NOT_STARTED = "not_started"
    """The command could not be started; `message` says why."""


@dataclass(frozen=True, kw_only=True)
class LaunchUser:
    """Whom a command runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LaunchJob:
    """The batch job in which a run is: nothing of it may live longer, nor longer than the agent."""

    agent_pid: int
    agent_start_ticks: int
    grace_seconds: float
    """The longest that it may take to end when the batch system ends it."""
    limit_at: float | None = None
    """From then on an end is the job's time limit's; on this machine's clock."""


class KeeperRefused(Exception):
    """The keeper did not start the command: the run has, or had, another keeper."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a keeper starts. It may hold secrets: it goes through a pipe, never to the disk or into argv."""

    run: str
    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str]
    grace_seconds: float = 10.0
    timeout_seconds: float | None = None
    masks: tuple[str, ...] = ()
    """Secret values; those of variables whose names match `mask_names` are added to them."""
    mask_names: tuple[str, ...] = masking.NAMES
    memory_bytes: int | None = None
    """The most that all its processes may hold together; None for no limit."""
    user: LaunchUser | None = None
    """None: the keeper's own."""
    tree: str = ""
    """The run's copy of the code, of which the log's last lines say what is removed with it; empty for none."""
    work: str = ""
    """The command's working folder in it."""
    outputs: tuple[str, ...] = ()
    """Patterns of files below the working folder that are kept."""
    exclusive: bool = False
    lease_seconds: float = 60.0
    job: LaunchJob | None = None
    lease_at: float | None = None
    """When the last acknowledged beat was sent, on `boot_clock()`; None for now."""


@dataclass(frozen=True, kw_only=True)
class ExitRecord:
    """How a keeper's child ended."""

    cause: Cause
    ended_at: float
    """On this machine's clock."""
    log_bytes: int
    """Length of the spool; nothing is appended after this record."""
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""


class WarmKeeper:
    """A keeper that has started and waits for its run: made while the environment is, it is ready when that is.

    One that is never given a run ends when it is closed, or when the daemon ends.
    """

    def __init__(self) -> None:
        self._socket, inside = socket.socketpair()
        self._socket.settimeout(START_SECONDS)
        packages = Path(__file__).resolve().parent.parent
        argv = [sys.executable, "-I", "-S", "-c", KEEPER, str(packages)]
        with inside:
            # The first process forks the keeper and ends: no keeper is ever a child that somebody must reap.
            self._first = subprocess.Popen(
                argv, stdin=inside.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", env={}
            )

    @property
    def waits(self) -> bool:
        """Whether it still waits for its run: one that was killed has hung up."""
        waiter = select.poll()
        waiter.register(self._socket, select.POLLIN)
        return not waiter.poll(0)

    def give(self, record: bytes, lock_fds: Sequence[int]) -> dict[str, Any]:
        """Hands over the launch record and copies of the locks; returns the answer. Raises OSError."""
        sent = socket.send_fds(self._socket, [record], lock_fds)
        self._socket.sendall(record[sent:])
        self._socket.shutdown(socket.SHUT_WR)
        pieces = []
        while piece := self._socket.recv(4096):
            pieces.append(piece)
        if not pieces:
            raise ConnectionResetError("it ended without an answer")
        answer: dict[str, Any] = json.loads(b"".join(pieces))
        return answer

    def close(self) -> None:
        """Lets go of the keeper: one without a run ends."""
        self._socket.close()
        self._first.wait()

    def __enter__(self) -> WarmKeeper:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True)
class HeldRun:
    """A run's process, held by a keeper. Every method may be called from any thread."""

    run_dir: Path
    run: str
    keeper: ProcessIdentity
    child_pid: int
    started_at: float
    cgroup: str = ""

    @classmethod
    def start(
        cls, run_dir: Path, launch: Launch, lock_fds: Sequence[int] = (), *, keeper: WarmKeeper | None = None
    ) -> HeldRun:
        """Starts the command through a keeper; returns once the command runs. A warm keeper saves 20 ms.

        The keeper gets copies of `lock_fds` (the caller closes its own afterwards, and never unlocks them).
        A command that cannot be started is an exit record with the cause NOT_STARTED. Raises KeeperRefused
        when the run has, or had, a keeper, RunFailed when the machine cannot hold a run.
        """
        ticket = _draw_ticket(run_dir)
        record = {**dataclasses.asdict(launch), "run_dir": str(run_dir.absolute()), "ticket": ticket}
        with keeper or WarmKeeper() as warm:
            try:
                answer = warm.give(json.dumps(record).encode(), lock_fds)
            except OSError as error:
                return cls._adopt_silent_keeper(run_dir, error)
        _raise_refusal(answer)
        return _read_identity(run_dir)

    @classmethod
    def _adopt_silent_keeper(cls, run_dir: Path, error: OSError) -> HeldRun:
        held = cls.adopt(run_dir)
        if held is None:
            message = f"the keeper did not answer ({error}): was it killed, or is this machine overloaded?"
            raise RunFailed(Phase.RUNNING, Reason.INTERNAL, message, infrastructure=True) from error
        return held

    @classmethod
    def adopt(cls, run_dir: Path) -> HeldRun | None:
        """Finds the keeper of a run again, from its folder alone.

        None: the command was never started and never will be (a keeper that comes late refuses).
        """
        deadline = time.monotonic() + START_SECONDS
        while not (run_dir / "keeper.json").exists():
            if _give_up_late_keeper(run_dir):
                return None
            if time.monotonic() > deadline:
                raise KeeperRefused(
                    f"a keeper locked {run_dir} and does not start: end it, then start the agent again"
                )
            time.sleep(0.01)
        return _read_identity(run_dir)

    # --- How it is

    def alive(self) -> bool:
        """Whether the keeper runs."""
        if os.getpid() == 1:  # the agent is a container's first process, and so the keeper's parent
            processes.reap(self.keeper)
        return self.keeper.alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the keeper's end; whether it came in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.alive():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._wait_once(left)
        if self.exit_record():
            cgroups.remove(self.cgroup)
        return True

    def _wait_once(self, left: float | None) -> None:
        with self._handle() as handle:
            if handle is None:
                time.sleep(POLL_SECONDS if left is None else min(left, POLL_SECONDS))
                return
            waiter = select.poll()
            waiter.register(handle, select.POLLIN)
            waiter.poll(None if left is None else left * 1000 + 1)

    def exit_record(self) -> ExitRecord | None:
        """How the child ended, None while it has not (or when the keeper was killed: see `lost`)."""
        return read_exit_record(self.run_dir)

    @property
    def lost(self) -> bool:
        """The keeper is gone without a record: call `sweep`, then report the run lost."""
        return not self.alive() and self.exit_record() is None

    def note(self) -> str:
        """One line on what holds the run up (`the disk is full: output is held back`), else empty."""
        state = _read_json(self.run_dir / "state.json")
        return str(state["trouble"]) if state and self.alive() else ""

    # --- Orders

    def stop(self, cause: str = Cause.CANCELLED, grace_seconds: float | None = None, *, message: str = "") -> None:
        """SIGTERM to the child's group, the grace period (None: the launch's), SIGKILL. Does not wait.

        `message` says more of the cause, in the outcome.
        """
        order = {"stop": Cause(cause).value, "grace_seconds": grace_seconds, "message": message}
        if not self._order(order):
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to everything of the run at once; the keeper still writes its record. Does not wait."""
        self._signal(signal.SIGINT)

    def sweep(self) -> tuple[int, ...]:
        """Ends whatever a killed keeper left behind; returns the pids that survived it."""
        cgroups.kill(self.cgroup)
        survivors = processes.sweep(self.run)
        cgroups.remove(self.cgroup)
        return survivors

    def renew_lease(self, sent_at: float) -> None:
        """Tells the keeper of an exclusive run when (`boot_clock()`) the acknowledged beat was sent."""
        self._order({"lease_at": sent_at})

    def add_masks(self, values: Sequence[str]) -> None:
        """Masks further secrets from here on."""
        self._order({"masks": list(values)})

    def _order(self, order: Mapping[str, Any]) -> bool:
        """Writes one line into the keeper's named pipe; whether a keeper can read it."""
        line = json.dumps(order).encode() + b"\n"
        try:
            control = os.open(self.run_dir / "control", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads: the keeper is gone
            return False
        with open(control, "wb", buffering=0) as pipe:
            try:
                return pipe.write(line) == len(line)
            except BrokenPipeError:
                return False

    def _signal(self, number: int) -> None:
        with self._handle() as handle:
            if handle is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            elif self.alive():
                processes.signal_all({self.keeper.pid}, number)

    @contextlib.contextmanager
    def _handle(self) -> Iterator[int | None]:
        """A descriptor for the keeper that no later process can take over; None where there are none."""
        handle = _open_process(self.keeper.pid)
        try:
            yield handle if handle is not None and self.keeper.alive() else None
        finally:
            if handle is not None:
                os.close(handle)


def _open_process(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or no such process
        return None


def _draw_ticket(run_dir: Path) -> str:
    """Writes down which keeper may start the run's command: the one that knows this word."""
    ticket = secrets.token_hex(8)
    try:
        (run_dir / "ticket").touch(mode=0o600)
        (run_dir / "ticket").write_text(ticket, encoding="ascii")
    except OSError as error:
        raise _cannot_hold(str(error), error.errno) from error
    return ticket


def _cannot_hold(problem: str, number: int | None) -> RunFailed:
    reason = Reason.DISK if number in DISK_ERRORS else Reason.INTERNAL
    return RunFailed(Phase.RUNNING, reason, f"the run cannot be held: {problem}", infrastructure=True)


def _raise_refusal(answer: Mapping[str, Any]) -> None:
    if "refused" in answer:
        raise KeeperRefused(answer["refused"])
    if "failed" in answer:
        raise _cannot_hold(answer["failed"], answer["errno"])


def _give_up_late_keeper(run_dir: Path) -> bool:
    """Takes the ticket away from a keeper that has not locked the folder yet; False when one has."""
    fd = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if (run_dir / "keeper.json").exists():
            return False
        (run_dir / "ticket").unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def _read_identity(run_dir: Path) -> HeldRun:
    data = _read_json(run_dir / "keeper.json") or {}
    identity = ProcessIdentity(
        pid=data.get("pid", 0), start_ticks=data.get("start_ticks", 0), boot_id=data.get("boot_id", "")
    )
    return HeldRun(
        run_dir=run_dir,
        run=data.get("run", run_dir.name),
        keeper=identity,
        child_pid=data.get("child_pid", 0),
        started_at=data.get("started_at", 0.0),
        cgroup=data.get("cgroup", ""),
    )


def read_exit_record(run_dir: Path) -> ExitRecord | None:
    """How the child of a run ended; None when no keeper recorded it."""
    data = _read_json(run_dir / "exit.json")
    if data is None:
        return None
    return ExitRecord(
        cause=Cause(data["cause"]),
        ended_at=data["ended_at"],
        log_bytes=data["log_bytes"],
        exit_code=data["exit_code"],
        signal=data["signal"],
        message=data["message"],
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    """What a keeper wrote; None when it is not there, still blank, or torn by a power failure."""
    try:
        text = path.read_bytes()
        data = json.loads(text) if text.strip() else None
    except FileNotFoundError:
        return None
    except ValueError:
        logger.warning("%s is torn", path, extra={"action": "keeper_file_torn"})
        return None
    return data if isinstance(data, dict) else None
