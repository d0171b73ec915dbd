"""`events`: what happened to all tasks or to one, the newest last, and what happens from now on."""

from __future__ import annotations

import argparse
import collections
import json
import math
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from taskyard.asking import seconds
from taskyard.cli import output
from taskyard.cli.session import (
    FOLLOW_PATIENCE_SECONDS,
    PATIENCE_SECONDS,
    add_command,
    complete_tasks,
    find_task,
    open_client,
)
from taskyard.cli.story import event_cells
from taskyard.errors import UsageError

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.wire import TaskEvent

COLUMNS = ("AT", "TASK", "EVENT", "ATTEMPT", "BY", "DETAIL")
PAGE = 1000
FOLLOW_SECONDS = 1.0
FIRST_WINDOW_SECONDS = 60.0
"""The newest events are looked for in the last minute, then in ten, and so on: a server lists the oldest first."""


def add_parser(subparsers: Any) -> None:
    """Adds `events`."""
    parser = add_command(subparsers, "events", "list what happened, to all tasks or to one, newest last", events)
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens, until Ctrl-C")
    complete_tasks(parser.add_argument("--task", metavar="TASK", help="only of this task"))
    parser.add_argument("--kind", metavar="KIND", help="only of this kind, like created, claimed, lost")
    parser.add_argument(
        "--since", metavar="TIME", default="24h", help="how far back, like 90s or 2d; default: 24h"
    )
    parser.add_argument("-n", "--limit", type=int, default=100, metavar="N", help="the newest N; default: 100")
    output.add_csv(parser)


def events(namespace: argparse.Namespace) -> None:
    """Lists the newest events, the last one last."""
    if namespace.limit < 1:
        raise UsageError("--limit: how many events is 1 or more")
    if namespace.follow and namespace.csv:
        raise UsageError("--csv is for a table that ends; leave out -f, or take --json")
    since = time.time() - seconds(namespace.since, "--since")
    patience = FOLLOW_PATIENCE_SECONDS if namespace.follow else PATIENCE_SECONDS
    with open_client(namespace, patience_seconds=patience) as client:
        task = find_task(client, namespace.task).id if namespace.task else None
        found = newest(client, since, namespace.limit, task=task, kind=namespace.kind)
        if namespace.follow:
            _follow(client, found, since, namespace, task)
    if namespace.json:
        output.print_json(found)
    else:
        output.print_table(COLUMNS, map(_row, found), empty="nothing happened")


def newest(client: Client, since: float, limit: int, **wanted: str | None) -> list[TaskEvent]:
    """Return the last `limit` events since a time, the oldest of them first."""
    now, window = time.time(), FIRST_WINDOW_SECONDS
    while True:
        begin = max(since, now - window)
        found = list(collections.deque(all_since(client, begin, **wanted), maxlen=limit))
        if len(found) == limit or begin == since:
            return found
        window *= 10


def all_since(client: Client, since: float, **wanted: str | None) -> Iterator[TaskEvent]:
    """Yield the events since a time, page by page."""
    known: set[str] = set()
    while True:
        page = client.events(since=since, limit=PAGE, **wanted)
        fresh = [one for one in page if repr(one) not in known]
        yield from fresh
        if len(page) < PAGE:
            return
        # The next page begins with the moment in which this one ends, unless that moment fills a page by itself.
        last = page[-1].event.at
        since, known = (last if fresh else math.nextafter(last, math.inf)), {repr(one) for one in page}


def _follow(
    client: Client, found: list[TaskEvent], since: float, namespace: argparse.Namespace, task: str | None
) -> None:
    """Prints events as they happen, until Ctrl-C."""
    shown = {repr(one) for one in found}
    since = found[-1].event.at if found else since
    while True:
        for one in found:
            _print(one, as_json=namespace.json)
        sys.stdout.flush()
        time.sleep(FOLLOW_SECONDS)
        there = list(all_since(client, since, task=task, kind=namespace.kind))
        found = [one for one in there if repr(one) not in shown]
        if there:
            since = there[-1].event.at
            shown = {repr(one) for one in there if one.event.at == since}


def _print(one: TaskEvent, *, as_json: bool) -> None:
    from taskyard.wire import to_json

    if as_json:
        print(json.dumps(to_json(one)))
    elif sys.stdout.isatty():
        at, task, *cells = map(output.clean, _row(one))
        print(f"{at}  {task}  {cells[0]:<12}  {'  '.join(filter(None, cells[1:]))}")
    else:
        print("\t".join(map(output.clean, _row(one))))


def _row(one: TaskEvent) -> tuple[object, ...]:
    return (output.moment(one.event.at), one.task[:8], *event_cells(one.event))
