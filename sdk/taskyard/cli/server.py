"""`server`: runs the server, and lets this machine's command line in."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from taskyard.config import Credentials, Setting, add_settings, resolve, user_file


def add_parser(subparsers: Any) -> None:
    """Adds the command; its flags are the settings that the server declares."""
    parser = subparsers.add_parser(
        "server",
        help="run the server",
        description="Runs the server: queues, tasks, logs. The first start lets this account in as administrator.",
    )
    add_settings(parser, server_settings())
    parser.set_defaults(handler=serve)


def server_settings() -> list[Setting]:
    """What the server declares, as settings of the command line."""
    fields = importlib.import_module("taskyard_server.config").fields()
    return [Setting(name=field.name, default=field.default, **field.metadata) for field in fields]


def serve(namespace: argparse.Namespace) -> int:
    """Serves until it is told to stop."""
    values = resolve(server_settings(), namespace, user_file=user_file())
    config = importlib.import_module("taskyard_server.config")
    chosen = config.ServerConfig(**{value.setting.name: value.value for value in values})
    code: int = importlib.import_module("taskyard_server.main").serve(chosen, started=keep_token)
    return code


def keep_token(started: Any) -> None:
    """Keeps the administrator's token where this account's command line finds it.

    A login that is there already stays, unless this is the first start of a new store.
    """
    credentials = Credentials()
    held = credentials.token(started.local_url)
    if started.administrator_created or (held is None and started.admin_token_file.is_file()):
        token = started.admin_token_file.read_text(encoding="utf-8").strip()
        credentials.save(started.local_url, token, default=credentials.default_server is None)
