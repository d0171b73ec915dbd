"""Connections before a valid token was seen on them: how many an address has, how large and slow a head may be.

The head of a request (its line and headers, and the trailers behind a body) is bounded on every connection: the
parser gathers it in memory. The rest holds until a token is found valid: see `Strangers`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from taskyard.log_lines import Outage
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SCOPE_KEY = "taskyard.connection"
"""Where the application finds the connection of a request, until it is known."""
_IPV6_SITE = 64
"""Bits of an IPv6 address that stand for one customer; the rest they choose freely."""
_LATE_SECONDS = 0.25
"""A timer that is later than this says that the server was busy, not that the client was silent."""
_PIPELINED = 16
"""Requests that may wait for the answer of the one before, on one connection; no client of ours sends any."""
_ACCEPTED_AT_ONCE = 100
_ACCEPT_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what is done for a client before it has shown a valid token."""

    head_bytes: int = 64 << 10
    head_seconds: float = 10.0
    """From the connection, or the answer before, to the end of a head; also for the handshake of TLS."""
    request_seconds: float = 660.0
    """From the end of a head to the end of its answer; the body has limits of its own."""
    crowd: int = 64
    """Connections of one address beyond which further ones have `crowded_seconds` instead of `head_seconds`."""
    crowded_seconds: float = 1.0
    most: int = 4096
    """Connections of one address beyond which further ones are refused: as many as agents may start at once."""
    proxies: tuple[Network, ...] = ()
    """Addresses that are trusted: they bring the requests of many, and are not counted or timed."""


def networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks, separated by commas. Raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())


class Strangers:
    """Counts, by address, the connections on which no valid token was seen.

    Beyond a crowd a further connection is not refused, since many agents may stand behind one address and start
    together: it must send its request within a second. So one who holds connections keeps no other client out.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._number: Counter[str] = Counter()

    def enter(self, address: str) -> Visit | None:
        """Counts a connection from this address; None when it must be refused."""
        key = _site(address)
        if any(ipaddress.ip_address(key.partition("/")[0]) in proxy for proxy in self.limits.proxies):
            return Visit(self, None, self.limits.head_seconds)
        if self._number[key] >= self.limits.most:
            return None
        self._number[key] += 1
        crowded = self._number[key] > self.limits.crowd
        return Visit(self, key, self.limits.crowded_seconds if crowded else self.limits.head_seconds)

    def leave(self, key: str) -> None:
        """Takes one connection of this address off the count."""
        self._number[key] -= 1
        if self._number[key] <= 0:
            del self._number[key]


class Visit:
    """One connection's place in the count, until it ends or its token is known."""

    def __init__(self, strangers: Strangers, key: str | None, seconds: float) -> None:
        self._strangers = strangers
        self._key = key
        self.seconds = seconds
        self.trusted = key is None

    @property
    def counted(self) -> bool:
        """Whether no valid token was seen yet."""
        return self._key is not None

    def end(self) -> None:
        """Leaves the count, once."""
        key, self._key = self._key, None
        if key is not None:
            self._strangers.leave(key)


