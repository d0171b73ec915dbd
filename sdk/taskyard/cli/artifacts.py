"""`artifact list|get`: what a task's run keeps, and how it is fetched."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskyard.cli import output
from taskyard.cli.progress import Progress
from taskyard.cli.session import (
    FOLLOW_PATIENCE_SECONDS,
    add_attempt,
    add_command,
    add_task,
    find_run,
    find_task,
    open_client,
)
from taskyard.errors import UsageError

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.fetching import Wanted
    from taskyard.wire import Artifact, RunArtifacts, RunOutputs, Task

COLUMNS = ("NAME", "SIZE", "KIND", "SHA256")
SHOWN = 20
"""Names that `show` prints."""
WAIT_SECONDS = 0.5
_WILD = ("*", "?", "[")


def add_parser(subparsers: Any) -> None:
    """Adds `artifact` with its verbs."""
    parser = subparsers.add_parser(
        "artifact", help="list and fetch the files that runs keep", description="Files that runs keep (--output)."
    )
    verbs = parser.add_subparsers(
        title="verbs", metavar="VERB", dest="verb", required=True, prog="taskyard artifact"
    )
    list_parser = add_command(verbs, "list", "list what a task's run keeps", list_artifacts)
    add_attempt(list_parser)
    add_task(list_parser)
    get_parser = add_command(verbs, "get", "fetch what a task's run keeps", get)
    add_attempt(get_parser)
    get_parser.add_argument(
        "-o", "--into", metavar="DIR", type=Path, default=Path(), help="folder to write to; default: this one"
    )
    get_parser.add_argument("--overwrite", action="store_true", help="replace files that are there and differ")
    add_task(get_parser)
    get_parser.add_argument(
        "name",
        metavar="NAME",
        nargs="*",
        help="which ones, by name or a pattern like '*.pt'; default: all of them",
    )


def list_artifacts(namespace: argparse.Namespace) -> None:
    """Lists them by name."""
    with open_client(namespace) as client:
        task = find_task(client, namespace.task)
        run_id = _run_id(task, namespace.attempt)
        found = client.artifacts(run_id)
    if namespace.json:
        output.print_json(found)
        return
    rows = [(each.name, output.size(each.size), each.kind, _digest(each)) for each in found.artifacts]
    output.print_table(COLUMNS, rows, empty=_nothing(task, found))
    for line in _remarks(found.outputs):
        output.note(line)


def get(namespace: argparse.Namespace) -> None:
    """Fetches them below a folder; what is there already is left, what differs is refused."""
    from taskyard import fetching

    with open_client(namespace, patience_seconds=FOLLOW_PATIENCE_SECONDS) as client:
        task = find_task(client, namespace.task)
        found = _sent(client, _run_id(task, namespace.attempt), namespace.name)
        files = fetching.wanted(_chosen(namespace.name, found, task), namespace.into)
        lacking = [one for one in files if not fetching.is_there(one)]
        _refuse_to_overwrite(lacking, overwrite=namespace.overwrite)
        namespace.into.mkdir(parents=True, exist_ok=True)
        total = sum(one.file.size for one in lacking)
        with Progress("fetched", in_words=output.size) as progress:
            for one in lacking:
                fetching.fetch(client, one, namespace.into, lambda count: progress.advance(count, total))
    if namespace.json:
        output.print_json([{"name": one.artifact.name, "file": str(one.target)} for one in files])
        return
    for one in files:
        print(output.clean(one.target))
    for line in _remarks(found.outputs):
        output.note(line)


def in_fields(task: Task, kept: Sequence[Artifact]) -> Iterator[tuple[str, object]]:
    """What `show` says of the latest run's outputs."""
    run = task.run
    if run is None or run.outcome is None or not (task.spec.outputs or run.outputs):
        return
    if run.outputs is None:
        lost = run.outcome.kind == "lost"
        yield "outputs", "none: the run was lost" if lost else "none were found, or its agent is an older one"
        return
    yield "outputs", _in_words(run.outputs)
    for each in kept[:SHOWN]:
        yield "  kept", f"{each.name} ({output.size(each.size)})"
    if len(kept) > SHOWN:
        yield "  kept", f"and {len(kept) - SHOWN} more: taskyard artifact list {task.id[:8]}"
    for skipped in run.outputs.skipped[:SHOWN]:
        yield "  not kept", f"{skipped.name}: {skipped.reason}"


