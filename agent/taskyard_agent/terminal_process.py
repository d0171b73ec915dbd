"""What stands behind a terminal: a process of this machine, one in a container, or the run's own, for signals."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from taskyard.wire import Terminal

from . import containers
from .keeper import processes
from .keeper.processes import ProcessIdentity
from .run_as import Account

MARK = "TASKYARD_TERMINAL"
"""The variable that everything started from a terminal inherits; its value is the terminal's id."""
READ_BYTES = 32 << 10
SIGNAL_BASE = 128
FALLBACK_TERM = "xterm"
SWEEP_SECONDS = 5.0
ASK_ENGINE_SECONDS = 2.0
PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from taskyard_agent.keeper.terminal import main; main()"
"""What `python -I -S` is given to run."""
KEYS = {b"\x03": signal.SIGINT, b"\x1c": signal.SIGQUIT}


class TerminalRefused(Exception):
    """There is nothing to open a terminal in; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The run in which a terminal is opened."""

    run: str
    control_token: str
    run_dir: Path
    cgroup: str
    account: Account | None
    """Whom the run's command runs as; None: the agent's own user."""

    def command(self) -> ProcessIdentity:
        """The run's own command, as its keeper wrote it down. Raises TerminalRefused once it has ended."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            kept = json.loads((self.run_dir / "keeper.json").read_bytes())
            ticks = kept["child_start_ticks"]
            found = ProcessIdentity(pid=kept["child_pid"], start_ticks=ticks, boot_id=kept["boot_id"])
            if found.alive():
                return found
        raise TerminalRefused("the run's command has ended")


class TerminalProcess(Protocol):
    """One thing behind a terminal."""

    descriptor: int
    """Readable when it shows something, and at its end."""

    def read(self) -> bytes:
        """What it shows; empty at its end."""

    def write(self, data: bytes) -> None:
        """Types."""

    def resize(self, rows: int, columns: int) -> None:
        """Sets the size of the window."""

    def exited(self) -> bool:
        """Whether its first process has ended, though others may keep the terminal open."""

    def end(self) -> int | None:
        """Ends everything that it started and returns its exit code, as shells count; None where it has none."""


def opened(order: Terminal, place: Place) -> TerminalProcess:
    """Starts what the person wants. Raises TerminalRefused."""
    inside = containers.used_by(place.run_dir)
    if order.kind == "signals":
        return Signals(place, inside=inside)
    return InContainer(order, place) if inside else OnMachine(order, place)


class OnMachine:
    """A process in the run's variables, folder, user and control group."""

    def __init__(self, order: Terminal, place: Place) -> None:
        """Raises TerminalRefused."""
        command = place.command()
        variables = _variables(command) | _own(order)
        self._mark = f"{MARK}={order.id}"
        self.descriptor, slave = pty.openpty()
        try:
            self.resize(order.rows, order.columns)
            launch = {
                "argv": order.command or _shell(variables),
                "env": variables,
                "cwd": _folder(command),
                "cgroup": place.cgroup,
                "user": _user(place.account),
            }
            self._process = _started(launch, slave)
        except BaseException:
            os.close(self.descriptor)
            raise
        finally:
            os.close(slave)

    @property
    def pid(self) -> int:
        """Of its first process."""
        return self._process.pid

    def read(self) -> bytes:
        """As `TerminalProcess`."""
        try:
            return os.read(self.descriptor, READ_BYTES)
        except OSError:  # Linux's way to say that the other end is closed
            return b""

    def write(self, data: bytes) -> None:
        """As `TerminalProcess`."""
        with contextlib.suppress(OSError):  # it has ended
            while data:
                data = data[os.write(self.descriptor, data) :]

    def resize(self, rows: int, columns: int) -> None:
        """As `TerminalProcess`: the processes on it get SIGWINCH."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def exited(self) -> bool:
        """As `TerminalProcess`."""
        return self._process.poll() is not None

    def end(self) -> int | None:
        """As `TerminalProcess`: what went into the background or another session is found by its mark."""
        code = self._process.poll()
        below = processes.descendants(self._process.pid) if code is None else set()
        processes.signal_group(self._process.pid, signal.SIGHUP)
        processes.signal_all(below, signal.SIGKILL)
        if code is None:
            self._process.kill()
            self._process.wait()
        processes.end_all(lambda: processes.carrying(self._mark), seconds=SWEEP_SECONDS)
        os.close(self.descriptor)
        return None if code is None else code if code >= 0 else SIGNAL_BASE - code


def _started(launch: Mapping[str, Any], slave: int) -> subprocess.Popen[bytes]:
    read_end, write_end = os.pipe()
    packages = Path(__file__).resolve().parent.parent
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PROGRAM, str(packages), str(read_end)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd="/",
            env={},
            pass_fds=(read_end,),
            start_new_session=True,
        )
    except OSError as error:
        os.close(write_end)
        raise TerminalRefused(f"no process can be started: {error}") from error
    finally:
        os.close(read_end)
    with contextlib.suppress(BrokenPipeError), open(write_end, "wb") as order:
        order.write(json.dumps(launch).encode())
    return process


def _variables(command: ProcessIdentity) -> dict[str, str]:
    """Those of the run's own command. They are read where the kernel has them: no file ever held them."""
    pairs = [line.partition(b"=") for line in processes.variables_of(command.pid) if line]
    if not pairs:
        raise TerminalRefused("the variables of the run's command cannot be read: it hides them, or has ended")
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def _folder(command: ProcessIdentity) -> str:
    try:
        return os.readlink(f"/proc/{command.pid}/cwd")
    except OSError as error:
        raise TerminalRefused(f"the folder of the run's command cannot be read: {error}") from error


