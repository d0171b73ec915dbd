"""A command as the keeper's child: forked at once, started when the keeper says so.

Standard library alone.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys

from taskyard_agent.keeper import processes

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes 4 ms
    from collections.abc import Mapping
    from typing import Any, NoReturn

PIPE_BYTES = 1 << 18
F_SETPIPE_SZ = 1031


class Command:
    """A child in a session of its own, which waits for `release` before it becomes the command.

    When the keeper dies before that, the command never starts; after it, the child is killed.
    """

    def __init__(self, argv: list[str], cwd: str, env: Mapping[str, str], user: dict[str, Any] | None) -> None:
        """`user` (`uid`, `gid`, `groups`): whom the command runs as, when not as this process's user."""
        self.output, self._output_end = _pipe()
        self._go_end, self._go = _pipe()
        self._error, self._error_end = _pipe()
        keeper = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._become(argv, cwd, env, keeper, user)
        for fd in (self._output_end, self._go_end, self._error_end):
            os.close(fd)
        os.set_blocking(self.output, False)
        if sys.platform == "linux":
            _enlarge(self.output)

    def release(self) -> str:
        """Lets the child become the command; returns why it could not, or an empty string."""
        os.write(self._go, b"!")
        os.close(self._go)
        with open(self._error, "rb") as errors:
            return errors.read().decode(errors="replace")

    def _become(
        self, argv: list[str], cwd: str, env: Mapping[str, str], keeper: int, user: dict[str, Any] | None
    ) -> NoReturn:
        try:
            os.close(self._go)
            os.setsid()
            processes.die_first()
            if user:
                change_user(user)
            processes.die_with_parent()  # forgotten when the user changes
            reset_signals()
            self._connect()
            if os.read(self._go_end, 1) and os.getppid() == keeper:
                os.chdir(cwd)
                os.execvpe(argv[0], argv, env)  # noqa: S606 - an argv list, and no shell wanted
        except OSError as error:
            os.write(self._error_end, f"{argv[0]} cannot be started in {cwd}: {error}".encode())
        except ValueError as error:  # a NUL in an argument, a variable without a name
            os.write(self._error_end, f"{argv[0]} cannot be started: {error}".encode())
        finally:
            os._exit(127)

    def _connect(self) -> None:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(self._output_end, 1)
        os.dup2(self._output_end, 2)


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are none of the three standard descriptors, which the child overwrites."""
    ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) if fd < 3 else fd for fd in os.pipe()]
    return ends[0], ends[1]


def _enlarge(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass  # this user's share of pipe memory is used up: slower, not wrong


def change_user(user: dict[str, Any]) -> None:
    """Gives this process up to a user; see `Command`."""
    os.setgroups(user["groups"])
    os.setgid(user["gid"])
    os.setuid(user["uid"])
    os.umask(0o022)


def reset_signals() -> None:
    """The command starts as from a fresh login: Python ignores SIGPIPE, a daemon may ignore more."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            pass  # reserved by the C library
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
