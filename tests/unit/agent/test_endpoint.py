"""What asks an agent badly: it keeps neither others from their answers nor the agent from its end."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
from taskyard_agent.life import endpoint

from tests.support.servers import free_port
from tests.support.waiting import becomes_true


class Healthy:
    """An agent that has nothing to say."""

    def health(self) -> tuple[bool, dict[str, object]]:
        return True, {}

    def collect(self) -> Iterator[Any]:
        return iter(())


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(endpoint, "MOST_AT_ONCE", 4)
    monkeypatch.setattr(endpoint, "ANSWER_SECONDS", 0.5)
    number = free_port()
    with endpoint.served(("127.0.0.1", number), cast(endpoint.Vitals, Healthy())):
        yield number


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_slow_askers_are_hung_up_on_and_do_not_keep_others_out(port: int) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(20)]
        for link in slow:
            with contextlib.suppress(OSError):
                link.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")

        assert becomes_true(lambda: healthy(port))


def test_the_end_waits_for_nobody() -> None:
    address = ("127.0.0.1", free_port())
    with contextlib.ExitStack() as stack:
        with endpoint.served(address, cast(endpoint.Vitals, Healthy())):
            link = stack.enter_context(socket.create_connection(address))
            link.sendall(b"GET /he")

        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
