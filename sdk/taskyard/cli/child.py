"""A child of `up`: the same command line, which also ends when `up` is gone without a word."""

from __future__ import annotations

import os
import signal
import sys
import threading

from taskyard.cli.app import execute


def main(argv: list[str]) -> int:
    """`python -m taskyard.cli.child DESCRIPTOR COMMAND …`; the other end of the pipe is open while `up` lives."""
    lifeline, command = int(argv[0]), argv[1:]
    if sys.platform != "win32":
        threading.Thread(target=_end_with, args=(lifeline, _farewell(command)), daemon=True).start()
    return execute(command)


def _farewell(command: list[str]) -> int:
    """An agent hands over: its run goes on, and the next `up` finds it. A server just stops."""
    if sys.platform != "win32" and command[0] == "agent":
        return signal.SIGUSR1
    return signal.SIGTERM


def _end_with(lifeline: int, number: int) -> None:
    os.read(lifeline, 1)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
