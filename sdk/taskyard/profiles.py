"""Profiles: servers and tokens under names, of which one is in use. They are kept with the logins, readable by
their owner alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from taskyard.config import Credentials, server_address
from taskyard.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A server, and as whom to use it."""

    name: str
    server: str
    token: str = field(repr=False)
    insecure: bool = False
    ca_file: str | None = None


class Profiles(Credentials):
    """The profiles in the file of the logins."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        super().__init__(credentials.path if credentials else None)

    def all(self) -> dict[str, Profile]:
        """Every profile by its name. Raises UsageError where the file is damaged."""
        return {name: self._profile(name, each) for name, each in self._profiles().items()}

    def get(self, name: str) -> Profile:
        """The profile of this name. Raises UsageError with the nearest one and how to make it."""
        profiles = self.all()
        if name in profiles:
            return profiles[name]
        import difflib

        near = difflib.get_close_matches(name, profiles, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`taskyard use` lists them"
        made = checked_name(name)
        raise UsageError(f"there is no profile {name!r}; {hint}; to make it: taskyard login URL --profile {made}")

    @property
    def current(self) -> str | None:
        """The name of the one in use, if it is there."""
        name = self._read().get("profile")
        return str(name) if name in self._profiles() else None

    def keep(self, profile: Profile) -> None:
        """Keep it in place of an older one of its name, and use it. Raises UsageError for what is no name."""
        kept = self._read()
        record = dataclasses.asdict(profile)
        kept["profiles"] = {**self._profiles(), checked_name(record.pop("name")): record}
        kept["profile"] = profile.name
        self._write(kept)

    def use(self, name: str | None) -> None:
        """Make it the one that is meant where nothing else is named; None: none. Raises UsageError."""
        kept = self._read()
        kept["profile"] = self.get(name).name if name else None
        self._write(kept)

    def remove(self, name: str) -> Profile:
        """Forget it, and its token. Raises UsageError where there is none."""
        gone, kept = self.get(name), self._read()
        kept["profiles"] = {other: each for other, each in self._profiles().items() if other != name}
        kept["profile"] = None if kept.get("profile") == name else kept.get("profile")
        self._write(kept)
        return gone

    def _profiles(self) -> Mapping[str, Any]:
        found = self._read().get("profiles", {})
        return found if isinstance(found, dict) else {}

    def _profile(self, name: str, record: Any) -> Profile:
        try:
            return Profile(name=name, **{**record, "server": server_address(record["server"])})
        except (TypeError, KeyError, ValueError) as error:
            raise UsageError(f"{self.path} is damaged at the profile {name!r}: make it once more") from error


def checked_name(name: str) -> str:
    """Return the name. Raises UsageError for what is none."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a profile; letters, digits, dots, - and _ make one")
    return name
