"""What an agent does about each answer to each of its requests: one table, and the pauses that belong to it."""

from __future__ import annotations

import enum
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TypeVar

from taskyard.errors import ForeignAnswer, NotLoggedIn, Refused, TaskyardError, Unavailable, UsageError

logger = logging.getLogger(__name__)

T = TypeVar("T")

REPEAT_SECONDS = (0.2, 10.0)
DENIED_SECONDS = (2.0, 60.0)
"""The first pause, and the longest, between two requests of an agent that is not let in."""
SAID_AGAIN_SECONDS = 60.0
"""When a trouble that lasts is logged again; from then on ever more rarely."""
RAREST_SECONDS = 600.0


class Route(enum.Enum):
    """What an agent asks of the server; the value begins the log's line while it is not taken."""

    LOOK_UP = "waiting for the server"
    REGISTER = "waiting for the server to know this agent"
    CLAIM = "cannot claim"
    CODE = "cannot fetch the code"
    START = "cannot start run"
    BEAT = "the beat was not taken"
    LOGS = "cannot send the log of run"
    FINISH = "cannot report the end of run"
    OUTPUTS = "cannot send outputs of run"


class Act(enum.Enum):
    """What to do about an answer."""

    REPEAT = "ask again, with back-off"
    ASK_EACH_MINUTE = "the agent is not let in: what runs goes on, ask again, at last once a minute"
    SHRINK = "ask again at once with less; with the least that there is, as REPEAT"
    DISCARD = "the run is not this agent's any more: stop it and report nothing"
    STOP_SHIPPING = "send no more of this log; the run goes on"
    SEND_AGAIN = "the server lacks a part: ask which, and send it"
    DRAW_AGAIN = "the claim took nothing: draw another one after a pause"
    GIVE_UP = "no repeat changes that: the caller says so"


FOREIGN = "foreign"
FOREIGN_TOO_LARGE = "foreign too_large"
SILENCE = "no answer"

_DENIED = {"unauthorised": Act.ASK_EACH_MINUTE, "forbidden": Act.ASK_EACH_MINUTE}
_TOO_MUCH = {"invalid": Act.SHRINK, "too_large": Act.SHRINK}
_GONE = {"stale": Act.DISCARD, "not_found": Act.DISCARD}
_TOOK_NOTHING = dict.fromkeys(("stale", "not_found", "invalid", "too_large", "conflict"), Act.DRAW_AGAIN)

TABLE: Mapping[Route, Mapping[str, Act]] = {
    Route.LOOK_UP: {
        "unauthorised": Act.GIVE_UP,
        "forbidden": Act.GIVE_UP,
        "not_found": Act.GIVE_UP,
        "invalid": Act.GIVE_UP,
    },
    Route.REGISTER: {**_DENIED, "invalid": Act.GIVE_UP},
    Route.CLAIM: {**_DENIED, **_TOOK_NOTHING},
    Route.CODE: {**_DENIED, "not_found": Act.GIVE_UP, "invalid": Act.GIVE_UP},
    Route.START: {**_DENIED, **_TOO_MUCH, **_GONE, FOREIGN_TOO_LARGE: Act.SHRINK},
    Route.BEAT: {**_DENIED, **_TOO_MUCH, FOREIGN_TOO_LARGE: Act.SHRINK},
    Route.LOGS: {
        **_DENIED,
        **_TOO_MUCH,
        "stale": Act.DISCARD,
        "not_found": Act.STOP_SHIPPING,
        FOREIGN_TOO_LARGE: Act.SHRINK,
    },
    Route.FINISH: {**_DENIED, **_TOO_MUCH, **_GONE},
    Route.OUTPUTS: {**_DENIED, **_TOO_MUCH, **_GONE, "conflict": Act.SEND_AGAIN},
}
"""By the word of the answer. Every other word, known or not, and silence are repeated: REPEAT.

A beat speaks for many runs: that one of them is gone stands in its answer, never in its refusal.
"""


def act_on(route: Route, error: TaskyardError) -> Act:
    """What to do about a request that ended in this error."""
    return TABLE[route].get(word_of(error), Act.REPEAT)


def word_of(error: TaskyardError) -> str:
    """The word of the answer by which TABLE is read."""
    if isinstance(error, Refused):
        return error.word
    if isinstance(error, UsageError):  # found before it was sent
        return "invalid"
    if isinstance(error, NotLoggedIn):
        return "unauthorised"
    if isinstance(error, ForeignAnswer):
        return FOREIGN_TOO_LARGE if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else FOREIGN
    return SILENCE


