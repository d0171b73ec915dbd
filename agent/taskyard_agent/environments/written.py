"""What programs of an image have written is looked at before the agent writes there itself."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from taskyard.wire import Reason

from taskyard_agent.environments.request import failed


def require_inside(prefix: Path) -> None:
    """Raises RunFailed when a folder below `prefix` is a link out of it, or something is a pipe or a device."""
    top = os.path.realpath(prefix)
    for folder, names, files in os.walk(prefix):
        for name in (*names, *files):
            path = os.path.join(folder, name)
            kind = os.lstat(path).st_mode
            leads_out = os.path.isdir(path) and not _is_below(os.path.realpath(path), top)
            if leads_out or not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or stat.S_ISLNK(kind)):
                where = os.path.relpath(path, prefix)
                raise failed(f"the image made {where} of the environment lead elsewhere", reason=Reason.IMAGE)


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top + os.sep)
