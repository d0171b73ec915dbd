"""`queue list|create|show|describe|rename|delete|pause|resume|move|remove`."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from taskyard.cli import output
from taskyard.cli.session import add_command, add_queue, add_task, find_queue, find_task, open_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskyard.client import Client
    from taskyard.wire import Entry, Queue, QueueChanges

COLUMNS = ("NAME", "KIND", "WAITING", "RUNNING", "WORKERS", "WAIT", "STATE", "DESCRIPTION", "ID")
ENTRY_COLUMNS = ("POSITION", "TASK", "NAME", "GPUS", "BY", "QUEUED")
PAGE = 500


def add_parser(subparsers: Any) -> None:
    """Adds `queue` with its verbs, and `queues`, which lists them."""
    parser = subparsers.add_parser(
        "queue", help="queues and the places in them", description="Queues and their entries."
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True, prog="taskyard queue")
    add_command(verbs, "list", "list the queues", list_queues)
    add_command(subparsers, "queues", "the same as queue list", list_queues)
    create_parser = add_command(verbs, "create", "create a queue", create)
    create_parser.add_argument("name", metavar="NAME")
    create_parser.add_argument("--description", default="", metavar="TEXT", help="what it is for")
    create_parser.add_argument(
        "--kind",
        choices=("tasks", "services"),
        default="tasks",
        help="services: controllers and other light tasks, none that takes a GPU; default: tasks",
    )
    add_queue(add_command(verbs, "show", "show a queue and its tasks in order", show))
    describe_parser = add_command(verbs, "describe", "say what a queue is for", describe)
    add_queue(describe_parser)
    describe_parser.add_argument("description", metavar="TEXT")
    rename_parser = add_command(verbs, "rename", "give a queue another name", rename)
    add_queue(rename_parser)
    rename_parser.add_argument("name", metavar="NAME")
    delete_parser = add_command(verbs, "delete", "remove a queue", delete)
    add_queue(delete_parser)
    delete_parser.add_argument("--force", action="store_true", help="also when it holds tasks; they become drafts")
    add_queue(add_command(verbs, "pause", "hand out nothing more of a queue", pause))
    add_queue(add_command(verbs, "resume", "hand out its tasks again", resume))
    _add_move(verbs)
    add_task(add_command(verbs, "remove", "take a task out of its queue", remove))


def _add_move(verbs: Any) -> None:
    parser = add_command(verbs, "move", "change a task's place in its queue", move)
    add_task(parser)
    place = parser.add_mutually_exclusive_group(required=True)
    for word in ("first", "up", "down", "last"):
        place.add_argument(f"--{word}", dest="to", action="store_const", const=word, help=f"move it {word}")
    place.add_argument("--to", dest="position", type=int, metavar="N", help="to position N; 0 is the next to run")


def list_queues(namespace: argparse.Namespace) -> None:
    """Lists every queue with its length and workers."""
    with open_client(namespace) as client:
        _print(namespace, client.queues(), many=True)


def create(namespace: argparse.Namespace) -> None:
    """Creates a queue."""
    from taskyard.wire import NewQueue, QueueKind

    new = NewQueue(name=namespace.name, description=namespace.description, kind=QueueKind(namespace.kind))
    with open_client(namespace) as client:
        _print(namespace, [client.create_queue(new)])


def show(namespace: argparse.Namespace) -> None:
    """Prints a queue's entries in the order in which they are claimed."""
    with open_client(namespace) as client:
        queue = find_queue(client, namespace.queue)
        entries = list(_entries(client, queue.id))
    if namespace.json:
        output.print_json({"queue": queue, "entries": entries})
        return
    output.print_table(ENTRY_COLUMNS, map(_entry_row, entries), empty=f"{queue.name} is empty")


def describe(namespace: argparse.Namespace) -> None:
    """Changes the description."""
    from taskyard.wire import QueueChanges

    _change(namespace, QueueChanges(description=namespace.description))


def rename(namespace: argparse.Namespace) -> None:
    """Changes the name; its tasks, and agents that serve it, are not affected."""
    from taskyard.wire import QueueChanges

    _change(namespace, QueueChanges(name=namespace.name))


def pause(namespace: argparse.Namespace) -> None:
    """Stops handing out."""
    from taskyard.wire import QueueChanges

    _change(namespace, QueueChanges(paused=True))


def resume(namespace: argparse.Namespace) -> None:
    """Hands out again."""
    from taskyard.wire import QueueChanges

    _change(namespace, QueueChanges(paused=False))


def delete(namespace: argparse.Namespace) -> None:
    """Removes a queue."""
    with open_client(namespace) as client:
        queue = find_queue(client, namespace.queue)
        client.delete_queue(queue.id, force=namespace.force)
    if namespace.json:
        output.print_json(queue)


def move(namespace: argparse.Namespace) -> None:
    """Changes a place and prints the new one."""
    from taskyard.wire import MoveRequest, MoveTo

    request = MoveRequest(to=MoveTo(namespace.to) if namespace.to else None, position=namespace.position)
    with open_client(namespace) as client:
        entry = client.move_task(find_task(client, namespace.task).id, request)
    if namespace.json:
        output.print_json(entry)
    else:
        output.print_table(ENTRY_COLUMNS, [_entry_row(entry)])


def remove(namespace: argparse.Namespace) -> None:
    """Takes a task out; it becomes a draft."""
    with open_client(namespace) as client:
        task = client.dequeue(find_task(client, namespace.task).id)
    if namespace.json:
        output.print_json(task)
    else:
        output.note(f"{task.id[:8]} is a draft again; taskyard enqueue --queue QUEUE {task.id[:8]} puts it back")


def _change(namespace: argparse.Namespace, changes: QueueChanges) -> None:
    with open_client(namespace) as client:
        _print(namespace, [client.change_queue(find_queue(client, namespace.queue).id, changes)])


def _entries(client: Client, queue_id: str) -> Iterator[Entry]:
    offset = 0
    while True:
        page = client.entries(queue_id, offset=offset, limit=PAGE)
        yield from page.entries
        offset += len(page.entries)
        if not page.entries or offset >= page.total:
            return


def _print(namespace: argparse.Namespace, queues: list[Queue], *, many: bool = False) -> None:
    if namespace.json:
        output.print_json(queues if many else queues[0])
        return
    output.print_table(COLUMNS, map(_row, queues))
    for queue in queues:
        if queue.waiting and not queue.workers:
            name = shlex.quote(output.clean(queue.name))
            output.note(f"no worker watches {name}; start one with: taskyard agent daemon --queue {name}")


def _row(queue: Queue) -> tuple[object, ...]:
    state = "paused" if queue.paused else "open"
    counts = (queue.waiting, queue.running, len(queue.workers))
    return (queue.name, queue.kind, *counts, _wait(queue), state, queue.description, queue.id[:8])


def _wait(queue: Queue) -> str:
    """Of a task enqueued now; empty where nobody knows."""
    seconds = queue.estimated_wait_seconds
    return "none" if seconds == 0 else output.duration(seconds)


def _entry_row(entry: Entry) -> tuple[object, ...]:
    gpus = "any" if entry.gpus is None else entry.gpus
    return (entry.position, entry.task[:8], entry.name, gpus, entry.created_by, output.ago(entry.queued_at))
