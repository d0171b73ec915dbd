"""What an agent does about its own measurements: ends runs whose GPUs idle, takes nothing while it is too full."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from taskyard.wire import Sample

from .held import Cause
from .idle_gpus import GpuRun, IdleGpus
from .run import RunJob
from .worker import Worker

logger = logging.getLogger(__name__)


class Gauge(Protocol):
    """Says whether something of the machine is too full; `pressure` has them."""

    def reasons(self) -> dict[str, str | None]: ...


class Watchman:
    """Called before the first claim, then with every round of measurements from the beat's thread."""

    def __init__(self, worker: Worker, idle_gpus: IdleGpus, gauges: Iterable[Gauge]) -> None:
        self._worker = worker
        self._idle_gpus = idle_gpus
        self._gauges = tuple(gauges)
        self._held: dict[str, str] = {}

    def heed(self, samples: Sequence[Sample]) -> None:
        """Does what the measurements ask for."""
        self._end_idle(samples)
        self.hold_where_full()

    def hold_where_full(self) -> None:
        """Keeps the worker from taking tasks while the machine is too full."""
        for gauge in self._gauges:
            self._hold(gauge.reasons())

    def _end_idle(self, samples: Sequence[Sample]) -> None:
        jobs = {job.id: job for job in self._worker.jobs}
        watched = [run for run in map(_gpu_run, jobs.values()) if run is not None]
        for run, why in self._idle_gpus.overdue(watched, samples).items():
            logger.warning("ending run %s: %s", run, why, extra={"action": "run_idle", "run": run})
            jobs[run].stop(Cause.IDLE_GPU, message=why)

    def _hold(self, reasons: dict[str, str | None]) -> None:
        for source, reason in reasons.items():
            self._worker.hold(source, reason)
            self._tell(source, reason)

    def _tell(self, source: str, reason: str | None) -> None:
        """Once for each change, not for each measurement."""
        if reason and source not in self._held:
            logger.warning("%s", reason, extra={"action": "worker_held", "source": source})
        elif not reason and source in self._held:
            logger.info("%s has room again", source, extra={"action": "worker_released", "source": source})
        self._held = {name: why for name, why in {**self._held, source: reason}.items() if why}


def _gpu_run(job: RunJob) -> GpuRun | None:
    """A run that has come to its running phase, and whose task limits how long its GPUs may idle."""
    if job.keeper_pid is None or job.max_idle_gpu_seconds is None:
        return None
    return GpuRun(id=job.id, max_idle_seconds=job.max_idle_gpu_seconds, gpus=len(job.devices))
