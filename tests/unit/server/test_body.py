"""The body of a request: bounded in size and in time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import Request
from starlette.exceptions import HTTPException
from taskyard_server.api import body
from taskyard_server.errors import TooLarge


def request(*pieces: bytes, pause_seconds: float = 0.0) -> Request:
    """A request whose client sends these pieces and then says no more."""
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause_seconds if left else 3600.0)
        return {"type": "http.request", "body": left.pop(0), "more_body": True}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


async def test_a_body_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "SILENCE_SECONDS", 0.05)

    with pytest.raises(HTTPException) as raised:
        await body.read(request(b"{"), 100)
    assert raised.value.status_code == 408


async def test_a_body_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "WHOLE_SECONDS", 0.1)

    with pytest.raises(HTTPException) as raised:
        await body.read(request(*[b" "] * 1000, pause_seconds=0.01), 10_000)
    assert raised.value.status_code == 408


async def test_a_body_over_its_limit_is_not_read_on() -> None:
    with pytest.raises(TooLarge):
        await body.read(request(b"12345", b"67890"), 6)
