"""What a service manager, or a pool, is told: that the agent is ready, lives, and ends (`sd_notify`)."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Mapping

ADDRESS, WATCHDOG_MICROSECONDS, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
VARIABLES = (ADDRESS, WATCHDOG_MICROSECONDS, WATCHDOG_PID)
"""They are for one process: none that it starts may have them."""
READY, LIVES, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"
CREDENTIALS = struct.Struct("3i")
"""Of who sent a message: pid, user and group, by the kernel's word."""
TOLD_SECONDS = 5.0
"""A manager that does not read for so long is not told."""


class ServiceManager:
    """The one that started this process, if any did. The variables are those of `sd_notify(3)`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get(ADDRESS, "")
        self._watchdog = environ.get(WATCHDOG_MICROSECONDS, "")
        self._for_pid = environ.get(WATCHDOG_PID, str(os.getpid()))

    @property
    def patience_seconds(self) -> float | None:
        """How long it waits for a sign of life before it kills; None when it waits for none."""
        if not (self._address and self._watchdog) or self._for_pid != str(os.getpid()):
            return None
        return int(self._watchdog) / 1e6

    def tell(self, state: str) -> None:
        """Says READY, LIVES, STOPPING; one that does not listen is no harm."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
            way.settimeout(TOLD_SECONDS)
            way.connect(address)
            way.sendall(state.encode())


class Ear:
    """What the processes that this one started tell it, in the words that a service manager is told."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds

    def __enter__(self) -> Ear:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.setblocking(False)
        self._socket.bind("")  # the kernel finds a name, which is no file
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    @property
    def variables(self) -> dict[str, str]:
        """What a process is started with that is to be heard."""
        address = self._socket.getsockname().decode().replace("\0", "@", 1)
        return {ADDRESS: address, WATCHDOG_MICROSECONDS: str(int(self._patience_seconds * 1e6))}

    def hear(self) -> Iterator[tuple[int, str]]:
        """What was told since it listened last, each word with the pid of who told it: anybody may."""
        with contextlib.suppress(BlockingIOError):
            while True:
                word, about, _, _ = self._socket.recvmsg(256, socket.CMSG_SPACE(CREDENTIALS.size))
                for _, kind, data in about:
                    if kind == socket.SCM_CREDENTIALS and len(data) == CREDENTIALS.size:
                        yield CREDENTIALS.unpack(data)[0], word.decode(errors="replace")
