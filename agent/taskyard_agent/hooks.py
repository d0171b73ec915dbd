"""The operator's programs, run as the agent starts and ends and around each run."""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOOK_SECONDS = 0.1
"""Between two looks at whether a run whose hook goes on was cancelled."""


class Hook(str, enum.Enum):
    """When one is run; its value is the program's name in the folder."""

    START = "start"
    BEFORE_CHECKOUT = "before-checkout"
    BEFORE_RUN = "before-run"
    AFTER_RUN = "after-run"
    STOP = "stop"


class HookFailed(Exception):
    """A hook that ended badly, took too long or may not be run; `str(error)` names it and says why."""


class HookStopped(Exception):
    """The run was cancelled while a hook went on, and the hook was ended."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """The programs of one folder. They see the agent's harmless variables and what the caller tells them."""

    folder: Path
    timeout_seconds: float = 60.0
    variables: Mapping[str, str] = field(default_factory=dict)

    def has(self, hook: Hook) -> bool:
        """Whether there is one."""
        return (self.folder / hook.value).exists()

    def run(
        self,
        hook: Hook,
        told: Mapping[str, str],
        *,
        say: Callable[[str], None],
        cancelled: threading.Event | None = None,
    ) -> None:
        """Runs a hook, if there is one; `say` is given its output, line by line, once it has ended.

        Raises HookFailed, and HookStopped when `cancelled` was set meanwhile.
        """
        if not self.has(hook):
            return
        self._refuse_unsafe(hook)
        said = _Output(say)
        try:
            code = self._carry_out(hook, told, said, cancelled or threading.Event())
        except OSError as error:
            raise HookFailed(f"the hook {hook.value!r} cannot be run: {error.strerror}") from error
        if code != 0:
            end = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
            raise HookFailed(f"the hook {hook.value!r} failed, {end}" + (f": {said.last}" if said.last else ""))

    def check(self) -> tuple[Hook, ...]:
        """The hooks that there are, each of which may be run. Raises HookFailed for one that may not."""
        there = tuple(hook for hook in Hook if self.has(hook))
        for hook in there:
            self._refuse_unsafe(hook)
            program = self.folder / hook.value
            if not os.access(program, os.X_OK):
                raise HookFailed(f"the hook {hook.value!r} cannot be run; run: chmod u+x {program}")
        return there

    def _refuse_unsafe(self, hook: Hook) -> None:
        """What others may write, others may run as this user."""
        program = (self.folder / hook.value).resolve()
        for path in (self.folder.resolve(), program, *program.parents):
            if _may_be_changed(path.stat()):
                raise HookFailed(
                    f"the hook {hook.value!r} is not run: others may change {path}; "
                    f"give it to this user or root, and run: chmod go-w {path}"
                )

    def _carry_out(self, hook: Hook, told: Mapping[str, str], said: _Output, cancelled: threading.Event) -> int:
        program = self.folder / hook.value
        process = subprocess.Popen(
            [str(program)],
            cwd=self.folder,
            env={**self.variables, "TASKYARD_HOOK": hook.value, **told},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + self.timeout_seconds
        while True:
            try:
                output, _ = process.communicate(timeout=LOOK_SECONDS)
                said.add(output)
                return process.returncode
            except subprocess.TimeoutExpired:
                if cancelled.is_set():
                    said.add(_end(process))
                    raise HookStopped(f"cancelled while the hook {hook.value!r} went on") from None
                if time.monotonic() > deadline:
                    said.add(_end(process))
                    raise HookFailed(
                        f"the hook {hook.value!r} took more than {self.timeout_seconds:.0f} s and was ended"
                    ) from None


def _may_be_changed(found: os.stat_result) -> bool:
    """By others than this user and root. In a folder like /tmp nobody removes what is another's."""
    kept = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    return found.st_uid not in (0, os.geteuid()) or bool(
        found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not kept
    )


class _Output:
    """What a hook wrote."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.last = ""

    def add(self, data: bytes) -> None:
        for line in data.decode(errors="replace").splitlines():
            self._say(line)
            self.last = line.strip() or self.last


def _end(process: subprocess.Popen[bytes]) -> bytes:
    """Ends a hook with everything that it started; returns what it had written."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # something of it left the group and holds the pipe
        return process.communicate(timeout=LOOK_SECONDS)[0]
    return b""
