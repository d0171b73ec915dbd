"""A task's container, code and environment, reproduced on this machine: for a run, or ahead of one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taskyard.client import Client
from taskyard.wire import CommandKind, TaskSpec

from . import checkout, environments
from .checkout import CheckoutSettings, GitSources, Tree
from .containers import Containers, Order
from .environments import EnvironmentRequest, EnvironmentSettings, ReadyEnvironment

if TYPE_CHECKING:
    from .containers.box import Box


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """One task's. Each step raises RunFailed, or RunStopped once `cancelled` is set. Release what it returns."""

    task: str
    run: str
    """Names what is made for this run alone."""
    spec: TaskSpec
    checkout: CheckoutSettings
    environments: EnvironmentSettings
    containers: Containers
    client: Client
    log: Callable[[str], None]
    cancelled: threading.Event

    def container(self) -> Box | None:
        """The prepared image of the task's container; None where it runs in none."""
        wanted = self.containers.wanted(self.spec)
        if wanted is None:
            return None
        order = Order(task=self.task, run=self.run, log=self.log, cancelled=self.cancelled)
        return self.containers.prepare(wanted, order)

    def code(self) -> Tree:
        """A tree with the task's code."""
        return checkout.prepare(
            self.spec.code,
            settings=self.checkout,
            fetch_blob=self._fetch_blob,
            log=self.log,
            cancelled=self.cancelled,
        )

    def _fetch_blob(self, digest: str, target: Path) -> None:
        self.client.get_blob(digest, target)

    def environment(self, tree: Tree, box: Box | None, *, gpus: int, overlay: Path) -> ReadyEnvironment:
        """What the code needs, for so many GPUs; the folder `overlay` is for what the task installs itself."""
        command = self.spec.command
        request = EnvironmentRequest(
            environment=self.spec.environment,
            tree=tree.root,
            work=tree.work,
            script=tree.work / command.target if command.kind is CommandKind.SCRIPT else None,
            gpus=gpus,
            overlay=overlay,
            git=GitSources(settings=self.checkout, log=self.log, cancelled=self.cancelled),
            place=box.workshop.over(tree.root, tree.reads) if box else None,
            needs_python=command.kind is not CommandKind.EXECUTABLE,
        )
        return environments.provision(request, settings=self.environments, log=self.log, cancelled=self.cancelled)
