"""Where packages are looked for: the operator's pip settings, and which further indexes a task may name."""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

PUBLIC_INDEX = "https://pypi.org/simple"
PYTORCH_HOST = "download.pytorch.org"
PYTORCH_INDEX = f"https://{PYTORCH_HOST}/whl"
PUBLIC_INDEXES = (
    PUBLIC_INDEX,
    PYTORCH_INDEX,
    "https://pypi.nvidia.com",
    "https://pypi.ngc.nvidia.com",
    "https://data.pyg.org/whl",
)
ALLOW_SETTING = "--allow-index"
ALLOW_VARIABLE = "TASKYARD_ALLOW_INDEX"

_CREDENTIALS = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)[^/\s@'\"]+@")
_CONDA_TOKEN = re.compile(r"(?<=/t/)[\w-]+(?=/)")


@dataclass(frozen=True, kw_only=True)
class Indexes:
    """Indexes in effect. Addresses may hold credentials: print them only through `mask`."""

    default: str | None = None
    """None: the public Python index."""
    extra: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    trusted_hosts: tuple[str, ...] = ()
    certificate: str | None = None
    client_certificate: str | None = None
    proxy: str | None = None
    timeout: str | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every place that is searched."""
        return (*([self.default] if self.default else []), *self.extra, *self.find_links)

    def with_added(
        self, *, default: str | None, extra: Iterable[str], find_links: Iterable[str], no_index: bool
    ) -> Indexes:
        """Returns these with what a requirements file adds; as with pip, its `-i` replaces the default."""
        return replace(
            self,
            default=default or self.default,
            extra=tuple(dict.fromkeys((*self.extra, *extra))),
            find_links=tuple(dict.fromkeys((*self.find_links, *find_links))),
            no_index=self.no_index or no_index,
        )

    def for_key(self) -> list[str]:
        """What of this decides the content of an environment: addresses without credentials."""
        return [str(self.no_index), *(without_credentials(address) for address in self.addresses)]

    def for_uv(self) -> dict[str, str]:
        """Variables that tell uv, which reads none of pip's settings; no arguments: addresses hold passwords."""
        values = {
            "UV_DEFAULT_INDEX": self.default,
            "UV_INDEX": " ".join(self.extra),
            "UV_FIND_LINKS": ",".join(self.find_links),
            "UV_NO_INDEX": "true" if self.no_index else None,
            "UV_INSECURE_HOST": " ".join(self.trusted_hosts),
            "UV_HTTP_TIMEOUT": self.timeout,
            "SSL_CERT_FILE": self.certificate,
            "SSL_CLIENT_CERT": self.client_certificate,
            "HTTPS_PROXY": self.proxy,
            "HTTP_PROXY": self.proxy,
        }
        return {name: value for name, value in values.items() if value}

    def all_public(self) -> bool:
        """Whether nothing private is searched, so that comparing versions across indexes is safe."""
        return all(any(_is_below(address, known) for known in PUBLIC_INDEXES) for address in self.addresses)


def operators_hosts(variables: Mapping[str, str], *further: str | None) -> frozenset[str]:
    """The hosts of what pip's settings name, and of `further` addresses, as `host` or `host:port`."""
    addresses = (*configured_indexes(variables).addresses, *filter(None, further))
    hosts = (_host(urlsplit(address)).lower() for address in addresses if "://" in address)
    return frozenset(host.removesuffix(":443") for host in hosts if host)


def configured_indexes(variables: Mapping[str, str]) -> Indexes:
    """Returns what pip's configuration files and `PIP_*` variables say, as `pip config list` would."""
    pip = _pip_options(variables)
    return Indexes(
        default=pip.get("index-url"),
        extra=tuple(pip.get("extra-index-url", "").split()),
        find_links=tuple(pip.get("find-links", "").split()),
        no_index=pip.get("no-index", "").lower() in ("1", "true", "yes", "on"),
        trusted_hosts=tuple(pip.get("trusted-host", "").split()),
        certificate=pip.get("cert"),
        client_certificate=pip.get("client-cert"),
        proxy=pip.get("proxy"),
        timeout=pip.get("timeout") or pip.get("default-timeout"),
    )


def _pip_options(variables: Mapping[str, str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for file in _pip_files(variables):
        options.update(_read_pip_file(file))
    for name, value in variables.items():
        if name.startswith("PIP_") and value:
            options[name[4:].lower().replace("_", "-")] = value
    return options


def _pip_files(variables: Mapping[str, str]) -> list[Path]:
    """pip's files, the weakest first: https://pip.pypa.io/en/stable/topics/configuration/#location."""
    named = variables.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = Path(variables.get("HOME") or Path.home())
    system = [Path(folder) for folder in variables.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if folder]
    user = Path(variables.get("XDG_CONFIG_HOME") or home / ".config")
    files = [*(folder / "pip/pip.conf" for folder in system), Path("/etc/pip.conf")]
    files += [home / ".pip/pip.conf", user / "pip/pip.conf", Path(sys.prefix, "pip.conf")]
    if sys.platform == "darwin":
        files.insert(-1, home / "Library/Application Support/pip/pip.conf")
    return [*files, Path(named)] if named else files


def _read_pip_file(file: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}
    sections = [section for section in ("global", "install") if parser.has_section(section)]
    return {name.replace("_", "-"): value for section in sections for name, value in parser.items(section)}


@dataclass(frozen=True, kw_only=True)
class IndexPolicy:
    """Which indexes a task's files may name."""

    configured: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    public: tuple[str, ...] = PUBLIC_INDEXES

    def accept(self, address: str) -> str | None:
        """Returns the address to use, with the operator's credentials where there are any; None: not allowed."""
        parts = urlsplit(address)
        if parts.scheme.lower() != "https" and not self._named_by_operator(address):
            return None
        for known in (*self.configured, *self.allowed):
            if _is_below(address, known):
                return _with_credentials_of(known, address)
        public = any(_is_below(address, known) for known in self.public)
        return without_credentials(address) if public else None

    def _named_by_operator(self, address: str) -> bool:
        return any(_is_below(address, known) for known in (*self.configured, *self.allowed))


def refusal(where: str, address: str) -> str:
    """Says that an index is not allowed, and how its operator allows it."""
    plain = without_credentials(address)
    return (
        f"{where} names the package index {plain}, which this machine does not allow. Its operator can: "
        f"`taskyard agent daemon {ALLOW_SETTING} {plain}` (or {ALLOW_VARIABLE}), or pip's own settings there"
    )


def mask(text: str) -> str:
    """Returns `text` with the credentials in its addresses made unreadable."""
    return _CONDA_TOKEN.sub("***", _CREDENTIALS.sub(r"\g<scheme>***@", text))


def without_credentials(address: str) -> str:
    """Returns the address without user and password; local paths as they are."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=_host(parts))) if "@" in parts.netloc else address


def _with_credentials_of(known: str, address: str) -> str:
    user, at, _ = urlsplit(known).netloc.rpartition("@")
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=f"{user}{at}{_host(parts)}")) if at else address


def _is_below(address: str, known: str) -> bool:
    """Whether `address` is `known` or lies below it on the same host; a path that climbs is never below."""
    here, there = urlsplit(address), urlsplit(known)
    path = unquote(here.path)
    if ".." in path.split("/") or "\\" in path:
        return False
    same = here.scheme.lower() == there.scheme.lower() and _host(here).lower() == _host(there).lower()
    folder = unquote(there.path).rstrip("/")
    return same and (path.rstrip("/") == folder or path.startswith(folder + "/"))


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]
