"""`doctor`: what keeps this machine from using its server, and the command that mends it."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskyard import __version__
from taskyard.cli import output
from taskyard.cli.session import add_command, meant_connection
from taskyard.config import Connection, resolve_connection
from taskyard.errors import NotLoggedIn, TaskyardError

if TYPE_CHECKING:
    from taskyard.wire import ServerInfo

SKEW_SECONDS = 30.0
PATIENCE_SECONDS = 2.0
GIT_VERSION = (2, 31)
"""The oldest with GIT_CONFIG_COUNT, by which settings reach git without being written anywhere."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding; `cure` is a command."""

    name: str
    good: bool
    detail: str
    cure: str = ""


def add_parser(subparsers: Any) -> None:
    """Adds `doctor`."""
    add_command(subparsers, "doctor", "check this machine's way to the server", doctor)


def doctor(namespace: argparse.Namespace) -> int:
    """Prints every finding; 1 when one of them is bad."""
    checks = [*_server_checks(namespace), _git(), *_foreign_agent()]
    if namespace.json:
        output.print_json([check.__dict__ for check in checks])
    else:
        for check in checks:
            mark = "ok " if check.good else "BAD"
            print(f"{mark}  {check.name}: {output.clean(check.detail)}")
            if check.cure:
                print(f"     mend it with: {check.cure}")
    return 0 if all(check.good for check in checks) else 1


def _server_checks(namespace: argparse.Namespace) -> Iterator[Check]:
    from taskyard.client import Client

    where = meant_connection(namespace)
    yield Check(
        name="address", good=True, detail=f"{where.server} from {resolve_connection(namespace).origin('server')}"
    )
    try:
        with Client.of(where, patience_seconds=PATIENCE_SECONDS) as client:
            before = time.time()
            info = client.info()
            after = time.time()
            yield Check(name="server", good=True, detail=f"version {info.version}, store {info.store}")
            yield _version(info)
            yield _clock(info, (before + after) / 2)
            yield _token(client, where)
            yield from _unconfined_agents(client)
    except TaskyardError as error:
        yield Check(name="server", good=False, detail=str(error), cure="taskyard up    (on the server's machine)")


def _version(info: ServerInfo) -> Check:
    good = _release(info.version) == _release(__version__)
    detail = f"here {__version__}, server {info.version}"
    return Check(
        name="version", good=good, detail=detail, cure="" if good else f"pip install taskyard=={info.version}"
    )


def _clock(info: ServerInfo, now: float) -> Check:
    skew = now - info.time
    good = abs(skew) < SKEW_SECONDS
    direction = "ahead of" if skew > 0 else "behind"
    detail = f"{output.duration(abs(skew))} {direction} the server's"
    return Check(name="clock", good=good, detail=detail, cure="" if good else "timedatectl set-ntp true")


def _token(client: Any, where: Connection) -> Check:
    cure = f"taskyard login {where.server}"
    if where.token is None:
        return Check(name="token", good=False, detail=f"none is kept for {where.server}", cure=cure)
    try:
        token = client.whoami()
    except NotLoggedIn as error:
        return Check(name="token", good=False, detail=str(error), cure=cure)
    return Check(name="token", good=True, detail=f"{token.kind} {token.name}")


def _unconfined_agents(client: Any) -> Iterator[Check]:
    """List older agents' tokens by which users serve queues of others; those who see a token may revoke it."""
    try:
        found = [token for token in client.tokens() if token.unconfined and not token.revoked]
    except TaskyardError:
        return  # no token of a person, or none at all: the check before has said so
    if found:
        names = ", ".join(f"{token.name} ({token.id[:8]})" for token in found)
        detail = f"issued by users, and good for queues of others: {names}"
        cure = "taskyard token revoke ID each, or start the server with --end-old-agent-tokens"
        yield Check(name="agents' tokens", good=False, detail=detail, cure=cure)


def _git() -> Check:
    needed = ".".join(map(str, GIT_VERSION))
    cure = f"install git {needed} or newer: https://git-scm.com/downloads"
    if shutil.which("git") is None:
        return Check(name="git", good=False, detail="not on the PATH", cure=cure)
    said = subprocess.run(["git", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    good = _release(said) >= GIT_VERSION
    return Check(name="git", good=good, detail=said, cure="" if good else cure)


def _foreign_agent() -> Iterator[Check]:
    """Other programs are called `agent`, too; ours is the same as `taskyard agent`."""
    found = shutil.which("agent")
    if found and b"taskyard" not in Path(found).read_bytes():
        detail = f"{found} is another program of that name; write `taskyard agent` instead of `agent`"
        yield Check(name="agent", good=True, detail=detail)


def _release(text: str) -> tuple[int, int]:
    """The first two numbers of a version; of what holds none (0, 0)."""
    match = re.search(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)
