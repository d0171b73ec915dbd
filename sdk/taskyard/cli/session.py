"""What commands share: the flags of the connection, the client, and how tasks and queues are named."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskyard.cli import output
from taskyard.config import (
    PERSONS_SETTINGS,
    add_settings,
    connection,
    passed_over_token,
    server_origin,
    user_folder,
)
from taskyard.errors import NotFound, Refused, TaskyardError, UsageError

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.config import Connection
    from taskyard.wire import Queue, Task

PATIENCE_SECONDS = 5.0
"""A person waits; what is away for longer is better said."""
FOLLOW_PATIENCE_SECONDS = 600.0
COMPLETION_SECONDS = 1.5
"""Longer nobody waits for a Tab."""
COMPLETED_TASKS = 50
LAST = "@last"
"""What the last `run` submitted, or what was cloned since: the base of a loop."""
NEW = "@new"
"""What was made last, by `run` or `clone`."""
SHORTEST_PREFIX = 4
"""Of an id; the server takes less for a name."""
TASK_HELP = f"id, unique prefix of an id, unique name, {LAST} or {NEW}"


class Declined(TaskyardError):
    """A person was asked, and said no."""


Handler = Callable[[argparse.Namespace], "int | None"]
_CONFLICT = 409


def add_command(subparsers: Any, name: str, help_text: str, handler: Handler, **options: Any) -> Any:
    """A parser with the flags that every command of a client has."""
    parser = subparsers.add_parser(
        name, help=help_text, description=help_text[:1].upper() + help_text[1:] + ".", **options
    )
    parser.set_defaults(handler=handler)
    parser.add_argument(
        "--json", action="store_true", help="print the server's own records; --json=FIELD,… these fields of them"
    )
    add_settings(parser.add_argument_group("connection"), PERSONS_SETTINGS)
    return parser


def add_task(parser: argparse.ArgumentParser, **options: Any) -> None:
    """The positional that names a task."""
    complete_tasks(parser.add_argument("task", metavar="TASK", help=TASK_HELP, **options))


def complete_tasks(argument: argparse.Action) -> None:
    """Lets the shell complete it with the ids and names of the newest tasks."""
    argument.completer = functools.partial(_completed, _task_names)  # type: ignore[attr-defined]


def add_attempt(parser: argparse.ArgumentParser) -> None:
    """The flag that names one of a task's runs; see `find_run`."""
    parser.add_argument("--attempt", type=int, metavar="N", help="this attempt; default: the latest")


def add_queue(parser: argparse.ArgumentParser, name: str = "queue", **options: Any) -> None:
    """The positional or flag that names a queue, completed from the server."""
    argument = parser.add_argument(name, metavar="QUEUE", help="name or id of a queue", **options)
    argument.completer = functools.partial(_completed, _queue_names)  # type: ignore[attr-defined]


def open_client(namespace: argparse.Namespace, *, patience_seconds: float = PATIENCE_SECONDS) -> Client:
    """A client for the server that flags, variables and files name."""
    from taskyard.client import Client

    return Client.of(
        meant_connection(namespace),
        patience_seconds=patience_seconds,
        tell=lambda trouble: output.note(f"taskyard: {trouble}"),
        names_strangers=True,
    )


def meant_connection(namespace: argparse.Namespace) -> Connection:
    """What flags, variables and files name; says so where it is not what a variable's token is for."""
    where = connection(namespace)
    passed_over = passed_over_token(where.server)
    for remark in filter(None, (passed_over, where.passed_over)):
        output.note(f"taskyard: {output.clean(remark)}")
    return where


def find_task(client: Client, ref: str) -> Task:
    """The task that a person means. Raises UsageError when there is none, or more than one."""
    meant = _last_task(client.server, ref) if ref in (LAST, NEW) else ref
    try:
        return client.resolve_task(meant)
    except NotFound as error:
        raise UsageError(f"{_unknown_task(ref, meant)}; `taskyard ps --all` lists them") from error
    except Refused as error:
        if error.status == _CONFLICT:
            raise UsageError(error.detail) from error
        raise


