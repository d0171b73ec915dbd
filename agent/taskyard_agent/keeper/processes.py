"""Processes of this machine: who one is, and the end of everything that carries a run's mark.

Light imports, and nothing of ours: the keeper imports it too.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

MARK = "TASKYARD_RUN"
"""The variable that every process of a run inherits; its value is the run's id."""

LINUX = sys.platform.startswith("linux")


class ProcessIdentity:
    """One process for all time: a pid alone is used again. Not a dataclass: importing those takes 8 ms."""

    __slots__ = ("boot_id", "pid", "start_ticks")

    def __init__(self, *, pid: int, start_ticks: int, boot_id: str) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self.boot_id = boot_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProcessIdentity) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"ProcessIdentity(pid={self.pid}, start_ticks={self.start_ticks}, boot_id={self.boot_id!r})"

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return self.boot_id == boot_id() and start_ticks(self.pid) == self.start_ticks

    def _key(self) -> tuple[int, int, str]:
        return self.pid, self.start_ticks, self.boot_id


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of a running process, None when there is none."""
    ticks = start_ticks(pid)
    return None if ticks is None else ProcessIdentity(pid=pid, start_ticks=ticks, boot_id=boot_id())


def boot_id() -> str:
    """A word that changes with every start of this machine."""
    global _boot_id  # noqa: PLW0603 - it cannot change while this process lives
    if not _boot_id:
        _boot_id = _read_boot_id()
    return _boot_id


_boot_id = ""


def _read_boot_id() -> str:
    if LINUX:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    return _output("sysctl", "-n", "kern.bootsessionuuid").strip()


def boot_clock() -> float:
    """Seconds on a clock that also runs while the machine sleeps, and that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if LINUX else time.monotonic()


def start_ticks(pid: int) -> int | None:
    """When a process started, in the machine's own unit; None when it does not run (any more)."""
    if not LINUX:
        return _start_seconds(pid)
    fields = _stat(pid)
    return None if fields is None or fields[0] in (b"Z", b"X") else int(fields[19])


def reap(identity: ProcessIdentity) -> None:
    """Takes the exit of a child that has ended, so that it is no zombie any more."""
    fields = _stat(identity.pid) if LINUX else None
    if fields is not None and fields[0] == b"Z" and int(fields[19]) == identity.start_ticks:
        try:
            os.waitpid(identity.pid, os.WNOHANG)
        except ChildProcessError:
            pass


def _stat(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat from the third (the state) on: the second, the name, may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return None


def _start_seconds(pid: int) -> int | None:
    line = _output("ps", "-o", "state=,lstart=", "-p", str(pid)).split(maxsplit=1)
    if len(line) < 2 or line[0].startswith("Z"):
        return None
    return int(time.mktime(time.strptime(line[1].strip(), "%a %b %d %H:%M:%S %Y")))


def _output(*command: str) -> str:
    """What a system program prints, for machines without /proc."""
    import subprocess

    return subprocess.run(command, capture_output=True, text=True, check=False, errors="replace").stdout


# --- Finding and ending ----------------------------------------------------------------------------------


def marked(run_id: str) -> set[int]:
    """Processes that carry the run's mark in the variables they were started with."""
    if not LINUX:
        lines = _output("ps", "-AEww", "-o", "pid=,command=").splitlines()
        return {int(line.split()[0]) for line in lines if f" {MARK}={run_id} " in f"{line} "}
    return carrying(f"{MARK}={run_id}")


def carrying(variable: str) -> set[int]:
    """Processes that were started with `NAME=VALUE` among their variables; none on a machine without /proc."""
    mark = variable.encode()
    return {pid for pid in _pids() if mark in variables_of(pid)} if LINUX else set()


def variables_of(pid: int) -> list[bytes]:
    """The variables that a process was started with, each as `NAME=VALUE`; none where they cannot be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []  # gone, or another user's


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def descendants(*pids: int) -> set[int]:
    """Return everything that runs below these processes."""
    children: dict[int, list[int]] = {}
    for pid, parent, _ in _running():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = list(pids)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            found.add(child)
            waiting.append(child)
    return found


def in_group(group: int) -> set[int]:
    """Return the members of a process group that run."""
    return {pid for pid, _, its_group in _running() if its_group == group}


def _running() -> Iterator[tuple[int, int, int]]:
    """Yield (pid, parent, group) of everything that runs; zombies run no more."""
    if not LINUX:
        for line in _output("ps", "-Ao", "pid=,ppid=,pgid=,state=").splitlines():
            pid, parent, group, state = line.split()
            if not state.startswith("Z"):
                yield int(pid), int(parent), int(group)
        return
    for number in _pids():
        fields = _stat(number)
        if fields is not None and fields[0] not in (b"Z", b"X"):
            yield number, int(fields[1]), int(fields[2])


def resident_bytes(pids: tuple[int, ...]) -> int:
    """What processes hold, what they share counted for each; for machines without /proc."""
    lines = _output("ps", "-o", "rss=", "-p", ",".join(map(str, pids))).split() if pids else []
    return 1024 * sum(map(int, lines))


def sweep(run_id: str, *, seconds: float = 10.0) -> tuple[int, ...]:
    """Kills everything that carries the run's mark until none is left; returns the pids that survived it."""
    return end_all(lambda: marked(run_id), seconds=seconds)


def end_all(find: Callable[[], set[int]], *, seconds: float = 10.0) -> tuple[int, ...]:
    """Kills what `find` finds until it finds nothing twice in a row; returns what is left at the deadline.

    Twice, because a process that forks and ends while the list is being read can be missed once.
    """
    deadline = time.monotonic() + seconds
    pause = 0.001
    empty_passes = 0
    while empty_passes < 2:
        found = find() - {os.getpid()}
        empty_passes = 0 if found else empty_passes + 1
        if found and time.monotonic() > deadline:
            return tuple(sorted(found))
        signal_all(found, signal.SIGKILL)
        if found:
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
    return ()


def signal_all(pids: set[int], number: int) -> None:
    """Sends a signal to each; those that are gone or out of reach do not matter."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def signal_group(group: int, number: int) -> None:
    """Sends a signal to a process group; one that is gone or out of reach does not matter."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


# --- What Linux alone can do for this process ------------------------------------------------------------

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 4, 15, 36


def die_with_parent() -> None:
    """Has this process killed when the thread that started it ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def die_first() -> None:
    """Has the kernel, when memory runs out, end this process and its children before any other."""
    if LINUX:
        try:
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write("500")
        except OSError:
            pass  # it is higher already, or hidden: then the size decides


def adopt_orphans() -> None:
    """Makes this process the parent of its descendants whose own parent ends."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """Keeps other processes of the same user from reading this one's memory and variables."""
    _prctl(PR_SET_DUMPABLE, 0)


def set_name(name: str) -> None:
    """Sets the name that `ps -o comm` and `top` show."""
    _prctl(PR_SET_NAME, name.encode())


def _prctl(option: int, value: int | bytes) -> None:
    if LINUX:
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
