"""`server backup` and `server restore`: one file that holds everything an embedded store keeps."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from taskyard.asking import size_in_words
from taskyard.cli import output
from taskyard.cli.progress import Progress
from taskyard.config import Setting, add_settings, resolve, user_file
from taskyard.errors import TaskyardError, UsageError

_MONGODB = (
    "the store is MongoDB: copy it with `mongodump --oplog`, and the folder of --artifacts after it; see the page"
    " `backup` of the documentation"
)


def add_parsers(verbs: Any, settings: Sequence[Setting]) -> None:
    """Adds both verbs; `settings` say where the store is."""
    text = "copy the store into one file, while the server runs or not"
    backup = _add(verbs, "backup", text, back_up, settings)
    backup.add_argument("file", metavar="FILE", type=Path, help="the copy; it appears whole or not at all")
    backup.add_argument("--replace", action="store_true", help="replace FILE where it exists")
    text = "fill an empty data folder from a copy; nothing is handed out until `taskyard server resume`"
    restore = _add(verbs, "restore", text, bring_back, settings)
    restore.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        nargs="?",
        help="the copy; left out for a MongoDB that its own tools restored",
    )
    restore.add_argument(
        "--compare",
        metavar="FOLDER",
        type=Path,
        help="the old data folder, where it can be read: tokens that it revoked since are revoked again",
    )


def _add(verbs: Any, name: str, text: str, handler: Any, settings: Sequence[Setting]) -> Any:
    parser = verbs.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
    parser.set_defaults(handler=handler, store_settings=tuple(settings))
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    add_settings(parser, settings)
    return parser


def back_up(namespace: argparse.Namespace) -> None:
    """Copies the store that the settings name."""
    url, data = _store_of(namespace)
    made = _refusing(lambda: _backup(url, data, namespace))
    if namespace.json:
        output.print_json(made)
        return
    size = size_in_words(made.bytes)
    output.note(
        f"taskyard: {made.file} ({size}) holds {made.tasks} tasks, {made.logs} logs, {made.blobs} uploads,"
        f" {made.artifact_parts} parts of outputs and {made.tokens} tokens, as of {output.moment(made.copied_at)}"
    )
    if elsewhere := _artifacts_elsewhere(namespace):
        output.note(f"  the outputs in {elsewhere} are not in it: copy that folder, too, after this copy was made")


def bring_back(namespace: argparse.Namespace) -> None:
    """Restores into the data folder that the settings name."""
    url, data = _store_of(namespace)
    if namespace.file is None:
        _mark(url, data, namespace)
        return
    restored = _refusing(lambda: _restore(url, data, namespace))
    if namespace.json:
        output.print_json(restored)
        return
    copied = output.moment(restored.copied_at)
    output.note(f"taskyard: {restored.data} is as it was at {copied} (generation {restored.generation})")
    if namespace.compare is None:
        output.note("  tokens revoked since then are valid again: compare with `taskyard token list`")
    for token in restored.revoked:
        output.note(f"  revoked again: {token}")
    for token in restored.unknown:
        output.note(f"  issued since then, so unknown now: {token}")
    output.note("  start the server, look at `taskyard server status`, then let it go on: taskyard server resume")


def _backup(url: str, data: Path, namespace: argparse.Namespace) -> Any:
    control = _control(url, data)
    if control is None:
        raise UsageError(_MONGODB)
    module = importlib.import_module("taskyard_server.copies.backup")
    with Progress("copied") as progress:
        return module.back_up(control, data, namespace.file, replace=namespace.replace, progress=progress)


def _restore(url: str, data: Path, namespace: argparse.Namespace) -> Any:
    control = _control(url, data)
    if control is None:
        raise UsageError(f"{_MONGODB}; once it is restored: taskyard server restore --store …, without a file")
    module = importlib.import_module("taskyard_server.copies.restore")
    with Progress("restored") as progress:
        return module.restore(namespace.file, control, data, compare=namespace.compare, progress=progress)


def _mark(url: str, data: Path, namespace: argparse.Namespace) -> None:
    if _control(url, data) is not None:
        raise UsageError("`taskyard server restore` needs the file that `taskyard server backup` made")
    module = importlib.import_module("taskyard_server.copies.restore")
    begun = _refusing(lambda: asyncio.run(module.mark_restored(url, data)))
    if namespace.json:
        output.print_json(begun)
    else:
        output.note(
            f"taskyard: the store is generation {begun.number}; start the server, look at `taskyard server"
            " status`, then let it go on: taskyard server resume"
        )


def _store_of(namespace: argparse.Namespace) -> tuple[str, Path]:
    values = resolve(namespace.store_settings, namespace, user_file=user_file())
    return str(values["store"]), Path(values["data"])


def _artifacts_elsewhere(namespace: argparse.Namespace) -> str:
    """The folder of outputs where it is not a part of the data folder."""
    values = resolve(namespace.store_settings, namespace, user_file=user_file())
    return str(values["artifacts"] or "")


def _control(url: str, data: Path) -> Path | None:
    found: Path | None = importlib.import_module("taskyard_server.store").control_file(url, data)
    return found


def _refusing(work: Callable[[], Any]) -> Any:
    """Runs it; SIGTERM tidies up like Ctrl-C. Raises TaskyardError for what the server's side refuses."""
    errors = importlib.import_module("taskyard_server.errors")
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        return work()
    except (errors.CopyRefused, errors.StartRefused) as error:
        raise TaskyardError(str(error)) from error


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