def find_run(task: Task, attempt: int | None) -> str | None:
    """The id of this attempt at the task, or of the latest; None before the first. Raises UsageError."""
    if attempt is None:
        return task.run.id if task.run else None
    if not 1 <= attempt <= task.run_count:
        raise UsageError(f"--attempt {attempt}: task {task.id[:8]} has had {task.run_count} attempts")
    return f"{task.id}.{attempt}"


def find_queue(client: Client, ref: str) -> Queue:
    """The queue that a person means. Raises UsageError with the nearest names and how to create it."""
    return client.resolve_queue(ref)


def _unknown_task(ref: str, meant: str) -> str:
    if ref in (LAST, NEW):
        return f"{ref} was task {meant[:8]}, which was deleted"
    few = ref and len(ref) < SHORTEST_PREFIX and set(ref) <= set("0123456789abcdef")
    return f"no task is called {ref!r}" + (f"; give at least {SHORTEST_PREFIX} digits of an id" if few else "")


def remember_task(server: str, task_id: str) -> None:
    """Makes it `@last` and `@new` on this machine; it is there already, so failing to is no failure."""
    remember_base(server, task_id, task_id)


def remember_base(server: str, base_id: str, new_id: str) -> None:
    """Makes what was copied `@last`, and the copy `@new`: a loop over `clone @last` starts from one task."""
    path, origin = _last_file(), server_origin(server)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = {**_last_tasks(), origin: base_id, f"{NEW} {origin}": new_id}
        path.write_text(json.dumps(kept), encoding="utf-8")
    except OSError as error:
        output.note(f"taskyard: {LAST} does not name it: {output.trouble(error)}")


@contextlib.contextmanager
def submitted_once(count: int, *content: Any) -> Iterator[list[str]]:
    """Give ids for new tasks. Where their submission is not answered, the same command repeats it."""
    from taskyard.errors import Unavailable
    from taskyard.resubmission import Unanswered, ids

    unanswered = Unanswered(user_folder() / "unanswered.json")
    drawn = unanswered.drawn(*content)
    try:
        yield ids(drawn, count)
    except KeyboardInterrupt:
        unanswered.keep(drawn, *content)
        raise
    except Unavailable as error:
        unanswered.keep(drawn, *content)
        what = "it was" if count == 1 else f"the {count} tasks were"
        raise Unavailable(
            f"{error}; whether {what} submitted is not known: type the same once more, which makes none twice"
        ) from error
    unanswered.answered(*content)


def confirm(question: str, *, yes: bool, otherwise: str) -> None:
    """Asks on a terminal; anywhere else silence is consent. A no raises Declined with the word `otherwise`."""
    if yes or not sys.stdin.isatty() or not sys.stderr.isatty():
        return
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Declined(otherwise)


def _last_task(server: str, ref: str) -> str:
    tasks, origin = _last_tasks(), server_origin(server)
    task_id = tasks.get(f"{NEW} {origin}" if ref == NEW else origin)
    if task_id is None:
        raise UsageError(f"{ref} is the last task submitted from here to {server}, and there is none yet")
    return task_id


def _last_tasks() -> dict[str, str]:
    try:
        return dict(json.loads(_last_file().read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _last_file() -> Path:
    return user_folder() / "last_tasks.json"


def _completed(
    names: Callable[[Client], list[str]], parsed_args: argparse.Namespace, **_: object
) -> Sequence[str]:
    """What the server says in time, or nothing: the shell's completion must neither wait nor complain."""
    found: list[str] = []

    def ask() -> None:
        with contextlib.suppress(TaskyardError, OSError):
            with open_client(parsed_args, patience_seconds=0.0) as client:
                found.extend(names(client))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(COMPLETION_SECONDS)
    return tuple(found)


def _queue_names(client: Client) -> list[str]:
    return [queue.name for queue in client.queues()]


def _task_names(client: Client) -> list[str]:
    tasks = client.tasks(limit=COMPLETED_TASKS).tasks
    return [
        LAST,
        NEW,
        *(task.id[:8] for task in tasks),
        *sorted({task.spec.name for task in tasks if task.spec.name}),
    ]
