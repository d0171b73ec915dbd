"""`logs`: a run's output, whole, its tail, or live. `run --wait` follows with the same words."""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from taskyard.cli import output
from taskyard.cli.session import (
    FOLLOW_PATIENCE_SECONDS,
    add_attempt,
    add_command,
    add_task,
    find_run,
    find_task,
    open_client,
)
from taskyard.cli.terminal import TerminalFilter
from taskyard.errors import UsageError

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.wire import Run, Task

FIRST_PAUSE_SECONDS = 0.03
LONGEST_PAUSE_SECONDS = 1.0
MOMENT_SECONDS = 2.0
Write = Callable[[bytes, int], None]
"""Takes a piece of a log, and at which byte of it the piece begins."""


def add_parser(subparsers: Any) -> None:
    """Adds `logs`."""
    parser = add_command(subparsers, "logs", "print a task's log", logs)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended")
    parser.add_argument("-n", "--tail", type=int, metavar="N", help="only the last N lines")
    add_attempt(parser)
    add_task(parser)


def logs(namespace: argparse.Namespace) -> None:
    """Prints the log of a task's latest attempt, or of the one asked for."""
    if namespace.tail is not None and namespace.tail < 0:
        raise UsageError("--tail: a number of lines is 0 or more")
    with open_client(namespace) as client:
        task = find_task(client, namespace.task)
        run_id = find_run(task, namespace.attempt)
        write = as_records() if namespace.json else as_it_is(sys.stdout)
        if namespace.follow:
            _follow(client, task, run_id, namespace.tail, write)
        elif run_id is None:
            raise UsageError(f"task {task.id[:8]} has not run yet; follow it with: taskyard logs -f {task.id[:8]}")
        elif namespace.tail is not None:
            tail = client.tail_log(run_id, namespace.tail)
            write(tail.data, tail.offset)
        else:
            for part in client.whole_log(run_id):
                write(part.data, part.offset)


def as_it_is(stream: TextIO) -> Write:
    """Writes the task's bytes to a stream; to a terminal without what that would obey."""
    terminal = TerminalFilter() if stream.isatty() else None

    def write(data: bytes, _offset: int) -> None:
        stream.buffer.write(terminal.feed(data) if terminal else data)
        stream.buffer.flush()

    return write


def as_records() -> Write:
    """Prints each piece as a line of JSON, in the words of the live log: `offset`, and `data` in base64."""
    from taskyard.wire import LogChunk, to_json

    def write(data: bytes, offset: int) -> None:
        chunk = LogChunk(offset=offset, data=base64.b64encode(data).decode())
        print(json.dumps(to_json(chunk)), flush=True)

    return write


def follow_run(client: Client, run_id: str, write: Write, *, offset: int = 0) -> Run:
    """Writes a run's log as it grows and returns the run as it ended."""
    for piece in client.follow_log(run_id, offset=offset, patience_seconds=FOLLOW_PATIENCE_SECONDS):
        if not isinstance(piece, bytes):
            return piece
        write(piece, offset)
        offset += len(piece)
    raise AssertionError("a followed log ends with its run")


def wait_for_run(client: Client, task: Task, *, after: int = 0) -> Task:
    """Waits until the task has a run with a number above `after`, or has ended without one.

    Where that takes more than a moment it says which state the task is in.
    """
    began, pause, said = time.monotonic(), FIRST_PAUSE_SECONDS, None
    while not (task.run and task.run.number > after) and not task.state.terminal and task.state != "draft":
        if said != task.state and time.monotonic() - began > MOMENT_SECONDS:
            said = task.state
            output.note(f"taskyard: {task.id[:8]} is {task.state}; see why with: taskyard explain {task.id[:8]}")
        time.sleep(pause)
        pause = min(1.2 * pause, LONGEST_PAUSE_SECONDS)
        task = client.task(task.id)
    return task


def say_detached(task: Task) -> None:
    """When nobody follows it any more: nothing happened to the task."""
    output.note(f"\nThe task goes on. Follow it again: taskyard logs -f {task.id[:8]}")
    output.note(f"Stop it: taskyard stop {task.id[:8]}")


def _without_a_run(task: Task) -> str:
    if task.state == "draft":
        return f"is a draft; put it into a queue with: taskyard enqueue --queue QUEUE {task.id[:8]}"
    return f"is {task.state} and has never run; see: taskyard story {task.id[:8]}"


def _follow(client: Client, task: Task, run_id: str | None, lines: int | None, write: Write) -> None:
    try:
        if run_id is None:
            task = wait_for_run(client, task)
            if task.run is None:
                raise UsageError(f"task {task.id[:8]} {_without_a_run(task)}")
            run_id = task.run.id
        offset = 0
        if lines is not None:
            tail = client.tail_log(run_id, lines)
            write(tail.data, tail.offset)
            offset = tail.offset + len(tail.data)
        follow_run(client, run_id, write, offset=offset)
    except KeyboardInterrupt:
        say_detached(task)
        raise
