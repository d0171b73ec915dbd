"""`server status`, `adopt`, `give-up` and `resume`: what a restored store lacks, and the way back to service."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from taskyard.cli import output
from taskyard.cli.session import add_command, open_client
from taskyard.errors import UsageError

if TYPE_CHECKING:
    from taskyard.wire import StoreStatus, UnknownRun

COLUMNS = ("RUN", "WHAT", "NAME", "IN THE COPY", "WORKER", "OUTCOME", "HEARD")


def add_parsers(verbs: Any) -> None:
    """Adds the four verbs."""
    add_command(
        verbs, "status", "version, store, sizes, counts; after a restore, what the store does not know", status
    )
    adopt = add_command(
        verbs, "adopt", "take up runs that agents report and a restored store does not know", decide
    )
    give_up = add_command(verbs, "give-up", "let agents end such runs; their tasks run again", decide)
    for parser in (adopt, give_up):
        parser.add_argument("runs", nargs="*", metavar="RUN", help="id of a run, as `server status` lists it")
        parser.add_argument("--all", action="store_true", help="all that are undecided")
    resume = add_command(verbs, "resume", "hand tasks out again after a restore", decide)
    choice = resume.add_mutually_exclusive_group()
    choice.add_argument("--adopt-all", action="store_true", help="adopt what is undecided first")
    choice.add_argument("--give-up-all", action="store_true", help="give up what is undecided first")


def status(namespace: argparse.Namespace) -> None:
    """Shows it."""
    with open_client(namespace) as client:
        _show(namespace, client.recovery())


def decide(namespace: argparse.Namespace) -> None:
    """Carries out one of the other verbs, and shows what is left to decide."""
    with open_client(namespace) as client:
        if namespace.verb == "resume":
            if namespace.adopt_all:
                client.adopt_runs((), every=True)
            if namespace.give_up_all:
                client.give_up_runs((), every=True)
            _show(namespace, client.resume_store())
            return
        if bool(namespace.runs) == namespace.all:
            raise UsageError(f"`taskyard server {namespace.verb}` takes the ids of runs, or --all")
        act = client.adopt_runs if namespace.verb == "adopt" else client.give_up_runs
        _show(namespace, act(namespace.runs, every=namespace.all))


def _show(namespace: argparse.Namespace, found: StoreStatus) -> None:
    if namespace.json:
        output.print_json(found)
        return
    output.print_fields(_about(found))
    if found.recovering:
        output.print_table(COLUMNS, map(_row, found.runs))
        for line in _advice(found):
            output.note(line)


def _about(found: StoreStatus) -> list[tuple[str, object]]:
    seen = sorted({f"{token.kind} from {token.address}" for token in found.tokens})
    return [
        ("version", found.version),
        ("store", found.store),
        ("up for", output.duration(found.uptime_seconds)),
        ("sizes", ", ".join(f"{part} {output.size(count)}" for part, count in found.sizes.items())),
        ("queues", found.queues),
        ("tasks", _numbers(found.tasks)),
        ("workers", _numbers(found.workers)),
        ("generation", found.generation),
        ("state", "recovers from a restore: nothing is handed out" if found.recovering else "in service"),
        ("as it was at", output.moment(found.copied_at) if found.copied_at else None),
        ("restored at", output.moment(found.restored_at) if found.restored_at else None),
        ("resumed at", output.moment(found.resumed_at) if found.resumed_at else None),
        ("not heard since", " ".join(found.silent_workers)),
        ("tokens that the copy lacks", ", ".join(seen)),
        *(("valid token", token) for token in found.valid_tokens),
    ]


def _numbers(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in counts.items() if number)


def _row(run: UnknownRun) -> tuple[object, ...]:
    outcome = "" if run.outcome is None else f"{run.outcome.kind} ({run.outcome.why})"
    return (
        run.run,
        f"{run.kind}, given up" if run.given_up else run.kind,
        run.name,
        run.state or "unknown",
        run.worker,
        outcome,
        "" if run.heard_at is None else output.ago(run.heard_at),
    )


def _advice(found: StoreStatus) -> list[str]:
    undecided = [run for run in found.runs if run.kind != "silent" and not run.given_up]
    silent = [run for run in found.runs if run.kind == "silent"]
    lines = ["tokens that were revoked after the copy are valid again: look through those above"]
    if undecided:
        lines.append(
            f"{len(undecided)} runs are undecided: `taskyard server adopt RUN` lets them count, `taskyard server"
            " give-up RUN` ends them and lets their tasks run again; --all takes all"
        )
    if silent:
        lines.append(
            f"{len(silent)} runs of the copy are reported by no agent: wait for their agents; after the resumption"
            " they are lost as ever, and `taskyard server give-up RUN` does that at once"
        )
    if found.silent_workers:
        lines.append("workers that were not heard since may know more runs: wait for them, or leave them out")
    lines.append("once all is decided: taskyard server resume")
    return lines
