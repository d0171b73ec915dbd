"""The first process of a terminal in a run: takes the terminal, and becomes the shell or command.

Started by the daemon in a session of its own, with the terminal as its standard streams and what to become as JSON
on the descriptor that its only argument names: it holds the run's variables. Standard library alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import termios

from taskyard_agent.keeper import processes
from taskyard_agent.keeper.command import change_user, reset_signals

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes 4 ms
    from typing import NoReturn

NOT_STARTED = 127


def main() -> NoReturn:
    """Exits with 127, and a line on the terminal, where it cannot become the command."""
    with open(int(sys.argv[1]), "rb") as order:
        launch = json.load(order)
    argv: list[str] = launch["argv"]
    try:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if launch["cgroup"]:
            _enter(launch["cgroup"])
        processes.die_first()
        if launch["user"]:
            change_user(launch["user"])
        processes.die_with_parent()  # forgotten when the user changes
        reset_signals()
        os.chdir(launch["cwd"])
        os.execvpe(argv[0], argv, launch["env"])  # noqa: S606 - an argv list, and no shell wanted
    except (OSError, ValueError) as error:
        os.write(2, f"taskyard: {argv[0]} cannot be started: {error}\r\n".encode())
    os._exit(NOT_STARTED)


def _enter(group: str) -> None:
    """Joins the run's control group, whose limits hold for it, too."""
    try:
        with open(os.path.join(group, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
    except OSError:
        pass  # its mark finds it as well
