"""Connections before a token was seen: real sockets, real parsing, short times."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from taskyard_server.connections import SCOPE_KEY, Connection, Limits, Listener, Strangers, Visit, networks
from uvicorn.server import ServerState

from tests.support.certificates import self_made_certificate

GET = b"GET / HTTP/1.1\r\nHost: here\r\n"


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once; a header `token` is a valid token."""
    if any(name == b"token" for name, _ in scope["headers"]) and SCOPE_KEY in scope:
        scope[SCOPE_KEY].prove()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def listening(tls: ssl.SSLContext | None = None, **limits: Any) -> AsyncIterator[int]:
    config = uvicorn.Config(application, http=Connection, ws="none", lifespan="off", log_config=None)
    config.load()
    bounds, state = Limits(**limits), ServerState()

    def make(visit: Visit) -> Connection:
        return Connection(visit=visit, limits=bounds, config=config, server_state=state, app_state={})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        door = Listener(listener, Strangers(bounds), make, tls)
        door.start()
        yield listener.getsockname()[1]
        while _opened:
            _opened.pop().close()
        door.close()
        await door.wait_closed()
        for connection in list(state.connections):
            connection.transport.abort()  # type: ignore[union-attr]
        for _ in range(3):
            await asyncio.sleep(0)


_opened: list[asyncio.StreamWriter] = []
"""What the test opened, closed at its end."""


async def opened(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    _opened.append(writer)
    return reader, writer


async def everything(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server closes."""
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return b"reset"


async def send(writer: asyncio.StreamWriter, *pieces: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)


async def test_header_without_end_is_refused_at_64_kib() -> None:
    async with listening() as port:
        reader, writer = await opened(port)
        await send(writer, GET, b"X: ", *[b"a" * 1024] * 70)

        answer = await everything(reader)

    assert answer.startswith(b"HTTP/1.1 431") or answer == b"reset"
    if answer != b"reset":
        assert b'"error": "too_large"' in answer


async def test_header_of_100_kib_in_one_piece_is_refused_too() -> None:
    async with listening() as port:
        reader, writer = await opened(port)
        await send(writer, GET + b"X: " + b"a" * 100_000 + b"\r\n\r\n")

        answer = await everything(reader)

    assert b"200 OK" not in answer


async def test_trailers_are_headers() -> None:
    async with listening() as port:
        reader, writer = await opened(port)
        await send(writer, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        await send(writer, b"X: ", *[b"a" * 1024] * 70)

        answer = await everything(reader)

    assert answer.startswith(b"HTTP/1.1 200 OK") or answer == b"reset"


async def test_body_is_no_header() -> None:
    async with listening() as port:
        reader, writer = await opened(port)
        size = 300_000
        await send(writer, b"POST / HTTP/1.1\r\nHost: h\r\nToken: t\r\nContent-Length: %d\r\n\r\n" % size)
        await send(writer, *[b"x" * 1000] * (size // 1000), GET + b"Connection: close\r\n\r\n")

        answer = await everything(reader)

    assert answer.count(b"200 OK") == 2


async def test_headers_that_do_not_end_are_given_up() -> None:
    async with listening(head_seconds=0.2) as port:
        silent, begun = await opened(port), await opened(port)
        await send(begun[1], GET)

        answers = [await everything(silent[0]), await everything(begun[0])]

    assert answers[0] == b""
    assert answers[1].startswith(b"HTTP/1.1 408")


async def test_connection_stays_once_its_token_was_seen() -> None:
    async with listening(head_seconds=0.1, crowd=0, crowded_seconds=0.1) as port:
        reader, writer = await opened(port)
        await send(writer, GET + b"Token: t\r\n\r\n")
        first = await asyncio.wait_for(reader.readuntil(b"ok"), 5)
        other, _ = await opened(port)
        assert await everything(other) == b""  # the time is over that the first one would have had

        await send(writer, GET + b"\r\n")
        second = await asyncio.wait_for(reader.readuntil(b"ok"), 5)

    assert first.startswith(b"HTTP/1.1 200") and second.startswith(b"HTTP/1.1 200")  # noqa: PT018


async def test_connection_without_a_token_is_closed_after_its_answer() -> None:
    async with listening(head_seconds=0.2) as port:
        reader, writer = await opened(port)
        await send(writer, GET + b"\r\n")

        assert (await everything(reader)).endswith(b"ok")


async def test_crowd_of_silent_connections_is_sent_away_sooner_and_keeps_nobody_out() -> None:
    async with listening(head_seconds=60, crowd=4, crowded_seconds=0.3) as port:
        crowd = [await opened(port) for _ in range(20)]
        reader, writer = await opened(port)
        await send(writer, GET + b"Token: t\r\n\r\n")
        answer = await asyncio.wait_for(reader.readuntil(b"ok"), 5)

        sent_away = await asyncio.gather(*(everything(reader) for reader, _ in crowd[4:]))

        assert answer.startswith(b"HTTP/1.1 200")
        assert sent_away == [b""] * 16
        assert not any(reader.at_eof() for reader, _ in crowd[:4])


async def test_address_has_a_greatest_number_of_connections() -> None:
    async with listening(head_seconds=60, most=3) as port:
        kept = [await opened(port) for _ in range(3)]
        refused, _ = await opened(port)

        assert await everything(refused) in (b"", b"reset")
        kept[0][1].close()
        await until_served(port)


async def until_served(port: int) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        reader, writer = await opened(port)
        await send(writer, GET + b"\r\n")
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            await asyncio.wait_for(reader.readuntil(b"ok"), 5)
            return
    raise AssertionError("a place that was left was not given to another connection")


async def test_trusted_proxy_is_neither_counted_nor_timed() -> None:
    proxies = networks("127.0.0.0/8, ::1")
    async with listening(head_seconds=0.1, most=1, proxies=proxies) as port:
        connections = [await opened(port) for _ in range(5)]
        await asyncio.wait([asyncio.ensure_future(reader.read(1)) for reader, _ in connections], timeout=0.5)

        assert not any(reader.at_eof() for reader, _ in connections)


async def test_requests_in_a_row_without_answers_are_bounded() -> None:
    async with listening() as port:
        reader, writer = await opened(port)
        await send(writer, (GET + b"\r\n") * 2000)

        answer = await everything(reader)

    assert answer.count(b"200 OK") <= 20


async def test_handshake_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_made_certificate(tmp_path, "DNS:localhost"))
    async with listening(context, head_seconds=0.3) as port:
        reader, _ = await opened(port)

        assert await everything(reader) in (b"", b"reset")


def test_addresses_of_one_ipv6_network_count_together() -> None:
    strangers = Strangers(Limits(most=1))

    assert strangers.enter("2001:db8::1") is not None
    assert strangers.enter("2001:db8::2") is None
    assert strangers.enter("2001:db8:1::2") is not None
    assert strangers.enter("::ffff:10.0.0.1") is not None
    assert strangers.enter("10.0.0.1") is None
