"""What a service manager is told: that the agent is ready, lives, and ends (`sd_notify`)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

ADDRESS, WATCHDOG_MICROSECONDS, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
VARIABLES = (ADDRESS, WATCHDOG_MICROSECONDS, WATCHDOG_PID)
"""They are for one process: none that it starts may have them."""


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
        """Says `READY=1`, `WATCHDOG=1`, `STOPPING=1`; one that does not listen is no harm."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
            way.connect(address)
            way.sendall(state.encode())
