"""The agent's first word to the server: it takes and reports nothing before its name is its own there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from taskyard.errors import TaskyardError
from taskyard.wire import RunReport, WorkerDirective

from .answers import Act, Conversation, Route, Troubles
from .errors import SettingsError
from .lease import Lease

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2.0


class Introduction:
    """Asks until the server knows the agent, for as long as it takes where that cannot be reached.

    A name whose agent may be gone is waited for. Whether it is gone, its silence tells; how long that must last is
    the server's to say, and may become longer, since time in which it could not hear proves nothing.
    """

    def __init__(self, lease: Lease, left: Sequence[RunReport], troubles: Troubles | None = None) -> None:
        """`left` are the runs that an earlier daemon of this agent left."""
        self._conversation = Conversation(Route.REGISTER, troubles=troubles)
        self._lease = lease
        self._left = left
        self._other_heard_at: float | None = None
        """When the agent that has the name was last heard, as the server told it first."""

    def made(self, told: threading.Event) -> bool:
        """Waits until the server knows the agent; False when `told` was set before.

        Raises SettingsError when another agent of this name is heard while this one waits, Refused for a name that
        the server does not take.
        """
        while not told.is_set():
            if self._is_known():
                return True
            told.wait(max(RETRY_SECONDS, self._conversation.pause))
        return False

    def _is_known(self) -> bool:
        try:
            directive = self._lease.introduce(self._left)
        except TaskyardError as error:
            if self._conversation.heed(error) is Act.GIVE_UP:
                raise
            return False
        self._conversation.answered()
        if directive.taken_seconds is None:
            return True
        self._note_other(directive, directive.taken_seconds)
        return False

    def _note_other(self, directive: WorkerDirective, taken_seconds: float) -> None:
        if self._other_heard_at is None:
            self._other_heard_at = directive.heard_at
            logger.warning(
                "%s; waiting %.0f s, in case that one is gone",
                directive.reason,
                taken_seconds,
                extra={"action": "name_taken"},
            )
        elif directive.heard_at != self._other_heard_at:
            raise SettingsError(directive.reason)
