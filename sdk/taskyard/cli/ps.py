"""`ps`: the tasks, in the columns and the order that a person asks for."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from taskyard.cli import columns, output
from taskyard.cli.session import (
    FOLLOW_PATIENCE_SECONDS,
    add_command,
    add_queue,
    find_queue,
    open_client,
)
from taskyard.errors import UsageError

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.wire import Task

STATES = ("draft", "waiting", "queued", "preparing", "running", "completed", "failed", "cancelled")
NO_TASKS = "no such tasks; `taskyard run -- python train.py` makes one"
WATCH_SECONDS = 1.0
RECENT_TASKS = 20


def add_parser(subparsers: Any) -> None:
    """Adds `ps`."""
    parser = add_command(subparsers, "ps", "list tasks, newest first", ps)
    parser.add_argument("-w", "--watch", action="store_true", help="keep showing them")
    parser.add_argument("-a", "--all", action="store_true", help="every task, on a terminal too")
    _add_filters(parser)
    parser.add_argument(
        "-n",
        "--limit",
        type=int,
        metavar="N",
        help=f"the newest N; default: {RECENT_TASKS} on a terminal, else every one",
    )
    shown = parser.add_argument_group("what is shown")
    shown.add_argument(
        "--columns", metavar="NAME,…", help=f"these columns, or `+NAME,…` beside the usual ones: {columns.HELP}"
    )
    shown.add_argument("--params", action="store_true", help="also the parameters that differ between the tasks")
    shown.add_argument("--last-line", action="store_true", help="also the last line of each log")
    shown.add_argument("--sort", metavar="NAME", help="by this column, the least first; what has none stands last")
    shown.add_argument("--reverse", action="store_true", help="the other way round")
    output.add_csv(shown)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        action="append",
        choices=STATES,
        default=[],
        metavar="STATE",
        help=f"only in this state: {', '.join(STATES)}",
    )
    add_queue(parser, "--queue")
    parser.add_argument("--mine", action="store_true", help="only those that you created")
    parser.add_argument("--project", help="only of this project")
    parser.add_argument("--tag", help="only with this tag")
    parser.add_argument("--name", help="only with this very name")
    parser.add_argument("--match", metavar="TEXT", help="only with this in the name")


def ps(namespace: argparse.Namespace) -> None:
    """Lists tasks, once or until Ctrl-C."""
    if namespace.limit is not None and namespace.limit < 1:
        raise UsageError("--limit: how many tasks is 1 or more; --all shows every one")
    _check_columns(namespace)
    if namespace.watch:
        if namespace.json or namespace.csv or not sys.stdout.isatty():
            raise UsageError("--watch shows a table on a terminal; leave it out for --json, --csv and for pipes")
        with open_client(namespace, patience_seconds=FOLLOW_PATIENCE_SECONDS) as client:
            _watch(client, namespace)
    with open_client(namespace) as client:
        most = _most(namespace)
        found = _tasks(client, namespace, None if most is None else most + 1)
        tasks = _sorted(client, found[:most], namespace)
        if namespace.json:
            output.print_json(tasks)
            return
        titles, rows = _table(client, tasks, namespace, exact=namespace.csv)
    output.print_table(titles, rows, empty=NO_TASKS, keep=namespace.columns is not None)
    if namespace.limit is None and len(found) > len(tasks):
        output.note(f"These are the {most} newest: --limit N shows more, --all every one.")


def _check_columns(namespace: argparse.Namespace) -> None:
    if namespace.columns is not None:
        columns.check(_given(namespace), "--columns")
    if namespace.sort is not None:
        columns.check([namespace.sort], "--sort")
    elif namespace.reverse:
        raise UsageError("--reverse turns the order of --sort NAME round")


def _given(namespace: argparse.Namespace) -> list[str]:
    text = namespace.columns.removeprefix("+")
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--columns: name some {columns.HELP}")
    return [*columns.USUAL, *names] if namespace.columns.startswith("+") else names


def _table(
    client: Client, tasks: list[Task], namespace: argparse.Namespace, *, exact: bool = False
) -> tuple[list[str], list[list[object]]]:
    names = list(columns.USUAL) if namespace.columns is None else _given(namespace)
    added = columns.differing(tasks) if namespace.params else []
    added += [columns.LAST_LINE] if namespace.last_line else []
    names = list(dict.fromkeys([*names, *added]))
    read = columns.Columns(client)
    return list(map(columns.title, names)), [
        [read.shown(name, one, exact=exact) for name in names] for one in tasks
    ]


def _sorted(client: Client, tasks: list[Task], namespace: argparse.Namespace) -> list[Task]:
    """Return the tasks in the order asked for; those without a value last, whichever way round."""
    if namespace.sort is None:
        return tasks
    read = columns.Columns(client)
    keyed = sorted(
        ((columns.sorting_key(read.value(namespace.sort, task)), task) for task in tasks), key=lambda pair: pair[0]
    )
    there = [task for key, task in keyed if key[0] < 2]
    return [*(reversed(there) if namespace.reverse else there), *(task for key, task in keyed if key[0] == 2)]


def _most(namespace: argparse.Namespace) -> int | None:
    """How many tasks are listed; None for all. Programs get all, a person at a terminal the newest."""
    if namespace.all:
        return None
    if namespace.limit is not None:
        return int(namespace.limit)
    return RECENT_TASKS if sys.stdout.isatty() and not namespace.json and not namespace.csv else None


def _tasks(client: Client, namespace: argparse.Namespace, most: int | None) -> list[Task]:
    from taskyard.wire import TaskState

    found: Iterator[Task] = client.all_tasks(
        limit=None if namespace.mine else most,
        states=[TaskState(state) for state in namespace.state],
        queue=find_queue(client, namespace.queue).id if namespace.queue else None,
        project=namespace.project,
        tag=namespace.tag,
        name=namespace.name,
        name_contains=namespace.match,
    )
    if namespace.mine:
        me = client.whoami().name
        found = (task for task in found if task.created_by == me)
    return list(itertools.islice(found, most))


def _watch(client: Client, namespace: argparse.Namespace) -> NoReturn:
    """Shows them until Ctrl-C."""
    from rich.live import Live
    from rich.text import Text

    with Live(screen=True, auto_refresh=False) as live:
        while True:
            tasks = _sorted(client, _tasks(client, namespace, _most(namespace)), namespace)
            titles, rows = _table(client, tasks, namespace)
            shown = output.table(titles, rows, keep=namespace.columns is not None) if tasks else NO_TASKS
            live.update(Text.from_ansi(shown), refresh=True)
            time.sleep(WATCH_SECONDS)
