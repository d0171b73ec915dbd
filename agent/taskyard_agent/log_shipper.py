"""Ships the spools of all runs to the server, in one thread; the server's offset is the truth."""

from __future__ import annotations

import logging
import os
import random
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from taskyard.errors import TaskyardError
from taskyard.wire import LogPosition

from taskyard_agent.answers import Act, Conversation, Route
from taskyard_agent.keeper.durable import fifo
from taskyard_agent.spool_space import SpoolSpace, missing

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
SMALLEST_CHUNK_BYTES = 16 << 10
"""Chunks that are refused are halved down to this."""
SPACING_SECONDS = 0.02
"""Between two requests for one run, so that a chatty command does not become a request per line."""
LOOK_SECONDS = (0.1, 1.0)
"""How often a spool is looked at while it grows and while it is silent; keepers wake the shipper themselves."""
SILENT_AFTER_SECONDS = 10.0
BACKOFF_SECONDS = (0.2, 15.0)


class Append(Protocol):
    """Sends bytes of a run's log. Raises taskyard.errors.TaskyardError; `answers.TABLE` says what follows."""

    def __call__(self, run_id: str, control_token: str, offset: int, data: bytes) -> LogPosition: ...


class LogShipper:
    """Follows the spools of runs. `on_stale` and `on_complete` are called in the shipper's thread."""

    def __init__(
        self,
        append: Append,
        *,
        on_stale: Callable[[str], None] = lambda run_id: None,
        on_complete: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        self._append = append
        self._on_stale = on_stale
        self._on_complete = on_complete
        self._followed: dict[str, _Followed] = {}
        self._forgotten: list[_Followed] = []
        self._readers: dict[str, Callable[[], int | None]] = {}
        self._wakeup_end: int | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="logs", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._wakeup, wakeup_end = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wakeup_end, False)
        self._wakeup_end = wakeup_end
        self._thread.start()

    def close(self) -> None:
        """Stops the thread after the request in progress; what was not sent stays in the spools."""
        self._closing = True
        self.wake()
        self._thread.join()
        for run_id in list(self._followed):
            self.forget(run_id)
        self._close_forgotten()
        os.close(self._wakeup)
        wakeup_end, self._wakeup_end = self._wakeup_end, None
        if wakeup_end is not None:
            os.close(wakeup_end)

    def follow(self, run_id: str, control_token: str, path: Path) -> None:
        """Ships the spool at `path`, from the offset that the server answers, until `end` or `forget`."""
        with self._changed:
            if run_id not in self._followed:
                reader = self._readers.get(run_id)
                self._followed[run_id] = _Followed(run_id, control_token, path, reader)
        self.wake()

    def keep_for(self, run_id: str, taken: Callable[[], int | None]) -> None:
        """Keep what a reader on this machine has not taken of the run's log; call it before `follow`.

        `taken` returns how many bytes it has, None once it wants no more.
        """
        self._readers[run_id] = taken

    def wake(self) -> None:
        """There are new bytes from this process; keepers say so themselves."""
        if self._wakeup_end is not None:
            try:
                os.write(self._wakeup_end, b"+")
            except BlockingIOError:
                pass  # it has been woken often enough

    def flush(self, run_id: str, timeout: float) -> bool:
        """Waits until the server holds what the spool holds now; whether it does.

        Of a run that has ended it waits until `on_complete` has seen to it, too.
        """
        with self._changed:
            followed = self._followed.get(run_id)
            if followed is None:
                return True
            target = followed.size()
            self.wake()
            self._changed.wait_for(lambda: followed.closed or followed.grows_beyond(target), timeout)
            return followed.holds(target)

    def end(self, run_id: str, final_length: int) -> bool:
        """The spool grows no more: ships it up to this length, then calls `on_complete` and forgets the run.

        False when the run is followed no more, because the server did not want its log.
        """
        with self._changed:
            followed = self._followed.get(run_id)
            if followed is not None:
                followed.final_length = final_length
        self.wake()
        return followed is not None

    def forget(self, run_id: str) -> None:
        """Ships no more of this run."""
        with self._changed:
            followed = self._followed.pop(run_id, None)
            if followed is not None:
                followed.closed = True
                self._forgotten.append(followed)
            self._changed.notify_all()
        self.wake()

    def start_over(self) -> None:
        """Asks the server again how much it holds of each log: it was restored from an older copy."""
        with self._changed:
            for followed in self._followed.values():
                followed.asks = True
        self.wake()

    def position(self, run_id: str) -> int:
        """How many bytes the server is known to hold; 0 before its first answer."""
        with self._changed:
            followed = self._followed.get(run_id)
            return followed.offset if followed else 0

    # --- The thread

    def _loop(self) -> None:
        while not self._closing:
            self._close_forgotten()
            with self._changed:
                followed = list(self._followed.values())
            for each in followed:
                if not self._closing and each.due():
                    self._advance(each)
            self._wait(followed)

    def _close_forgotten(self) -> None:
        """In the shipper's thread alone: a number closed while it is waited for may soon be another file's."""
        with self._changed:
            forgotten, self._forgotten = self._forgotten, []
        for followed in forgotten:
            followed.close()

    def _wait(self, followed: list[_Followed]) -> None:
        """Sleeps until a keeper or this process says that there are new bytes, or a clock does."""
        waiter = select.poll()
        waiter.register(self._wakeup, select.POLLIN)
        open_pipes = [pipe for each in followed if (pipe := each.pipe_to_hear()) is not None]
        for pipe in open_pipes:
            waiter.register(pipe, select.POLLIN)
        pause = min((each.pause() for each in followed), default=None)
        waiter.poll(None if pause is None else max(0.0, pause) * 1000 + 1)
        for pipe in (self._wakeup, *open_pipes):
            _drain(pipe)

    def _advance(self, followed: _Followed) -> None:
        """Sends the next chunk of one spool, if there is one, and sees to the answer."""
        try:
            data = b"" if followed.asks else followed.next_chunk()
            if data or followed.asks:
                offset = 0 if followed.asks else followed.offset
                position = self._append(followed.run_id, followed.control_token, offset, data)
                followed.asks = False
                self._note(followed, position)
            followed.free()
            if followed.complete():
                self._on_complete(followed.run_id)
                self.forget(followed.run_id)
        except TaskyardError as error:
            self._heed(followed, error)
        except OSError as error:
            followed.fall_back()
            logger.error(
                "log of %s cannot be read, and is kept: %s",
                followed.run_id,
                error,
                extra={"action": "log_unreadable", "run": followed.run_id},
            )
        except Exception:
            # The edge of the loop: one run's surprise must not end the logs of all.
            followed.fall_back()
            logger.exception("log of %s", followed.run_id, extra={"action": "log_failed", "run": followed.run_id})

    def _note(self, followed: _Followed, position: LogPosition) -> None:
        with self._changed:
            followed.take(position)
            self._changed.notify_all()

    def _heed(self, followed: _Followed, error: TaskyardError) -> None:
        act = followed.conversation.heed(error)
        if act in (Act.DISCARD, Act.STOP_SHIPPING):
            self._give_up(followed, stale=act is Act.DISCARD)
        elif act is not Act.SHRINK or not followed.halve():
            followed.fall_back(followed.conversation.pause if act is Act.ASK_EACH_MINUTE else 0.0)

    def _give_up(self, followed: _Followed, *, stale: bool) -> None:
        """Where the run has ended nothing else of it is left to do; else its end is still to come."""
        with self._changed:
            ended = followed.final_length is not None
            self.forget(followed.run_id)
        if ended:
            self._on_complete(followed.run_id)
        elif stale:
            self._on_stale(followed.run_id)


