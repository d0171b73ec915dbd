"""What is known of a script's command line: its parser, its options and how each is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from taskyard.wire import Command, from_json

UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a script, as its source declares it."""

    dest: str
    names: tuple[str, ...] = ()
    """`--lr`, `-l`, the longest first."""
    kind: str = "value"
    """`value` takes one, `flag` none, `list` several, `append` is repeated, `unknown`."""
    type: str = UNKNOWN
    """Of a value: `str int float words json literal yaml csv`; `words` are the two for true and false."""
    words: tuple[str, ...] = ()
    on: str = ""
    """The flag for true; empty where leaving it out says so."""
    off: str = ""
    default: Any = None
    has_default: bool = False
    """Whether `default` is what the script sees where the option is left out."""
    count: int | None = None
    """Of a list: exactly this number of values."""
    may_be_empty: bool = False
    may_be_none: bool = False
    """Whether a word stands for None; see the parser."""


@dataclass(frozen=True, kw_only=True)
class Interface:
    """The options of a parser, or of one of its sub-commands."""

    parser: str = UNKNOWN
    """`argparse click absl fire jsonargparse tyro hydra configurator`, or unknown."""
    options: tuple[Option, ...] = ()
    positionals: tuple[str, ...] = ()
    complete: bool = False
    """Whether `options` are all that there are."""
    interspersed: bool = True
    """Whether options may follow positionals."""
    commands: dict[str, Interface] = field(default_factory=dict)
    script: str = ""
    """The word of the command line after which these options stand; empty: from its beginning."""

    def find(self, name: str) -> Option | None:
        """Return the option of this name or spelling; dashes and underscores are alike."""
        exact = [option for option in self.options if name in option.names]
        plain_name = plain(name)
        alike = (
            option
            for option in self.options
            if plain_name == plain(option.dest) or any(plain(one) == plain_name for one in option.names)
        )
        return exact[0] if exact else next(alike, None)

    def at(self, word: str) -> Option | None:
        """Return the option that a word of the command line names, also by the beginning of its name."""
        key = word.partition("=")[0]
        for option in self.options:
            if key in (*option.names, option.on, option.off):
                return option
        if self.parser not in ("argparse", "jsonargparse") or not key.startswith("--"):
            return None
        begun = {
            option.dest: option for option in self.options if any(name.startswith(key) for name in option.names)
        }
        return next(iter(begun.values())) if len(begun) == 1 else None

    def every_name(self) -> Iterator[str]:
        """Yield the names of all options, those of sub-commands too."""
        for option in self.options:
            yield option.dest
        for command in self.commands.values():
            yield from command.every_name()


NOTHING_KNOWN = Interface()


def stored(record: Interface | Option) -> dict[str, Any]:
    """Return it as JSON without what has its default: it goes with each task. `wire.from_json` reads it."""
    kept: dict[str, Any] = {}
    for each in dataclasses.fields(record):
        value = getattr(record, each.name)
        default = each.default if each.default is not dataclasses.MISSING else {}
        if each.name == "options":
            value = [stored(option) for option in value]
        elif each.name == "commands":
            value = {name: stored(command) for name, command in value.items()}
        empty = value is None if each.name == "default" else value in (default, [], ())
        if not empty:
            kept[each.name] = list(value) if isinstance(value, tuple) else value
    return kept


def plain(name: str) -> str:
    """Return a name as it is compared: without dashes before it, and with underscores."""
    return name.lstrip("-").replace("-", "_")


def known_interface(command: Command) -> Interface:
    """Return what was stored of the script's options; nothing where it is missing or cannot be read."""
    if command.interface is None:
        return NOTHING_KNOWN
    try:
        return from_json(Interface, command.interface)
    except (ValueError, TypeError, KeyError):
        return NOTHING_KNOWN
