"""`shell` and `attach`: a terminal in a task's run, and the run's own output with Ctrl-C passed on."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from taskyard.cli.session import add_task
from taskyard.config import CONNECTION_SETTINGS, add_settings
from taskyard.errors import UsageError


def add_parser(subparsers: Any) -> None:
    """Adds both."""
    text = "open a shell, or run a command, in a task's run"
    parser = _added(subparsers, "shell", text, shell)
    parser.description = f"{text[:1].upper()}{text[1:]}. Enter, then ~. leaves it where nothing else does."
    add_task(parser)
    parser.add_argument("command", nargs="*", metavar="-- COMMAND", help="default: a shell")
    text = "follow a task's output, with Ctrl-C passed on to it"
    parser = _added(subparsers, "attach", text, attach)
    parser.description = f"{text[:1].upper()}{text[1:]}. Ctrl-\\ leaves, and the task goes on."
    parser.add_argument("-n", "--tail", type=int, default=20, metavar="N", help="begin with the last N lines")
    add_task(parser)


def _added(subparsers: Any, name: str, text: str, handler: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=text)
    parser.set_defaults(handler=handler)
    add_settings(parser.add_argument_group("connection"), CONNECTION_SETTINGS)
    return parser


def shell(namespace: argparse.Namespace) -> int:
    """Opens it and stays until it ends; returns the shell's or command's own exit code."""
    if sys.platform != "win32":
        from taskyard.cli import remote_terminal

        return remote_terminal.shell(namespace)
    raise UsageError("`taskyard shell` needs a terminal of Linux or macOS; on Windows use WSL")


def attach(namespace: argparse.Namespace) -> int:
    """Follows the run's output to its end, and returns its exit code."""
    if sys.platform != "win32":
        from taskyard.cli import remote_terminal

        return remote_terminal.attach(namespace)
    raise UsageError("`taskyard attach` needs Linux or macOS; on Windows: taskyard logs -f TASK")
