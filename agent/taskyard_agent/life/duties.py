"""When an agent takes tasks and when it ends, as the clock and the operator's settings say; and its watchdog."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from taskyard_agent.config import AgentSettings
from taskyard_agent.tally import Tally

from .hours import Hours
from .running import Announcement
from .systemd import LIVES, READY, STOPPING, ServiceManager

logger = logging.getLogger(__name__)

LONGEST_REST_SECONDS = 60.0
"""A clock that was set, or a machine that slept, is noticed within this time."""
NEVER = float("inf")


class Life:
    """Holds, drains and vouches for one agent. Its thread runs only where something was asked of it."""

    def __init__(
        self,
        settings: AgentSettings,
        tally: Tally,
        *,
        hold: Callable[[str, str | None], None],
        drain: Callable[[str], bool],
        tell_server: Callable[[], None],
        lives: Callable[[], bool],
        announcement: Announcement,
    ) -> None:
        """`hold` is `Worker.hold`. `drain` says whether it began the drain; `lives`, whether all loops turn."""
        self._settings = settings
        self._tally = tally
        self._hold = hold
        self._drain = drain
        self._tell_server = tell_server
        self._lives = lives
        self._announcement = announcement
        self._hours = Hours(up=settings.uptime, down=settings.downtime)
        self._manager = ServiceManager(settings.environ)
        self._ends_at = NEVER
        self._pause: str | None = None
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._duties: tuple[Callable[[], float], ...] = ()
        self._thread = threading.Thread(target=self._loop, name="life", daemon=True)
        self.begins_anew = False
        """Whether the agent is to start again once it has ended."""

    def __enter__(self) -> Life:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begins; from here on nothing is taken outside of the hours, or beyond the number of runs."""
        settings = self._settings
        if settings.max_tasks is not None:
            self._tally.listen(self._count)
        if settings.lifetime is not None:
            stagger = random.uniform(-1.0, 1.0) * settings.lifetime_stagger
            self._ends_at = time.monotonic() + settings.lifetime + stagger
        wanted = (
            (self._keep_hours, settings.uptime or settings.downtime),
            (self._end_when_old, settings.lifetime is not None),
            (self._end_when_idle, settings.idle_timeout is not None),
            (self._feed_watchdog, self._manager.patience_seconds is not None),
        )
        self._duties = tuple(duty for duty, is_wanted in wanted if is_wanted)
        self._announcement.make()
        self._rest()  # the hours hold before the first claim
        if self._duties:
            self._tally.listen(self._woken.set)
            self._thread.start()

    def ready(self) -> None:
        """The server knows the agent."""
        self._announcement.make(known=True)
        self._manager.tell(READY)

    def note(self, trouble: str) -> None:
        """What keeps the agent from the server is there for `--status`; empty: nothing does."""
        try:
            self._announcement.note(trouble)
        except OSError as error:  # a full disk: the log says it all the same
            logger.warning("the agent's record cannot be written: %s", error, extra={"action": "record_failed"})

    def stop(self) -> None:
        """Ends it."""
        self._manager.tell(STOPPING)
        self._announcement.withdraw()
        self._stopping.set()
        self._woken.set()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._woken.wait(self._rest())
            self._woken.clear()

    def _rest(self) -> float:
        """Does what is due; returns how long nothing more will be."""
        return max(0.0, min([LONGEST_REST_SECONDS, *(duty() for duty in self._duties)]))

    # --- duties: each does what is due and returns the seconds until it is to be asked again

    def _keep_hours(self) -> float:
        now = time.time()
        change = self._hours.next_change(now)
        until = f": takes tasks again at {self._hours.shown(change)}" if change else ""
        self._hold_for_hours(None if self._hours.open_at(now) else f"outside its hours{until}")
        return change - now if change else NEVER

    def _hold_for_hours(self, reason: str | None) -> None:
        if reason == self._pause:
            return
        self._pause = reason
        logger.info("%s", reason or "within its hours: takes tasks", extra={"action": "agent_hours"})
        self._hold("hours", reason)
        self._tell_server()

    def _end_when_old(self) -> float:
        left = self._ends_at - time.monotonic()
        if left > 0:
            return left
        self._ends_at = NEVER
        if self._drain("its lifetime is over"):
            self.begins_anew = self._settings.lifetime_restart
        return NEVER

    def _end_when_idle(self) -> float:
        patience, rested = self._settings.idle_timeout, self._tally.rested_seconds
        if patience is None or rested is None:
            return NEVER
        if rested >= patience:
            self._drain(f"nothing has run for {patience:.0f} s")
            return NEVER
        return patience - rested

    def _feed_watchdog(self) -> float:
        if self._lives():
            self._manager.tell(LIVES)
        return (self._manager.patience_seconds or NEVER) / 3

    def _count(self) -> None:
        """Called before the next claim, so that not one run too many is taken."""
        if self._tally.taken < (self._settings.max_tasks or 0):
            return
        self._hold("max_tasks", "took as many tasks as it was to take")
        self._drain(f"it took {self._tally.taken} tasks, as many as it was to take")
