"""Reads a request's body: bounded, and JSON without surprises."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pydantic_core
from fastapi import Request

from taskyard_server.errors import Invalid, TooLarge

_SUSPICIOUS = re.compile(rb"\\u0000|\d{19}")
"""What could be a NUL or a number beyond 64 bits; only then is the document walked."""
_LARGEST_INTEGER = 2**63 - 1


async def read(request: Request, limit: int) -> bytes:
    """The whole body; raises TooLarge beyond `limit` bytes without reading on."""
    return b"".join([chunk async for chunk in chunks(request, limit)])


async def chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it arrives; raises TooLarge as soon as it is known to exceed `limit` bytes."""
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() else 0
    if size > limit:
        raise _too_large(limit)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        yield chunk


def parse(content: bytes, content_type: str) -> Any:
    """The JSON document; raises Invalid for what JSON does not have (NaN) or no store can hold (NUL)."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Invalid("the body must be JSON, with the header Content-Type: application/json")
    try:
        document = pydantic_core.from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise Invalid(f"the body is not JSON: {error}") from error
    if _SUSPICIOUS.search(content):
        _check(document)
    return document


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
