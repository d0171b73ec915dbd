"""Programs in throw-away containers of an image: what builds environments, and sets images up."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from docker.types import LogConfig, Mount

from taskyard_agent.containers import attach, authorities
from taskyard_agent.containers.arguments import Created, merge
from taskyard_agent.containers.engine import AGENT, RUN, TASK, Engine
from taskyard_agent.containers.images import Image
from taskyard_agent.containers.settings import PIDS

STOP_SECONDS = 1.0
HOME = "/tmp"  # noqa: S108 - the container's own
"""Of users that the image does not know."""


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """An image in which programs of one run are run, each in a container of its own, as the agent's user.

    Folders of this machine are at the same paths inside. Implements `environments.place.Place`.
    """

    engine: Engine
    image: Image
    task: str
    run: str
    bundle: Path | None
    options: Created
    """Of the operator: network, volumes and the like hold for building, too."""
    shell: bool = True
    """Whether there is a `/bin/sh` in the image."""
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()

    def over(self, tree: Path, reads: Sequence[Path]) -> Workshop:
        """The same with a run's code at hand, and what its git directory reads."""
        return dataclasses.replace(self, reads=(*self.reads, *reads), writes=(*self.writes, tree))

    @property
    def key(self) -> str:
        """Names the image for all time."""
        return self.image.id

    @property
    def name(self) -> str:
        """What people call it."""
        return self.image.name

    @contextlib.contextmanager
    def program(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        variables: Mapping[str, str],
        reads: Sequence[Path] = (),
        writes: Sequence[Path] = (),
    ) -> Iterator[list[str]]:
        """Makes a container for a program; yields the command that starts it and is the program from then on."""
        options = self._options(argv, cwd, variables, (*self.reads, *reads), (*self.writes, *writes))
        container = self.engine.create(options)
        try:
            yield attach_command(self.engine, container, STOP_SECONDS)
        finally:
            self.engine.remove(container)

    def _options(
        self,
        argv: Sequence[str],
        cwd: Path,
        variables: Mapping[str, str],
        reads: Sequence[Path],
        writes: Sequence[Path],
    ) -> Created:
        own = {"HOME": HOME, **authorities.variables_of(self.bundle)}
        kept = {name: value for name, value in self.options.items() if name not in ("user", "working_dir")}
        mounts = [*bound(reads, writes), *lent(self.bundle)]
        return {
            **made_of(self.engine, self.task, self.run, kept),
            "image": self.image.id,
            "entrypoint": [argv[0]],
            "command": list(argv[1:]),
            "working_dir": str(cwd),
            "environment": {**self.options.get("environment", {}), **variables, **own},
            "user": agents_user(),
            "mounts": mounts,
        }


def agents_user() -> str:
    """The agent's own user and group, so that what a container writes is the agent's."""
    return f"{os.getuid()}:{os.getgid()}"


def made_of(engine: Engine, task: str, run: str, options: Created) -> Created:
    """What the engine is asked for a run's container of any kind, made of what its operator and task say.

    Single values are theirs; they add to labels and protection, and take neither away.
    """
    return merge({"labels": {TASK: task, RUN: run, AGENT: engine.agent}, **_defaults()}, options)


def looked_into(engine: Engine, task: str, run: str, image: str) -> Created:
    """What the engine is asked for a container that is never started."""
    return made_of(engine, task, run, {"image": image, "entrypoint": ["/bin/sh"]})


def _defaults() -> Created:
    return {
        "detach": True,
        "init": True,
        "security_opt": ["no-new-privileges"],
        "pids_limit": PIDS,
        # What it writes goes to whoever attached, and nowhere else: not a second time to the engine's disk.
        "log_config": LogConfig(type=LogConfig.types.NONE),
        "stop_signal": "SIGTERM",
    }


def bound(reads: Sequence[Path], writes: Sequence[Path]) -> list[Mount]:
    """Mounts of folders at their own paths. Those that may be written win over those that may be read."""
    readable = [path for path in dict.fromkeys(reads) if path not in writes]
    return [_bind(path, path, read_only=True) for path in readable] + [
        _bind(path, path, read_only=False) for path in dict.fromkeys(writes)
    ]


def lent(bundle: Path | None) -> list[Mount]:
    """The mount of the machine's certificate authorities."""
    return [_bind(bundle.resolve(), Path(authorities.INSIDE), read_only=True)] if bundle else []


def _bind(source: Path, target: Path, *, read_only: bool) -> Mount:
    return Mount(type="bind", source=str(source), target=str(target), read_only=read_only)


def attach_command(engine: Engine, container: str, grace_seconds: float) -> list[str]:
    """What to start, to be the container's program in this machine's eyes."""
    return [sys.executable, "-I", "-S", attach.__file__, str(engine.socket), container, str(grace_seconds)]
