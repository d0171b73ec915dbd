"""The keeper: holds one run's command, so that a killed or upgraded daemon takes nothing with it.

Run in `python -I -S` with the launch record, which holds secrets, as JSON on standard input: a socket,
over which the locks to hold come too. Standard library alone, and little of it, to stay small and quick.
"""

from __future__ import annotations

import fcntl
import fnmatch
import json
import os
import select
import signal
import socket
import sys
import time

from taskyard_agent.keeper import cgroups, globs, processes, unsaved
from taskyard_agent.keeper.agent_watch import AgentWatch
from taskyard_agent.keeper.command import Command
from taskyard_agent.keeper.durable import Reserved, fifo, write_whole
from taskyard_agent.keeper.masking import NAMES, Masker
from taskyard_agent.keeper.memory_guard import MemoryGuard
from taskyard_agent.keeper.spool import Spool

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes 4 ms
    from collections.abc import Iterator
    from typing import Any, NoReturn

STOP_CAUSES = ("cancelled", "timeout", "exclusive", "agent_stopped", "idle_gpu", "preempted", "time_limit")
READ_BYTES = 1 << 18
MAXIMUM_LOCKS = 64
RECORD_BYTES = 4096
MESSAGE_CHARACTERS = 600
LOCK_SECONDS = 10.0
RETRY_DISK_SECONDS = 0.5
LEFTOVERS_SECONDS = 0.05
AGENT_SECONDS = 1.0
"""How often a keeper in a batch job looks for its agent where the kernel does not report its end."""
AGENT_GONE_SECONDS = 2.0
"""Grace of a run whose agent, and so whose batch job, has ended: time for a container's engine to be asked."""
LEASE_SECONDS = 1.0
"""Longest wait of an exclusive run: the wait's own clock stands still while the machine sleeps."""


class Refusal(Exception):
    """This keeper must not start the command."""


def main() -> NoReturn:
    """Leaves the daemon's process tree, waits for a launch record, holds that run, and exits."""
    if os.fork():
        os._exit(0)
    os.setsid()
    processes.hide_memory()
    processes.set_name("taskyard-keeper")
    daemon = socket.socket(fileno=0)
    cgroup = cgroups.enter(str(os.getpid()))
    record = _receive(daemon)
    if not (record and _held(record, cgroup, daemon)):
        cgroups.leave(cgroup)
    os._exit(0)


def _receive(daemon: socket.socket) -> bytes:
    """The launch record; with it come descriptors of locks, which this keeper holds until it exits."""
    record, locks, _flags, _address = socket.recv_fds(daemon, READ_BYTES, MAXIMUM_LOCKS)
    for lock in locks:
        os.set_inheritable(lock, False)  # a leftover of the command must not hold it for ever
    pieces = [record]
    while pieces[-1]:
        pieces.append(daemon.recv(READ_BYTES))
    return b"".join(pieces)


def _held(record: bytes, cgroup: str, daemon: socket.socket) -> bool:
    """Holds the run to its end; False when its command was not started."""
    try:
        keeper = Keeper(json.loads(record), cgroup)
        keeper.begin()
    except ValueError:
        _answer(daemon, {"refused": "the launch record is not whole: the daemon was killed while it sent it"})
    except Refusal as refusal:
        _answer(daemon, {"refused": str(refusal)})
    except OSError as error:
        _answer(daemon, {"failed": str(error), "errno": error.errno})
    else:
        _answer(daemon, {"pid": os.getpid()})
        keeper.hold()
        return True
    return False


def _answer(daemon: socket.socket, message: dict[str, Any]) -> None:
    """Tells the daemon that started this keeper; it may be gone by now, which does not matter."""
    try:
        daemon.sendall(json.dumps(message).encode())
    except OSError:
        pass
    daemon.close()
    os.open(os.devnull, os.O_RDONLY)  # takes the freed number 0


