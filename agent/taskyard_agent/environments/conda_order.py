"""What a task wants of conda."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from taskyard_agent.environments.conda_channels import without_secrets
from taskyard_agent.environments.request import failed

PACKAGE = re.compile(r"(?P<name>[^/]+)-(?P<version>[^-/]+)-(?P<build>[^-/]+?)(?:\.conda|\.tar\.bz2)")


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One package file that a lock names."""

    url: str
    sha256: str | None = None
    md5: str | None = None

    @property
    def channel(self) -> str:
        """Address of the channel: the URL without platform and file."""
        return self.url.rsplit("/", 2)[0]

    @property
    def file(self) -> str:
        """`numpy-2.0-py311_0.conda`."""
        return self.url.rsplit("/", 1)[1]

    @property
    def name(self) -> str:
        """The package's name. Raises RunFailed for a file that is no conda package."""
        match = PACKAGE.fullmatch(self.file)
        if match is None:
            raise failed(f"{without_secrets(self.url)} is no conda package")
        return match["name"]


@dataclass(frozen=True, kw_only=True)
class CondaOrder:
    """What to put into a prefix: specs to be solved, or pins."""

    channels: tuple[str, ...] = ()
    """Addresses, the first one first; with the operator's credentials."""
    specs: tuple[str, ...] = ()
    pins: tuple[Pin, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of environment.yml: set for the command."""
    python: str | None = None
    """What the files say of it, if they do: `python=3.11`."""
    tool: str | None = None
    """The program that installs it; None: py-rattler."""

    def for_key(self) -> list[object]:
        """What of this decides the content, without credentials."""
        pins = [(without_secrets(pin.url), pin.sha256, pin.md5) for pin in self.pins]
        return [list(map(without_secrets, self.channels)), self.specs, pins, dict(self.variables)]

    @property
    def names(self) -> list[str]:
        """Packages that must be there afterwards."""
        named = [re.split(r"[\s=<>!~\[]", spec.rpartition("::")[2], maxsplit=1)[0] for spec in self.specs]
        return [*named, *(pin.name for pin in self.pins)]
