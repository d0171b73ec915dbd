"""Where nothing that a task names may run with the agent's rights: refuses what an installation would run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest

from taskyard_agent.environments.base import Recipe
from taskyard_agent.environments.request import failed

_ADDRESS = re.compile(r"\S*(?:://|^/)\S*")
_RULE = "this agent installs built wheels alone, because an installation would run with its own rights (--run-as)"


def refuse_builds(recipe: Recipe) -> None:
    """Raises RunFailed naming the line that only a program of a package, or conda, could install.

    The installers' own switches do not cover all: pip builds a folder, an archive and what `--no-binary` names.
    """
    wrong = next(_wrong(recipe), None)
    if wrong is not None:
        raise failed(f"{wrong}: {_RULE}; name a wheel of it, or an image that has it")


def _wrong(recipe: Recipe) -> Iterator[str]:
    requirements = recipe.requirements
    if recipe.conda is not None:
        yield "conda packages bring programs that run as they are installed"
    yield from (f"{project.name} must be built to tell what it needs" for project in requirements.dynamic)
    yield from (f"{project.name} must be built: {project.compiled}" for project in requirements.compiled)
    yield from (f"--no-binary {name} asks for a build" for name in requirements.no_binary)
    for line, origin in zip_longest(requirements.lines, requirements.origins, fillvalue="the task"):
        address = _ADDRESS.search(line.partition(" --")[0])
        if address is not None and not address[0].partition("#")[0].partition("?")[0].endswith(".whl"):
            yield f"{origin}: {line} is no wheel"
