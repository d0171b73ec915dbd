"""`login`, `logout`, `invite`, `token`: getting in and letting others in. No secret is ever in argv."""

from __future__ import annotations

import argparse
import getpass
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskyard.asking import seconds
from taskyard.cli import output
from taskyard.cli.session import PATIENCE_SECONDS, add_command, find_queue, open_client
from taskyard.config import Connection, Credentials, connection, is_loopback, server_address
from taskyard.errors import TaskyardError, UsageError
from taskyard.profiles import Profile, Profiles, checked_name

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.wire import NewToken, Token

COLUMNS = ("ID", "KIND", "NAME", "STATE", "CREATED", "USED", "EXPIRES", "QUEUES")
KINDS = ("user", "agent", "administrator")


def add_parser(subparsers: Any) -> None:
    """Adds the four commands."""
    _add_login(subparsers)
    add_command(subparsers, "logout", "forget the token for a server", logout).add_argument(
        "url", nargs="?", metavar="URL", help="the server; default: --server"
    )
    invite_parser = add_command(subparsers, "invite", "make a single-use code for a person or a machine", invite)
    _add_new(invite_parser, KINDS[:2])
    parser = subparsers.add_parser("token", help="list, create and revoke tokens", description="Tokens.")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True, prog="taskyard token")
    add_command(verbs, "list", "list the tokens, and the codes that nobody has used", list_tokens)
    create_parser = add_command(verbs, "create", "make a token; its secret is printed once", create_token)
    _add_new(create_parser, KINDS)
    create_parser.add_argument("--expires", metavar="TIME", help="end of its life, like 12h or 30d; default: none")
    revoke_parser = add_command(verbs, "revoke", "end the rights of a token, or of a code, at once", revoke_token)
    revoke_parser.add_argument("id", metavar="ID", help="its id or a unique prefix of it")


def _add_login(subparsers: Any) -> None:
    parser = add_command(subparsers, "login", "exchange a code for a token, and keep it", login)
    parser.add_argument("url", nargs="?", metavar="URL", help="the server; default: --server")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--token-file", type=Path, metavar="FILE", help="take the token in this file instead")
    source.add_argument("--token-stdin", action="store_true", help="take the token on standard input instead")


def _add_new(parser: argparse.ArgumentParser, kinds: tuple[str, ...]) -> None:
    parser.add_argument("kind", choices=kinds, metavar="|".join(kinds))
    parser.add_argument("--name", default="", help="whose it is")
    parser.add_argument(
        "--queue", nargs="+", default=[], metavar="QUEUE", help="an agent's queues; default: all that it may serve"
    )
    parser.add_argument("--create-queues", action="store_true", help="let the agent create queues")


# --- handlers


def login(namespace: argparse.Namespace) -> None:
    """Gets a token, tries it, keeps it."""
    profile = _profile_to_keep(namespace)
    where = _connection(namespace)
    secret = _given_token(namespace) or _exchanged(where)
    token = _checked(where, secret)
    _keep(where, secret, profile)
    shown = f", profile {profile}" if profile else ""
    output.note(f"logged in to {where.server} as {output.clean(token.name or token.kind)}{shown}")
    if namespace.json:
        output.print_json(token)


def _profile_to_keep(namespace: argparse.Namespace) -> str | None:
    """The name under which the token is kept; a profile that is there names the server, too."""
    name: str | None = vars(namespace).pop("profile", None)
    if name is None:
        return None
    kept = Profiles().all().get(checked_name(name))
    if namespace.url is None and kept is not None and not hasattr(namespace, "server"):
        namespace.url = kept.server
    return name


def _keep(where: Connection, secret: str, name: str | None) -> None:
    """Under its name, else as the login for that server, which is then used in place of any profile."""
    ca_file = where.ca_file
    if name is not None:
        path = str(ca_file.absolute()) if ca_file else None
        Profiles().keep(
            Profile(name=name, server=where.server, token=secret, insecure=where.insecure, ca_file=path)
        )
        return
    Credentials().save(where.server, secret, insecure=where.insecure, ca_file=ca_file, default=True)
    if Profiles().current:
        Profiles().use(None)
        output.note("no profile is in use now; `taskyard use` lists them")


def logout(namespace: argparse.Namespace) -> None:
    """Drops the kept token."""
    where = _connection(namespace)
    server = where.server
    if where.profile:
        Profiles().remove(where.profile)
    elif not Credentials().forget(server):
        raise UsageError(f"no token is kept for {server}")
    output.note(f"the token for {server} is forgotten here; `taskyard token revoke` ends its rights")
    if namespace.json:
        output.print_json({"server": server})