class Connection(HttpToolsProtocol):
    """One connection: uvicorn's, within the limits."""

    def __init__(self, *, visit: Visit, limits: Limits, **options: Any) -> None:
        super().__init__(**options)
        self._visit = visit
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._refused = False
        self._gathered_bytes = 0
        """What was fed to the parser since a head, a body's part or a request last ended."""

    def prove(self) -> None:
        """Notes that a request on this connection brought a valid token."""
        self._visit.end()
        self._stop_timer()

    # --- What uvicorn calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._visit.counted:
            self._start_timer(self._visit.seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._visit.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._gathered_bytes += len(data)
        super().data_received(data)
        if self._gathered_bytes > self._limits.head_bytes:
            self._refuse_head()
        elif not self._visit.counted and not self._visit.trusted:
            self._time_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        if self._visit.counted:
            self.scope[SCOPE_KEY] = self  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._refused or (self._gathered_bytes > self._limits.head_bytes and self._head_is_too_large()):
            return self._refuse_head()
        if len(self.pipeline) >= _PIPELINED:
            return self._refuse(b"429 Too Many Requests", "too_many", "wait for an answer before the next request")
        self._gathered_bytes = 0
        if self._visit.counted:
            self._start_timer(self._limits.request_seconds)
        return super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._gathered_bytes = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._gathered_bytes = 0
        if not self._refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._visit.counted:
            self._start_timer(self._visit.seconds)

    # --- Size and time

    def _head_is_too_large(self) -> bool:
        """The bytes that were fed may be those of a body that came with its head."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        return size > self._limits.head_bytes

    def _refuse_head(self) -> None:
        if not self._refused:
            limit = self._limits.head_bytes
            self._refuse(b"431 Request Header Fields Too Large", "too_large", f"headers are over {limit} bytes")

    def _refuse(self, status: bytes, word: str, detail: str) -> None:
        """Answers and closes; what still comes is not looked at."""
        self._refused = True
        self._stop_timer()
        if self._busy():
            self.transport.close()  # an answer now would be taken for that of the request before
            return
        body = json.dumps({"error": word, "detail": detail}).encode()
        head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, len(body)) + body)
        self.transport.close()

    def _busy(self) -> bool:
        return self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete)

    def _time_head(self) -> None:
        """Also who has shown a token ends what they have begun."""
        if not self._in_head:
            self._stop_timer()
        elif self._timer is None:
            self._start_timer(self._limits.head_seconds)

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._expire, self.loop.time() + seconds)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self, due: float) -> None:
        if self.loop.time() - due > _LATE_SECONDS:
            self._start_timer(self._visit.seconds)  # what it sent meanwhile may not have been read yet
        elif self._in_head:
            self._refuse(b"408 Request Timeout", "refused", "the headers did not come in time: send them again")
        else:
            self.transport.close()


class Listener:
    """Accepts connections on a socket, and counts each before anything is done for it, also the handshake of TLS.

    Ends as an `asyncio.Server` does, by `close` and `wait_closed`.
    """

    def __init__(
        self,
        listening: socket.socket,
        strangers: Strangers,
        make: Callable[[Visit], asyncio.Protocol],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._socket = listening
        self._strangers = strangers
        self._make = make
        self._tls = tls
        self._opening: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to accept."""
        self._socket.setblocking(False)
        self._accepting = asyncio.get_running_loop().create_task(self._accept(), name="accepting connections")

    def close(self) -> None:
        """Accepts no more; what is open stays."""
        for task in [self._accepting, *self._opening]:
            if task is not None:
                task.cancel()

    async def wait_closed(self) -> None:
        """Waits for what `close` ended."""
        tasks = [task for task in [self._accepting, *self._opening] if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        outage = Outage(logger, "cannot accept a connection", "accept_failed")
        while True:
            try:
                for _ in range(_ACCEPTED_AT_ONCE):
                    accepted, address = await loop.sock_accept(self._socket)
                    self._admit(accepted, address[0])
                await asyncio.sleep(0)  # accepting does not wait while more connections stand in line
            except OSError as error:
                # No descriptor is left, or the client is gone already; the line stays in the kernel.
                outage.failed(error)
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)

    def _admit(self, accepted: socket.socket, address: str) -> None:
        visit = self._strangers.enter(address)
        if visit is None:
            accepted.close()
            return
        task = asyncio.get_running_loop().create_task(self._open(accepted, visit))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket, visit: Visit) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: self._make(visit),
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=visit.seconds if self._tls else None,
            )
        except (OSError, asyncio.CancelledError):  # no handshake, or the server stops: there is no one to answer
            visit.end()
            accepted.close()


def _site(address: str) -> str:
    """An IPv4 address, or the network that an IPv6 address is of: its owner has all of those."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, _IPV6_SITE), strict=False))
    return str(found)
