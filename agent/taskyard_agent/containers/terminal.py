"""A further process in a run's container, on a terminal of the engine's."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taskyard_agent.containers.engine import Engine
from taskyard_agent.containers.failure import refused, translated, without_status
from taskyard_agent.containers.records import engine_place
from taskyard_agent.errors import RunFailed

SHELL = ("/bin/sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash -i; exec /bin/sh -i")


class ContainerTerminal:
    """One process that the engine runs in a container. Two threads may use it: one reads, one does the rest."""

    def __init__(self, engine: Engine, process: str, stream: socket.socket, keeps: Any) -> None:
        self._engine = engine
        self._process = process
        self._stream = stream
        self._keeps = keeps
        """The library's response, which closes the stream when it goes."""
        self.descriptor = stream.fileno()

    @classmethod
    def open(
        cls, run_dir: Path, command: Sequence[str], variables: Mapping[str, str], *, rows: int, columns: int
    ) -> ContainerTerminal:
        """Starts the command, or a shell, in the container of the run. Raises RunFailed."""
        place = engine_place(run_dir)
        if place is None:
            raise refused("the run's container is gone")
        engine = Engine(socket=Path(place["socket"]), agent=place["agent"])
        with translated("no terminal can be opened in the container"):
            api = engine.client.api
            process = str(
                api.exec_create(
                    place["id"], list(command or SHELL), stdin=True, tty=True, environment=dict(variables)
                )["Id"]
            )
            keeps: Any = api.exec_start(process, tty=True, socket=True)
            stream: socket.socket = getattr(keeps, "_sock", keeps)
            stream.settimeout(None)
        opened = cls(engine, process, stream, keeps)
        opened.resize(rows, columns)
        return opened

    def read(self, most: int) -> bytes:
        """What it shows; empty at its end."""
        try:
            return self._stream.recv(most)
        except OSError:
            return b""

    def write(self, data: bytes) -> None:
        """Types."""
        with contextlib.suppress(OSError):  # it has ended
            self._stream.sendall(data)

    def resize(self, rows: int, columns: int) -> None:
        """Sets the size of the window; a process that is not there yet, or any more, has none."""
        # A window of another size is no reason to end a terminal.
        with contextlib.suppress(RunFailed), translated("the window cannot be resized"):
            self._engine.client.api.exec_resize(self._process, height=rows, width=columns)

    def ended(self) -> tuple[int | None, int]:
        """Its exit code, None while it runs, and its pid as the engine's machine counts. Raises RunFailed."""
        with translated("the container cannot be looked at"), without_status(404):
            found = self._engine.client.api.exec_inspect(self._process)
            return (None if found["Running"] else found["ExitCode"]), int(found.get("Pid") or 0)
        return None, 0

    def close(self) -> None:
        """Lets go of it."""
        with contextlib.suppress(OSError):
            self._keeps.close()
        self._engine.close()