def _own(order: Terminal) -> dict[str, str]:
    return {"TERM": order.term or FALLBACK_TERM, MARK: order.id}


def _shell(variables: Mapping[str, str]) -> Sequence[str]:
    wanted = variables.get("SHELL", "")
    return (wanted if wanted and os.access(wanted, os.X_OK) else "/bin/sh", "-i")


def _user(account: Account | None) -> dict[str, Any] | None:
    return None if account is None else {"uid": account.uid, "gid": account.gid, "groups": list(account.groups)}


class InContainer:
    """A process in the run's container, through its engine."""

    def __init__(self, order: Terminal, place: Place) -> None:
        """Raises TerminalRefused."""
        from .containers.terminal import ContainerTerminal

        self._mark = f"{MARK}={order.id}"
        self._asked_at = time.monotonic()
        self._inside = ContainerTerminal.open(
            place.run_dir, order.command, _own(order), rows=order.rows, columns=order.columns
        )
        self.descriptor = self._inside.descriptor

    def read(self) -> bytes:
        """As `TerminalProcess`."""
        return self._inside.read(READ_BYTES)

    def write(self, data: bytes) -> None:
        """As `TerminalProcess`."""
        self._inside.write(data)

    def resize(self, rows: int, columns: int) -> None:
        """As `TerminalProcess`."""
        self._inside.resize(rows, columns)

    def exited(self) -> bool:
        """As `TerminalProcess`: the engine is asked every two seconds."""
        if time.monotonic() - self._asked_at < ASK_ENGINE_SECONDS:
            return False
        self._asked_at = time.monotonic()
        return self._inside.ended()[0] is not None

    def end(self) -> int | None:
        """As `TerminalProcess`; what an engine in a machine of its own runs ends with the container at last."""
        code, pid = self._inside.ended()
        if code is None and pid:
            processes.signal_all({pid, *processes.descendants(pid)}, signal.SIGKILL)
        processes.end_all(lambda: processes.carrying(self._mark), seconds=SWEEP_SECONDS)
        self._inside.close()
        return code


class Signals:
    """The run's own command: Ctrl-C and Ctrl-\\ become signals, and nothing else that is typed reaches it."""

    def __init__(self, place: Place, *, inside: bool) -> None:
        self._place = place
        self._inside = inside
        self.descriptor, self._closing = os.pipe()

    def read(self) -> bytes:
        """As `TerminalProcess`: nothing is shown, until the end."""
        return os.read(self.descriptor, 1)

    def write(self, data: bytes) -> None:
        """Signals the command's group once for each key."""
        for key, number in KEYS.items():
            for _ in range(data.count(key)):
                self._signal(number)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(TerminalRefused):
            command = self._place.command()
            if self._inside:
                containers.signal(self._place.run_dir, number.name)
            else:
                processes.signal_group(command.pid, number)

    def resize(self, rows: int, columns: int) -> None:
        """Nothing: it has no window."""

    def exited(self) -> bool:
        """As `TerminalProcess`: it ends with the run."""
        return False

    def end(self) -> int | None:
        """As `TerminalProcess`."""
        os.close(self._closing)
        os.close(self.descriptor)
        return 0
