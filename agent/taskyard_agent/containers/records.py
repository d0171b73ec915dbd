"""What the parts of a run tell its container, and what that leaves. Light: every agent imports it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskyard.wire import Gpu

RECORD = "container.json"
"""In a run's folder: where its container is, for a daemon that has to find it again."""


def engine_place(run_dir: Path) -> dict[str, str] | None:
    """The engine's `socket` and `agent`, and the container's `id`, of a run; None when it has none."""
    try:
        record: dict[str, str] = json.loads((run_dir / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    return record


@dataclass(frozen=True, kw_only=True)
class Order:
    """For which run a container is prepared, and how it hears of it."""

    task: str
    run: str
    log: Callable[[str], None]
    cancelled: threading.Event


@dataclass(frozen=True, kw_only=True)
class Inside:
    """A command that is to run in a container, and what it needs of this machine."""

    run_dir: Path
    argv: Sequence[str]
    work: Path
    variables: Mapping[str, str]
    reads: tuple[Path, ...]
    writes: tuple[Path, ...]
    gpus: tuple[Gpu, ...]
    memory_bytes: int | None
    grace_seconds: float
    user: str | None = None
    """`uid:gid`; None: the agent's own."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a container ended, by the engine's own record."""

    started: bool
    running: bool
    exit_code: int
    out_of_memory: bool
    error: str
    """Why it could not be started."""
