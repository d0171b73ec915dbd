"""`diff`: what differs between two tasks."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from taskyard.cli import output
from taskyard.cli.session import add_command, complete_tasks, find_task, open_client

if TYPE_CHECKING:
    from taskyard.comparison import Difference

EXIT_DIFFERENT = 3
"""With --exit-code; 1 and 2 keep their meaning."""


def add_parser(subparsers: Any) -> None:
    """Add `diff`."""
    parser = add_command(subparsers, "diff", "show what differs between two tasks", diff)
    parser.add_argument(
        "--exit-code", action="store_true", help=f"exit with {EXIT_DIFFERENT} where something differs"
    )
    for name in ("a", "b"):
        complete_tasks(parser.add_argument(name, metavar=name.upper(), help="a task"))


def diff(namespace: argparse.Namespace) -> int:
    """Print the differences; the exit code is 0, or with --exit-code 3 where there are any."""
    from taskyard.comparison import change_of_changes, differences

    with open_client(namespace) as client:
        a, b = find_task(client, namespace.a), find_task(client, namespace.b)
    found = differences(a, b)
    if namespace.json:
        output.print_json({"a": a.id, "b": b.id, "differences": found})
    else:
        output.print_table(("OF", "WHAT", a.id[:8], b.id[:8]), map(_row, found), empty="they do not differ")
        for line in change_of_changes(a.spec, b.spec):
            print(output.clean(line))
    return EXIT_DIFFERENT if found and namespace.exit_code else 0


def _row(one: Difference) -> tuple[str, str, str, str]:
    return one.section, one.name, in_words(one.a), in_words(one.b)


def in_words(value: Any) -> str:
    """Return a value for people: a list by its items, what is not there as a dash."""
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return " ".join(map(in_words, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
