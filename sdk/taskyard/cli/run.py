"""`run`: plans a task from what stands in this folder, submits it, and follows it where that is asked for."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskyard.cli import changes, output
from taskyard.cli.logs import Write, as_it_is, follow_run, say_detached, wait_for_run
from taskyard.cli.session import Declined, add_command, confirm, find_queue, open_client, remember_task
from taskyard.cli.settings import RUN_SETTINGS
from taskyard.config import add_settings, find_project_file, resolve, user_file, user_folder
from taskyard.errors import TaskyardError, UsageError

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.submission import Prepared, Wanted
    from taskyard.wire import Command, Container, Outcome, Queue, Task, TaskSpec, Worker

LARGE_UPLOAD_BYTES = 10_000_000
SHOWN_FILES = 3
PLAN_INDENT = 14
SHOWN_PACKAGES = 8


def add_parser(subparsers: Any) -> None:
    """Adds `run`."""
    parser = add_command(
        subparsers,
        "run",
        "run a command on one of your machines",
        run,
        usage="taskyard run [options] -- COMMAND …",
    )
    add_settings(parser, RUN_SETTINGS)
    changes.add_flags(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--requirements", type=Path, metavar="FILE", help="the file that says what to install")
    source.add_argument(
        "--package", nargs="+", action="extend", default=[], metavar="P", help="packages to install instead"
    )
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="GLOB",
        help="send these files, too, though they are ignored or look secret",
    )
    parser.add_argument("--ship-code", action="store_true", help="send the whole tree, not what the remote lacks")
    parser.add_argument("--yes", action="store_true", help="never ask")
    parser.add_argument("--wait", action="store_true", help="follow it, and exit as it does")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="COMMAND", help="python train.py --lr 0.01")


def run(namespace: argparse.Namespace) -> int:
    """Submits the command; with `--wait` returns what the command returned."""
    from taskyard import exit_codes

    try:
        with open_client(namespace) as client:
            task = _submit(client, namespace)
            return _wait(client, task, namespace) if namespace.wait else 0
    except (TaskyardError, OSError) as error:
        if not namespace.wait or _is_not_ours(error):
            raise
        output.note(f"taskyard: {output.trouble(error)}")
        return exit_codes.TASKYARD


def _is_not_ours(error: TaskyardError | OSError) -> bool:
    """Whether it is the person's doing, or that of who reads the log, and no failure of Taskyard's."""
    if isinstance(error, TaskyardError):
        return error.mistake or isinstance(error, Declined)
    return isinstance(error, BrokenPipeError)


def _submit(client: Client, namespace: argparse.Namespace) -> Task:
    from taskyard.submission import prepare, submit_prepared

    settings = resolve(RUN_SETTINGS, namespace, project_file=find_project_file(Path.cwd()), user_file=user_file())
    wanted = _wanted(namespace, settings)
    queue = find_queue(client, settings["queue"])
    with prepare(wanted, memory=user_folder()) as prepared:
        workers = client.workers()
        for line in plan(prepared, queue, workers):
            output.note(line, indent=PLAN_INDENT)
        questions = unusual(prepared, queue, workers)
        if questions:
            sentence = f"{'; '.join(questions)}. Submit it?"
            confirm(sentence, yes=namespace.yes, otherwise="nothing was submitted")
        task = submit_prepared(client, prepared, queue=queue.id)
    remember_task(client.server, task.id)
    _print_submitted(task, namespace)
    return task


def _wanted(namespace: argparse.Namespace, settings: Any) -> Wanted:
    from taskyard import asking
    from taskyard.submission import Wanted, read_command
    from taskyard.wire import Environment, Manager, Policy, Resources

    if not namespace.rest:
        raise UsageError("say what to run, like: taskyard run -- python train.py --lr 0.01")
    command, python = read_command(namespace.rest)
    asked = changes.asked(namespace)
    return Wanted(
        command=command,
        folder=Path.cwd(),
        name=namespace.name or "",
        project=settings["project"],
        description=namespace.description or "",
        tags=tuple(namespace.tag),
        resources=asking.resources(asked, Resources()),
        container=asking.container(asked, None),
        policy=changes.policy(namespace, Policy()),
        python=settings["python"] or python,
        packages=tuple(namespace.package),
        requirements=namespace.requirements,
        manager=None if settings["manager"] == "auto" else Manager(settings["manager"]),
        torch_backend=asking.environment(asked, Environment()).torch_backend,
        parameters=changes.assignments(namespace.set, "--set", any_name=True),
        env=changes.assignments(namespace.env, "--env"),
        secret_values=changes.secrets(namespace.secret),
        include=tuple(namespace.include),
        ship_code=namespace.ship_code,
    )


# --- the plan


def plan(prepared: Prepared, queue: Queue, workers: list[Worker]) -> Iterator[str]:
    """What will be done, line by line."""
    from taskyard.asking import in_words

    spec, summary = prepared.spec, prepared.snapshot.summary
    manager = spec.environment.manager
    yield f"command       {output.command_line(_effective(spec))}{_where(spec.code.working_dir)}"
    yield f"code          {_source(prepared)}"
    yield f"changes       {_changes(prepared)}"
    if summary.left_out:
        names = ", ".join(summary.left_out[:SHOWN_FILES])
        more = f" and {len(summary.left_out) - SHOWN_FILES} more" if len(summary.left_out) > SHOWN_FILES else ""
        yield f"left out      {output.clean(names)}{more} (may be secret; --include GLOB sends it)"
    if summary.included:
        yield f"included      {output.clean(', '.join(summary.included))}"
    yield f"requirements  {_needs(prepared)}"
    yield from (f"              {output.clean(remark)}" for remark in prepared.needs.notes)
    version = prepared.python.version or "the agent's own"
    made = "with what is installed there" if manager == "inherit" else f"built by {manager}"
    yield f"python        {version} ({output.clean(prepared.python.origin)}), {made}"
    if spec.container is not None:
        yield f"container     {output.clean(_inside(spec.container))}"
    asks = in_words(spec.resources)
    if asks:
        yield f"asks for      {output.clean(asks)}"
    yield f"queue         {_place(queue)}"
    yield from _fitting(prepared, queue, workers)


def unusual(prepared: Prepared, queue: Queue, workers: list[Worker]) -> list[str]:
    """What a person should have seen before it is submitted."""
    summary = prepared.snapshot.summary
    found = []
    if summary.first_upload and summary.untracked:
        count, size = len(summary.untracked), output.size(summary.untracked_bytes)
        found.append(f"{count} untracked file{'s' * (count > 1)} ({size}) will be uploaded for the first time")
    if summary.upload_bytes > LARGE_UPLOAD_BYTES:
        found.append(f"{output.size(summary.upload_bytes)} will be uploaded")
    if not any(_misfit(worker, queue, prepared.spec) is None for worker in workers):
        found.append(f"no worker can take it from {queue.name!r} now")
    return found


def _effective(spec: TaskSpec) -> Command:
    """The command with the parameters that `--set` changed, as the script will see it."""
    from taskyard.arguments import write_back
    from taskyard.submission import ARGUMENTS_SECTION

    args = write_back(spec.command.args, spec.parameters.get(ARGUMENTS_SECTION, {}))
    return dataclasses.replace(spec.command, args=args)


def _where(folder: str) -> str:
    return "" if folder == "." else f"   in {output.clean(folder)}"


def _source(prepared: Prepared) -> str:
    summary = prepared.snapshot.summary
    where = output.clean(summary.repository or prepared.snapshot.root)
    if prepared.spec.code.archive:
        return f"{where} as an archive, without git"
    if summary.commit is None:
        return f"{where}, without a commit yet, sent whole"
    branch = f" ({output.clean(summary.branch)})" if summary.branch else ""
    whole = ", sent whole" if summary.whole else ""
    return f"{where}@{summary.commit[:12]}{branch}{whole}"


def _changes(prepared: Prepared) -> str:
    summary = prepared.snapshot.summary
    counts = {word: getattr(summary, word) for word in ("new", "modified", "deleted", "renamed")}
    words = [f"{count} {word}" for word, count in counts.items() if count]
    if summary.untracked:
        largest = ", ".join(
            f"{output.clean(file.path)} {output.size(file.size)}" for file in summary.untracked[:SHOWN_FILES]
        )
        more = ", …" if len(summary.untracked) > SHOWN_FILES else ""
        words.append(
            f"{len(summary.untracked)} of them untracked, {output.size(summary.untracked_bytes)}: {largest}{more}"
        )
    upload = f"; {output.size(summary.upload_bytes)} to upload" if summary.upload_bytes else ""
    return (", ".join(words) or "none") + upload


def _needs(prepared: Prepared) -> str:
    packages = prepared.spec.environment.packages
    shown = ", ".join(packages[:SHOWN_PACKAGES]) + (", …" if len(packages) > SHOWN_PACKAGES else "")
    build = prepared.spec.environment.torch_backend
    torch = f"; PyTorch's build: {build}" if build != "auto" else ""
    return output.clean(f"{prepared.needs.origin}{f': {shown}' if packages else ''}{torch}")


def _inside(container: Container) -> str:
    """The image, and what is added to it."""
    added = [f"apt {' '.join(container.apt)}"] if container.apt else []
    added += ["a setup script"] if container.setup_script else []
    added += [shlex.join(container.args)] if container.args else []
    return "; ".join([container.image or "the agent's default image", *added])


def _place(queue: Queue) -> str:
    wait = queue.estimated_wait_seconds
    guess = f", about {output.duration(wait)} to wait" if wait else ""
    paused = ", which is paused" if queue.paused else ""
    return f"{output.clean(queue.name)}{paused}, {queue.waiting} before it{guess}"


def _fitting(prepared: Prepared, queue: Queue, workers: list[Worker]) -> Iterator[str]:
    """The workers that can take it, and why the other ones of its queue cannot."""
    workers = [worker for worker in workers if worker.parent is None]
    fitting = [worker for worker in workers if _misfit(worker, queue, prepared.spec) is None]
    names = ", ".join(output.clean(worker.name) for worker in fitting)
    yield f"workers       {names or 'none that can take it now'}"
    for worker in workers:
        reason = _misfit(worker, queue, prepared.spec)
        if reason and queue.name in worker.queues:
            yield f"              {output.clean(worker.name)} cannot: {reason}"
    if not any(queue.name in worker.queues for worker in workers):
        name = shlex.quote(output.clean(queue.name))
        yield f"              start one with: taskyard agent daemon --queue {name}"


def _misfit(worker: Worker, queue: Queue, spec: TaskSpec) -> str | None:
    """Why the worker cannot take it; None when it can."""
    if queue.name not in worker.queues or worker.parent is not None:
        return f"does not watch {queue.name}"
    if worker.state in ("stopped", "lost", "draining", "paused"):
        return f"{worker.state} {worker.paused_reason}".strip()
    return _lacking(worker, spec)


def _lacking(worker: Worker, spec: TaskSpec) -> str | None:
    """What it will never have; what is only taken just now, `taskyard explain` says."""
    from taskyard.wire import CONTAINER_LABEL

    asks, total = spec.resources, worker.total
    if spec.container is not None and CONTAINER_LABEL not in worker.labels:
        return "runs no containers"
    if asks.worker not in (None, worker.name):
        return f"it is for {asks.worker}"
    for name, value in asks.requires.items():
        if worker.labels.get(name) != value:
            return f"has not the label {output.clean(name)}={output.clean(value)}"
    if asks.gpus is not None and asks.gpus > len(worker.gpus):
        return f"has {len(worker.gpus)} GPUs"
    if (asks.gpu_memory_bytes or 0) > max(total.gpu_memory_bytes, default=0):
        return "shares no GPU with so much memory"
    if total.memory_bytes is not None and (asks.memory_bytes or 0) > total.memory_bytes:
        return f"has {output.size(total.memory_bytes)} of memory"
    for name, amount in asks.custom.items():
        if amount > total.custom.get(name, 0):
            return f"has {total.custom.get(name, 0):g} of {output.clean(name)}"
    return None


# --- afterwards


def _print_submitted(task: Task, namespace: argparse.Namespace) -> None:
    short = task.id[:8]
    if namespace.json and not namespace.wait:
        output.print_json(task)
        return
    print(task.id, file=sys.stderr if namespace.wait else sys.stdout, flush=True)
    if not namespace.wait:
        output.note(f"taskyard logs -f {short}    follows it\ntaskyard explain {short}    says why it waits")
        output.note(f"taskyard stop {short}       ends it")


def _wait(client: Client, task: Task, namespace: argparse.Namespace) -> int:
    """Follows the task to its end; a record of it on standard output leaves standard error to its log."""
    code, task = _follow(client, task, as_it_is(sys.stderr if namespace.json else sys.stdout))
    if namespace.json:
        output.print_json(task)
    return code


def _follow(client: Client, task: Task, write: Write) -> tuple[int, Task]:
    """Writes the log of every attempt until the task has ended; returns its exit code, and the task."""
    from taskyard import exit_codes

    number = 0
    try:
        while True:
            task = wait_for_run(client, task, after=number)
            if task.run is None or task.run.number <= number:
                break
            number = task.run.number
            ended = follow_run(client, task.run.id, write)
            task = client.task(task.id)
            if task.state.terminal or task.state == "draft":
                return _explained(ended.outcome, task), task
            output.note(
                f"taskyard: attempt {number} ended ({_words(ended.outcome)}); the task is {task.state} again"
            )
    except KeyboardInterrupt:
        say_detached(task)
        return exit_codes.CANCELLED, task
    except BrokenPipeError:
        say_detached(task)
        raise
    return _explained(task.run.outcome if task.run else None, task), task


def _explained(outcome: Outcome | None, task: Task) -> int:
    """Says in a line how it ended, unless it ended well, and returns the exit code."""
    code = exit_code(outcome, task)
    if code:
        output.note(f"taskyard: {task.id[:8]} {task.state}: {_words(outcome)}; see: taskyard story {task.id[:8]}")
    return code


def exit_code(outcome: Outcome | None, task: Task) -> int:
    """That of its outcome, unless the task was taken back."""
    from taskyard import exit_codes

    return exit_codes.CANCELLED if task.state in ("cancelled", "draft") else exit_codes.exit_code(outcome)


def _words(outcome: Outcome | None) -> str:
    if outcome is None:
        return "without an outcome"
    if outcome.reason == "exit":
        return f"exit code {outcome.exit_code}"
    if outcome.reason == "signal":
        return f"signal {outcome.signal}"
    return output.clean(f"{outcome.reason}: {outcome.message}" if outcome.message else outcome.reason)
