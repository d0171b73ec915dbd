"""`workers [list|show|resume|delete]`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from taskyard.cli import output
from taskyard.cli.session import add_command, open_client
from taskyard.errors import NotFound, UsageError

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.wire import Worker

COLUMNS = ("NAME", "STATE", "QUEUES", "GPUS", "RUN", "SEEN", "DONE", "FAILED", "NOTE")
VERBS = ("list", "show", "resume", "delete")


def add_parser(subparsers: Any) -> None:
    """Adds `workers`; without a verb it lists them."""
    parser = add_command(subparsers, "workers", "list, show, resume or delete workers", workers)
    parser.add_argument("verb", nargs="?", choices=VERBS, default="list", help="default: list")
    parser.add_argument("name", nargs="?", metavar="NAME", help="a worker's name")


def workers(namespace: argparse.Namespace) -> None:
    """Carries out the verb."""
    if (namespace.name is None) != (namespace.verb == "list"):
        raise UsageError("`taskyard workers` lists all; show, resume and delete take one name")
    with open_client(namespace) as client:
        if namespace.verb == "list":
            _list(namespace, client.workers())
            return
        try:
            _one(namespace, client)
        except NotFound as error:
            raise UsageError(f"no worker is called {namespace.name!r}; `taskyard workers` lists them") from error


def _list(namespace: argparse.Namespace, found: list[Worker]) -> None:
    if namespace.json:
        output.print_json(found)
    else:
        output.print_table(COLUMNS, map(_row, found), empty="no workers; start one with: taskyard agent daemon")


def _one(namespace: argparse.Namespace, client: Client) -> None:
    worker = client.resume_worker(namespace.name) if namespace.verb == "resume" else client.worker(namespace.name)
    if namespace.verb == "delete":
        client.delete_worker(namespace.name)
    if namespace.json:
        output.print_json(worker)
    elif namespace.verb != "delete":
        output.print_fields(_about(worker))


def _row(worker: Worker) -> tuple[object, ...]:
    return (
        worker.name,
        worker.state,
        " ".join(worker.queues),
        len(worker.gpus) or "",
        " ".join(run[:8] for run in worker.runs[:3]),
        output.ago(worker.last_seen_at),
        worker.completed,
        worker.failed,
        worker.paused_reason,
    )


def _about(worker: Worker) -> list[tuple[str, object]]:
    gpus = [f"{gpu.index}: {gpu.name} {output.size(gpu.memory_bytes)}" for gpu in worker.gpus]
    return [
        ("name", worker.name),
        ("state", worker.state),
        ("paused because", worker.paused_reason),
        ("agent", worker.agent),
        ("host", worker.host),
        ("queues", " ".join(worker.queues)),
        *(("gpu", gpu) for gpu in gpus),
        ("runs", " ".join(worker.runs)),
        ("seen", output.ago(worker.last_seen_at)),
        ("since", output.moment(worker.registered_at)),
        ("version", worker.version),
        ("completed", worker.completed),
        ("failed", worker.failed),
        ("machine's failures in a row", worker.infrastructure_failures or None),
    ]
