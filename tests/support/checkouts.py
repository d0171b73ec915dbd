"""Checking code out in tests, as an agent's run does."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from taskyard.snapshot import Snapshot
from taskyard.wire import Code
from taskyard_agent.checkout import CheckoutSettings, Tree, prepare


@dataclass
class Machine:
    """An agent's folder, and the blobs that the server would serve it."""

    settings: CheckoutSettings
    blobs: dict[str, Path] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    """What the run's log was told."""
    fetched: list[str] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def at(cls, folder: Path, **settings: object) -> Machine:
        """A machine whose operator allows repositories by path."""
        return cls(CheckoutSettings(folder=folder, **{"allow_file": True, "environ": os.environ, **settings}))  # type: ignore[arg-type]

    def prepare(self, code: Code, fetch: Callable[[str, Path], None] | None = None) -> Tree:
        """Checks code out. `fetch` stands in the server's place."""
        return prepare(
            code,
            settings=self.settings,
            fetch_blob=fetch or self._fetch,
            log=self.lines.append,
            cancelled=self.cancelled,
        )

    def prepare_snapshot(self, snapshot: Snapshot, change: Callable[[Code], Code] = lambda code: code) -> Tree:
        """Checks a snapshot out, as if its blobs had been uploaded."""
        self.blobs.update(snapshot.blobs)
        return self.prepare(change(snapshot.code))

    def _fetch(self, digest: str, target: Path) -> None:
        self.fetched.append(digest)
        shutil.copyfile(self.blobs[digest], target)