class _Followed:
    """One spool and how far the server has it."""

    def __init__(
        self, run_id: str, control_token: str, path: Path, reader: Callable[[], int | None] | None = None
    ) -> None:
        self.run_id = run_id
        self.control_token = control_token
        self._space = SpoolSpace(path)
        self._reader = reader or (lambda: None)
        self.offset = self._space.freed
        self.final_length: int | None = None
        self.closed = False
        self.asks = False
        """Whether the server is to be asked how much it holds, by an append of nothing."""
        self.conversation = Conversation(Route.LOGS, run_id)
        self._chunk_bytes = CHUNK_BYTES
        self._path = path
        self._pipe = fifo(str(path.parent / "grown"))
        self._capped = False
        self._failures = 0
        self._not_before = 0.0
        self._grew_at = time.monotonic()

    def close(self) -> None:
        """Lets go of the keeper's pipe."""
        os.close(self._pipe)

    def size(self) -> int:
        """Bytes in the spool that are to be sent."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            size = 0
        return size if self.final_length is None else min(size, self.final_length)

    def holds(self, target: int) -> bool:
        """Whether the server has everything up to `target` that it wants."""
        return self._capped or self.offset >= target

    def grows_beyond(self, target: int) -> bool:
        """Whether the server has everything up to `target`, and more may come."""
        return self.final_length is None and self.holds(target)

    def complete(self) -> bool:
        """Whether the spool has ended and the server has all of it."""
        return self.final_length is not None and not self.asks and self.holds(self.size())

    def next_chunk(self) -> bytes:
        """The bytes that follow what the server has."""
        count = min(self._chunk_bytes, self.size() - self.offset)
        if self._capped or count <= 0:
            return b""
        if self.offset < self._space.freed:  # the server has less than it said: nothing is left to send there
            return missing(min(count, self._space.freed - self.offset))
        with self._path.open("rb") as spool:
            spool.seek(self.offset)
            return spool.read(count)

    def free(self) -> None:
        """Frees the disk space of what the server has acknowledged or refuses."""
        self._space.free(sent=None if self._capped else self.offset, taken=self._reader)

    def take(self, position: LogPosition) -> None:
        """Goes to where the server is; it may have more than was sent, after a restart of this agent."""
        if position.offset == self.offset and not position.capped:
            self.fall_back()  # it took nothing: asking again at once would not change that
            return
        self.offset = position.offset
        self._capped = position.capped
        self._failures = 0
        self.conversation.answered()
        self._grew_at = time.monotonic()
        full = self.size() - self.offset >= self._chunk_bytes
        self._not_before = 0.0 if full else self._grew_at + SPACING_SECONDS

    def halve(self) -> bool:
        """Makes the next chunk half as long; whether that goes."""
        if self._chunk_bytes <= SMALLEST_CHUNK_BYTES:
            return False
        self._chunk_bytes //= 2
        return True

    def fall_back(self, at_least_seconds: float = 0.0) -> None:
        """Waits a while, longer each time, and never in step with other agents."""
        shortest, longest = BACKOFF_SECONDS
        delay = min(longest, shortest * 2 ** min(self._failures, 16))
        self._failures += 1
        self._not_before = time.monotonic() + max(at_least_seconds, delay * random.uniform(0.5, 1.0))

    def due(self) -> bool:
        """Whether it may send now."""
        return not self.closed and time.monotonic() >= self._not_before

    def pause(self) -> float:
        """Seconds until it is to be looked at again, whether or not it is woken."""
        now = time.monotonic()
        if self._not_before > now:
            return self._not_before - now
        if self.next_chunk_waits():
            return 0.0
        return LOOK_SECONDS[0] if now - self._grew_at < SILENT_AFTER_SECONDS else LOOK_SECONDS[1]

    def next_chunk_waits(self) -> bool:
        """Whether there is something to do at once."""
        return self.complete() or not self.holds(self.size())

    def pipe_to_hear(self) -> int | None:
        """The pipe in which the keeper says that the spool grew; None while this run may not send anyway."""
        return self._pipe if self.due() else None


def _drain(pipe: int) -> None:
    try:
        while os.read(pipe, 65536):
            pass
    except BlockingIOError:
        pass
