"""Programs that start a script: which one they start, and what they need themselves."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from taskyard.requirements.imports import module_file
from taskyard.wire import Command, CommandKind

MODULES = {
    "accelerate": "accelerate",
    "deepspeed": "deepspeed",
    "torchrun": "torch.distributed.run",
    "horovodrun": "horovod",
    "composer": "composer",
    "kernprof": "kernprof",
}
"""Launchers that are installed as programs → the module that they are."""
_SHELLS = ("sh", "bash", "dash", "zsh")


@dataclass(frozen=True, kw_only=True)
class Started:
    """What a command comes down to."""

    script: Path | None = None
    """The script of the repository whose needs count."""
    module: str = ""
    """A module of the repository that is started instead."""
    launcher: str = ""
    """The module of the program that starts it, which must be installed, too."""


def started_by(command: Command, folder: Path, root: Path) -> Started:
    """Return the script or the module of the repository that a command starts, be it through a launcher."""
    if command.kind is CommandKind.SCRIPT:
        return Started(script=_script((command.target,), folder, root))
    if command.kind is CommandKind.MODULE:
        if module_file(command.target, root, folder) is not None:
            return Started(module=command.target)
        found = _among(command.args, folder, root)
        return Started(script=found.script, module=found.module or command.target, launcher=command.target)
    words = (command.target, *_words(command))
    launcher = next((MODULES[name] for name in map(_name, words) if name in MODULES), "")
    found = _among(words, folder, root)
    return Started(script=found.script, module=found.module, launcher=launcher)


def _words(command: Command) -> Iterator[str]:
    """The arguments, and what a shell is given after `-c` word by word."""
    shell = _name(command.target) in _SHELLS
    for before, word in itertools.pairwise(("", *command.args)):
        if shell and before.startswith("-") and not before.startswith("--") and before.endswith("c"):
            yield from _shell_words(word)
        else:
            yield word


def _shell_words(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:
        return text.split()


def _among(words: Sequence[str], folder: Path, root: Path) -> Started:
    """The first script among words, else the first module of the repository after `-m`."""
    script = _script(words, folder, root)
    if script is not None:
        return Started(script=script)
    after = (word for before, word in itertools.pairwise(words) if before in ("-m", "--module"))
    return Started(module=next((word for word in after if module_file(word, root, folder)), ""))


def _script(words: Sequence[str], folder: Path, root: Path) -> Path | None:
    scripts = (folder / word for word in words if word.endswith(".py"))
    inside = (script for script in scripts if script.resolve().is_relative_to(root.resolve()))
    return next((script for script in inside if script.is_file()), None)


def _name(word: str) -> str:
    return PurePosixPath(word).name