def invite(namespace: argparse.Namespace) -> None:
    """Prints a code and what to do with it."""
    with open_client(namespace) as client:
        made = client.invite(_new(client, namespace))
        server = client.server
    if namespace.json:
        output.print_json(made)
        return
    print(made.code)
    verb = "taskyard login" if namespace.kind == "user" else "taskyard agent join"
    output.note(f"Good once, until {output.moment(made.expires_at)}. On the other machine: {verb} {server}")
    if is_loopback(server):
        output.note("There, this server has another address: the one that others reach it by.")


def list_tokens(namespace: argparse.Namespace) -> None:
    """Lists what the caller may see."""
    with open_client(namespace) as client:
        tokens = client.tokens()
    if namespace.json:
        output.print_json(tokens)
    else:
        output.print_table(COLUMNS, map(_row, tokens))


def create_token(namespace: argparse.Namespace) -> None:
    """Prints the secret alone, so that it can be piped into a file."""
    with open_client(namespace) as client:
        issued = client.create_token(_new(client, namespace))
    if namespace.json:
        output.print_json(issued)
    else:
        print(issued.secret)
        output.note(f"token {issued.token.id}; the secret is not shown again")


def revoke_token(namespace: argparse.Namespace) -> None:
    """Ends a token's rights."""
    with open_client(namespace) as client:
        found = [token for token in client.tokens() if token.id.startswith(namespace.id)]
        if len(found) != 1:
            raise UsageError(
                f"{len(found)} tokens begin with {namespace.id!r}; `taskyard token list` shows the ids"
            )
        revoked = client.revoke_token(found[0].id)
    if namespace.json:
        output.print_json(revoked)
    else:
        output.print_table(COLUMNS, [_row(revoked)])


# --- parts


def _connection(namespace: argparse.Namespace) -> Connection:
    if namespace.url:
        try:
            namespace.server = server_address(namespace.url)
        except ValueError as error:
            raise UsageError(str(error)) from error
    return connection(namespace)


def _given_token(namespace: argparse.Namespace) -> str | None:
    if namespace.token_stdin:
        return _one_line(sys.stdin.readline(), "standard input")
    if namespace.token_file is None:
        return None
    try:
        return _one_line(namespace.token_file.read_text(encoding="utf-8"), str(namespace.token_file))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file: {error}") from error


def _one_line(text: str, place: str) -> str:
    token = text.strip()
    if not token or any(char.isspace() for char in token):
        raise UsageError(f"{place} holds no token; it must be the token alone")
    return token


def _exchanged(where: Connection) -> str:
    from taskyard.client import Client
    from taskyard.wire import LoginRequest

    with Client.of(_without_token(where), patience_seconds=PATIENCE_SECONDS) as client:
        client.info()  # whoever cannot be reached is found before anybody types a code
        code = _asked_code()
        return client.login(LoginRequest(code=code, name=f"{getpass.getuser()}@{socket.gethostname()}")).secret


def _asked_code() -> str:
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to type the code; give --token-file FILE or --token-stdin")
    output.note("Ask an administrator for a code (they run: taskyard invite user).")
    return getpass.getpass("Code: ").strip()


def _checked(where: Connection, secret: str) -> Token:
    from taskyard.client import Client

    given = Connection(server=where.server, token=secret, ca_file=where.ca_file, insecure=where.insecure)
    with Client.of(given, patience_seconds=PATIENCE_SECONDS) as client:
        token = client.whoami()
    if token.kind not in ("user", "administrator"):
        raise TaskyardError(f"this is a token for an {token.kind}; a machine joins with `taskyard agent join`")
    return token


def _without_token(where: Connection) -> Connection:
    return Connection(server=where.server, ca_file=where.ca_file, insecure=where.insecure)


def _new(client: Client, namespace: argparse.Namespace) -> NewToken:
    from taskyard.wire import NewToken, TokenKind

    if namespace.kind != "agent" and (namespace.queue or namespace.create_queues):
        raise UsageError("--queue and --create-queues are for agents")
    if not namespace.create_queues:
        for name in namespace.queue:
            find_queue(client, name)
    expires = getattr(namespace, "expires", None)
    return NewToken(
        kind=TokenKind(namespace.kind),
        name=namespace.name,
        expires_in_seconds=seconds(expires, "--expires") if expires else None,
        queues=tuple(namespace.queue),
        create_queues=namespace.create_queues,
    )


def _state(token: Token) -> str:
    if token.revoked:
        return "revoked"
    return "invitation" if token.invitation else "valid"


def _row(token: Token) -> tuple[object, ...]:
    return (
        token.id[:8],
        token.kind,
        token.name,
        _state(token),
        output.ago(token.created_at),
        output.ago(token.last_used_at),
        output.moment(token.expires_at),
        " ".join(token.queues),
    )
