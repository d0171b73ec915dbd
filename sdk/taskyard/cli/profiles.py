"""`use`: which of the named servers and tokens is meant where nothing else is named."""

from __future__ import annotations

import argparse
from typing import Any

from taskyard.cli import output
from taskyard.cli.session import add_command
from taskyard.errors import UsageError
from taskyard.profiles import Profiles


def add_parser(subparsers: Any) -> None:
    """Add `use`."""
    parser = add_command(subparsers, "use", "choose a profile; without a name list them", use)
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a profile, as `taskyard login --profile` named it"
    )
    parser.add_argument("--none", action="store_true", help="use no profile, but the server of the last login")
    parser.add_argument("--forget", action="store_true", help="remove the profile and its token")


def use(namespace: argparse.Namespace) -> None:
    """List the profiles, or use, leave or remove one."""
    profiles = Profiles()
    if namespace.none and (namespace.name or namespace.forget):
        raise UsageError("--none stands alone")
    if namespace.forget:
        if not namespace.name:
            raise UsageError("--forget: say which, like: taskyard use lab --forget")
        gone = profiles.remove(namespace.name)
        output.note(f"{gone.name} is forgotten here; `taskyard token revoke` ends the rights of its token")
    elif namespace.none:
        profiles.use(None)
    elif namespace.name:
        profiles.use(namespace.name)
        output.note(f"using {namespace.name}: {output.clean(profiles.get(namespace.name).server)}")
    if namespace.json or not (namespace.name or namespace.none):
        _list(profiles, as_json=namespace.json)


def _list(profiles: Profiles, *, as_json: bool) -> None:
    current = profiles.current
    rows = [(name, each.server, name == current) for name, each in profiles.all().items()]
    if as_json:
        output.print_json([dict(zip(("name", "server", "current"), row, strict=True)) for row in rows])
        return
    empty = "no profiles; taskyard login URL --profile NAME makes one"
    shown = (("*" if in_use else "", name, server) for name, server, in_use in rows)
    output.print_table(("USED", "NAME", "SERVER"), shown, empty=empty)
