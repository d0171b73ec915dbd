"""`config`: each value and where it came from. `completion`: a line for the shell."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from taskyard.cli import output
from taskyard.cli.session import add_command
from taskyard.cli.up import SERVICES
from taskyard.config import (
    CONNECTION_SETTINGS,
    TOKEN_VARIABLE,
    Credentials,
    Setting,
    Value,
    add_settings,
    connection,
    find_project_file,
    resolve,
    resolve_connection,
    user_file,
    user_names,
)
from taskyard.errors import UsageError

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
_CONNECTION = [setting.name for setting in CONNECTION_SETTINGS]
GIVE_UP_AFTER = Setting(
    name="give_up_after",
    default="30m",
    metavar="TIME",
    help="fail a task when a host that it needs has been out of reach for this long",
    shared=True,
)
RUN_SETTINGS = (QUEUE, PROJECT, PYTHON, MANAGER, GIVE_UP_AFTER)
GROUPS = ("connection", "run", "agent", "server")
"""Whose settings are shown, in this order; those of `connection` are everybody's."""
SHELLS = ("bash", "zsh", "fish", "powershell")


def add_parser(subparsers: Any) -> None:
    """Adds both commands."""
    parser = add_command(subparsers, "config", "show each setting and where it came from", config)
    parser.add_argument(
        "of", nargs="?", choices=GROUPS, metavar="|".join(GROUPS), help="whose settings; default: all"
    )
    add_settings(parser.add_argument_group("settings of run"), RUN_SETTINGS)
    completion_parser = subparsers.add_parser(
        "completion",
        help="print the shell's completion",
        description='Prints the completion of your shell. In bash: eval "$(taskyard completion bash)"',
    )
    completion_parser.add_argument("shell", choices=SHELLS)
    completion_parser.set_defaults(handler=completion)


def config(namespace: argparse.Namespace) -> None:
    """Prints the settings of the command line, the agent and the server, and whether a token is held."""
    installed = [name for name in GROUPS if _installed(name)]
    if namespace.of and namespace.of not in installed:
        raise UsageError(f'the {namespace.of} is not installed here; run: pip install "taskyard[{namespace.of}]"')
    chosen = [namespace.of] if namespace.of else installed
    rows = [(*row, name) for name in chosen for row in _rows(name, namespace)]
    if namespace.json:
        names = ("name", "value", "origin", "of")
        output.print_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        output.print_table(("SETTING", "VALUE", "FROM", "OF"), rows)
    if chosen == list(GROUPS):  # else a name may be of what is not known here
        _note_strangers({row[0] for row in rows} | {SERVICES.name})


def _note_strangers(known: Collection[str]) -> None:
    """Says which names in the user's file are no setting's: no command reads them."""
    for name in sorted(set(user_names(user_file())).difference(known)):
        import difflib

        near = "".join(f"; did you mean {one!r}?" for one in difflib.get_close_matches(name, known, n=1))
        output.note(f"taskyard: {user_file()}: no setting is called {name!r}{near}")


def _installed(group: str) -> bool:
    """Whether this installation has what the settings belong to."""
    if group not in ("agent", "server"):
        return True
    try:
        importlib.import_module(f"taskyard_{group}.config")
    except ModuleNotFoundError:
        return False
    return True


def _rows(group: str, namespace: argparse.Namespace) -> Iterable[tuple[str, str, str]]:
    """Name, value and origin of each setting of a group."""
    for value in _values(group, namespace):
        yield value.setting.name, value.shown, value.origin
    if group == "connection":
        yield "token", *_token_row(namespace)


def _values(group: str, namespace: argparse.Namespace) -> Iterable[Value]:
    if group == "connection":
        return resolve_connection(namespace)
    if group == "run":
        return resolve(RUN_SETTINGS, namespace, project_file=find_project_file(Path.cwd()), user_file=user_file())
    if group == "server":
        from taskyard.cli.server import server_settings

        own = [setting for setting in server_settings() if setting.name not in _CONNECTION]
        return resolve(own, user_file=user_file())
    found: Iterable[Value] = importlib.import_module("taskyard_agent.config").resolved()
    return (value for value in found if value.setting.name not in _CONNECTION)


def completion(namespace: argparse.Namespace) -> None:
    """Prints what the shell evaluates, for both of the console scripts."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["taskyard", "agent"], shell=namespace.shell))


def _token_row(namespace: argparse.Namespace) -> tuple[str, str]:
    where = connection(namespace)
    credentials = Credentials()
    if where.token is None:
        unused = f"; {TOKEN_VARIABLE} is for another server" if os.environ.get(TOKEN_VARIABLE) else ""
        return "", f"none for {where.server}{unused}"
    if where.profile:
        return "********", f"profile {where.profile} in {credentials.path}"
    from_file = where.token == credentials.token(where.server)
    return "********", str(credentials.path) if from_file else TOKEN_VARIABLE
