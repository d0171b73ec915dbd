"""The agent of a keeper in a batch job: whether it lives, and why it ends. Standard library alone."""

from __future__ import annotations

import os
import select
import time

from taskyard_agent.keeper.processes import ProcessIdentity, boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes 4 ms
    from typing import Any


class AgentWatch:
    """Looks after one agent by pid and start time."""

    def __init__(self, job: dict[str, Any]) -> None:
        """`job` is a `LaunchJob` as JSON."""
        self._identity = ProcessIdentity(
            pid=job["agent_pid"], start_ticks=job["agent_start_ticks"], boot_id=boot_id()
        )
        self._limit_at: float | None = job["limit_at"]
        self.grace_seconds: float = job["grace_seconds"]
        self.handle = self._open()
        """Becomes readable when the agent ends; None where the kernel has no such thing."""

    def lives(self) -> bool:
        """Whether it runs."""
        if self.handle is None:
            return self._identity.alive()
        waiter = select.poll()
        waiter.register(self.handle, select.POLLIN)
        return not waiter.poll(0)

    def cause(self) -> str:
        """Why it ends now, as a `Cause`."""
        over = self._limit_at is not None and time.time() >= self._limit_at
        return "time_limit" if over else "preempted"

    def _open(self) -> int | None:
        try:
            handle = os.pidfd_open(self._identity.pid)
        except (AttributeError, OSError):  # not Linux, an old kernel, or no such process
            return None
        if self._identity.alive():
            return handle
        os.close(handle)
        return None
