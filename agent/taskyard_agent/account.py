"""As whom the agent speaks: its own token, which is never a person's."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from taskyard.client import Client
from taskyard.config import SERVER, Connection, Credentials, resolve, user_file, user_folder
from taskyard.errors import NotLoggedIn, Refused, TaskyardError, Unavailable, UsageError
from taskyard.wire import LoginRequest, NewToken, TokenKind

from .answers import until_answered
from .config import TOKEN_FILE, AgentSettings
from .errors import SettingsError

WHOLE_ID = re.compile(r"[0-9a-f]{32}")


def agent_credentials() -> Credentials:
    """The file of the agents' tokens, apart from the person's."""
    return Credentials(user_folder() / "agent-credentials.json")


def as_joined(settings: AgentSettings) -> AgentSettings:
    """The settings with what `agent join` was told of the way to this server."""
    link = settings.connection
    login = agent_credentials().login(link.server)
    if login is None:
        return settings
    ca_file = link.ca_file or (Path(login.ca_file) if login.ca_file else None)
    link = dataclasses.replace(link, ca_file=ca_file, insecure=link.insecure or login.insecure)
    return dataclasses.replace(settings, connection=link)


def await_server(settings: AgentSettings) -> None:
    """Waits for the server as long as it takes: a machine may well start before it. Raises SettingsError at once
    where no token is to be had."""
    link = settings.connection
    if link.token is None and not holds_token(settings):
        raise SettingsError(_missing(link.server, settings))
    with Client.of(dataclasses.replace(link, token=None)) as client:
        until_answered(lambda: client.info(patience_seconds=0.0))


def connect(settings: AgentSettings) -> Client:
    """Opens a client that acts as an agent.

    The token comes from `--token-file`, from TASKYARD_TOKEN beside TASKYARD_SERVER, from `agent join`; else, where
    this user is logged in, a token of the agent's own is asked for. Raises NotLoggedIn, SettingsError.
    """
    link = settings.connection
    token = _token_of(settings) or _enrolled(settings)
    client = Client.of(dataclasses.replace(link, token=token), renewed_token=lambda: _token_if_readable(settings))
    cure = f"run `taskyard agent join {link.server}` here"
    try:
        kind = client.whoami().kind
    except NotLoggedIn as error:
        raise NotLoggedIn(f"{link.server} does not accept this machine's token (any more); {cure}") from error
    if kind is not TokenKind.AGENT:
        raise SettingsError(f"the token for {link.server} is not an agent's; {cure}")
    return client


def task_id(ref: str, settings: AgentSettings) -> str:
    """The whole id of a task that is named by a prefix or its name, found with the right of the person here.

    An agent's own token opens no tasks by their names. Raises SettingsError.
    """
    if WHOLE_ID.fullmatch(ref):
        return ref
    if settings.connection.token is None:
        raise SettingsError(f"nobody is logged in here to look for {ref!r}; give the task's whole id")
    try:
        with Client.of(settings.connection) as person:
            return person.resolve_task(ref).id
    except Refused as error:
        raise SettingsError(f"{error}; give the task's whole id") from error


def reader(settings: AgentSettings) -> Client:
    """A client that may read tasks: that of the person who is logged in here, else the agent's own, which reads
    what waits in its queues. Raises NotLoggedIn, SettingsError."""
    link = settings.connection
    return Client.of(link) if link.token is not None else connect(settings)


def join(link: Connection, token_or_code: str, *, is_code: bool, name: str) -> Client:
    """Stores an agent's token, exchanged for a code where it is one. Raises SettingsError, Unavailable."""
    given = "code" if is_code else "token"
    try:
        token = _exchanged(link, token_or_code, name) if is_code else token_or_code
        client = Client.of(dataclasses.replace(link, token=token))
        kind = client.whoami().kind
    except NotLoggedIn as error:
        raise SettingsError(
            f"{link.server} does not accept this {given}: a code works once and for ten minutes; "
            "make a new one with `taskyard invite agent`"
        ) from error
    if kind is not TokenKind.AGENT:
        raise SettingsError(f"that is a person's {given}: make one for a machine with `taskyard invite agent`")
    agent_credentials().save(link.server, token, insecure=link.insecure, ca_file=link.ca_file)
    return client


def _exchanged(link: Connection, code: str, name: str) -> str:
    return Client.of(dataclasses.replace(link, token=None)).login(LoginRequest(code=code, name=name)).secret


def read_token(token_file: Path | str | None) -> str:
    """Reads a token from a file, or from standard input. Raises SettingsError."""
    try:
        token = (
            sys.stdin.read().strip()
            if token_file is None
            else Path(token_file).read_text(encoding="utf-8").strip()
        )
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the token cannot be read: {error}") from error
    if not token or any(char.isspace() for char in token):
        raise SettingsError(f"{token_file or 'standard input'} does not hold one token")
    return token


def holds_token(settings: AgentSettings) -> bool:
    """Whether there is a token for this server, so that none has to be asked for."""
    return settings.token_file is not None or _held_token(settings) is not None


def _token_of(settings: AgentSettings) -> str | None:
    if settings.token_file is not None:
        return read_token(settings.token_file)
    return _held_token(settings)


def _token_if_readable(settings: AgentSettings) -> str | None:
    """The token that is kept now: an operator may have joined again while the agent runs."""
    try:
        return _token_of(settings)
    except (SettingsError, TaskyardError, OSError):
        return None  # half written, or gone: it is asked for again


def _held_token(settings: AgentSettings) -> str | None:
    """The token that TASKYARD_TOKEN or an earlier `agent join` gives for this server."""
    from_variables = settings.environ.get("TASKYARD_TOKEN") and settings.connection.token
    return from_variables or agent_credentials().token(settings.connection.server)


def _enrolled(settings: AgentSettings) -> str:
    """The token that an agent started beside this one was given meanwhile, or one of its own.

    Two tokens would be one too many: what was claimed with the one that is not kept, no later daemon may carry on.
    """
    with _alone():
        return _held_token(settings) or _enrol(settings)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    folder = user_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "agent-credentials.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _enrol(settings: AgentSettings) -> str:
    """Asks for an agent's token with the right of the person who is logged in here, and keeps it."""
    link = settings.connection
    if link.token is None:
        raise SettingsError(_missing(link.server, settings))
    try:
        person = Client.of(link)
        invitation = person.invite(NewToken(kind=TokenKind.AGENT, name=settings.host, create_queues=True))
        token = person.login(LoginRequest(code=invitation.code, name=settings.host)).secret
    except (UsageError, Unavailable):
        raise
    except NotLoggedIn as error:
        raise NotLoggedIn(f"{error}, or `taskyard agent join {link.server}` for this machine") from error
    except TaskyardError as error:
        raise SettingsError(f"no agent's token to be had from {link.server}: {error}") from error
    agent_credentials().save(link.server, token, insecure=link.insecure, ca_file=link.ca_file)
    return token


def _missing(server: str, settings: AgentSettings) -> str:
    """Everything that keeps this machine out, at once."""
    cure = f"run `taskyard agent join {server}`, or give --token-file (or {TOKEN_FILE.variable})"
    if settings.server_named:
        return f"missing: this machine's token for {server}; {cure}"
    return (
        f"missing: {SERVER.flag} (or {SERVER.variable}), for which {server} is taken, "
        f"and this machine's token for it; {cure}"
    )


def remember_server(server: str) -> None:
    """Makes the server the user's default, unless the user's settings name one."""
    path = user_file()
    if path.is_file() and resolve([SERVER], environ={}, user_file=path).given("server"):
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    path.write_text(f'server = "{server}"\n{before}', encoding="utf-8")
