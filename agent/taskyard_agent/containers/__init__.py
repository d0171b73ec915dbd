"""Runs in containers: the image, its set-up, the container itself, and what became of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taskyard.wire import Container, TaskSpec

from taskyard_agent.containers.engine import Engine, engine_of
from taskyard_agent.containers.failure import bad_image, refused
from taskyard_agent.containers.records import RECORD, Ended, Inside, Order, engine_place
from taskyard_agent.containers.settings import ContainerSettings
from taskyard_agent.errors import RunFailed

if TYPE_CHECKING:
    from taskyard_agent.containers.box import Box
    from taskyard_agent.containers.preparation import Preparation

__all__ = [
    "ContainerSettings",
    "Containers",
    "Ended",
    "Inside",
    "Order",
    "conclude",
    "look_at",
    "pid_of",
    "signal",
    "used_by",
]

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Containers:
    """The containers of one agent. May be used from any thread."""

    settings: ContainerSettings
    _preparation: Preparation | None = None

    def wanted(self, spec: TaskSpec) -> Container | None:
        """The container that a task is to run in; None: on the machine itself. Raises RunFailed."""
        asked = spec.container
        if not self.settings.enabled:
            if asked is None:
                return None
            raise refused(
                "the task asks for a container, and this agent runs none: start it with `agent daemon --docker`, "
                "or send the task to a queue whose agents do"
            )
        if asked is None:
            return Container(image=self.settings.image) if self.settings.image else None
        if not (asked.image or self.settings.image):
            raise bad_image("the task's container names no image, and this agent has no default: `--docker IMAGE`")
        return asked if asked.image else Container(**{**vars(asked), "image": self.settings.image})

    def prepare(self, wanted: Container, order: Order) -> Box:
        """Has the image at hand, with its set-up. Raises RunFailed (phase container) or RunStopped."""
        if self._preparation is None:
            from taskyard_agent.containers.preparation import Preparation  # with the engine's library: 0.2 s

            self._preparation = Preparation(settings=self.settings, engine=engine_of(self.settings))
        return self._preparation.prepare(wanted, order)

    def problem(self) -> str | None:
        """Says why the engine cannot be used; None when it answers."""
        try:
            with contextlib.closing(engine_of(self.settings)) as engine:
                return None if engine.version else "the container engine does not say its version"
        except RunFailed as failure:
            return str(failure)

    def sweep(self, runs: Collection[str]) -> None:
        """Removes what an agent that was killed left behind: containers of other runs than these."""
        if not self.settings.enabled:
            return
        try:
            with contextlib.closing(engine_of(self.settings)) as engine:
                _remove_leftovers(engine, runs)
        except RunFailed as failure:
            logger.warning("containers are not swept: %s", failure, extra={"action": "containers_not_swept"})


def _remove_leftovers(engine: Engine, runs: Collection[str]) -> None:
    for container, run in engine.of_agent():
        if run not in runs:
            extra = {"action": "container_swept", "run": run}
            logger.warning("removing a container that run %s left", run, extra=extra)
            engine.remove(container)


def used_by(run_dir: Path) -> bool:
    """Whether a run has a container, which then ends as `attach` tells."""
    return (run_dir / RECORD).exists()


def look_at(run_dir: Path) -> Ended | None:
    """How a run's container is; None when it has none, or when the engine cannot tell any more."""
    record = engine_place(run_dir)
    if record is None:
        return None
    try:
        with contextlib.closing(_engine_in(record)) as engine:
            return engine.ended(record["id"])
    except RunFailed as failure:
        logger.warning("how a container ended is not known: %s", failure, extra={"action": "container_unknown"})
        return None


def pid_of(run_dir: Path) -> int | None:
    """The first process of a run's container, for who measures it; None when there is none to be seen."""
    record = engine_place(run_dir)
    if record is None:
        return None
    try:
        with contextlib.closing(_engine_in(record)) as engine:
            return engine.first_process(record["id"])
    except RunFailed as failure:
        logger.debug("a container is not measured: %s", failure, extra={"action": "container_unseen"})
        return None


def signal(run_dir: Path, name: str) -> None:
    """Sends a signal, such as SIGINT, to the first process of a run's container; one that is gone gets none."""
    record = engine_place(run_dir)
    if record is None:
        return
    try:
        with contextlib.closing(_engine_in(record)) as engine:
            engine.signal(record["id"], name)
    except RunFailed as failure:
        logger.warning("a signal did not reach its container: %s", failure, extra={"action": "signal_lost"})


def conclude(run_dir: Path, run: str) -> None:
    """Ends and removes what a run has in containers. What cannot be removed now is at the agent's next start."""
    record = engine_place(run_dir)
    if record is None:
        return
    try:
        with contextlib.closing(_engine_in(record)) as engine:
            for container in engine.of_run(run):
                engine.remove(container)
        (run_dir / RECORD).unlink(missing_ok=True)
    except RunFailed as failure:
        logger.warning(
            "the container of run %s is not removed: %s", run, failure,
            extra={"action": "container_left", "run": run},
        )  # fmt: skip


def _engine_in(record: Mapping[str, str]) -> Engine:
    return Engine(socket=Path(record["socket"]), agent=record["agent"])
