"""The flags that describe a task, shared by `run`, `clone` and `edit`, and what they mean."""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from taskyard.errors import UsageError

if TYPE_CHECKING:
    from taskyard.wire import Policy, Resources, Task, TaskChanges

T = TypeVar("T")

_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_SPAN_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Puts the flags on a parser; what is not given is None or empty."""
    parser.add_argument("--name", help="a name for people")
    parser.add_argument("--description", metavar="TEXT", help="what it is for")
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="a tag; may be repeated")
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs it needs; default: whatever the worker has")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter: lr=0.1, or Section/name=value",
    )
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable for the task")
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="NAME",
        help="a secret variable; its value comes from your environment or is asked for",
    )
    parser.add_argument("--timeout", metavar="TIME", help="limit of the running time, like 90s, 30m, 12h")
    parser.add_argument("--retries", type=int, metavar="N", help="how often it is tried again when it failed")


def changes(namespace: argparse.Namespace, task: Task) -> TaskChanges:
    """What the flags change in an existing task."""
    from taskyard.submission import sections
    from taskyard.wire import TaskChanges

    spec = task.spec
    return TaskChanges(
        name=namespace.name,
        project=namespace.project,
        description=namespace.description,
        tags=tuple(namespace.tag) or None,
        resources=_if_changed(resources(namespace, spec.resources), spec.resources),
        policy=_if_changed(policy(namespace, spec.policy), spec.policy),
        parameters=sections(assignments(namespace.set, "--set", any_name=True), spec.parameters) or None,
        env=assignments(namespace.env, "--env") or None,
        secret_values=secrets(namespace.secret) or None,
    )


def resources(namespace: argparse.Namespace, base: Resources) -> Resources:
    """`base` with the flags' changes."""
    if namespace.gpus is None:
        return base
    if namespace.gpus < 0:
        raise UsageError("--gpus: a number of GPUs is 0 or more")
    return dataclasses.replace(base, gpus=namespace.gpus)


def policy(namespace: argparse.Namespace, base: Policy) -> Policy:
    """`base` with the flags' changes."""
    if namespace.timeout is not None:
        base = dataclasses.replace(base, timeout_seconds=seconds(namespace.timeout, "--timeout"))
    if namespace.retries is not None:
        if namespace.retries < 0:
            raise UsageError("--retries: a number of retries is 0 or more")
        base = dataclasses.replace(base, retries=namespace.retries)
    return base


def assignments(given: Iterable[str], flag: str, *, any_name: bool = False) -> dict[str, str]:
    """Reads `NAME=VALUE` each. Raises UsageError."""
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not (any_name or _NAME.fullmatch(name)):
            raise UsageError(f"{flag} {text}: write it as NAME=VALUE")
        pairs[name] = value
    return pairs


def secrets(names: Iterable[str]) -> dict[str, str]:
    """Takes each value from the environment, else asks for it. Raises UsageError where nobody can answer."""
    values: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(f"--secret {name.partition('=')[0]}: give the name alone; the value is never in argv")
        value = os.environ.get(name)
        if value is None and sys.stdin.isatty():
            value = getpass.getpass(f"{name}: ")
        if not value:
            raise UsageError(f"--secret {name}: set {name} in your environment")
        values[name] = value
    return values


def seconds(text: str, flag: str) -> float:
    """Reads 90, 90s, 30m, 12h, 2d. Raises UsageError."""
    match = _SPAN.fullmatch(text)
    if not match or float(match[1]) == 0:
        raise UsageError(f"{flag} {text}: write a time like 90s, 30m, 12h or 2d")
    return float(match[1]) * _SPAN_SECONDS[match[2]]


def _if_changed(new: T, old: T) -> T | None:
    return None if new == old else new
