"""Reads a request's body: bounded, and JSON without surprises."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pydantic_core
from fastapi import Request
from starlette.exceptions import HTTPException

from taskyard_server.errors import Invalid, TooLarge

SILENCE_SECONDS = 60.0
"""How long a body may pause."""
WHOLE_SECONDS = 600.0
"""How long one that is not a file may take."""
_SUSPICIOUS = re.compile(rb"\\u0000|\d{19}")
"""What could be a NUL or a number beyond 64 bits; only then is the document walked."""
_SUSPICIOUS_TEXT = re.compile(r"\\u0000|[0-9]{19}")
_LARGEST_INTEGER = 2**63 - 1


async def read(request: Request, limit: int) -> bytes:
    """The whole body; raises TooLarge beyond `limit` bytes without reading on, and as `chunks`."""
    try:
        with anyio.fail_after(WHOLE_SECONDS):
            return b"".join([chunk async for chunk in chunks(request, limit)])
    except TimeoutError as error:
        raise _too_slow() from error


async def chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it arrives; raises TooLarge as soon as it is known to exceed `limit` bytes.

    Raises HTTPException (408) when nothing comes: whoever holds back a body would hold a connection for ever.
    """
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() else 0
    if size > limit:
        raise _too_large(limit)
    size = 0
    async for chunk in _without_long_silence(request.stream()):
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        yield chunk


async def _without_long_silence(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        try:
            with anyio.fail_after(SILENCE_SECONDS):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise _too_slow() from error
        yield chunk


def parse(content: bytes, content_type: str) -> Any:
    """The JSON document; raises Invalid for what JSON does not have (NaN) or no store can hold (NUL)."""
    require_json(content_type)
    try:
        document = pydantic_core.from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise Invalid(f"the body is not JSON: {error}") from error
    if _SUSPICIOUS.search(content):
        _check(document)
    return document


def require_json(content_type: str) -> None:
    """Raises Invalid for a body of another kind."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Invalid("the body must be JSON, with the header Content-Type: application/json")


def refuse_unfit(value: Any, text: str, begin: int, end: int) -> None:
    """Raises Invalid where the value, which is what stands between the two, is one that no store can hold."""
    if _SUSPICIOUS_TEXT.search(text, begin, end):
        _check(value)


def _check(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise Invalid("the body holds a NUL character (\\u0000); leave it out")
    elif isinstance(value, int):
        if abs(value) > _LARGEST_INTEGER:
            raise Invalid(f"the number {str(value)[:40]} is beyond 64 bits")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key)
            _check(item)
    elif isinstance(value, list):
        for item in value:
            _check(item)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over {limit} bytes; split it, or send less")


def _too_slow() -> HTTPException:
    return HTTPException(408, headers={"Connection": "close"})
