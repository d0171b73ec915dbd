"""A thread that takes all that waits for it in one round, so that many share one flush to the disk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from taskyard_server.errors import Unavailable

logger = logging.getLogger(__name__)

J = TypeVar("J")

REST_SECONDS = 0.3
"""How long no job must have come for the thread to be idle; the sweeper's tick comes every second."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What becomes of one job: its value, or the error that its caller gets."""

    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Waiting(Generic[J]):
    job: J
    future: asyncio.Future[Any]


class Rounds(Generic[J]):
    """`work` is given up to `limit` jobs in the order in which they came, and answers each of them."""

    def __init__(
        self,
        work: Callable[[Sequence[J]], Sequence[Answer]],
        *,
        name: str,
        limit: int,
        rest: Callable[[], float | None] | None = None,
    ) -> None:
        """`rest` is called when no job came for REST_SECONDS after a round; it returns after how many more seconds
        without a job it is to be called again, None for not before the next round."""
        self._work = work
        self._rest = rest
        self._rest_in: float | None = None
        self._limit = limit
        self._queue: queue.SimpleQueue[_Waiting[J] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._stopping = False

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finishes what was taken, then ends the thread."""
        self._stopping = True
        self._queue.put(None)
        self._thread.join()

    async def ask(self, job: J) -> Any:
        """Returns the job's value or raises its error. A job whose caller is cancelled before its round is left
        out."""
        if self._stopping:
            raise Unavailable("the server is stopping: try again")
        future = asyncio.get_running_loop().create_future()
        self._queue.put(_Waiting(job, future))
        return await future

    def _run(self) -> None:
        stopped = False
        while not stopped:
            taken = self._take()
            stopped = None in taken
            waiting = [one for one in taken if one is not None and not one.future.cancelled()]
            if waiting:
                _deliver(waiting, self._answers([one.job for one in waiting]))
                self._rest_in = REST_SECONDS

    def _first(self) -> _Waiting[J] | None:
        """Waits for the next job, and rests meanwhile."""
        while self._rest is not None and self._rest_in is not None:
            try:
                return self._queue.get(timeout=self._rest_in)
            except queue.Empty:
                self._rest_in = self._rest()
        return self._queue.get()

    def _take(self) -> list[_Waiting[J] | None]:
        taken = [self._first()]
        with contextlib.suppress(queue.Empty):
            while len(taken) < self._limit:
                taken.append(self._queue.get_nowait())
        return taken

    def _answers(self, jobs: Sequence[J]) -> Sequence[Answer]:
        try:
            return self._work(jobs)
        except Exception as error:  # the edge of the loop: the thread must outlive a mistake, its callers are told
            logger.exception("a round of %s failed", self._thread.name, extra={"action": "round_failed"})
            return [Answer(error=error)] * len(jobs)


def _deliver(waiting: Sequence[_Waiting[J]], answers: Sequence[Answer]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Answer]]] = defaultdict(list)
    for one, answer in zip(waiting, answers, strict=True):
        by_loop[one.future.get_loop()].append((one.future, answer))
    for loop, answered in by_loop.items():
        # A loop that is closed has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, answered)


def _settle(answered: Sequence[tuple[asyncio.Future[Any], Answer]]) -> None:
    for future, answer in answered:
        if future.done():
            continue
        if answer.error is not None:
            future.set_exception(answer.error)
        else:
            future.set_result(answer.value)
