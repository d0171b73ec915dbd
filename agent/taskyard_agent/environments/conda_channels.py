"""Conda channels: which ones a task may name, and where they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from taskyard_agent.environments.indexes import IndexPolicy, without_credentials
from taskyard_agent.environments.request import failed
from taskyard_agent.errors import RunFailed

HOST = "https://conda.anaconda.org"
DEFAULT_CHANNEL = "conda-forge"
PUBLIC_CHANNELS = {
    **{name: (f"{HOST}/{name}",) for name in (DEFAULT_CHANNEL, "bioconda", "nvidia", "pytorch", "rapidsai")},
    "defaults": ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r"),
}
"""Names that need nobody's permission, and the addresses that they stand for."""
ALLOW_SETTING = "--allow-channel"
ALLOW_VARIABLE = "TASKYARD_ALLOW_CHANNEL"

_TOKEN = re.compile(r"(?<=[^/])/t/[\w-]+(?=/)")
_NAME = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)*")


@dataclass(frozen=True, kw_only=True)
class ChannelPolicy:
    """What the operator allows: `NAME`, an address, or `NAME=ADDRESS`, which says where NAME is (a mirror)."""

    allowed: Sequence[str] = ()

    def resolve(self, channel: str, where: str) -> tuple[str, ...]:
        """Returns a channel's addresses, with the operator's credentials. Raises RunFailed for one not allowed."""
        if "://" in channel:
            accepted = self._mirror_of(channel) or self._addresses.accept(channel)
            return (accepted,) if accepted else self._refuse(channel, where)
        if not _NAME.fullmatch(channel) or ".." in channel:
            raise failed(f"{where}: {channel!r} is no conda channel; write its name or its address")
        name, slash, label = channel.partition("/")
        addresses = self._named.get(name) or PUBLIC_CHANNELS.get(name) or self._refuse(channel, where)
        return tuple(f"{address.rstrip('/')}{slash}{label}" for address in addresses)

    def _mirror_of(self, address: str) -> str | None:
        """The operator's place for a public channel that a lock names by its address."""
        for name, addresses in PUBLIC_CHANNELS.items():
            if address.rstrip("/") in addresses and name in self._named:
                return self._named[name][0]
        return None

    @property
    def _named(self) -> dict[str, tuple[str, ...]]:
        named: dict[str, tuple[str, ...]] = {}
        for name, address in self._pairs():
            if name:
                named[name] = (*named.get(name, ()), address)
        return named

    @property
    def _addresses(self) -> IndexPolicy:
        public = tuple(address for addresses in PUBLIC_CHANNELS.values() for address in addresses)
        return IndexPolicy(allowed=tuple(address for _, address in self._pairs()), public=public)

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for item in self.allowed:
            name, equals, address = item.partition("=")
            if equals and "/" not in name:
                yield name, address
            elif "://" in item:
                yield "", item
            else:
                yield item, f"{HOST}/{item}"

    def _refuse(self, channel: str, where: str) -> tuple[str, ...]:
        raise refusal(channel, where)


def without_secrets(address: str) -> str:
    """Returns the address without user, password and `/t/TOKEN`."""
    return _TOKEN.sub("", without_credentials(address))


def refusal(channel: str, where: str) -> RunFailed:
    """Says that a channel is not allowed, and how its operator allows it."""
    plain = without_secrets(channel)
    return failed(
        f"{where} names the conda channel {plain}, which this machine does not allow. Its operator can: "
        f"`taskyard agent daemon {ALLOW_SETTING} {plain}` (or {ALLOW_VARIABLE})"
    )
