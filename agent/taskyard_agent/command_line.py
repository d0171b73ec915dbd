"""What is really started for a task's command."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from taskyard.wire import Command, CommandKind, Phase, Reason

from .checkout import Tree
from .environments import ReadyEnvironment
from .errors import RunFailed


def command_line(
    command: Command,
    args: tuple[str, ...],
    tree: Tree,
    ready: ReadyEnvironment,
    environ: Mapping[str, str],
    *,
    elsewhere: bool = False,
) -> tuple[str, ...]:
    """Returns the argv to start. Raises RunFailed when there is nothing of that name to start.

    `elsewhere`: it is started in a container, which alone knows what is on its PATH and in its folders.
    """
    if not command.kind.known:
        raise RunFailed(
            Phase.CHECKOUT,
            Reason.COMMAND,
            f"this agent does not know commands of the kind {command.kind!s}: update it, or name another worker",
        )
    python = (str(ready.python), *command.python_args)
    if command.kind is CommandKind.MODULE:
        return (*python, "-m", command.target, *args)
    if command.kind is CommandKind.SCRIPT:
        script = (tree.work / command.target).resolve()
        if not script.is_relative_to(tree.root.resolve()) or not script.is_file():
            raise RunFailed(
                Phase.CHECKOUT,
                Reason.COMMAND,
                f"there is no script {command.target!r} in folder {tree.work.relative_to(tree.root)} of the "
                "code that was sent: is it ignored by git, or outside the repository? Add it with `--include`",
            )
        return (*python, command.target, *args)
    if elsewhere and ("/" not in command.target or command.target.startswith("/")):
        return (command.target, *args)
    return (_executable(command.target, tree, environ), *args)


def _executable(target: str, tree: Tree, environ: Mapping[str, str]) -> str:
    inside = "/" in target
    found = shutil.which(str(tree.work / target)) if inside else shutil.which(target, path=environ["PATH"])
    if found is None:
        raise RunFailed(
            Phase.ENVIRONMENT,
            Reason.COMMAND,
            f"no executable {target!r} on the environment's PATH on this machine: name a package that brings it, "
            "or a path inside the repository that is executable",
        )
    return found
