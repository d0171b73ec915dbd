"""What holds for every request and answer, whatever the route: the path's spelling, the headers of each answer."""

from __future__ import annotations

import importlib.metadata
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from taskyard.wire import GENERATION_HEADER, MARK_HEADER

from taskyard_server.api.problems import ERROR_KEY, crashed, problem
from taskyard_server.instruments import Instruments

_STRANGE = re.compile(rb"%2f|%5c|%00|\\|\x00", re.IGNORECASE)
"""An encoded slash or backslash would be a slash only to some of those that look at the path."""
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
    (MARK_HEADER.lower().encode(), importlib.metadata.version("taskyard").encode()),
)
_GENERATION = GENERATION_HEADER.lower().encode()
_TLS_HEADER = (b"strict-transport-security", b"max-age=31536000")


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, *, tls: bool, instruments: Instruments) -> None:
        self._app = app
        self._instruments = instruments
        self._headers = [*_HEADERS, _TLS_HEADER] if tls else list(_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                own = (*self._headers, *_generation(scope))
                message["headers"] = [*message["headers"], *(h for h in own if h[0] not in present)]
            await send(message)

        if _STRANGE.search(scope.get("raw_path") or b"") or b"%00" in scope["query_string"]:
            answer = problem(400, "malformed", "the address holds an encoded slash, a backslash or a NUL")
            await answer(scope, receive, send_guarded)
            return
        began = time.perf_counter()
        try:
            await self._app(scope, receive, send_guarded)
        except Exception as error:
            # The framework would answer it outside of this layer, without the headers that say whose answer it is.
            answer = crashed(scope, error)
            if begun:
                raise
            await answer(scope, receive, send_guarded)
        finally:
            operation = getattr(scope.get("endpoint"), "__name__", "none")
            self._instruments.request(operation, time.perf_counter() - began, scope.get(ERROR_KEY))


def _generation(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Which restored copy of itself the store is, once it is open."""
    services = getattr(scope["app"].state, "services", None)
    return [] if services is None else [(_GENERATION, b"%d" % services.recovery.generation.number)]
