"""The log of servers and agents: one form for both, and how a trouble that lasts is logged."""

from __future__ import annotations

import datetime
import json
import logging
import sys
import time
from collections.abc import Callable

FORMATS = ("text", "json")
LIBRARIES = ("asyncio", "httpx", "pymongo", "sse_starlette", "uvicorn.error")
"""They log from warnings on."""
FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 600.0
QUIET_SECONDS = 60.0
"""After this long without a failure the next one begins another outage."""
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_OF_PYTHON = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "action"}
_component = "taskyard"


def begin(level: str, form: str, component: str) -> None:
    """Logs to standard error from now on, as `component`: `server`, or `agent`."""
    name(component)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)


def name(component: str) -> None:
    """Sets who speaks from now on: an agent knows its worker's name only once it has begun."""
    global _component  # noqa: PLW0603 - one process is one component
    _component = component


class TextLines(logging.Formatter):
    """`2026-11-30T22:15:13.166Z INFO server: listening on … [server_started]`."""

    def format(self, record: logging.LogRecord) -> str:
        """Escapes what a name in a message could forge: further lines, the terminal's control codes."""
        message = record.getMessage().translate(_CONTROL)
        line = f"{_moment(record)} {record.levelname} {_component}: {message} [{_action(record)}]"
        return line + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


class JsonLines(logging.Formatter):
    """One JSON object a line: `time`, `level`, `component`, `action`, `message`, and what the event is about."""

    def format(self, record: logging.LogRecord) -> str:
        """As the class says; `exception` holds a traceback where there is one."""
        fields: dict[str, object] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "component": _component,
            "action": _action(record),
            "message": record.getMessage(),
        }
        fields |= {key: value for key, value in vars(record).items() if key not in _OF_PYTHON}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def _moment(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _action(record: logging.LogRecord) -> str:
    return str(getattr(record, "action", "-"))


class Outage:
    """One trouble that may last: logged at its first failure, then ever more rarely with a count, and at its end.

    One thread uses it, or several that may each log a line.
    """

    def __init__(
        self, logger: logging.Logger, what: str, action: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`what` begins each line, like `the store is unavailable`; the end is logged as `ACTION_over`."""
        self._logger = logger
        self._what = what
        self._action = action
        self._clock = clock
        self._failures = 0
        self._began = self._failed_at = self._say_at = float("-inf")
        self._pause = FIRST_PAUSE_SECONDS

    def failed(self, error: object) -> None:
        """Notes one failure."""
        now = self._clock()
        if not self._failures or now - self._failed_at > max(QUIET_SECONDS, self._pause):
            self._failures, self._began, self._say_at, self._pause = 0, now, now, FIRST_PAUSE_SECONDS
        self._failures, self._failed_at = self._failures + 1, now
        if now < self._say_at:
            return
        lasting = f" ({self._failures} times in {now - self._began:.0f} s)" if self._failures > 1 else ""
        self._logger.warning("%s%s: %s", self._what, lasting, error, extra={"action": self._action})
        self._say_at = now + self._pause
        self._pause = min(LONGEST_PAUSE_SECONDS, 2 * self._pause)

    def over(self) -> None:
        """Notes a success: the end of the outage, where there was one."""
        if not self._failures:
            return
        self._logger.info(
            "over after %.0f s and %d failures: %s",
            self._clock() - self._began,
            self._failures,
            self._what,
            extra={"action": f"{self._action}_over"},
        )
        self._failures = 0
