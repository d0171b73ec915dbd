"""`agent build --id`: makes what a task needs here before it runs, and changes nothing at the server."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from taskyard import exit_codes
from taskyard.client import Client
from taskyard.wire import TaskSpec

from . import means
from .config import AgentSettings
from .containers import Containers
from .environments import ReadyEnvironment
from .environments.cache import cache_of
from .errors import RunFailed, RunStopped, SettingsError
from .part_settings import agents_folder, checkout_settings, container_settings, environment_settings
from .reproduction import Reproduction
from .run_as import UMASK

if TYPE_CHECKING:
    from .containers.box import Box
    from .containers.target import Baked

Say = Callable[[str], None]
EXIT_FAILED = 1


@dataclass(frozen=True, kw_only=True)
class Made:
    """What runs of the task will find."""

    task: str
    key: str
    """Of the environment in this machine's cache."""
    reused: bool
    """Whether the environment was there already."""
    python: str
    packages: tuple[str, ...]
    image: str | None
    """What this machine calls the image that they run in, with its set-up; None: in none."""
    digest: str | None
    """What the registry calls the image that was asked for."""
    target: str | None
    """The image that was made by this name."""
    seconds: float


def build(task: str, settings: AgentSettings, client: Client, *, target: str | None, say: Say) -> Made:
    """Makes the task's image and environment, and the image `target` with both.

    Raises SettingsError, RunFailed as a run would, RunStopped when it is interrupted.
    """
    begun = time.monotonic()
    spec = client.task(task).spec
    if settings.run_as is not None:
        os.umask(UMASK)
    settings.local_dir.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory(prefix="build-", dir=settings.local_dir)
    with _interrupted() as cancelled, scratch as folder:
        builder = _Builder(task, spec, settings, client, say, cancelled, Path(folder))
        made = builder.make(target)
    return dataclasses.replace(made, seconds=time.monotonic() - begun)


def exit_code(error: RunFailed | RunStopped) -> int:
    """130 when interrupted, 125 when the machine is at fault, 1 when the task is."""
    if isinstance(error, RunStopped):
        return exit_codes.CANCELLED
    return exit_codes.TASKYARD if error.infrastructure else EXIT_FAILED


@dataclass(frozen=True)
class _Builder:
    task: str
    spec: TaskSpec
    settings: AgentSettings
    client: Client
    say: Say
    cancelled: threading.Event
    folder: Path

    def make(self, target: str | None) -> Made:
        with contextlib.ExitStack() as stack:
            reproduction = self._reproduction()
            box = self._box(reproduction, needed=target is not None)
            if box is not None:
                stack.callback(box.release)
            tree = reproduction.code()
            stack.callback(tree.release)
            ready = reproduction.environment(tree, box, gpus=self._gpus(), overlay=self.folder / "overlay")
            stack.callback(ready.release)
            if box is not None and target is not None:
                self._bake(box, ready, target)
        return Made(
            task=self.task,
            key=ready.key,
            reused=ready.reused,
            python=ready.version,
            packages=ready.packages,
            image=box.image.name if box else None,
            digest=box.digest if box else None,
            target=target,
            seconds=0.0,
        )

    def _box(self, reproduction: Reproduction, *, needed: bool) -> Box | None:
        box = reproduction.container()
        if box is None and (needed or self.settings.docker is not None):
            raise SettingsError("the task asks for no container; name the image: --docker IMAGE")
        return box

    def _reproduction(self) -> Reproduction:
        run = f"build-{uuid.uuid4().hex[:12]}"
        found = container_settings(self.settings, agents_folder(self.settings) / run)
        # A task that has a container needs no `--docker` here: whoever builds it wants it built.
        enabled = found.enabled or self.spec.container is not None
        return Reproduction(
            task=self.task,
            run=run,
            spec=self.spec,
            checkout=checkout_settings(self.settings),
            environments=environment_settings(self.settings),
            containers=Containers(settings=dataclasses.replace(found, enabled=enabled)),
            client=self.client,
            log=self.say,
            cancelled=self.cancelled,
        )

    def _gpus(self) -> int:
        """As many as a run here would be given: builds of torch follow it."""
        resources, here = self.spec.resources, len(means.choose_gpus(self.settings))
        if resources.gpus is not None:
            return min(resources.gpus, here)
        return min(1, here) if resources.gpu_memory_bytes is not None else here

    def _bake(self, box: Box, ready: ReadyEnvironment, name: str) -> None:
        from .containers.target import bake

        self.say(f"making image {name}")
        bake(box, self._baked(ready), name, self.folder)

    def _baked(self, ready: ReadyEnvironment) -> Baked | None:
        """None where the image is all there is: inherited, or without Python."""
        from .containers.target import Baked

        built = cache_of(environment_settings(self.settings)).built(ready.key)
        if built is None:
            return None
        return Baked(
            prefix=Path(built.prefix),
            library=built.library,
            beyond=built.site_paths[1:],
            pip=Path(built.pip) if built.pip else None,
        )


@contextlib.contextmanager
def _interrupted() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM end what is being made, and leave nothing half made."""
    told = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        told.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
