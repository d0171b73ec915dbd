"""`show`, `stop`, `retry`, `edit`, `enqueue`, `dequeue`, `delete`."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from taskyard.cli import changes, guidance, output
from taskyard.cli.session import (
    add_command,
    add_queue,
    add_task,
    confirm,
    find_queue,
    find_task,
    open_client,
)
from taskyard.errors import Refused, TaskyardError, UsageError

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.wire import Command, Policy, Run, Task

COLUMNS = ("ID", "NAME", "STATE", "QUEUE", "WORKER", "CREATED", "TIME", "NOTE")
SHORT_ID = 8


def add_parser(subparsers: Any) -> None:
    """Adds the commands about single tasks."""
    add_task(add_command(subparsers, "show", "show a task whole", show))
    stop_parser = add_command(subparsers, "stop", "end a task's run", stop)
    stop_parser.add_argument("--requeue", action="store_true", help="put it back into its queue")
    add_task(stop_parser, nargs="+")
    add_task(add_command(subparsers, "retry", "run an ended task once more", retry), nargs="+")
    _add_edit(subparsers)
    enqueue_parser = add_command(subparsers, "enqueue", "put drafts at the end of a queue", enqueue)
    add_queue(enqueue_parser, "--queue", required=True)
    add_task(enqueue_parser, nargs="+")
    add_task(add_command(subparsers, "dequeue", "take tasks out of their queue", dequeue), nargs="+")
    delete_parser = add_command(subparsers, "delete", "remove tasks with their runs and logs", delete)
    delete_parser.add_argument("--yes", action="store_true", help="do not ask")
    add_task(delete_parser, nargs="+")


def _add_edit(subparsers: Any) -> None:
    edit_parser = add_command(subparsers, "edit", "change a draft", edit)
    add_task(edit_parser)
    changes.add_flags(edit_parser, of_draft=True)
    edit_parser.add_argument("--project", help="its project")


# --- handlers


def show(namespace: argparse.Namespace) -> None:
    """Prints one task whole, with the names of what its latest run keeps."""
    from taskyard.cli import artifacts
    from taskyard.wire import to_json

    with open_client(namespace) as client:
        task = find_task(client, namespace.task)
        kept = client.artifacts(task.run.id).artifacts if task.run and task.run.outputs else ()
    if namespace.json:
        output.print_json({**to_json(task), "artifacts": kept})
        return
    output.print_fields(
        [*_about(task), *(_about_run(task.run) if task.run else []), *artifacts.in_fields(task, kept)]
    )
    output.print_next(guidance.next_commands(task))


def stop(namespace: argparse.Namespace) -> None:
    """Asks for the end of each task's run."""
    _each(namespace, lambda client, task: client.stop_task(task.id, requeue=namespace.requeue))


def retry(namespace: argparse.Namespace) -> None:
    """Enqueues each ended task again."""
    _each(namespace, lambda client, task: client.retry_task(task.id))


def dequeue(namespace: argparse.Namespace) -> None:
    """Takes each task out of its queue."""
    _each(namespace, lambda client, task: client.dequeue(task.id))


def enqueue(namespace: argparse.Namespace) -> None:
    """Puts all of the tasks into a queue, or none."""
    with open_client(namespace) as client:
        queue = find_queue(client, namespace.queue)
        tasks = [find_task(client, ref) for ref in namespace.task]
        print_changed(namespace, client.enqueue_all(queue.id, [task.id for task in tasks]))


def delete(namespace: argparse.Namespace) -> None:
    """Removes tasks, asked for on a terminal."""
    with open_client(namespace) as client:
        tasks = [find_task(client, ref) for ref in namespace.task]
        names = ", ".join(f"{short(task)} {output.clean(task.spec.name)}".strip() for task in tasks)
        confirm(f"Delete {names} with logs?", yes=namespace.yes, otherwise="nothing was deleted")
        deleted, refusals = _apply(lambda task: _deleted(client, task), tasks)
    if namespace.json:
        output.print_json(deleted)
    _raise(refusals)


def _deleted(client: Client, task: Task) -> Task:
    client.delete_task(task.id)
    return task


def edit(namespace: argparse.Namespace) -> None:
    """Changes a draft by flags."""
    from taskyard.cli.clone import say_what_differs
    from taskyard.wire import TaskChanges

    with open_client(namespace) as client:
        task = find_task(client, namespace.task)
        wanted = changes.changes(namespace, task)
        if wanted == TaskChanges():
            raise UsageError(f"say what to change, like: taskyard edit {shlex.quote(namespace.task)} --set lr=0.1")
        changed = client.change_task(task.id, wanted)
    say_what_differs(task, changed)
    print_changed(namespace, [changed])


# --- what is shown


def short(task: Task) -> str:
    """The part of the id that people use."""
    return task.id[:SHORT_ID]


def note(task: Task) -> str:
    """Why it ended or waits, in a word or two."""
    run = task.run
    if run and run.cancel_requested_at and run.outcome is None:
        return "stopping"
    if run and run.unresponsive:
        return "worker is silent"
    if run is None or run.outcome is None or task.state in ("draft", "queued", "waiting"):
        return f"attempt {run.number + 1}" if run and task.state in ("queued", "waiting") else ""
    outcome = run.outcome
    words = {
        "exit": f"exit {outcome.exit_code}" if outcome.exit_code else "",
        "signal": f"signal {outcome.signal}",
        "cancelled": "",
    }
    return words.get(outcome.why, str(outcome.why))


