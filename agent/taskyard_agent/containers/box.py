"""The container of one run: from the image that it needs to the command that is the container for its keeper."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from docker.types import DeviceRequest
from taskyard.wire import Gpu

from taskyard_agent.containers import authorities
from taskyard_agent.containers.arguments import Created
from taskyard_agent.containers.engine import Engine
from taskyard_agent.containers.images import Image
from taskyard_agent.containers.records import RECORD, Inside
from taskyard_agent.containers.workshop import HOME, Workshop, agents_user, attach_command, bound, lent, made_of
from taskyard_agent.keeper.durable import write_whole

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What an engine takes where the image says nothing."""
ONE_STREAM = 'exec "$@" 2>&1'
"""Standard output and error are one ordered stream, as on a machine; an engine alone mixes them up."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A prepared image, and what holds for the one container of a run in it."""

    engine: Engine
    image: Image
    """With its set-up."""
    digest: str
    """Of the image that was asked for."""
    task: str
    run: str
    options: Created
    """The operator's and the task's."""
    workshop: Workshop
    lock: int | None = None
    """Keeps the image from being pruned until it has a container."""

    def release(self) -> None:
        """Lets go of the image, once it has its container or is not needed any more."""
        if self.lock is not None:
            os.close(self.lock)

    @property
    def path(self) -> str:
        """Where the image looks for programs."""
        return self.image.variables.get("PATH", PATH)

    @property
    def variables(self) -> dict[str, str]:
        """What every command in it is given."""
        own = {"PATH": self.path, "HOME": HOME, **authorities.variables_of(self.workshop.bundle)}
        return {**own, **self.options.get("environment", {})}

    def create(self, command: Inside) -> tuple[str, ...]:
        """Makes the container and notes it in the run's folder; returns what to start to be its command."""
        container = self.engine.create(self.options_of(command))
        write_whole(
            str(command.run_dir / RECORD),
            json.dumps({"socket": str(self.engine.socket), "agent": self.engine.agent, "id": container}).encode(),
        )
        return tuple(attach_command(self.engine, container, command.grace_seconds))

    def options_of(self, command: Inside) -> Created:
        """What the engine is asked for the run's container."""
        shell = ("/bin/sh", "-c", ONE_STREAM, "sh") if self.workshop.shell else ()
        argv = (*shell, *command.argv)
        limits = _memory(self.options, command.memory_bytes)
        own = {"user": command.user or agents_user(), "working_dir": str(command.work), **self.options}
        return {
            **made_of(self.engine, self.task, self.run, own),
            **limits,
            "name": f"taskyard-{self.run}",
            "image": self.image.id,
            "entrypoint": [argv[0]],
            "command": list(argv[1:]),
            "environment": dict(command.variables),
            "mounts": [*bound(command.reads, command.writes), *lent(self.workshop.bundle)],
            **_devices(command.gpus),
        }


def _memory(options: Created, given: int | None) -> Created:
    """A task may ask for less than its run is given, never for more."""
    if not given:
        return {}
    asked = options.get("mem_limit")
    limit = min(given, asked) if asked else given
    return {"mem_limit": limit, "memswap_limit": limit}


def _devices(gpus: Sequence[Gpu]) -> Created:
    """By id: an index would mean another GPU where some are taken."""
    if not gpus:
        return {}
    wanted = DeviceRequest(device_ids=[gpu.uuid for gpu in gpus], capabilities=[["gpu"]])
    return {"device_requests": [wanted]}
