"""The end of the batch job that an agent lives in: its runs end within the batch system's patience."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

from .batch import BatchJob
from .run import RunJob

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
WARNINGS = (signal.SIGUSR1,)
"""What a batch system is asked to send some time before."""
SETTLE_SECONDS = 0.25
"""A batch system signals the processes of a job one after the other: each is to have its SIGTERM once."""
LOOK_SECONDS = 0.1
WATCH_SECONDS = 1.0
LAST_SECONDS = 0.5
"""Before SIGKILL, this process ends by itself."""
EXIT_CODE = 143


class NoJob:
    """Stands for the end of no job."""

    signals: tuple[signal.Signals, ...] = ()
    warnings: tuple[signal.Signals, ...] = ()
    begun = False

    def begin(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class JobEnd:
    """Ends the runs, and at the last moment this process, when the batch job ends."""

    def __init__(
        self,
        job: BatchJob,
        runs: Callable[[], Sequence[RunJob]],
        *,
        on_begin: Callable[[], None] = lambda: None,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        """`on_begin` is called in a thread once the end has begun; `leave` ends this process."""
        self._job = job
        self._runs = runs
        self._on_begin = on_begin
        self._leave = leave
        self._began = threading.Event()
        self._closed = threading.Event()
        self._began_at = 0.0
        self.signals = SIGNALS
        self.warnings = WARNINGS
        self._thread = threading.Thread(target=self._live, name="job", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """The job ends. May be called in a signal handler, and repeatedly."""
        if not self._began.is_set():
            self._began_at = time.monotonic()
            self._began.set()

    @property
    def begun(self) -> bool:
        """Whether the job ends."""
        return self._began.is_set()

    def close(self) -> None:
        """Nothing is left to be ended."""
        self._closed.set()
        self._began.set()

    def _live(self) -> None:
        while not self._began.wait(WATCH_SECONDS):
            if self._job.process is not None and not self._job.process.alive():
                logger.warning("the batch script has ended", extra={"action": "batch_script_ended"})
                self.begin()
        if not self._closed.wait(SETTLE_SECONDS):
            self._end()

    def _end(self) -> None:
        cause = self._job.cause(time.time())
        words = self._job.explained(cause)
        logger.warning("%s: ending what runs", words, extra={"action": "batch_job_ends"})
        self._on_begin()
        leave_at = self._began_at + self._job.kill_wait_seconds - LAST_SECONDS
        stopped: set[str] = set()
        while not self._closed.wait(LOOK_SECONDS):
            left = leave_at - time.monotonic()
            if left <= 0:
                self._give_up()
                return
            for run in self._runs():
                if run.id not in stopped:
                    run.stop(cause, message=words, grace_seconds=max(0.0, self._grace_left()))
                    stopped.add(run.id)

    def _grace_left(self) -> float:
        return self._job.grace_seconds - (time.monotonic() - self._began_at)

    def _give_up(self) -> None:
        runs = ", ".join(run.id for run in self._runs())
        logger.error(
            "the end of %s could not be reported in time; the next agent on this machine does",
            runs or "this agent",
            extra={"action": "batch_job_over"},
        )
        logging.shutdown()
        self._leave(EXIT_CODE)
