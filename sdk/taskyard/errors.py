"""The SDK's errors.

TaskyardError
├── UsageError     the caller's mistake, found before anything was sent: exit code 2
├── NotLoggedIn    the server wants a token, or does not accept this one
├── Unavailable    no answer, or "not now", for longer than the caller's patience: a repeat is right
│   └── ForeignAnswer  something else answered in the server's place: a proxy, a portal, another program
└── Refused        the server understood and said no; a repeat would not change that
    ├── NotFound   there is no such thing
    └── Stale      the run is not the caller's any more: stop it, report no more

`str(error)` is one sentence for people: what happened, to what, and what to do next.
"""

from __future__ import annotations

_INVALID = 422
_PASSING = (408, 425, 429)
_SERVER_ERRORS = 500


class TaskyardError(Exception):
    """Root of the SDK's errors."""

    @property
    def mistake(self) -> bool:
        """Whether the caller's words are at fault: other words would do."""
        return False


class UsageError(TaskyardError):
    """A flag, variable, file or argument that cannot be followed."""

    @property
    def mistake(self) -> bool:
        """Always."""
        return True


class NotLoggedIn(TaskyardError):
    """No token is held for this server, or the one held is not valid any more."""


class Unavailable(TaskyardError):
    """The server cannot be reached or cannot take it just now; it may have said when to ask again."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ForeignAnswer(Unavailable):
    """An answer that is not Taskyard's own. It says nothing about the task, the run or the token."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    @property
    def passing(self) -> bool:
        """Whether proxies give such an answer while the server behind them restarts or is busy."""
        return self.status in _PASSING or self.status >= _SERVER_ERRORS


class Refused(TaskyardError):
    """The server's answer is no. `word` is the stable word of the answer, `detail` its sentence."""

    def __init__(self, status: int, word: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.word = word
        self.detail = detail

    @property
    def mistake(self) -> bool:
        """Where the server found it, rather than the client."""
        return self.status == _INVALID


class NotFound(Refused):
    """The server has no such task, run, queue, worker, token or blob."""


class Stale(Refused):
    """The control token is not the current run's; nothing was written."""
