"""`run NAME`: a job of the repository's `taskyard.toml` in place of a command, and the list of them."""

from __future__ import annotations

import argparse
import itertools
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from taskyard import job_file
from taskyard.cli import output
from taskyard.errors import UsageError

_EXCLUDE = {"--package": "--requirements", "--requirements": "--package"}
_EXCLUDE |= {"--gpus": "--gpu-memory", "--gpu-memory": "--gpus"}
"""Flags that take the place of a job's other one."""
_NAMED = ("--set", "--grid")
"""Both give a parameter its value: one that is typed takes the place of the job's."""


def expanded(
    own: Sequence[str],
    rest: Sequence[str] | None,
    namespace: argparse.Namespace,
    parse: Callable[[Sequence[str]], argparse.Namespace],
) -> argparse.Namespace | None:
    """Return the namespace of a job with what is typed over it; None where no job is meant.

    `own` stands before `--`, and its first word that is no flag names the job; `rest` stands behind.
    Raises UsageError.
    """
    words = list(namespace.rest)
    job = _named(words[0]) if words else None
    if job is None:
        return None
    typed = [*own[1 : len(own) - len(words)], *words[1:]]
    made = parse([own[0], *_without_overridden(job.flags, typed), *typed])
    if made.rest:
        line = shlex.join(["taskyard", "run", job.name, "--", *made.rest])
        raise UsageError(
            f"{made.rest[0]!r} is no flag; what the job's command is given besides stands behind --: {line}"
        )
    made.rest, made.job = [*job.command, *(rest or [])], job
    return made


def _named(word: str) -> job_file.Job | None:
    """The job that a word names. It goes before a file or a program of that name; those are meant behind `--`."""
    file = job_file.find(Path.cwd())
    jobs = job_file.read(file) if file else {}
    here = Path(word).exists() or shutil.which(word) is not None
    if word in jobs:
        if here:
            output.note(f"{word} is the job of {file}; for what is called so besides: taskyard run -- {word}")
        return jobs[word]
    if jobs and not here and job_file.is_name(word):
        raise UsageError(
            f"{file}: {job_file.unknown(word, jobs)} For a program of the worker: taskyard run -- {word}"
        )
    return None


def _without_overridden(flags: Sequence[str], typed: Sequence[str]) -> list[str]:
    """The job's flags but for those that a typed one takes the place of."""
    gone = {_EXCLUDE[flag] for flag in (word.partition("=")[0] for word in typed) if flag in _EXCLUDE}
    names = _parameters(typed)
    kept = (flag for flag in flags if flag.partition("=")[0] not in gone)
    return [flag for flag in kept if not _parameters([flag]) & names]


def _parameters(words: Sequence[str]) -> set[str]:
    """The parameters that `--set` and `--grid` name among words."""
    found = set()
    for before, word in itertools.pairwise(["", *words]):
        flag, equals, text = word.partition("=")
        if before in _NAMED:
            found.add(word.partition("=")[0])
        elif flag in _NAMED and equals:
            found.add(text.partition("=")[0])
    return {name.removeprefix("Args/").lstrip("-").replace("-", "_") for name in found}


def show(namespace: argparse.Namespace) -> None:
    """List the jobs of the nearest job file."""
    file = job_file.find(Path.cwd())
    if file is None:
        raise UsageError(f"there is no {job_file.NAME} here or above; see: docs/howto/job-file.md")
    jobs = job_file.read(file).values()
    if namespace.json:
        output.print_json([_record(job) for job in jobs])
        return
    rows = [(job.name, shlex.join(job.command), job.settings.get("queue", ""), job.description) for job in jobs]
    output.print_table(("JOB", "COMMAND", "QUEUE", "DESCRIPTION"), rows, empty=f"{file} has no jobs")


def _record(job: job_file.Job) -> dict[str, Any]:
    return {
        "name": job.name,
        "file": str(job.file),
        "folder": str(job.folder),
        "command": job.command,
        "settings": job.settings,
        "flags": job.flags,
        "secrets": job.secrets,
        "description": job.description,
    }