# --- parts


def _run_id(task: Task, attempt: int | None) -> str:
    run_id = find_run(task, attempt)
    if run_id is None:
        raise UsageError(f"task {task.id[:8]} has not run yet: it keeps nothing")
    return run_id


def _sent(client: Client, run_id: str, names: Sequence[str]) -> RunArtifacts:
    """What the run keeps, once all of it, or all that is named, is on the server."""
    said = False
    while True:
        found = client.artifacts(run_id)
        if found.outputs is None or found.outputs.state != "uploading":
            return found
        if names and set(names) <= {each.name for each in found.artifacts}:
            return found
        if not said:
            said = True
            output.note(f"taskyard: {_in_words(found.outputs)}: waiting; Ctrl-C ends that")
        time.sleep(WAIT_SECONDS)


def _chosen(names: Sequence[str], found: RunArtifacts, task: Task) -> list[Artifact]:
    """Those that are named. Raises UsageError for a name that fits none."""
    from fnmatch import fnmatchcase

    if not names:
        if not found.artifacts:
            raise UsageError(_nothing(task, found))
        return list(found.artifacts)
    chosen: dict[str, Artifact] = {}
    for name in names:
        fitting = [each for each in found.artifacts if each.name == name]
        if not fitting and any(sign in name for sign in _WILD):
            fitting = [each for each in found.artifacts if fnmatchcase(each.name, name)]
        if not fitting:
            there = ", ".join(output.clean(each.name) for each in found.artifacts[:SHOWN]) or "nothing"
            raise UsageError(f"no artifact of task {task.id[:8]} is called {name!r}; it keeps {there}")
        chosen |= {each.name: each for each in fitting}
    return list(chosen.values())


def _refuse_to_overwrite(lacking: Sequence[Wanted], *, overwrite: bool) -> None:
    there = [one.target for one in lacking if one.target.exists() or one.target.is_symlink()]
    folder = next((target for target in there if target.is_dir()), None)
    if folder is not None:
        raise UsageError(f"{folder} is a folder here: name another place with -o")
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UsageError(
            f"{there[0]}{more} would be overwritten by something else: give --overwrite, or another folder with -o"
        )
    for target in there:
        output.note(f"taskyard: overwriting {output.clean(target)}")


def _nothing(task: Task, found: RunArtifacts) -> str:
    if found.outputs is not None and found.outputs.state == "uploading":
        return _in_words(found.outputs)
    if task.spec.outputs:
        return f"task {task.id[:8]} keeps nothing: no file that its run wrote matches its --output"
    short = task.id[:8]
    return f"task {short} keeps nothing; name files to keep with: taskyard clone {short} --output 'out/**'"


def _remarks(outputs: RunOutputs | None) -> Iterator[str]:
    if outputs is None:
        return
    if outputs.state == "uploading":
        yield f"taskyard: {_in_words(outputs)}"
    for skipped in outputs.skipped[:SHOWN]:
        yield f"taskyard: not kept: {output.clean(skipped.name)}: {output.clean(skipped.reason)}"
    if outputs.skipped_files > SHOWN:
        yield f"taskyard: not kept: {outputs.skipped_files - SHOWN} more"


def _in_words(outputs: RunOutputs) -> str:
    files = f"{outputs.files} file{'s' * (outputs.files != 1)}, {output.size(outputs.bytes)}"
    state = "uploading " if outputs.state == "uploading" else ""
    left = f"; {outputs.skipped_files} not kept" if outputs.skipped_files else ""
    return f"{state}{files}{left}"


def _digest(artifact: Artifact) -> str:
    return artifact.files[0].sha256[:16] if len(artifact.files) == 1 else f"{len(artifact.files)} files"