def run_seconds(run: Run | None) -> float | None:
    """How long user code has run, or ran."""
    if run is None or run.started_at is None:
        return None
    return (run.ended_at or time.time()) - run.started_at


def _row(task: Task) -> tuple[object, ...]:
    worker = task.run.worker if task.run and task.state not in ("draft", "queued", "waiting") else ""
    return (
        short(task),
        task.spec.name,
        task.state,
        task.queue or "",
        worker,
        output.ago(task.created_at),
        output.duration(run_seconds(task.run)),
        note(task),
    )


def _patience(policy: Policy) -> float | None:
    """How long it waits for a host; None where that is the usual time."""
    usual = type(policy)().give_up_after_seconds
    return None if policy.give_up_after_seconds == usual else policy.give_up_after_seconds


def _about(task: Task) -> list[tuple[str, object]]:
    from taskyard.asking import container_in_words, in_words
    from taskyard.cli.plan import changed_words
    from taskyard.wire import as_text, typed_parameters

    spec = task.spec
    return [
        ("id", task.id),
        ("name", spec.name),
        ("project", spec.project),
        ("description", spec.description),
        ("tags", ", ".join(spec.tags)),
        ("state", task.state),
        ("note", note(task)),
        ("queue", task.queue),
        ("created", f"{output.moment(task.created_at)} by {task.created_by}"),
        ("parent", task.parent),
        ("command", output.command_line(_really_run(task))),
        ("set", changed_words(_really_run(task), spec.command.typed or spec.command.args) or None),
        ("folder", spec.code.working_dir),
        ("repository", spec.code.repository),
        ("commit", _commit(task)),
        ("environment", " ".join(filter(None, (spec.environment.manager, spec.environment.python)))),
        ("requirements", spec.environment.path or " ".join(spec.environment.packages) or None),
        ("container", container_in_words(spec.container) if spec.container else None),
        ("asks for", in_words(spec.resources)),
        ("retries", spec.policy.retries or None),
        ("timeout", output.duration(spec.policy.timeout_seconds)),
        ("idle gpu", output.duration(spec.policy.max_idle_gpu_seconds)),
        ("gives up after", output.duration(_patience(spec.policy))),
        *(
            (f"{section}/{name}", as_text(value))
            for section, pairs in typed_parameters(spec).items()
            for name, value in pairs.items()
        ),
        *((f"env {name}", value) for name, value in spec.env.items()),
        ("secrets", ", ".join(spec.secrets)),
        ("keeps", ", ".join(spec.outputs)),
    ]


def _really_run(task: Task) -> Command:
    """The command as it will run; of a task whose line its agent writes, as it last ran."""
    command = task.spec.command
    started = task.run.command_line if task.run else ()
    count = len(started) - started.index(command.target) - 1 if command.target in started else 0
    args = tuple(started[-count:]) if count and not command.written else command.args
    return dataclasses.replace(command, args=args)


def _commit(task: Task) -> str | None:
    code = task.spec.code
    if code.commit is None:
        return None
    return f"{code.commit[:12]}{' + changes' if code.diff or code.patch else ''}"


def _about_run(run: Run) -> list[tuple[str, object]]:
    outcome = run.outcome
    return [
        ("run", run.id),
        ("worker", run.worker),
        ("phase", None if outcome else run.phase),
        ("started", output.moment(run.started_at)),
        ("ended", output.moment(run.ended_at)),
        ("ran for", output.duration(run_seconds(run))),
        ("outcome", f"{outcome.kind} ({outcome.why}) in phase {outcome.phase}" if outcome else None),
        ("exit code", outcome.exit_code if outcome else None),
        ("message", outcome.message if outcome else None),
        ("devices", ", ".join(run.gpus)),
        ("python", run.python),
        ("log", output.size(run.log_bytes) if run.log_bytes is not None else None),
    ]


# --- parts


def _each(namespace: argparse.Namespace, change: Any) -> None:
    """Applies a change to each task; the names are all looked up before the first one changes."""
    with open_client(namespace) as client:
        tasks = [find_task(client, ref) for ref in namespace.task]
        changed, refusals = _apply(lambda task: change(client, task), tasks)
    print_changed(namespace, changed)
    _raise(refusals)


def _apply(change: Callable[[Task], Task], tasks: list[Task]) -> tuple[list[Task], list[TaskyardError]]:
    """What became of the tasks that could be changed, and why the others could not.

    A refusal concerns its own task; when the server is away, those that are left are not tried.
    """
    changed: list[Task] = []
    refusals: list[TaskyardError] = []
    for number, task in enumerate(tasks):
        try:
            changed.append(change(task))
        except Refused as error:
            refusals.append(error)
        except TaskyardError as error:
            left = " ".join(map(short, tasks[number:]))
            return changed, [*refusals, TaskyardError(f"{error}; not changed: {left}")]
    return changed, refusals


def _raise(refusals: list[TaskyardError]) -> None:
    """Says all of them, the last one as the command's own error."""
    for error in refusals[:-1]:
        output.note(f"taskyard: {error}")
    if refusals:
        raise refusals[-1]


def print_changed(namespace: argparse.Namespace, tasks: list[Task]) -> None:
    """Print tasks as they are after a change, as `ps` lists them."""
    if namespace.json:
        output.print_json(tasks)
    else:
        output.print_table(COLUMNS, map(_row, tasks))
    for task in tasks:
        if task.dropped_secrets:
            names = output.clean(", ".join(task.dropped_secrets))
            output.note(
                f"{short(task)} lost the secrets {names}: their values are for what"
                f" {output.clean(task.created_by)} enqueues; give your own with `taskyard edit --secret NAME`"
            )
