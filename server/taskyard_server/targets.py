"""The hosts that a task needs before it can start: pure. An agent that cannot reach one names it likewise."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from taskyard.wire import Outcome, Reason, TaskSpec

_USUAL_PORTS = {"https": 443, "ssh": 22, "git+ssh": 22, "git+https": 443}
_SCP_LIKE = re.compile(r"(?:[^@/:]+@)?(?P<host>\[[^\]/]+\]|[^/:@\[]+):(?!//)")
_ADDRESS = re.compile(r"(?:git\+)?(?:https?|ssh)://[^\s;]+")


def targets_of(spec: TaskSpec) -> frozenset[str]:
    """Hosts of its repository and of the addresses among its packages, with their ports where unusual."""
    return frozenset(filter(None, map(host_of, _addresses(spec))))


def _addresses(spec: TaskSpec) -> Iterator[str]:
    code = spec.code
    shipped_whole = code.pack is not None and not code.pack.needs
    if code.repository and not shipped_whole:
        yield code.repository
    for package in spec.environment.packages:
        yield from _ADDRESS.findall(package)


@functools.lru_cache(maxsize=4096)
def host_of(address: str) -> str:
    """The host of a repository's or a package's address; empty for what names none, such as a path."""
    if "://" not in address:
        match = None if address.startswith(("/", ".")) else _SCP_LIKE.match(address)
        return match["host"].lower() if match else ""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if parts.scheme == "file":
        return ""
    host = f"[{host}]" if ":" in host else host
    return host if port in (None, _USUAL_PORTS.get(parts.scheme)) else f"{host}:{port}"


def target_of(outcome: Outcome, spec: TaskSpec) -> str:
    """The host that kept a run from starting. An older agent does not name it; empty where none did."""
    if outcome.target or not outcome.infrastructure:
        return outcome.target
    if outcome.reason is Reason.GIT_HOST:
        return host_of(spec.code.repository or "") or "its git host"
    return "its package index" if outcome.reason is Reason.PACKAGE_INDEX else ""
