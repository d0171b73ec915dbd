"""The server's errors.

ServerError
├── NotFound        404  there is no such thing
├── Invalid         422  the request cannot mean anything
├── Conflict        409  not now: the state does not allow it
│   └── Stale       409  the run is not the caller's any more: stop it (error word `stale`)
├── Unauthorised    401  no token, or one that is not valid
│   └── UnknownToken     it was never issued here
├── Forbidden       403  the token does not give this right
│   └── ClaimedByAnother  403  the run is another agent's
├── TooLarge        413  over a limit
├── TooMany         429  slow down, or the queue is full
└── Unavailable     503  the store cannot be reached, or the disk is full: try again

`api` turns each into `{error, detail}`; nothing below `api` knows of HTTP.
"""

from __future__ import annotations


class ServerError(Exception):
    """Root of the server's errors; `str(error)` is the detail for the caller."""

    status = 500
    word = "internal"


class NotFound(ServerError):
    """There is no such task, run, queue, worker, token or blob."""

    status = 404
    word = "not_found"


class Invalid(ServerError):
    """The request is well formed and still means nothing."""

    status = 422
    word = "invalid"


class Conflict(ServerError):
    """The state does not allow it."""

    status = 409
    word = "conflict"


class Stale(Conflict):
    """The token is not the current run's: nothing was written."""

    word = "stale"


class Unauthorised(ServerError):
    """No token, or one that is unknown, expired or revoked."""

    status = 401
    word = "unauthorised"


class UnknownToken(Unauthorised):
    """A token that was never issued here, or since the copy that the store was restored from."""


class Forbidden(ServerError):
    """The token is valid and does not give this right."""

    status = 403
    word = "forbidden"


class ClaimedByAnother(Forbidden):
    """The run was claimed with another agent's token, whose id is `agent`."""

    def __init__(self, run_id: str, agent: str) -> None:
        super().__init__(f"run {run_id} was claimed by another agent: only that one may report on it")
        self.agent = agent


class TooLarge(ServerError):
    """Over a limit in bytes or in number."""

    status = 413
    word = "too_large"


class TooMany(ServerError):
    """Over a rate or a capacity."""

    status = 429
    word = "too_many"


class Unavailable(ServerError):
    """The store or the disk cannot take it just now; nothing was written, a repeat is right."""

    status = 503
    word = "unavailable"


class StartRefused(Exception):
    """The server cannot run on this store; `str(error)` says why and names the cure."""


class CopyRefused(Exception):
    """No copy was made, or none brought back; `str(error)` says why and what to do. Nothing is left behind."""
