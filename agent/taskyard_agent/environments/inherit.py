"""Uses an interpreter's own environment as it is: nothing is built, nothing installed."""

from __future__ import annotations

import functools
import os
import sys
from importlib import metadata
from pathlib import Path

from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.interpreters import Interpreter, find_interpreter, probe
from taskyard_agent.environments.request import EnvironmentSettings


def find(wanted: str | None, settings: EnvironmentSettings, installer: Installer) -> Interpreter:
    """Returns the agent's own interpreter with its environment unless the task names a version that it is not."""
    own = probe(Path(sys.executable), settings)
    wanted = wanted or settings.python
    if wanted in (None, own.minor, own.version):
        return own
    return find_interpreter(wanted, settings, installer)


def installed(interpreter: Interpreter) -> tuple[str, ...]:
    """Returns what the interpreter's environment holds, as `name==version`."""
    folders = [path for path in interpreter.site_paths if os.path.isdir(path)]
    return _installed(tuple((path, os.stat(path).st_mtime_ns) for path in folders))


@functools.lru_cache(maxsize=8)
def _installed(folders: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """The times make the answer new after an installation."""
    paths = [path for path, _ in folders]
    first_wins = reversed(list(metadata.distributions(path=paths)))
    found = {item.name.lower(): f"{item.name}=={item.version}" for item in first_wins}
    return tuple(found[name] for name in sorted(found))
