"""`clone`: copies a task with changes, once or for each combination of a grid."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from taskyard.cli import changes, output
from taskyard.cli.session import (
    add_command,
    add_queue,
    add_task,
    find_queue,
    find_task,
    open_client,
    remember_base,
)

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.wire import Queue, Task, TaskChanges

SHOWN_VARIANTS = 30
_LABEL = 14


def add_parser(subparsers: Any) -> None:
    """Add `clone`."""
    parser = add_command(subparsers, "clone", "copy a task with changes", clone)
    add_task(parser)
    changes.add_flags(parser)
    parser.add_argument("--project", help="its project")
    add_queue(parser, "--queue")


def clone(namespace: argparse.Namespace) -> None:
    """Copy a task, and enqueue the copies where a queue is named: all of them or none."""
    from taskyard import variants

    axes = variants.read_grid(namespace.grid)
    with open_client(namespace) as client:
        task = find_task(client, namespace.task)
        queue = find_queue(client, namespace.queue) if namespace.queue else None
        made = _made(client, task, _wanted(namespace, task, axes), queue, often=bool(axes))
        remember_base(client.server, task.id, made[0].id)
    _say(task, made, variants.in_words(axes) if axes else "", namespace)


def _wanted(namespace: argparse.Namespace, task: Task, axes: Any) -> list[TaskChanges]:
    """The changes of each copy, with a name that says what differs."""
    from taskyard import variants

    if not axes:
        wanted = changes.changes(namespace, task)
        name = variants.name_of(task.spec.name, changes.in_name(namespace))
        return [wanted if wanted.name is not None else replace(wanted, name=name)]
    combinations = list(variants.combinations(axes))
    variants.refuse_set_twice(axes, changes.settings_of(namespace.set))
    base = namespace.name or variants.name_of(task.spec.name, changes.in_name(namespace), copy=False)
    names = variants.names(base, combinations)
    return [
        replace(changes.changes(namespace, task, combination), name=name)
        for combination, name in zip(combinations, names, strict=True)
    ]


def _made(
    client: Client, task: Task, wanted: list[TaskChanges], queue: Queue | None, *, often: bool
) -> list[Task]:
    from taskyard.cli.session import submitted_once
    from taskyard.errors import NotFound, TaskyardError
    from taskyard.wire import CloneRequest

    place = queue.id if queue else None
    content = (client.server, task.id, place, wanted)
    with submitted_once(len(wanted), *content) as ids:
        requests = [
            CloneRequest(id=task_id, changes=each, queue=place) for task_id, each in zip(ids, wanted, strict=True)
        ]
        if not often:
            return [client.clone_task(task.id, requests[0])]
        try:
            return client.clone_task_often(task.id, requests)
        except NotFound as error:
            if not _is_older(client, task):
                raise
            raise TaskyardError(
                f"{client.server} is older than `clone --grid`: update it, or clone with --set one by one"
            ) from error


def _is_older(client: Client, task: Task) -> bool:
    """Whether it is the route that the server does not have, and not the task."""
    from taskyard.errors import NotFound

    try:
        client.task(task.id)
    except NotFound:
        return False
    return True


# --- what is said


def _say(task: Task, made: list[Task], grid: str, namespace: argparse.Namespace) -> None:
    say("copied", f"{task.id[:8]} {task.spec.name}".strip())
    say("", f"{output.command_line(task.spec.command)}{_code(task)}")
    if grid:
        say("variants", grid)
        print_variants([one.spec.name for one in made])
    else:
        say_what_differs(task, made[0])
    if made[0].queue is None:
        count = "it is a draft" if len(made) == 1 else "they are drafts"
        say(
            "",
            f"{count}; to run: taskyard enqueue --queue QUEUE {' '.join(one.id[:8] for one in made[:3])}"
            f"{' …' if len(made) > 3 else ''}",
        )
    print_made(made, namespace)


def say_what_differs(before: Task, after: Task) -> None:
    """Show the line that will run, its words that are new, and whatever else a change touched."""
    from taskyard.cli.comparison import in_words
    from taskyard.cli.plan import changed_words
    from taskyard.comparison import misspelt, spec_differences

    for name, near in misspelt(before.spec, after.spec):
        say("note", f"{name} is a new parameter; the task has {near}, which stays as it was")
    changed = changed_words(after.spec.command, before.spec.command.args)
    if changed:
        say("command", output.command_line(after.spec.command))
        say("set", changed)
    shown_before = {"parameters", "command"} if changed else {"command"}
    label = "differs"
    for one in spec_differences(before.spec, after.spec):
        if one.section not in shown_before and one.name != "name":
            say(label, f"{one.name} {in_words(one.b)}, not {in_words(one.a)}")
            label = ""


def print_variants(names: list[str]) -> None:
    """List the names of variants, in the order in which they run."""
    for name in names[:SHOWN_VARIANTS]:
        say("", name)
    if len(names) > SHOWN_VARIANTS:
        say("", f"… and {len(names) - SHOWN_VARIANTS} more; --json lists them all")


def say(label: str, text: str) -> None:
    """Say a line beside the result, in the columns of the plan."""
    output.note(f"{label:<{_LABEL}}{output.clean(text)}", indent=_LABEL)


def print_made(made: list[Task], namespace: argparse.Namespace) -> None:
    """Print the new tasks, as `ps` lists them."""
    from taskyard.cli.tasks import print_changed

    print_changed(namespace, made)


def _code(task: Task) -> str:
    code = task.spec.code
    if code.commit is None:
        return ""
    changed = " with its uncommitted changes" if code.diff or code.patch else ""
    return f"   at {code.commit[:12]}{changed}"