class Troubles:
    """What keeps this agent from the server just now, for `--status`. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_route: dict[Route, str] = {}
        self._listener: Callable[[str], None] = lambda text: None

    @property
    def text(self) -> str:
        """All of them in one line; empty when there is none."""
        return "; ".join(dict.fromkeys(self._by_route.values()))

    def listen(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with the text whenever it changes, and now if there is one."""
        self._listener = listener
        if self.text:
            listener(self.text)

    def note(self, route: Route, trouble: str | None) -> None:
        """Sets the trouble of one route, or lifts it with None."""
        with self._lock:
            before = self.text
            changed = {**self._by_route, route: trouble or ""}
            self._by_route = {key: text for key, text in changed.items() if text}
            after = self.text
            if after != before:
                self._listener(after)


class Conversation:
    """One request that is sent until it is answered: what to do next, how long to wait, and what to log."""

    def __init__(
        self,
        route: Route,
        subject: str = "",
        *,
        troubles: Troubles | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`subject` is the run or agent that it is about."""
        self._route = route
        self._subject = subject
        self._troubles = troubles
        self._clock = clock
        self._attempts = 0
        self._act = Act.REPEAT
        self._said_at: float | None = None
        self._say_again_seconds = SAID_AGAIN_SECONDS
        self._failing_since: float | None = None
        self._failures = 0

    def heed(self, error: TaskyardError) -> Act:
        """Returns what to do about the error; logs it when it is new, and ever more rarely while it lasts."""
        act = act_on(self._route, error)
        if act is not self._act:
            self._attempts, self._said_at = 0, None
        self._act = act
        self._attempts += 1
        now = self._clock()
        self._failing_since = now if self._failing_since is None else self._failing_since
        self._failures += 1
        if self._said_at is None or now - self._said_at >= self._say_again_seconds:
            lasting = self._said_at is not None
            self._say_again_seconds = min(
                RAREST_SECONDS, 2 * self._say_again_seconds if lasting else SAID_AGAIN_SECONDS
            )
            self._said_at = now
            self._say(error, now - self._failing_since)
            if self._troubles and (lasting or act is Act.ASK_EACH_MINUTE):
                self._troubles.note(self._route, str(error))
        return act

    def answered(self) -> None:
        """The server took the request: the next trouble is a new one."""
        if self._said_at is not None and self._failing_since is not None:
            logger.info(
                "the server answers again after %.0f s: %s%s",
                self._clock() - self._failing_since,
                self._route.value,
                f" {self._subject}" if self._subject else "",
                extra={"action": f"{self._route.name.lower()}_taken_again"},
            )
        self._attempts, self._said_at, self._act = 0, None, Act.REPEAT
        self._failing_since, self._failures = None, 0
        if self._troubles:
            self._troubles.note(self._route, None)

    @property
    def pause(self) -> float:
        """Seconds to wait before the next attempt: doubled each time, and never in step with other agents."""
        first, longest = DENIED_SECONDS if self._act is Act.ASK_EACH_MINUTE else REPEAT_SECONDS
        doublings = min(max(0, self._attempts - 1), 16)
        return min(longest, first * 2.0**doublings) * random.uniform(0.5, 1.0)

    def _say(self, error: TaskyardError, lasted_seconds: float) -> None:
        unheard = self._act in (Act.REPEAT, Act.SHRINK)
        logger.log(
            logging.WARNING if unheard else logging.ERROR,
            "%s%s%s: %s%s",
            self._route.value,
            f" {self._subject}" if self._subject else "",
            f" ({self._failures} times in {lasted_seconds:.0f} s)" if self._failures > 1 else "",
            error,
            "" if self._act in (Act.DISCARD, Act.STOP_SHIPPING, Act.GIVE_UP) else "; asking again",
            extra={"action": f"{self._route.name.lower()}_not_taken", "answer": word_of(error)},
        )


def until_answered(call: Callable[[], T], *, sleep: Callable[[float], None] = time.sleep) -> T:
    """Repeats what an agent asks before it can begin, for as long as no server answers. Raises its refusals."""
    conversation = Conversation(Route.LOOK_UP)
    while True:
        try:
            return call()
        except Unavailable as error:
            conversation.heed(error)
            sleep(conversation.pause)
