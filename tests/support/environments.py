"""Provisions environments for a task's tree, as an agent would, and runs things in them, as a task would."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from taskyard.wire import Environment, Manager, RequirementsKind
from taskyard_agent.environments import EnvironmentRequest, EnvironmentSettings, ReadyEnvironment, provision
from taskyard_agent.environments.interpreters import Interpreter, probe
from taskyard_agent.environments.request import GitSource

KINDS = {
    "uv.lock": RequirementsKind.UV_LOCK,
    "pyproject.toml": RequirementsKind.PYPROJECT,
    "pylock.toml": RequirementsKind.PYLOCK,
    "poetry.lock": RequirementsKind.POETRY_LOCK,
    "environment.yml": RequirementsKind.ENVIRONMENT_YML,
    "conda-lock.yml": RequirementsKind.ENVIRONMENT_YML,
}


@dataclasses.dataclass
class Bench:
    """Provisions environments for a task's tree, as an agent would."""

    settings: EnvironmentSettings
    tree: Path
    manager: Manager
    git: GitSource | None = None
    log: list[str] = dataclasses.field(default_factory=list)
    ready: list[ReadyEnvironment] = dataclasses.field(default_factory=list)
    numbers: Iterator[int] = dataclasses.field(default_factory=itertools.count)

    def request(self, **wanted: object) -> EnvironmentRequest:
        overlay = self.settings.root / "runs" / str(next(self.numbers)) / "overlay"
        environment = Environment(manager=self.manager, torch_backend="none", **wanted)  # type: ignore[arg-type]
        return EnvironmentRequest(
            environment=environment,
            tree=self.tree,
            work=self.tree,
            script=None,
            gpus=0,
            overlay=overlay,
            git=self.git,
        )

    def provision(
        self, *packages: str, cancelled: threading.Event | None = None, **wanted: object
    ) -> ReadyEnvironment:
        if packages:
            wanted |= {"requirements": RequirementsKind.PACKAGES, "packages": packages}
        ready = provision(
            self.request(**wanted),
            settings=self.settings,
            log=self.log.append,
            cancelled=cancelled or threading.Event(),
        )
        self.ready.append(ready)
        return ready

    def from_file(self, name: str, text: str, **wanted: object) -> ReadyEnvironment:
        (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
        (self.tree / name).write_text(text)
        script = RequirementsKind.SCRIPT if name.endswith(".py") else RequirementsKind.REQUIREMENTS_TXT
        kind = KINDS.get(Path(name).name, script)
        return self.provision(requirements=kind, path=name, **wanted)


@contextmanager
def bench_for(manager: Manager, tmp_path: Path, url: str) -> Iterator[Bench]:
    (tmp_path / "tree").mkdir()
    settings = EnvironmentSettings(root=tmp_path / "agent", variables=operator_variables(url), min_free_bytes=0)
    bench = Bench(settings=settings, tree=tmp_path / "tree", manager=manager)
    yield bench
    for ready in bench.ready:
        ready.release()


def operator_variables(index_url: str, **more: str) -> dict[str, str]:
    """What the agent of these tests was started with: one index, no configuration of this machine's."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index_url, "PIP_RETRIES": "0", **more}


def run(ready: ReadyEnvironment, *argv: str, variables: Mapping[str, str] | None = None) -> str:
    """Runs something as a task would and returns what it prints."""
    path = f"{ready.bin}:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": os.environ["HOME"], **ready.variables, **(variables or {})}
    return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout.strip()


def interpreter(settings: EnvironmentSettings, **changes: str) -> Interpreter:
    """The interpreter of the tests, or one that differs from it."""
    return dataclasses.replace(probe(Path(sys.executable), settings), **changes)  # type: ignore[arg-type]
