"""Environments of Poetry's projects: their lock first, else their dependencies; installed by uv."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path

from taskyard.wire import RequirementsKind

from taskyard_agent.environments import uv
from taskyard_agent.environments.base import Recipe
from taskyard_agent.environments.indexes import configured_indexes
from taskyard_agent.environments.interpreters import Interpreter
from taskyard_agent.environments.poetry_lock import LOCK, Lock, read_lock
from taskyard_agent.environments.request import EnvironmentRequest, EnvironmentSettings
from taskyard_agent.environments.task_files import shown
from taskyard_agent.environments.torch_builds import remarks_on_build
from taskyard_agent.environments.venvs import check_environment, describe_environment, file_of, policy_of

install = uv.install
check = check_environment
describe = describe_environment


def version() -> str:
    """What reads, and what installs."""
    return f"poetry-core {metadata.version('poetry-core')}, {uv.version()}"


def resolve(request: EnvironmentRequest, interpreter: Interpreter, settings: EnvironmentSettings) -> Recipe:
    """Reads and vets what the task asks for; see `base.Manager`."""
    lock = _lock_of(request)
    if lock is None:
        return replace(uv.resolve(request, interpreter, settings), manager=version())
    read = read_lock(lock, interpreter, tree=request.tree, policy=policy_of(settings))
    indexes = configured_indexes(settings.variables).with_added(
        default=None, extra=read.requirements.extra_indexes, find_links=(), no_index=False
    )
    return Recipe(
        manager=version(),
        interpreter=interpreter,
        tree=request.tree,
        requirements=read.requirements,
        indexes=indexes,
        index_strategy="unsafe-best-match",  # whichever index has it: the hashes decide
        remarks=_remarks(request, lock, read),
    )


def _lock_of(request: EnvironmentRequest) -> Path | None:
    kind = request.environment.requirements
    if kind not in (RequirementsKind.POETRY_LOCK, RequirementsKind.PYPROJECT):
        return None
    lock = file_of(request.environment, request.tree).with_name(LOCK)
    return lock if lock.is_file() else None


def _remarks(request: EnvironmentRequest, lock: Path, read: Lock) -> tuple[str, ...]:
    named = request.environment.requirements is RequirementsKind.POETRY_LOCK
    why = "the task names it" if named else f"it lies beside {request.environment.path}, which the task names"
    chosen = f"using {shown(lock, request.tree)} (lock format {read.format}), because {why}"
    stale = (
        f"{shown(lock, request.tree)} is older than its pyproject.toml: it still holds all that is asked for, "
        "and is installed as it is; `poetry lock` renews it"
    )
    return (chosen, *(() if read.fresh else (stale,)), *remarks_on_build(request))