class Keeper:
    """One run's command, from its start to its exit record."""

    def __init__(self, launch: dict[str, Any], cgroup: str) -> None:
        self._cgroup = cgroup
        self._run_dir: str = launch["run_dir"]
        self._launch = launch
        self._run: str = launch["run"]
        self._grace: float = launch.get("grace_seconds", 10.0)
        self._lease_at: float = launch.get("lease_at") or processes.boot_clock()
        self._masker = Masker(_secrets(launch))
        self._memory: MemoryGuard | None = None
        self._agent = AgentWatch(launch["job"]) if launch.get("job") else None
        self._signals: list[int] = []
        self._orders = b""
        self._output_open = True
        self._heeding = False
        self._cause = "exit"
        self._message = ""
        self._exit_code: int | None = None
        self._signal: int | None = None
        self._ended = False
        self._asked_to_end: set[processes.ProcessIdentity] = set()
        self._told_to_stop = False
        self._kill_at: float | None = None
        self._killed = False

    def begin(self) -> None:
        """Starts the command once it is certain, and written down, that nobody else does or did."""
        self._lock()
        os.dup2(os.open(self._path("keeper.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), 2)
        self._record = Reserved(self._path("exit.json.new"), RECORD_BYTES)
        self._spool = Spool(self._run_dir)
        if self._agent and not self._agent.lives():
            raise Refusal("the agent has ended, and its batch job with it")
        self._control = fifo(self._path("control"))
        processes.adopt_orphans()
        self._take_signals()
        cgroups.limit_processes(self._cgroup)
        if self._launch.get("memory_bytes"):
            self._memory = MemoryGuard(self._launch["memory_bytes"], self._cgroup)
        env = {**self._launch["env"], processes.MARK: self._run}
        command = Command(self._launch["argv"], self._launch["cwd"], env, self._launch.get("user"))
        self._child, self._output = command.pid, command.output
        self._write_identity()
        self._tree: str = self._launch.get("tree", "")
        self._tree_at = unsaved.stamp(self._tree) if self._tree else 0
        self._began = time.monotonic()
        self._message = command.release()
        if self._message:
            self._cause = "not_started"

    def hold(self) -> None:
        """Serves the command to its end, ends everything of it, and writes down how it ended."""
        self._poll = select.poll()
        self._poll.register(self._wakeup, select.POLLIN)
        self._poll.register(self._control, select.POLLIN)
        if self._memory and self._memory.events is not None:
            self._poll.register(self._memory.events, select.POLLPRI)
        if self._agent and self._agent.handle is not None:
            self._poll.register(self._agent.handle, select.POLLIN)
        self._heed_output(True)
        while not self._over():
            self._serve()
        if self._memory and self._memory.events is not None:
            self._poll.unregister(self._memory.events)
        survivors = self._end_leftovers()
        self._write_rest()
        self._write_exit(survivors)

    # --- Beginning

    def _path(self, name: str) -> str:
        return os.path.join(self._run_dir, name)

    def _lock(self) -> None:
        """Raises Refusal unless this is the run's first keeper, and the one that is waited for."""
        fd = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + LOCK_SECONDS
        while not _locked(fd):
            if os.path.exists(self._path("keeper.json")) or time.monotonic() > deadline:
                raise Refusal("another keeper holds this run")
            time.sleep(0.002)  # one that came too late holds it until it knows
        if os.path.exists(self._path("keeper.json")):
            raise Refusal("this run had a keeper before, and its command is never started twice")
        if self._launch.get("ticket") != self._valid_ticket():
            raise Refusal("this keeper came too late: the daemon has given it up")

    def _valid_ticket(self) -> str | None:
        try:
            with open(self._path("ticket"), encoding="ascii") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def _take_signals(self) -> None:
        self._wakeup, wakeup_end = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wakeup_end, False)
        signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda taken, frame: self._signals.append(taken))
        for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)

    def _write_identity(self) -> None:
        identity = {
            "run": self._run,
            "pid": os.getpid(),
            "start_ticks": processes.start_ticks(os.getpid()),
            "boot_id": processes.boot_id(),
            "child_pid": self._child,
            "child_start_ticks": processes.start_ticks(self._child),
            "started_at": time.time(),
            "cgroup": self._cgroup,
        }
        write_whole(self._path("keeper.json"), json.dumps(identity).encode())

    # --- Holding

    def _serve(self) -> None:
        """Waits for something to happen, and sees to whatever has."""
        self._poll.poll(self._pause_milliseconds())
        _read_some(self._wakeup)
        self._obey_signals()
        self._obey_orders()
        self._read_output()
        self._reap()
        self._watch_memory()
        self._watch_agent()
        self._watch_clocks()

    def _pause_milliseconds(self) -> float | None:
        deadlines: tuple[float | None, ...] = (None if self._killed else self._kill_at, self._times_out_at())
        if self._memory and not self._killed:
            deadlines += (self._memory.due_at,)
        pauses = [deadline - time.monotonic() for deadline in deadlines if deadline]
        if self._spool.waiting:
            pauses.append(RETRY_DISK_SECONDS)
        if self._ended or self._killed:
            pauses.append(LEFTOVERS_SECONDS)
        if self._launch.get("exclusive"):
            pauses.append(LEASE_SECONDS)
        if self._agent and self._agent.handle is None:
            pauses.append(AGENT_SECONDS)
        return max(0.0, min(pauses)) * 1000 + 1 if pauses else None

    def _times_out_at(self) -> float | None:
        timeout = self._launch.get("timeout_seconds")
        return None if timeout is None or self._cause != "exit" or self._ended else self._began + timeout

    def _read_output(self) -> bool:
        """Takes what the command wrote, unless the disk does not: then the command's own writes block."""
        self._spool.write()
        if not self._output_open:
            return False
        self._heed_output(not self._spool.waiting)
        if self._spool.waiting:
            return False
        chunk = _read_some(self._output)
        if chunk == b"":
            self._heed_output(False)
            self._output_open = False
        if chunk:
            self._spool.append(self._masker.feed(chunk))
        return bool(chunk)

    def _heed_output(self, heed: bool) -> None:
        """Waits for output, or not: an end of it would be reported again and again while nobody reads."""
        if heed and not self._heeding:
            self._poll.register(self._output, select.POLLIN)
        elif self._heeding and not heed:
            self._poll.unregister(self._output)
        self._heeding = heed

    def _reap(self) -> None:
        """Takes the exits of the command and of the orphans that fell to this keeper."""
        while taken := _next_exit():
            pid, exit_code, signal_number = taken
            if pid == self._child:
                self._ended = True
                self._exit_code, self._signal = exit_code, signal_number

    def _watch_clocks(self) -> None:
        now = time.monotonic()
        times_out_at = self._times_out_at()
        if times_out_at is not None and now >= times_out_at:
            self._stop("timeout", self._grace)
        if self._launch.get("exclusive") and not self._ended:
            self._watch_lease()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill()

    def _watch_lease(self) -> None:
        """Ends an exclusive run so early that nothing of it is left when its lease runs out."""
        lease: float = self._launch["lease_seconds"]
        grace = min(self._grace, lease / 2)
        if processes.boot_clock() >= self._lease_at + lease - grace:
            self._stop("exclusive", grace)

    def _watch_agent(self) -> None:
        """Ends the run with its agent: in a batch job no other carries it on."""
        if self._agent is None or self._agent.lives():
            return
        if self._agent.handle is not None:
            self._poll.unregister(self._agent.handle)
        cause = self._agent.cause()
        self._agent = None
        self._stop(cause, min(self._grace, AGENT_GONE_SECONDS), "the agent ended, and with it all that it held")

    def _watch_memory(self) -> None:
        """Ends a run that took too much at once: in a grace period it would take the machine's, too."""
        complaint = self._memory.complaint() if self._memory else ""
        if not complaint:
            return
        if self._cause == "exit":
            self._cause, self._message = "memory", complaint
        self._kill()
        processes.signal_all(self._leftovers(), signal.SIGKILL)

    # --- Ending

    def _obey_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGTERM and self._agent:
                self._stop(self._agent.cause(), min(self._grace, self._agent.grace_seconds), has_sigterm=True)
                continue
            self._obey_orders()  # one that was written before the signal says why
            if number == signal.SIGTERM:
                self._stop("cancelled", self._grace)
            elif number == signal.SIGINT:
                self._stop("cancelled", 0.0)

    def _obey_orders(self) -> None:
        """Orders are lines of JSON in the named pipe `control`, into which any process of this user can write."""
        *lines, self._orders = (self._orders + (_read_some(self._control) or b"")).split(b"\n")
        for line in lines:
            try:
                self._obey(json.loads(line))
            except (ValueError, TypeError, AttributeError) as error:
                sys.stderr.write(f"no order: {error}\n")

    def _obey(self, order: dict[str, Any]) -> None:
        if order.get("stop") in STOP_CAUSES:
            grace = order.get("grace_seconds")
            self._stop(
                order["stop"], self._grace if grace is None else float(grace), str(order.get("message", ""))
            )
        self._lease_at = max(self._lease_at, order.get("lease_at", 0.0))
        self._masker.add(order.get("masks", ()))

    def _stop(self, cause: str, grace: float, message: str = "", *, has_sigterm: bool = False) -> None:
        """SIGTERM to the command's group, SIGKILL when the grace is over. A second call can only hasten it.

        `has_sigterm`: a batch system sends its SIGTERM to all processes of a job, so the command has had it.
        """
        kill_at = time.monotonic() + grace
        if not self._told_to_stop and not self._ended:
            self._asked_to_end |= _identities(
                self._leftovers() if has_sigterm else processes.in_group(self._child)
            )
            if not has_sigterm:
                self._signal_command(signal.SIGTERM)
        self._told_to_stop = True
        if not self._ended and self._cause == "exit":
            self._cause, self._message = cause, message
        self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)

    def _kill(self) -> None:
        self._killed = True
        self._signal_command(signal.SIGKILL)

    def _signal_command(self, number: int) -> None:
        """Signals the command's group; once the command is reaped, its group's number may be another's."""
        if not self._ended:
            processes.signal_group(self._child, number)

    def _over(self) -> bool:
        """Whether the command has ended and what it left behind has had its time to end, too."""
        if not self._ended:
            return False
        if self._killed:
            return True
        left = self._leftovers()
        if left:
            self._ask_to_end(left)
            self._kill_at = self._kill_at or time.monotonic() + self._grace
        return not left

    def _ask_to_end(self, left: set[int]) -> None:
        """SIGTERM to each process that has had none: many take a second one as an order to give up at once.

        What a process starts after its SIGTERM, such as an upload, is its own until it has ended.
        """
        asked = {process.pid for process in self._asked_to_end if process.pid in left and process.alive()}
        waiting = left - asked
        if asked and waiting:
            waiting -= processes.descendants(*asked)
        if waiting:
            self._asked_to_end |= _identities(waiting)
            processes.signal_all(waiting, signal.SIGTERM)

    def _leftovers(self) -> set[int]:
        found = processes.descendants(os.getpid()) | processes.marked(self._run) | cgroups.members(self._cgroup)
        return found - {os.getpid()}

    def _end_leftovers(self) -> tuple[int, ...]:
        def find() -> set[int]:
            self._reap()
            return self._leftovers()

        return processes.end_all(find)

    def _write_rest(self) -> None:
        """Takes what is left in the pipe. With a full disk that lasts until there is space, or a stop's end."""
        while self._output_open and not self._gives_up():
            if not self._read_output() and not self._spool.waiting:
                break
            self._wait_for_space()
        self._spool.append(self._masker.finish())
        self._name_unsaved_files()
        while self._spool.waiting and not self._gives_up():
            self._wait_for_space()
        if self._spool.waiting:
            self._message += f"the end of the log is missing: {self._spool.trouble}"

    def _name_unsaved_files(self) -> None:
        outputs = globs.Patterns(self._launch.get("outputs", ()))
        work = self._launch.get("work") or self._tree
        text = unsaved.notice(self._tree, self._tree_at, work, outputs) if self._tree_at else ""
        if text:
            line_end = "" if self._spool.ends_line else "\n"
            self._spool.append(self._masker.mask_all(f"{line_end}{text}".encode()))

    def _wait_for_space(self) -> None:
        if self._spool.waiting:
            self._poll.poll(RETRY_DISK_SECONDS * 1000)
            _read_some(self._wakeup)
            self._obey_signals()
            self._obey_orders()
            self._spool.write()

    def _gives_up(self) -> bool:
        if not (self._told_to_stop and self._kill_at is not None and self._spool.waiting):
            return False
        return time.monotonic() >= self._kill_at

    def _write_exit(self, survivors: tuple[int, ...]) -> None:
        self._spool.sync()
        if survivors:
            self._message += f"these processes could not be ended: {' '.join(map(str, survivors[:20]))}"
        record = {
            "exit_code": self._exit_code,
            "signal": self._signal,
            "cause": self._cause,
            "message": self._message[:MESSAGE_CHARACTERS],
            "ended_at": time.time(),
            "log_bytes": self._spool.length,
        }
        self._record.write(json.dumps(record))
        self._record.publish(self._path("exit.json"))


def _secrets(launch: dict[str, Any]) -> Iterator[str]:
    yield from launch.get("masks", ())
    patterns = launch.get("mask_names", NAMES)
    for name, value in launch["env"].items():
        if any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in patterns):
            yield value


def _identities(pids: set[int]) -> set[processes.ProcessIdentity]:
    return {identity for pid in pids if (identity := processes.identify(pid)) is not None}


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _next_exit() -> tuple[int, int | None, int | None] | None:
    """Reaps one child: its pid with its exit code or the signal that ended it; None when none has ended."""
    try:
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return _next_exit_by_status()
        taken = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if taken is None:
        return None
    if taken.si_code == os.CLD_EXITED:
        return taken.si_pid, taken.si_status, None
    return taken.si_pid, None, taken.si_status


def _next_exit_by_status() -> tuple[int, int | None, int | None] | None:
    pid, status = os.waitpid(-1, os.WNOHANG)
    if pid == 0:
        return None
    if os.WIFSIGNALED(status):
        return pid, None, os.WTERMSIG(status)
    return pid, os.WEXITSTATUS(status), None


def _read_some(fd: int) -> bytes | None:
    """What there is to read now; None when there is nothing, empty at the end."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None
