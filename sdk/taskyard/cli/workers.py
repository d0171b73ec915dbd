"""`workers [list|show|drain|pause|resume|delete]`; `worker` is the same."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
from typing import TYPE_CHECKING, Any

from taskyard.asking import size_in_words
from taskyard.cli import output
from taskyard.cli.session import add_command, open_client
from taskyard.errors import UsageError

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.wire import GpuRange, Worker

COLUMNS = ("NAME", "STATE", "QUEUES", "GPUS", "RUN", "SEEN", "DONE", "FAILED", "NOTE")
SHOWN_RUNS = 2
MANY_SLOTS = 10_000
"""So many that nobody counts them: services mode without a number."""
VERBS = ("list", "show", "drain", "pause", "resume", "delete")


def add_parser(subparsers: Any) -> None:
    """Adds `workers`, which is `worker` too; without a verb it lists them."""
    for name in ("workers", "worker"):
        text = "list, show, drain, pause, resume or delete workers" if name == "workers" else "the same as workers"
        parser = add_command(subparsers, name, text, workers)
        parser.add_argument("verb", nargs="?", choices=VERBS, default="list", help="default: list")
        parser.add_argument("names", nargs="*", metavar="NAME", help="a worker's name, or a pattern like 'pool:*'")
        parser.add_argument("--reason", metavar="TEXT", help="why it is paused, for those who wonder")


def workers(namespace: argparse.Namespace) -> None:
    """Carries out the verb."""
    if bool(namespace.names) == (namespace.verb == "list"):
        raise UsageError("`taskyard workers` lists all; the other verbs take names, or a pattern like 'pool:*'")
    if namespace.reason is not None and namespace.verb != "pause":
        raise UsageError("--reason belongs to `taskyard worker pause NAME`")
    with open_client(namespace) as client:
        there = client.workers()
        if namespace.verb == "list":
            _list(namespace, there)
            return
        names = _meant(namespace.names, there)
        found = [_told(name, namespace, client) for name in names]
        _show(namespace, found, as_one=names == namespace.names[:1])


def _meant(given: list[str], there: list[Worker]) -> list[str]:
    """The names that are given, and those that patterns fit. Raises UsageError for one that is nobody's."""
    return list(dict.fromkeys(name for text in given for name in _fitting(text, there)))


def _fitting(text: str, there: list[Worker]) -> list[str]:
    """A pattern leaves the places of a worker's tasks out: they go as the worker goes."""
    names = [worker.name for worker in there]
    if text in names:
        return [text]
    found = [one.name for one in there if one.parent is None and fnmatch.fnmatchcase(one.name, text)]
    if not found:
        of_pool = [name for name in names if name.startswith(f"{text}:")]
        also = f"; there is {', '.join(of_pool)}: name them, or '{text}:*'" if of_pool else ""
        raise UsageError(f"no worker is called {text!r}{also or '; `taskyard workers` lists them'}")
    return found


def _list(namespace: argparse.Namespace, found: list[Worker]) -> None:
    if namespace.json:
        output.print_json(found)
    else:
        rows = map(_row, _below_their_parents(found))
        output.print_table(COLUMNS, rows, empty="no workers; start one with: taskyard agent daemon")


def _below_their_parents(found: list[Worker]) -> list[Worker]:
    """Each worker, then the places of its tasks; a place whose worker is gone stands last."""
    names = {worker.name for worker in found}
    roots = [worker for worker in found if worker.parent not in names]
    return [one for root in roots for one in (root, *(worker for worker in found if worker.parent == root.name))]


def _show(namespace: argparse.Namespace, found: list[Worker], *, as_one: bool) -> None:
    """One that was named by itself in full, several as a table."""
    if namespace.json:
        output.print_json(found[0] if as_one else found)
    elif namespace.verb == "delete":
        return
    elif as_one:
        output.print_fields(_about(found[0]))
    else:
        _list(namespace, found)


def _told(name: str, namespace: argparse.Namespace, client: Client) -> Worker:
    """The worker, after it was told what the verb says."""
    if namespace.verb == "drain":
        return client.drain_worker(name)
    if namespace.verb == "pause":
        return client.pause_worker(name, namespace.reason or "")
    if namespace.verb == "resume":
        return client.resume_worker(name)
    worker = client.worker(name)
    if namespace.verb == "delete":
        client.delete_worker(name)
    return worker


def _row(worker: Worker) -> tuple[object, ...]:
    return (
        f"  {worker.name}" if worker.parent else worker.name,
        worker.state,
        " ".join(worker.queues),
        len(worker.gpus) or "",
        _runs(worker),
        output.ago(worker.last_seen_at),
        worker.completed,
        worker.failed,
        worker.paused_reason or ("told to end" if worker.drain_requested else ""),
    )


def _runs(worker: Worker) -> str:
    more = len(worker.runs) - SHOWN_RUNS
    named = " ".join(run[:8] for run in worker.runs[:SHOWN_RUNS])
    return f"{named} +{more}" if more > 0 else named


def _about(worker: Worker) -> list[tuple[str, object]]:
    gpus = [f"{gpu.index}: {gpu.name} {size_in_words(gpu.memory_bytes)}" for gpu in worker.gpus]
    counters = worker.counters
    return [
        ("name", worker.name),
        ("place of", worker.parent),
        ("state", worker.state),
        ("paused because", worker.paused_reason),
        ("agent", worker.agent),
        ("host", worker.host),
        ("queues", " ".join(worker.queues)),
        *(("gpu", gpu) for gpu in gpus),
        *(("free", part) for part in _free(worker)),
        (
            "gives",
            " ".join(f"{queue}={_range(given)}" for queue, given in worker.queue_gpus.items() if given.most),
        ),
        ("labels", " ".join(f"{name}={value}" for name, value in worker.labels.items())),
        ("runs", " ".join(worker.runs)),
        ("takes what ends by", output.moment(worker.ends_at) if worker.ends_at else None),
        *(dataclasses.asdict(counters).items() if counters else ()),
        ("seen", output.ago(worker.last_seen_at)),
        ("since", output.moment(worker.registered_at)),
        ("version", worker.version),
        ("completed", worker.completed),
        ("failed", worker.failed),
        ("machine's failures in a row", worker.infrastructure_failures or None),
    ]


def _free(worker: Worker) -> list[str]:
    """What a task could have now, in the words in which it is asked for."""
    total, free = worker.total, worker.free
    if worker.parent is not None:
        return []
    found = [f"{free.slots} of {total.slots} slots"] if total.slots < MANY_SLOTS else []
    found += [f"{free.gpus} of {total.gpus} GPUs"] if total.gpus else []
    found += [
        f"{size_in_words(part)} of GPU {gpu.index}"
        for gpu, part in zip(worker.gpus, free.gpu_memory_bytes, strict=False)
    ]
    if total.memory_bytes is not None and free.memory_bytes is not None:
        found.append(f"{size_in_words(free.memory_bytes)} of {size_in_words(total.memory_bytes)} of memory")
    return found + [f"{free.custom.get(name, 0):g} of {amount:g} {name}" for name, amount in total.custom.items()]


def _range(given: GpuRange) -> str:
    return str(given.least) if given.least == given.most else f"{given.least}-{given.most}"
