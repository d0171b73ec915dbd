"""The container engine of this machine: Docker, or Podman through its compatible socket."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskyard_agent.containers.failure import engine_failed, translated, without_status
from taskyard_agent.containers.records import Ended
from taskyard_agent.containers.settings import ContainerSettings
from taskyard_agent.errors import SettingsError

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container

TASK, RUN, AGENT = "taskyard.task", "taskyard.run", "taskyard.agent"
"""Labels of every container that an agent makes; the agent's is its folder, which no other agent has."""
OF_NOBODY = {TASK: "", RUN: "", AGENT: ""}
"""Labels of an image that is made of such a container: it would hand its own on to every container made of it, and
those are no leftovers of ours."""
PREPARED = "taskyard.prepared"
"""Label of an image that a set-up made."""
REQUEST_SECONDS = 120
NVIDIA = "nvidia"
NVIDIA_HOOK = "nvidia-container-runtime-hook"
"""NVIDIA's program that Docker looks for; Podman goes by the device interface's files."""
DEVICE_FILES = ("/etc/cdi", "/var/run/cdi")


def find_socket(environ: Mapping[str, str]) -> Path | None:
    """The engine's socket: DOCKER_HOST, else Docker's, else Podman's; None when there is none.

    Raises SettingsError for an engine on another machine, which could not mount this one's folders.
    """
    named = environ.get("DOCKER_HOST")
    if named:
        if not named.startswith("unix://"):
            raise SettingsError(
                f"DOCKER_HOST is {named}; containers need an engine on this machine, at unix://PATH"
            )
        return Path(named.removeprefix("unix://"))
    return next((place for place in _usual_places(environ) if place.exists()), None)


def engine_name(environ: Mapping[str, str]) -> str:
    """`docker` or `podman`, by its socket: the engine itself may not be up yet. Raises SettingsError."""
    return "podman" if "podman" in str(find_socket(environ)) else "docker"


def _usual_places(environ: Mapping[str, str]) -> Iterator[Path]:
    own = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    yield Path("/var/run/docker.sock")
    yield Path(own, "docker.sock")
    yield Path(own, "podman/podman.sock")
    yield Path("/run/podman/podman.sock")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The engine behind a socket; connects when it is first asked. May be used from any thread."""

    socket: Path
    agent: str
    """The agent's folder: marks its containers."""

    @functools.cached_property
    def client(self) -> docker.DockerClient:
        """The connection. Raises RunFailed when the engine does not answer; the next use tries again."""
        import docker  # 0.2 s and 15 MB that agents without containers do not spend

        with translated("cannot use containers"):
            return docker.DockerClient(
                base_url=f"unix://{self.socket}", version="auto", timeout=REQUEST_SECONDS, max_pool_size=64
            )

    @property
    def architecture(self) -> str:
        """What it runs natively: `x86_64`."""
        with translated("cannot use containers"):
            return str(self.client.info()["Architecture"])

    @property
    def version(self) -> str:
        """Of the engine itself."""
        with translated("cannot use containers"):
            return str(self.client.info()["ServerVersion"])

    def gives_gpus(self, environ: Mapping[str, str]) -> bool:
        """Whether NVIDIA's toolkit is there, without which no container gets a GPU."""
        with translated("cannot use containers"):
            runtimes = self.client.info().get("Runtimes") or {}
        files = [file for folder in DEVICE_FILES for file in Path(folder).glob("*nvidia*")]
        return NVIDIA in runtimes or bool(files) or shutil.which(NVIDIA_HOOK, path=environ.get("PATH")) is not None

    def create(self, options: Mapping[str, Any]) -> str:
        """Makes a container, not started yet; returns its id. `options` are those of the engine's library.

        One of the same name was made by a daemon that was killed before it could start it: it is replaced.
        """
        with translated("the container cannot be made"):
            with without_status(409) as conflict:
                made: Container = self.client.containers.create(**options)
            if conflict:
                self.remove(options["name"])
                made = self.client.containers.create(**options)
        return str(made.id)

    def remove(self, container: str) -> None:
        """Ends and removes a container; one that is gone, or going just now, is gone."""
        with translated("the container cannot be removed"), without_status(404, 409):
            self.client.api.remove_container(container, force=True, v=True)

    def signal(self, container: str, name: str) -> None:
        """Signals a container's first process; one that does not run gets none."""
        with translated("the container cannot be signalled"), without_status(404, 409):
            self.client.api.kill(container, signal=name)

    def ended(self, container: str) -> Ended | None:
        """How a container is; None when there is none of that id."""
        with translated("the container cannot be looked at"):
            with without_status(404) as absent:
                state = self.client.api.inspect_container(container)["State"]
            if absent:
                return None
        return Ended(
            started=not str(state.get("StartedAt") or "0001").startswith("0001"),
            running=bool(state["Running"]),
            exit_code=int(state["ExitCode"]),
            out_of_memory=bool(state.get("OOMKilled")),
            error=str(state.get("Error") or ""),
        )

    def first_process(self, container: str) -> int | None:
        """A running container's first process, as this machine counts them; None when it cannot be seen from here:
        an engine in a machine of its own counts differently."""
        with translated("the container cannot be looked at"), without_status(404):
            pid = int(self.client.api.inspect_container(container)["State"]["Pid"])
            with contextlib.suppress(OSError):
                return pid if pid and container in Path(f"/proc/{pid}/cgroup").read_text() else None
        return None

    def has_file(self, container: str, path: str) -> bool:
        """Whether a container has a file, be it started or not."""
        with translated("the image cannot be looked into"):
            with without_status(404) as absent:
                content, _ = self.client.api.get_archive(container, path)
                for _ in content:
                    pass
        return not absent

    def close(self) -> None:
        """Closes the connection."""
        if "client" in self.__dict__:
            self.client.close()

    def of_run(self, run: str) -> tuple[str, ...]:
        """The containers that carry a run's label, running or not."""
        return tuple(item["Id"] for item in self._labelled(f"{RUN}={run}"))

    def of_agent(self) -> tuple[tuple[str, str], ...]:
        """The agent's containers, each with its run."""
        return tuple((item["Id"], item["Labels"].get(RUN, "")) for item in self._labelled(f"{AGENT}={self.agent}"))

    def _labelled(self, label: str) -> list[dict[str, Any]]:
        with translated("containers cannot be listed"):
            found: list[dict[str, Any]] = self.client.api.containers(all=True, filters={"label": label})
            return found


def engine_of(settings: ContainerSettings) -> Engine:
    """The engine that the agent's variables lead to. Raises RunFailed when there is none."""
    socket = find_socket(settings.environ)
    if socket is None:
        raise engine_failed(
            "there is no container engine on this machine: install and start Docker or Podman, or name its socket "
            "in DOCKER_HOST=unix://PATH"
        )
    return Engine(socket=socket, agent=settings.agent)
