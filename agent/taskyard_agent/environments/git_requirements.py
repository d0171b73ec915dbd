"""Requirements from git: pinned to a commit before anything is keyed by them, installed from a mirror here."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

from taskyard.wire import Reason

from taskyard_agent.environments.base import Recipe
from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.request import GitSource, failed
from taskyard_agent.environments.requirements import Repository
from taskyard_agent.errors import RunFailed

_ADDRESS = re.compile(
    r"git\+(?P<url>[a-z]+://(?:[^/\s@]+@)?[^/\s@]*/[^\s@#;]*)(?:@(?P<revision>[^\s#;]+))?(?=[\s#;]|$)"
)


def pin_repositories(recipe: Recipe, source: GitSource | None) -> Recipe:
    """Returns the recipe with a commit in the place of each branch and tag. Raises RunFailed naming the line."""
    requirements = recipe.requirements
    if source is None and any("git+file:" in line for line in requirements.lines):
        raise failed("requirements from repositories of this machine are not taken here")
    if source is None or not any("git+" in line for line in requirements.lines):
        return recipe
    lines, remarks, repositories = [], [], list(requirements.repositories)
    for line, origin in zip(requirements.lines, requirements.origins, strict=True):
        match = _ADDRESS.search(line)
        if match is None:
            lines.append(line)
            continue
        url, revision = match["url"], match["revision"]
        with _of_environment(f"{origin}: {line}"):
            commit = source.pin(url, revision)
        lines.append(f"{line[: match.start()]}git+{url}@{commit}{line[match.end() :]}")
        repositories.append(Repository(url=url, commit=commit, origin=origin))
        if commit != revision:
            remarks.append(f"{origin}: {revision or 'HEAD'} of {url} is commit {commit} now")
    pinned = dataclasses.replace(requirements, lines=tuple(lines), repositories=tuple(repositories))
    return dataclasses.replace(recipe, requirements=pinned, remarks=(*recipe.remarks, *remarks))


@contextlib.contextmanager
def with_repositories(recipe: Recipe, installer: Installer) -> Iterator[Installer]:
    """Brings the repositories here, and yields an installer whose programs take them for their addresses."""
    wanted, source = recipe.requirements.repositories, installer.git
    if not wanted or source is None:
        yield installer
        return
    with contextlib.ExitStack() as stack:
        places = {}
        for item in wanted:
            with _of_environment(item.origin):
                places[item.url] = stack.enter_context(source.bringing(item.url, item.commit))
        variables = {**installer.variables, **_git_variables(places)}
        yield dataclasses.replace(installer, variables=variables, reads=(*installer.reads, *places.values()))


def _git_variables(places: dict[str, Path]) -> dict[str, str]:
    """Git's own configuration, by variables: nothing of it is a secret."""
    config = {f"url.{place.as_uri()}.insteadOf": url for url, place in places.items()}
    config |= {"protocol.file.allow": "always", "core.hooksPath": os.devnull, "safe.directory": "*"}
    pairs = [
        (f"GIT_CONFIG_{part}_{number}", word)
        for number, pair in enumerate(config.items())
        for part, word in zip(("KEY", "VALUE"), pair, strict=True)
    ]
    fixed = {"GIT_CONFIG_COUNT": str(len(config)), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return {**dict(pairs), **fixed, "GIT_TERMINAL_PROMPT": "0", "UV_NO_GITHUB_FAST_PATH": "1"}


@contextlib.contextmanager
def _of_environment(where: str) -> Iterator[None]:
    """The failure of a repository that the environment needs is a failure of the environment."""
    try:
        yield
    except RunFailed as failure:
        reason = failure.reason if failure.infrastructure else Reason.ENVIRONMENT
        raise failed(
            f"{where}: {failure}", reason=reason, infrastructure=failure.infrastructure, target=failure.target
        ) from failure
