"""`config`: each value and where it came from. `completion`: a line for the shell."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from taskyard.cli import output
from taskyard.cli.session import add_command
from taskyard.config import (
    TOKEN_VARIABLE,
    Credentials,
    Setting,
    add_settings,
    connection,
    find_project_file,
    resolve,
    resolve_connection,
    user_file,
)

QUEUE = Setting(name="queue", default="default", metavar="QUEUE", help="the queue that `run` uses", shared=True)
PROJECT = Setting(name="project", default="", metavar="NAME", help="the project of new tasks", shared=True)
PYTHON = Setting(
    name="python", metavar="VERSION", help="the interpreter, like 3.11; default: the project's", shared=True
)
MANAGER = Setting(
    name="manager",
    choices=("auto", "uv", "pip", "poetry", "conda", "inherit"),
    default="auto",
    help="what builds the environment on the worker; auto: what the requirements' file is for, else uv",
    shared=True,
)
RUN_SETTINGS = (QUEUE, PROJECT, PYTHON, MANAGER)
SHELLS = ("bash", "zsh", "fish", "powershell")


def add_parser(subparsers: Any) -> None:
    """Adds both commands."""
    parser = add_command(subparsers, "config", "show each setting and where it came from", config)
    add_settings(parser.add_argument_group("settings of run"), RUN_SETTINGS)
    completion_parser = subparsers.add_parser(
        "completion",
        help="print the shell's completion",
        description='Prints the completion of your shell. In bash: eval "$(taskyard completion bash)"',
    )
    completion_parser.add_argument("shell", choices=SHELLS)
    completion_parser.set_defaults(handler=completion)


def config(namespace: argparse.Namespace) -> None:
    """Prints the settings of the command line, and whether a token is held."""
    run = resolve(RUN_SETTINGS, namespace, project_file=find_project_file(Path.cwd()), user_file=user_file())
    values = [*resolve_connection(namespace), *run]
    rows = [(value.setting.name, value.shown, value.origin) for value in values]
    rows.append(("token", *_token_row(namespace)))
    if namespace.json:
        output.print_json([{"name": name, "value": value, "origin": origin} for name, value, origin in rows])
    else:
        output.print_table(("SETTING", "VALUE", "FROM"), rows)


def completion(namespace: argparse.Namespace) -> None:
    """Prints what the shell evaluates."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["taskyard"], shell=namespace.shell))


def _token_row(namespace: argparse.Namespace) -> tuple[str, str]:
    where = connection(namespace)
    credentials = Credentials()
    if where.token is None:
        unused = f"; {TOKEN_VARIABLE} is for another server" if os.environ.get(TOKEN_VARIABLE) else ""
        return "", f"none for {where.server}{unused}"
    from_file = where.token == credentials.token(where.server)
    return "********", str(credentials.path) if from_file else TOKEN_VARIABLE
