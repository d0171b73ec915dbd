"""`run`: plans a task from what stands in this folder, submits it, and follows it where that is asked for."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskyard.cli import changes, output, plan
from taskyard.cli.logs import Write, as_it_is, follow_run, say_detached, wait_for_run
from taskyard.cli.session import (
    Declined,
    add_command,
    confirm,
    find_queue,
    open_client,
    remember_task,
    submitted_once,
)
from taskyard.cli.settings import RUN_SETTINGS
from taskyard.config import add_settings, find_project_file, resolve, user_file, user_folder, usual_server
from taskyard.errors import TaskyardError, UsageError

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.submission import Wanted
    from taskyard.wire import Outcome, Task

LINES_OF_FAILURE = 60


def add_parser(subparsers: Any) -> None:
    """Adds `run`."""
    parser = add_command(
        subparsers,
        "run",
        "run a command on one of your machines",
        run,
        usage="taskyard run [options] -- COMMAND …\n       taskyard run [options] JOB [options] [-- ARGUMENT …]",
    )
    add_settings(parser, RUN_SETTINGS)
    changes.add_flags(parser, of_run=True)
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
    parser.add_argument("--list", action="store_true", help="list the jobs of the repository's taskyard.toml")
    parser.add_argument(
        "rest",
        nargs=argparse.REMAINDER,
        metavar="COMMAND",
        help="python train.py --lr 0.01, or the name of a job in taskyard.toml",
    )
    parser.set_defaults(job=None)


def run(namespace: argparse.Namespace) -> int:
    """Submits the command; with `--wait` returns what the command returned."""
    from taskyard import exit_codes

    if namespace.list:
        from taskyard.cli import jobs

        jobs.show(namespace)
        return 0
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
    """Submit the task, or all of its variants; returns the first."""
    from taskyard.submission import prepare, require_outputs, submit_all
    from taskyard.wire import NewTask

    job = namespace.job
    settings = resolve(
        RUN_SETTINGS,
        namespace,
        project_file=find_project_file(Path.cwd()),
        user_file=user_file(),
        preset=job.settings if job else None,
        preset_origin=str(job.file) if job else "",
    )
    wanted = _wanted(namespace, settings)
    queue = find_queue(client, settings["queue"])
    if wanted.outputs:
        require_outputs(client)
    with prepare(wanted, memory=user_folder()) as prepared:
        explained = client.explain_new(NewTask(spec=replace(prepared.spec, secrets=()), queue=queue.id))
        for line in [
            *plan.server(client.server, usual_server()),
            *plan.plan(prepared, queue, explained),
            *plan.variants(prepared, wanted.grid),
        ]:
            output.note(line, indent=plan.INDENT)
        questions = [*plan.unusual(prepared, queue, explained), *plan.secrets_of(job)]
        if questions:
            sentence = f"{'; '.join(questions)}. Submit it?"
            confirm(sentence, yes=namespace.yes, otherwise="nothing was submitted")
        with submitted_once(len(prepared.specs), client.server, queue.id, prepared.specs) as ids:
            tasks = submit_all(client, prepared, ids, queue=queue.id)
    remember_task(client.server, tasks[0].id)
    if wanted.grid:
        _print_variants(tasks, namespace)
    else:
        _print_submitted(tasks[0], namespace)
    return tasks[0]


def _wanted(namespace: argparse.Namespace, settings: Any) -> Wanted:
    from taskyard import asking, variants
    from taskyard.submission import Wanted, read_command
    from taskyard.wire import Environment, Manager, Policy, Resources

    if not namespace.rest:
        raise UsageError("say what to run, like: taskyard run -- python train.py --lr 0.01; --list shows the jobs")
    if namespace.grid and namespace.wait:
        raise UsageError(
            "--wait follows one run, and --grid makes several; leave --wait out, then: taskyard ps -w"
        )
    command, python = read_command(namespace.rest)
    asked = changes.asked(namespace)
    return Wanted(
        command=command,
        folder=namespace.job.folder if namespace.job else Path.cwd(),
        name=namespace.name or "",
        project=settings["project"],
        description=namespace.description or "",
        tags=tuple(namespace.tag),
        resources=asking.resources(asked, Resources()),
        container=asking.container(asked, None),
        policy=changes.policy(
            namespace, asking.policy(asking.AskedPolicy(give_up_after=settings["give_up_after"]), Policy())
        ),
        python=settings["python"] or python,
        packages=tuple(namespace.package),
        requirements=namespace.requirements,
        manager=None if settings["manager"] == "auto" else Manager(settings["manager"]),
        added_packages=tuple(asked.with_packages),
        torch_backend=asking.environment(replace(asked, with_packages=()), Environment()).torch_backend,
        parameters=changes.settings_of(namespace.set),
        grid=variants.read_grid(namespace.grid),
        env=changes.assignments(namespace.env, "--env"),
        secret_values=changes.secrets(namespace.secret),
        include=tuple(namespace.include),
        ship_code=namespace.ship_code,
        outputs=asking.outputs(namespace.output),
    )


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


def _print_variants(tasks: list[Task], namespace: argparse.Namespace) -> None:
    """One line for each: its id and its name."""
    if namespace.json:
        output.print_json(tasks)
        return
    for task in tasks:
        print(f"{task.id}\t{output.clean(task.spec.name)}")
    output.note(f"taskyard ps --match {shlex.quote(tasks[0].spec.name.partition(' ')[0])}    lists them")


def _wait(client: Client, task: Task, namespace: argparse.Namespace) -> int:
    """Follows the task to its end; a record of it on standard output leaves standard error to its log."""
    folder = namespace.job.folder if namespace.job else Path.cwd()
    code, task = _follow(client, task, as_it_is(sys.stderr if namespace.json else sys.stdout), folder)
    if namespace.json:
        output.print_json(task)
    return code


def _say_what_was_not_sent(client: Client, task: Task, folder: Path) -> None:
    """Name files that a failed run lacked, and that are here but stay out of what is sent."""
    from taskyard.cli.missing_files import left_here

    if task.run is None or task.state != "failed":
        return
    for path in left_here(client.tail_log(task.run.id, LINES_OF_FAILURE).data.decode(errors="replace"), folder):
        name = output.clean(shlex.quote(path))
        output.note(f"taskyard: {output.clean(path)} is here, but git ignores it; to send it: --include {name}")


def _follow(client: Client, task: Task, write: Write, folder: Path) -> tuple[int, Task]:
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
                code = _explained(ended.outcome, task)
                _say_what_was_not_sent(client, task, folder)
                return code, task
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
    """Of a message in many lines, such as an installer's, the first: the log has the others."""
    if outcome is None:
        return "without an outcome"
    if outcome.reason == "exit":
        return f"exit code {outcome.exit_code}"
    if outcome.reason == "signal":
        return f"signal {outcome.signal}"
    first = (outcome.message or "").partition("\n")[0].rstrip(":")
    return output.clean(f"{outcome.why}: {first}" if first else outcome.why)
