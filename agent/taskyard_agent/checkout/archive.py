"""Unpacking the archive of a folder without git."""

from __future__ import annotations

import json
import os
import sys
import tarfile
import threading
from pathlib import Path

from taskyard_agent.errors import RunFailed

from . import unpack as program
from .child import Child
from .failure import GitFailed, refused
from .settings import CheckoutSettings

RATIO = 200
RATIO_FROM_BYTES = 10_000_000
"""Below this an archive may unpack to any multiple of itself."""


def unpack(file: Path, target: Path, settings: CheckoutSettings, cancelled: threading.Event) -> None:
    """Unpacks into an empty folder. Raises RunFailed for what could reach outside it or fill disk or memory."""
    if not hasattr(tarfile, "data_filter"):
        raise refused(
            "this Python cannot unpack archives safely", "update the agent's Python to its latest release"
        )
    limit = min(settings.archive_bytes, max(RATIO_FROM_BYTES, file.stat().st_size * RATIO))
    child = Child(
        name="unpacking the code's archive",
        argv=[
            *(sys.executable, "-I", "-S", program.__file__),
            *(str(file), str(target), str(limit), str(settings.archive_files)),
        ],
        cwd=os.sep,
        environ={},
        cancelled=cancelled,
        limits=settings.limits,
    )
    try:
        answer = json.loads(child.output())
    except GitFailed as failure:
        raise _bad(failure.words) from failure
    if "errno" in answer:
        raise OSError(answer["errno"], answer["error"])
    if "refused" in answer:
        raise _bad(answer["refused"])


def _bad(what: str) -> RunFailed:
    return refused(f"the code's archive is refused: {what}", "submit the folder again with `taskyard run`")
