"""`server`: runs the server, and lets this machine's command line in."""

from __future__ import annotations

import argparse
import functools
import importlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from taskyard.cli import backup, certificate, output, recovery
from taskyard.config import CA_FILE, Credentials, Setting, add_settings, is_loopback, resolve, user_file


def add_parser(subparsers: Any) -> None:
    """Adds the command; its flags are the settings that the server declares."""
    parser = subparsers.add_parser(
        "server",
        help="run the server, copy it, bring it back",
        usage="taskyard server [options] [VERB]",
        description="Runs the server: queues, tasks, logs. The first start lets this account in as administrator."
        " With a verb it copies the store, brings a copy back, or recovers from that.",
    )
    settings = server_settings()
    add_settings(parser, (*settings, CA_FILE))
    parser.set_defaults(handler=serve)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", prog="taskyard server")
    recovery.add_parsers(verbs)
    backup.add_parsers(verbs, [setting for setting in settings if setting.name in ("data", "store", "artifacts")])


def server_settings() -> list[Setting]:
    """What the server declares, as settings of the command line."""
    fields = importlib.import_module("taskyard_server.config").fields()
    return [Setting(name=field.name, default=field.default, **field.metadata) for field in fields]


def serve(namespace: argparse.Namespace) -> int:
    """Serves until it is told to stop."""
    values = resolve((*server_settings(), CA_FILE), namespace, user_file=user_file())
    told = {value.setting.name: value.value for value in values if value.setting is not CA_FILE}
    chosen = importlib.import_module("taskyard_server.config").ServerConfig(**told)
    keep = functools.partial(keep_token, cert=chosen.tls_cert, key=chosen.tls_key, ca_file=values["ca_file"])
    code: int = importlib.import_module("taskyard_server.main").serve(chosen, started=keep)
    return code


def keep_token(started: Any, *, cert: Path | None, key: Path | None, ca_file: Path | None) -> None:
    """Keeps the administrator's token where this account's command line finds it.

    A login that is there already stays, unless this is the first start of a new store. The server becomes the one
    that is meant unless another one is; one whose port it has now is gone.
    """
    server, credentials = started.local_url, Credentials()
    if cert and key:
        server = under_name(server, certificate.local_name(cert, key))
    meant = credentials.default_server
    default = meant is None or (is_loopback(meant) and urlsplit(meant).port == urlsplit(server).port)
    token = None if started.administrator_created else credentials.token(server)
    if token is None and started.admin_token_file.is_file():
        token = started.admin_token_file.read_text(encoding="utf-8").strip()
    if token is not None:
        try:
            credentials.save(server, token, ca_file=ca_file or _trusted(credentials, server), default=default)
        except OSError as error:  # a service's account may have no home, or none that it may write
            output.note(f"taskyard: no login is kept for this account ({error}); see {started.admin_token_file}")


def under_name(server: str, name: str) -> str:
    """The same address with another host."""
    return f"{urlsplit(server).scheme}://{f'[{name}]' if ':' in name else name}:{urlsplit(server).port}"


def _trusted(credentials: Credentials, server: str) -> Path | None:
    login = credentials.login(server)
    return Path(login.ca_file) if login and login.ca_file else None
