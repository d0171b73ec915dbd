"""Answers each mutating request once per token and `Idempotency-Key`."""

from __future__ import annotations

import asyncio
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from taskyard_server.errors import Invalid, Unavailable
from taskyard_server.store.base import Answer, Store

KEEP_SECONDS = 24 * 3600.0
LONGEST_KEY = 200
MOST_SECRET_ANSWERS = 10_000
MOST_STORED_BYTES = 8 << 20
_LONG_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A successful answer: what a repeat is given again."""

    status: int
    body: bytes


class Repeats:
    """Remembers successful answers for a day; a refused request changed nothing and may be tried again.

    Answers that hold a secret stay in this process's memory: what is stored never contains one.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._secret: OrderedDict[str, Answer] = OrderedDict()

    async def once(
        self,
        key: str,
        request_hash: str,
        act: Callable[[], Awaitable[Reply]],
        *,
        secret: bool,
        former_hash: Callable[[], str] | None = None,
    ) -> Reply:
        """Acts, or gives the answer of the first request with this key; one that is under way is waited for.

        Raises Invalid when that one's request was another. `former_hash` is what an earlier version of the server
        stored for this request: a repeat may span an upgrade.
        """
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            known = await self._remembered(key)
            if known is not None:
                return await _replayed(known, request_hash, former_hash)
            reply = await act()
            await self._remember(key, request_hash, reply, secret=secret)
            return reply

    async def _remembered(self, key: str) -> Answer | None:
        answer = self._secret.get(key) or await self._store.answer(key)
        return answer if answer and self._clock() - answer.at < KEEP_SECONDS else None

    async def _remember(self, key: str, request_hash: str, reply: Reply, *, secret: bool) -> None:
        body = await _beside(zlib.compress, reply.body, 1)
        answer = Answer(key=key, request_hash=request_hash, status=reply.status, body=body, at=self._clock())
        if secret or len(body) > MOST_STORED_BYTES:
            self._secret[key] = answer
            while len(self._secret) > MOST_SECRET_ANSWERS:
                self._secret.popitem(last=False)
            return
        try:
            await self._store.remember(answer)
        except Unavailable:
            pass  # the change itself is acknowledged by the store, so its answer is true without a memory


def check_key(key: str) -> None:
    """Raises Invalid for a key that cannot be kept."""
    if not 0 < len(key) <= LONGEST_KEY or not (key.isascii() and key.isprintable()):
        raise Invalid(f"an idempotency key has 1 to {LONGEST_KEY} printable ASCII characters")


async def _replayed(answer: Answer, request_hash: str, former_hash: Callable[[], str] | None) -> Reply:
    same = answer.request_hash == request_hash or (former_hash and answer.request_hash == former_hash())
    if not same:
        raise Invalid("this idempotency key was used for another request; draw a new key for each request")
    return Reply(status=answer.status, body=await _beside(zlib.decompress, answer.body))


async def _beside(work: Callable[..., bytes], content: bytes, *options: int) -> bytes:
    """Does it here, or beside the event loop where there is much of it."""
    if len(content) < _LONG_BYTES:
        return work(content, *options)
    return await asyncio.to_thread(work, content, *options)
