"""The flags that describe a task, shared by `run`, `clone` and `edit`, and what they mean."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar, cast

from taskyard.errors import UsageError

if TYPE_CHECKING:
    from taskyard.asking import Asked
    from taskyard.rewriting import Given
    from taskyard.wire import Policy, Task, TaskChanges

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def add_flags(parser: argparse.ArgumentParser, *, of_run: bool = False, of_draft: bool = False) -> None:
    """Puts the flags on a parser; what is not given is None or empty. `of_run`: its settings are there;
    `of_draft`: they change one task, and make none."""
    parser.add_argument("--name", help="a name for people")
    parser.add_argument("--description", metavar="TEXT", help="what it is for")
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="a tag; may be repeated")
    parser.add_argument(
        "--torch-backend",
        metavar="BUILD",
        help="PyTorch's build: auto (default: what the worker can run), cpu, cu126 …; none: the indexes decide",
    )
    parser.add_argument(
        "--with",
        dest="with_packages",
        nargs="+",
        action="extend",
        default=[],
        metavar="P",
        help="packages besides those that the requirements name",
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs it needs; default: whatever the worker has")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter: lr=0.1, or Section/name=value",
    )
    if not of_draft:
        parser.add_argument(
            "--grid",
            action="append",
            default=[],
            metavar="NAME=VALUE,VALUE",
            help="a task for each value, like lr=0.1,0.01; of several --grid, one for each combination",
        )
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable for the task")
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="NAME",
        help="a secret variable; its value comes from your environment or is asked for",
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="GLOB",
        help="keep these files once the command has ended, like 'out/**'; "
        + ("may be repeated" if of_run else "in place of the task's; none: keep none"),
    )
    _add_asking(parser)
    if not of_run:
        parser.add_argument(
            "--give-up-after",
            metavar="TIME",
            help="fail it when a host that it needs has been out of reach for this long, like 30m",
        )
    _add_policy(parser)


def _add_policy(parser: argparse.ArgumentParser) -> None:
    """How it is treated when it ends, fails or is lost."""
    group = parser.add_argument_group("limits, and what happens when it fails")
    group.add_argument("--timeout", metavar="TIME", help="limit of the running time, like 90s, 30m, 12h")
    group.add_argument("--retries", type=int, metavar="N", help="how often it is tried again when it failed")
    group.add_argument(
        "--retry-delay", metavar="TIME", help="wait before the first retry; doubled for each further"
    )
    group.add_argument("--grace", metavar="TIME", help="time between SIGTERM and SIGKILL; default: 10s")
    group.add_argument(
        "--on-lost",
        metavar="requeue|fail|wait",
        help="what becomes of it when its machine is lost; default: requeue",
    )
    group.add_argument(
        "--exclusive",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="never run it twice at once: its machine ends it before another could get it",
    )


def _add_asking(parser: argparse.ArgumentParser) -> None:
    """What is asked of the worker, and what the command runs in."""
    asking = parser.add_argument_group("worker and container")
    asking.add_argument("--gpu-memory", metavar="SIZE", help="a part of one GPU that others share, like 10GB")
    asking.add_argument(
        "--memory",
        metavar="SIZE",
        help="the most it may hold: auto, 8GB, 0.5 of the worker's, or none",
    )
    asking.add_argument(
        "--resource", action="append", default=[], metavar="NAME=N", help="an amount of what a worker declares"
    )
    asking.add_argument(
        "--require", action="append", default=[], metavar="LABEL=VALUE", help="a label that its worker must have"
    )
    asking.add_argument("--on-worker", metavar="NAME", help="the only worker that may take it")
    asking.add_argument("--image", metavar="IMAGE", help="run it in a container of this image; none: in none")
    asking.add_argument("--docker-args", metavar="'ARGS'", help="arguments as for docker run; workers allow some")
    asking.add_argument(
        "--setup-script", metavar="FILE", help="shell script that root runs in the container first"
    )
    asking.add_argument(
        "--apt", nargs="+", action="extend", default=[], metavar="PKG", help="Debian packages for the container"
    )
    asking.add_argument(
        "--max-idle-gpu", metavar="TIME", help="end it when its GPUs do nothing to speak of for so long"
    )


def asked(namespace: argparse.Namespace) -> Asked:
    """What the flags ask for."""
    from taskyard.asking import Asked, pairs

    return Asked(
        gpus=namespace.gpus,
        gpu_memory=namespace.gpu_memory,
        memory=namespace.memory,
        resources=cast("dict[str, float]", pairs(namespace.resource, "--resource")),
        require=pairs(namespace.require, "--require"),
        on_worker=namespace.on_worker,
        image=namespace.image,
        docker_args=namespace.docker_args,
        setup_script=namespace.setup_script,
        apt=tuple(namespace.apt),
        torch_backend=namespace.torch_backend,
        with_packages=tuple(namespace.with_packages),
    )


def changes(
    namespace: argparse.Namespace, task: Task, parameters: Mapping[str, Given] | None = None
) -> TaskChanges:
    """What the flags change in an existing task, and `parameters` besides."""
    from taskyard import asking
    from taskyard.submission import changed_parameters
    from taskyard.wire import Container, TaskChanges

    spec, wanted = task.spec, asked(namespace)
    container = asking.container(wanted, spec.container)
    changed = changed_parameters(spec, {**settings_of(namespace.set), **(parameters or {})})
    return TaskChanges(
        name=namespace.name,
        project=namespace.project,
        description=namespace.description,
        tags=tuple(namespace.tag) or None,
        environment=_if_changed(asking.environment(wanted, spec.environment), spec.environment),
        container=None if container == spec.container else container or Container(),
        resources=_if_changed(asking.resources(wanted, spec.resources), spec.resources),
        policy=_if_changed(policy(namespace, spec.policy), spec.policy),
        command=changed.command,
        parameters=changed.parameters,
        values=changed.values,
        env=assignments(namespace.env, "--env") or None,
        secret_values=secrets(namespace.secret) or None,
        outputs=_outputs(namespace.output),
    )


def _outputs(given: list[str]) -> tuple[str, ...] | None:
    """The patterns; none of them for the word `none`, and no change where nothing is given."""
    from taskyard.asking import NOTHING, outputs

    return (() if given == [NOTHING] else outputs(given)) if given else None


_NAMED = ("gpus", "gpu_memory", "memory", "image", "torch_backend", "on_worker", "timeout", "retries")


def in_name(namespace: argparse.Namespace) -> dict[str, str]:
    """What of the flags tells a copy from its original, by its name."""
    from taskyard.wire import as_text

    parameters = {
        name: as_text(value.value) if value.text is None else value.text
        for name, value in settings_of(namespace.set).items()
    }
    flags = {name.replace("_", "-"): getattr(namespace, name) for name in _NAMED}
    variables = assignments(namespace.env, "--env")
    return {**parameters, **{name: str(value) for name, value in flags.items() if value is not None}, **variables}


def policy(namespace: argparse.Namespace, base: Policy) -> Policy:
    """`base` with the flags' changes."""
    from taskyard.asking import AskedPolicy
    from taskyard.asking import policy as treated

    asked = AskedPolicy(
        timeout=namespace.timeout,
        max_idle_gpu=namespace.max_idle_gpu,
        give_up_after=getattr(namespace, "give_up_after", None),  # of `run` it is a setting, absent unless given
        grace=namespace.grace,
        retries=namespace.retries,
        retry_delay=namespace.retry_delay,
        on_lost=namespace.on_lost,
        exclusive=namespace.exclusive,
    )
    return treated(asked, base)


def assignments(given: Iterable[str], flag: str, *, any_name: bool = False) -> dict[str, str]:
    """Reads `NAME=VALUE` each. Raises UsageError."""
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not (any_name or _NAME.fullmatch(name)):
            raise UsageError(f"{flag} {text}: write it as NAME=VALUE")
        pairs[name] = value
    return pairs


def settings_of(given: Iterable[str]) -> dict[str, Given]:
    """Read each `NAME=VALUE` of `--set`, its value typed as in JSON; a flag such as `--no-amp` may stand alone."""
    from taskyard.rewriting import Given, typed

    alone = {text: Given(True) for text in given if text.startswith("-") and "=" not in text}
    rest = assignments((text for text in given if text not in alone), "--set", any_name=True)
    return {**{name: typed(value) for name, value in rest.items()}, **alone}


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


def _if_changed(new: T, old: T) -> T | None:
    return None if new == old else new
