"""Turns everything that can go wrong into `{error, detail}`."""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route
from starlette.types import Scope
from taskyard.wire import Problem

from taskyard_server.errors import ServerError, TooLarge, TooMany, Unauthorised, Unavailable
from taskyard_server.schemas import adapter

logger = logging.getLogger(__name__)

ERROR_KEY = "taskyard.error"
"""Where the word of an error answer stands in the scope of its request."""
_PROBLEM = adapter(Problem)
_WORDS = {400: "malformed", 404: "not_found", 405: "method_not_allowed", 413: "too_large", 422: "invalid"}
_MOST_FIELDS = 5
_HEADERS: dict[type[ServerError], dict[str, str]] = {
    Unauthorised: {"WWW-Authenticate": "Bearer"},
    TooMany: {"Retry-After": "1"},
    Unavailable: {"Retry-After": "1"},
    TooLarge: {"Connection": "close"},  # what is still on its way is not read
}


def problem(status: int, word: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The body of every error answer."""
    body = _PROBLEM.dump_json(Problem(error=word, detail=detail))
    return Response(body, status, headers, media_type="application/json")


def install(app: FastAPI) -> None:
    """Makes the application answer every error in one form; `crashed` is for those that have none here."""
    app.add_exception_handler(ServerError, _refused)
    app.add_exception_handler(HTTPException, _unroutable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _hung_up)


async def _refused(request: Request, raised: Exception) -> Response:
    error = cast(ServerError, raised)
    headers = dict(next((value for kind, value in _HEADERS.items() if isinstance(error, kind)), {}))
    retry_after = getattr(error, "retry_after_seconds", None)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return _answer(request, error.status, error.word, str(error), headers)


def _answer(
    request: Request, status: int, word: str, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer, whose word the metrics count."""
    request.scope[ERROR_KEY] = word
    return problem(status, word, detail, headers)


async def _unroutable(request: Request, raised: Exception) -> Response:
    error = cast(HTTPException, raised)
    path, headers = request.url.path, error.headers
    detail = http.HTTPStatus(error.status_code).phrase
    if error.status_code == 404:
        detail = f"there is nothing at {path}; the routes are in /api/v1/openapi.json, for people in /docs"
    if error.status_code == 405:
        methods = ", ".join(_methods_of(request))
        headers = {"Allow": methods}
        detail = f"{path} does not take {request.method}; it takes {methods}"
    return _answer(request, error.status_code, _WORDS.get(error.status_code, "refused"), detail, headers)


def _methods_of(request: Request) -> list[str]:
    """Every method that the path takes, whichever route has it: the framework names the first route's alone."""
    matching = (
        route.methods or ()
        for route in request.app.router.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
    )
    return sorted({method for methods in matching for method in methods})


async def _invalid(request: Request, raised: Exception) -> Response:
    return _answer(request, 422, "invalid", in_words(cast(RequestValidationError, raised).errors()))


async def _hung_up(request: Request, _: Exception) -> Response:
    """The client ended the connection before its body was whole; the answer reaches no one."""
    extra = {"action": "request_aborted"}
    logger.info("%s %s was given up by its client", request.method, request.url.path, extra=extra)
    return _answer(request, 400, "malformed", "the body ended before it was whole")


def crashed(scope: Scope, error: Exception) -> Response:
    """Logs an error that is the server's own, and answers it."""
    extra = {"action": "request_failed"}
    logger.error("%s %s failed", scope["method"], scope["path"], exc_info=error, extra=extra)
    scope[ERROR_KEY] = "internal"
    return problem(500, "internal", "the server made a mistake; its log has the details, please report it")


def in_words(errors: Sequence[Any]) -> str:
    """`spec.resources.gpus: input should be a valid integer; …`."""
    return "; ".join(_sentence(error) for error in errors[:_MOST_FIELDS])


def _sentence(error: Mapping[str, Any]) -> str:
    place, *path = [str(part) for part in error["loc"]] or ["request"]
    name = ".".join(path) or place
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{name}: {message[:1].lower()}{message[1:]}"
