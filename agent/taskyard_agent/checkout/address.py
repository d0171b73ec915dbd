"""Addresses of repositories: which are taken, and the ways to reach one with the credentials that are there."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from .failure import refused
from .settings import CheckoutSettings

HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~+-]*")
SCP_LIKE = re.compile(r"(?:(?P<user>[^@/:]+)@)?(?P<host>\[[^\]/]+\]|[^/:@\[]+):(?P<path>(?!//)[^:].*)")
HELPER = re.compile(r"[^/]*::")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
SSH_SCHEMES = ("ssh", "git+ssh", "ssh+git")
HOSTING_USER = "git"
"""On hosting services everybody is this user over ssh, and paths mean the same over https."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """A repository's address that has passed every check."""

    scheme: str
    """`https`, `ssh` or `file`."""
    host: str
    """In lower case; empty for `file`."""
    port: int | None = None
    user: str | None = None
    path: str
    """Begins with a slash, but for `host:path` of ssh, which begins at the user's home."""

    @property
    def url(self) -> str:
        """As git is given it; holds no credentials."""
        if self.scheme == "file":
            return "file://" + quote(self.path)
        at = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        if self.path.startswith("/"):
            return f"{self.scheme}://{at}{self.host}{port}{self.path}"
        return f"{at}{self.host}:{self.path}"

    @property
    def place(self) -> str:
        """Host, with its port where it is not the usual one."""
        return f"{self.host}:{self.port}" if self.port else self.host

    @property
    def identity(self) -> str:
        """Equal for two addresses of one repository."""
        path = self.path.strip("/").removesuffix(".git")
        own_user = self.scheme == "ssh" and self.user not in (None, HOSTING_USER)
        return f"{self.user}@{self.place}:{self.path}" if own_user else f"{self.place}/{path}"

    @property
    def key(self) -> str:
        """Name of a folder for it: readable, and its own."""
        words = re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(self.identity.split("/")[-2:])).strip("-.")[-48:]
        return f"{words or 'repository'}-{hashlib.sha256(self.identity.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True)
class Route:
    """One way to reach a repository."""

    address: Address
    token_file: Path | None = None

    @property
    def described(self) -> str:
        """For people."""
        return (
            f"{self.address.url} with the token of {self.address.place}" if self.token_file else self.address.url
        )


def parse(url: str, settings: CheckoutSettings) -> Address:
    """Checks an address that a task names. Raises RunFailed for everything that is not on the allow-list."""
    if CONTROL.search(url) or url != url.strip() or url.startswith("-") or not url or HELPER.match(url):
        raise refused(f"{url!r} is not the address of a repository", "give an https:// or ssh address")
    if "://" in url:
        address = _of_url(url)
    elif not url.startswith(("/", ".")) and (match := SCP_LIKE.fullmatch(url)):
        address = Address(scheme="ssh", host=match["host"].lower(), user=match["user"], path=match["path"])
    else:
        address = Address(scheme="file", host="", path=url)
    _check(address, url, settings)
    return address


def routes(address: Address, settings: CheckoutSettings) -> list[Route]:
    """The ways to try, in this order: first the one there is a token for, then the address as it was given."""
    token = settings.tokens.get(address.place)
    given = Route(address=address, token_file=token if address.scheme == "https" else None)
    if address.scheme == "file" or address.port or (address.scheme == "https" and token):
        return [given]
    other = _other_way(address, token)
    if token:
        return [other, given]
    return [given, other] if other.address != address else [given]


def _of_url(url: str) -> Address:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise refused(f"{url!r} is not an address: {error}", "correct it") from error
    scheme = parts.scheme.lower()
    host = (parts.hostname or "").lower()
    if parts.query or parts.fragment:
        raise refused(
            f"the address {_shown(url)!r} has a query or a fragment", "give the repository's plain address"
        )
    if scheme == "file":
        return Address(scheme=scheme, host="" if host == "localhost" else host, path=unquote(parts.path))
    host = f"[{host}]" if ":" in host else host
    if scheme in SSH_SCHEMES:
        return Address(scheme="ssh", host=host, port=_unusual(port, 22), user=parts.username, path=parts.path)
    return Address(scheme=scheme, host=host, port=_unusual(port, 443), path=parts.path)


def _unusual(port: int | None, usual: int) -> int | None:
    return None if port == usual else port


def _check(address: Address, url: str, settings: CheckoutSettings) -> None:
    shown = _shown(url)
    if address.scheme == "file":
        _check_file(address, shown, settings)
        return
    if address.scheme not in ("https", "ssh"):
        raise refused(f"{shown}: {address.scheme}:// is not taken", "give an https:// or ssh address")
    if not HOST.fullmatch(address.host) or (address.user is not None and not USER.fullmatch(address.user)):
        raise refused(f"{shown} has no proper host", "correct the address")
    if address.path.strip("/") == "" or address.path.startswith("-"):
        raise refused(f"{shown} names no repository", "correct the address")


def _check_file(address: Address, shown: str, settings: CheckoutSettings) -> None:
    if not settings.allow_file:
        raise refused(
            f"{shown} is a path of a machine",
            "submit with --ship-code, or let the operator start the agent with --allow-file-repositories",
        )
    if address.host or not address.path.startswith("/"):
        raise refused(f"{shown} is not an absolute path", "correct the address")


def _other_way(address: Address, token: Path | None) -> Route:
    if address.scheme == "ssh":
        path = address.path if address.path.startswith("/") else f"/{address.path}"
        if token or address.user in (None, HOSTING_USER):
            return Route(address=Address(scheme="https", host=address.host, path=path), token_file=token)
        return Route(address=address)
    ssh = Address(scheme="ssh", host=address.host, user=HOSTING_USER, path=address.path.lstrip("/"))
    return Route(address=ssh)


def _shown(url: str) -> str:
    return re.sub(r"(://)[^/@]*@", r"\1", url)
