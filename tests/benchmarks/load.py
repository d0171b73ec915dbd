"""Many HTTP connections to one server, at the smallest cost: httpx would be slower than what it measures."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tests.support.servers import ServerProcess


class Connection:
    """One connection that is kept; requests go one after the other."""

    def __init__(self, server: ServerProcess, token: str) -> None:
        self._port = server.port
        self._head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    async def post(self, path: str, body: Any) -> Any:
        """Sends a record as JSON; returns the answer."""
        return await self.send(path, json.dumps(body).encode(), "Content-Type: application/json\r\n")

    async def send(self, path: str, content: bytes, headers: str = "") -> Any:
        """Sends bytes; returns the answer. Raises AssertionError for any that is not a success."""
        head = f"POST /api/v1{path} HTTP/1.1\r\n{self._head}{headers}Content-Length: {len(content)}\r\n\r\n"
        self._writer.write(head.encode() + content)
        head_of_answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head_of_answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await self._reader.readexactly(length)
        assert head_of_answer.startswith(b"http/1.1 2"), answer
        return json.loads(answer)


@dataclass
class Load:
    """What many at once got done."""

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    """Milliseconds of each."""

    @property
    def per_second(self) -> float:
        """All of them over the time from the first to the last."""
        return len(self.waits) / self.seconds


async def drive(act: Callable[[int], Awaitable[object]], *, rounds: int, at_once: int) -> Load:
    """Calls `act(lane)` so many times in all, in so many lanes at once."""
    load, left = Load(), iter(range(rounds))

    async def lane(number: int) -> None:
        for _ in left:
            began = time.perf_counter()
            await act(number)
            load.waits.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(lane(number) for number in range(at_once)))
    load.seconds = time.perf_counter() - began
    return load


def claim_requests(worker: str, *, wait_seconds: float = 0.0, gpus: int = 0) -> Iterator[dict[str, Any]]:
    """Bodies of claims, each a new one."""
    while True:
        name = secrets.token_hex(16)
        yield {
            "agent": worker,
            "worker": worker,
            "boot_id": "boot",
            "request_id": name,
            "control_hash": "c" * 64,
            "report_hash": hashlib.sha256(name.encode()).hexdigest(),
            "queues": ["default"],
            "free": {"gpus": gpus},
            "total": {"gpus": gpus},
            "wait_seconds": wait_seconds,
        }
