"""What one network call of git is given: its route's token through an askpass program, or the operator's ssh."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from taskyard.wire import Reason

from .address import Route
from .failure import of_machine
from .git import Git
from .settings import CheckoutSettings

DEFAULT_USER = "x-access-token"
"""GitHub takes any user beside a token, GitLab any but an empty one."""
# It answers for one host alone: a submodule, a redirect or an LFS server elsewhere never gets the token.
ASKPASS = """#!/bin/sh
case "$1" in
*"://$TASKYARD_GIT_PLACE'"* | *"@$TASKYARD_GIT_PLACE'"*) ;;
*) exit 1 ;;
esac
case "$1" in
Username*) printf '%s\\n' "$TASKYARD_GIT_USER" ;;
Password*) printf '%s\\n' "$TASKYARD_GIT_TOKEN" ;;
*) exit 1 ;;
esac
"""
SSH_OPTIONS = (
    *("BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no", "ClearAllForwardings=yes"),
    *("PermitLocalCommand=no", "ConnectTimeout=20", "ServerAliveInterval=15", "ServerAliveCountMax=4"),
)


@dataclass(frozen=True, kw_only=True)
class Token:
    """What a host is told."""

    user: str
    secret: str


@contextlib.contextmanager
def network(git: Git, route: Route, settings: CheckoutSettings) -> Iterator[Git]:
    """Git with the network and this route's credentials, for as long as the block lasts."""
    token = read_token(route.token_file) if route.token_file else None
    env = {"GIT_ALLOW_PROTOCOL": "https:ssh:file" if settings.allow_file else "https:ssh"}
    env |= {"GIT_SSH_COMMAND": _ssh(settings), "GIT_SSH_VARIANT": "ssh"}
    config = {
        "http.lowSpeedLimit": "1000",
        "http.lowSpeedTime": str(max(1, round(settings.stall_seconds))),
        "http.followRedirects": "initial",
        "credential.useHttpPath": "false",
    }
    if token is None:
        yield git.with_access(env, config, ())
        return
    config["credential.helper"] = ""  # the operator's helpers must not learn it
    with _askpass(settings.folder) as program:
        env |= {"GIT_ASKPASS": str(program), "TASKYARD_GIT_PLACE": route.address.place}
        env |= {"TASKYARD_GIT_USER": token.user, "TASKYARD_GIT_TOKEN": token.secret}
        yield git.with_access(env, config, (token.secret,))


def read_token(file: Path) -> Token:
    """Reads `TOKEN` or `USER:TOKEN`. Raises RunFailed, the machine's."""
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise of_machine(Reason.GIT_HOST, f"the agent's token file {file} cannot be read: {error}") from error
    user, _, secret = text.rpartition(":")
    if not secret or any(character.isspace() for character in text):
        raise of_machine(Reason.GIT_HOST, f"the agent's token file {file} must hold one line: TOKEN or USER:TOKEN")
    return Token(user=user or DEFAULT_USER, secret=secret)


@contextlib.contextmanager
def _askpass(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="askpass-", dir=folder) as private:
        program = Path(private) / "askpass"
        program.write_text(ASKPASS)
        program.chmod(0o700)
        yield program


def _ssh(settings: CheckoutSettings) -> str:
    options = [word for option in SSH_OPTIONS for word in ("-o", option)]
    key = ["-i", str(settings.ssh_key), "-o", "IdentitiesOnly=yes"] if settings.ssh_key else []
    return shlex.join([*settings.ssh_command, *options, *key])
