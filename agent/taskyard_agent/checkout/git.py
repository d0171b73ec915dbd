"""Git as a program on the agent: no terminal, no configuration of the task's, ended within a second."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from taskyard_agent.hosts import RESOLVER

from .child import Child, ChildLimits
from .failure import GitFailed

FIXED_CONFIG = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "core.autocrlf": "false",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.askPass": "",
    "protocol.ext.allow": "never",
    "submodule.recurse": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "checkout.workers": "0",
    # Larger files are copied piece by piece, and fewer threads take less memory: see ChildLimits.
    "core.bigFileThreshold": "32m",
    "core.deltaBaseCacheLimit": "32m",
    "pack.threads": "2",
}
FIXED_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "LC_ALL": "C",
}
OFFLINE = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ALLOW_PROTOCOL": "none"}
"""For every call that needs no network: the operator's own configuration is not read either."""
INHERITED = ("GIT_SSL_", "GIT_EXEC_PATH", "GIT_PROXY_SSL_")
CREDENTIALS = re.compile(r"(://)[^/@\s']+@")


@dataclass(frozen=True, kw_only=True)
class Git:
    """Runs git on one git directory."""

    git_dir: Path
    work_tree: Path | None = None
    environ: Mapping[str, str]
    """The agent's own variables."""
    cancelled: threading.Event
    locks: tuple[int, ...] = ()
    """Descriptors that git inherits: a lock holds until git, too, has ended."""
    config: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    """Values that are masked in git's words."""
    limits: ChildLimits = field(default_factory=ChildLimits)

    def at(self, git_dir: Path, work_tree: Path | None = None, locks: tuple[int, ...] | None = None) -> Git:
        """The same for other folders."""
        return replace(self, git_dir=git_dir, work_tree=work_tree, locks=self.locks if locks is None else locks)

    def with_access(self, env: Mapping[str, str], config: Mapping[str, str], secrets: tuple[str, ...]) -> Git:
        """The same with the network and one call's credentials."""
        return replace(self, env=env, config=config, secrets=secrets)

    def run(
        self,
        *args: str,
        stdin: Path | bytes | None = None,
        seconds: float | None = None,
        silent_seconds: float | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> bytes:
        """Returns what git printed. Raises GitFailed, RunFailed where the code takes more than is allowed, and
        RunStopped once the run is cancelled.

        It may take `seconds`, and `silent_seconds` to its first word of progress.
        """
        return self._child(args, seconds, silent_seconds, progress).output(stdin)

    def records(self, *args: str) -> Generator[bytes, None, None]:
        """Yields what git prints with `-z`, record by record: there may be any number. Raises as `run` does."""
        return self._child(args).records()

    def ask(self, *args: str) -> bool:
        """Whether git answers yes."""
        try:
            self.run(*args)
        except GitFailed:
            return False
        return True

    def line(self, *args: str) -> str:
        """What git printed, as one line."""
        return os.fsdecode(self.run(*args)).strip()

    def _child(
        self,
        args: Sequence[str],
        seconds: float | None = None,
        silent_seconds: float | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Child:
        return Child(
            name=f"git {args[0]}",
            argv=self._argv(args),
            cwd=self.work_tree or os.sep,
            environ=self._environ(),
            cancelled=self.cancelled,
            limits=self.limits,
            fds=self.locks,
            masked=self._masked,
            progress=progress,
            seconds=seconds,
            silent_seconds=silent_seconds,
        )

    def _argv(self, args: Sequence[str]) -> list[str]:
        tree = [f"--work-tree={self.work_tree}"] if self.work_tree else []
        config = {**FIXED_CONFIG, **self.config}
        settings = [word for name, value in config.items() for word in ("-c", f"{name}={value}")]
        return ["git", f"--git-dir={self.git_dir}", *tree, *settings, *args]

    def _environ(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in self.environ.items()
            if not name.startswith(("GIT_", "TASKYARD_")) or name.startswith(INHERITED)
        }
        kept.pop("SSH_ASKPASS", None)
        return {**RESOLVER, **kept, **FIXED_ENVIRONMENT, **(self.env or OFFLINE)}

    def _masked(self, words: str) -> str:
        for secret in self.secrets:
            words = words.replace(secret, "***")
        return CREDENTIALS.sub(r"\1", words)
