"""From a claimed run to what its keeper is to start: container, code, environment, variables, GPUs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taskyard import arguments, rewriting
from taskyard.interface import known_interface
from taskyard.wire import Gpu, Phase, Reason, TaskSpec, typed_parameters

from . import gpus, variables
from .checkout import Tree
from .command_line import command_line
from .containers import Inside
from .environments import ReadyEnvironment
from .errors import RunFailed, RunStopped
from .held import Launch, LaunchUser
from .hooks import Hook
from .journal import JournalledRun
from .keeper.processes import sweep
from .outputs import hold_tree
from .phases import PhaseLog
from .reproduction import Reproduction
from .run_as import let_read
from .run_services import RunServices

if TYPE_CHECKING:
    from .containers.box import Box

LARGEST_PARAMS_BYTES = 32 << 10
"""Of the variable TASKYARD_PARAMS; beyond it the file alone holds the parameters."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run whose command could start now."""

    argv: tuple[str, ...]
    """The command's own, also where it runs in a container."""
    environ: Mapping[str, str]
    tree: Tree
    ready: ReadyEnvironment
    box: Box | None
    inside: tuple[str, ...] | None
    """What the keeper starts to be the command in its container; None: it starts the command itself."""
    user: LaunchUser | None
    locks: tuple[int, ...]
    """Descriptors that the keeper holds for as long as the command runs."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Prepares one run, phase by phase. What it takes is given back when its stack is closed."""

    journalled: JournalledRun
    services: RunServices
    devices: tuple[Gpu, ...]
    shares_gpus: bool
    memory_limit_bytes: int | None
    secrets: Mapping[str, str]
    masks: tuple[str, ...]
    """What must not be read in the run's log."""
    phases: PhaseLog
    cancelled: threading.Event
    say: Callable[[str], None]
    run_hook: Callable[[Hook], None]

    def make(self, stack: ExitStack) -> Prepared:
        """Reproduces code and environment, and takes the GPUs. Raises RunFailed, RunStopped."""
        box = self._open_box(stack)
        tree = self._check_out(stack)
        with self._phase(Phase.ENVIRONMENT):
            ready = self._provision(tree, box, stack)
            environ = self._variables(ready, box, self._write_parameters(tree))
            argv = self._argv(tree, ready, environ, elsewhere=box is not None)
            self.run_hook(Hook.BEFORE_RUN)
        gpu_locks = self._take_gpus(stack)
        inside = box.create(self._inside(tree, ready, argv, environ)) if box else None
        locks = (tree.lock_fd, ready.lock_fd, *gpu_locks)
        return Prepared(
            argv=argv,
            environ=environ,
            tree=tree,
            ready=ready,
            box=box,
            inside=inside,
            user=self._give(tree),
            locks=tuple(fd for fd in locks if fd is not None),
        )

    def launch(self, prepared: Prepared, lease_at: float | None) -> Launch:
        """What the keeper is told; `lease_at` is when the acknowledged start was sent, on `held.boot_clock()`."""
        policy = self._spec.policy
        launch = Launch(
            run=self._run,
            argv=prepared.argv,
            cwd=str(prepared.tree.work),
            tree=str(prepared.tree.root),
            work=str(prepared.tree.work),
            outputs=self._spec.outputs,
            env=dict(prepared.environ),
            masks=self.masks,
            grace_seconds=policy.grace_seconds,
            timeout_seconds=policy.timeout_seconds,
            memory_bytes=self.memory_limit_bytes,
            user=prepared.user,
            exclusive=policy.exclusive,
            lease_seconds=self.journalled.lease_seconds,
            lease_at=lease_at,
            job=self.services.job,
        )
        return launch if prepared.inside is None else _from_outside(launch, prepared.inside)

    # --- phases

    @contextlib.contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        self._refuse_if_stopped()
        self.phases.enter(phase)
        yield
        self._refuse_if_stopped()

    def _refuse_if_stopped(self) -> None:
        if self.cancelled.is_set():
            raise RunStopped("stopped before its process was started")

    def _open_box(self, stack: ExitStack) -> Box | None:
        if self.services.containers.wanted(self._spec) is None:
            return None
        with self._phase(Phase.CONTAINER):
            box = self._reproduction.container()
            if box is not None:
                stack.callback(box.release)
            return box

    def _check_out(self, stack: ExitStack) -> Tree:
        with self._phase(Phase.CHECKOUT):
            self.run_hook(Hook.BEFORE_CHECKOUT)
            tree = self._reproduction.code()
            stack.callback(tree.release)
            if self._spec.outputs:
                hold_tree(self.journalled.directory.path, tree.root, tree.work, tree.keep)
            return tree

    def _provision(self, tree: Tree, box: Box | None, stack: ExitStack) -> ReadyEnvironment:
        overlay = self._overlay_of(tree)
        shutil.rmtree(overlay, ignore_errors=True)  # what a killed daemon began is made anew
        ready = self._reproduction.environment(tree, box, gpus=len(self.devices), overlay=overlay)
        stack.callback(ready.release)
        self.services.tally.provisioned(reused=ready.reused)
        return ready

    # --- the command

    def _write_parameters(self, tree: Tree) -> Path:
        """Write the parameters, with their types, to a file that the task may read, and no other user."""
        file = self._parameters_of(tree)
        file.unlink(missing_ok=True)
        file.touch(0o600)
        file.write_text(json.dumps(typed_parameters(self._spec)), encoding="utf-8")
        if account := self.services.account:
            os.chown(file, account.uid, account.gid)
        return file

    def _variables(self, ready: ReadyEnvironment, box: Box | None, parameters: Path) -> dict[str, str]:
        own = {
            "TASKYARD_TASK": self.journalled.task.id,
            "TASKYARD_RUN": self._run,
            "TASKYARD_PARAMS_FILE": str(parameters),
        }
        texts = json.dumps(self._spec.parameters)
        if len(texts) <= LARGEST_PARAMS_BYTES:  # a longer variable would keep the command from starting
            own["TASKYARD_PARAMS"] = texts
        if self._spec.report_token:
            own["TASKYARD_TOKEN"] = self.journalled.tokens.report_token
        around = {**self.services.inherited_inside, **box.variables} if box else self.services.inherited
        return variables.compose(
            around,
            ready.variables,
            self._spec.env,
            self.secrets,
            # the agent's choice, whatever the task says: others run on the rest
            gpus.variables(self.devices, by_index=self.services.gpus_by_index, alone=box is not None),
            self.services.server_variables,
            own,
            bin_folder=ready.path,
        )

    def _argv(
        self, tree: Tree, ready: ReadyEnvironment, environ: dict[str, str], *, elsewhere: bool
    ) -> tuple[str, ...]:
        command = self._spec.command
        effective = command.args if command.written else self._written()
        return command_line(command, effective, tree, ready, environ, elsewhere=elsewhere)

    def _written(self) -> tuple[str, ...]:
        """Write in the parameters that an older client, or the API, left to be written. Raises RunFailed."""
        command = self._spec.command
        texts, values = self._spec.parameters.get("Args", {}), self._spec.values.get("Args", {})
        if command.interface is None and not values:
            return arguments.write_back(command.args, texts)
        try:
            return rewriting.write_back(command.args, texts, values, known_interface(command)).args
        except rewriting.Unwritable as error:
            raise RunFailed(Phase.ENVIRONMENT, Reason.COMMAND, str(error)) from error

    def _take_gpus(self, stack: ExitStack) -> tuple[int, ...]:
        lock = gpus.lock(self.devices, self._run, shared=self.shares_gpus)
        stack.callback(lock.close)
        for leftover in lock.left_by:
            sweep(leftover)
        return lock.fds

    def _inside(
        self, tree: Tree, ready: ReadyEnvironment, argv: tuple[str, ...], environ: dict[str, str]
    ) -> Inside:
        account = self.services.account
        return Inside(
            run_dir=self.journalled.directory.path,
            argv=argv,
            work=tree.work,
            variables=environ,
            reads=(*tree.reads, *ready.reads, *self.services.server_files, self._parameters_of(tree)),
            writes=(tree.root, *ready.writes),
            gpus=self.devices,
            memory_bytes=self.memory_limit_bytes,
            grace_seconds=self._spec.policy.grace_seconds,
            user=account.uid_and_gid if account else None,
        )

    def _give(self, tree: Tree) -> LaunchUser | None:
        """Gives the user whom tasks run as what the task may change."""
        account = self.services.account
        if account is None:
            return None
        for folder in (tree.root, self._overlay_of(tree)):
            if folder.exists():
                account.give(folder)
        for objects in tree.reads:
            let_read(objects.parent)
        return LaunchUser(uid=account.uid, gid=account.gid, groups=account.groups)

    def _overlay_of(self, tree: Tree) -> Path:
        """Beside the tree where tasks run as another user, to which the run's folder is shut, and in a batch job,
        whose trees are on the node's own disk."""
        beside = tree.root.with_name("overlay")
        return beside if self.services.account or self.services.job else self.journalled.directory.path / "overlay"

    def _parameters_of(self, tree: Tree) -> Path:
        return self._overlay_of(tree).with_name("parameters.json")

    # --- whose it is

    @property
    def _run(self) -> str:
        return self.journalled.run.id

    @property
    def _spec(self) -> TaskSpec:
        return self.journalled.task.spec

    @property
    def _reproduction(self) -> Reproduction:
        return Reproduction(
            task=self.journalled.task.id,
            run=self._run,
            spec=self._spec,
            checkout=self.services.checkout,
            environments=self.services.environments,
            containers=self.services.containers,
            client=self.services.client,
            log=self.say,
            cancelled=self.cancelled,
        )


def _from_outside(launch: Launch, command: tuple[str, ...]) -> Launch:
    """What holds a container instead of the command itself. Its engine sees to its memory and its user."""
    masks = (*launch.masks, *variables.secret(launch.env))
    return dataclasses.replace(launch, argv=command, cwd="/", env={}, masks=masks, memory_bytes=None, user=None)
