"""A folder on the node's own disk for what ends with a batch job: the trees of its runs."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .checkout import gitdir
from .config import AgentSettings

PREFIX = "taskyard-job-"
LOCK = "lock"


@contextlib.contextmanager
def opened(settings: AgentSettings) -> Iterator[AgentSettings]:
    """The settings with the folder, which is removed at the end, and so are those of agents that were killed.

    There is none outside of a batch job, without a disk of the node's own, and where tasks run as another user.
    """
    job = settings.job
    if job is None or job.temporary is None or settings.run_as is not None:
        yield settings
        return
    _remove_abandoned(job.temporary)
    new = Path(tempfile.mkdtemp(prefix="taskyard-new-", dir=job.temporary))
    with (new / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only a folder that is locked bears the name by which abandoned ones are found.
        folder = new.rename(new.with_name(f"{PREFIX}{new.name.removeprefix('taskyard-new-')}"))
        try:
            yield dataclasses.replace(settings, job=dataclasses.replace(job, folder=folder))
        finally:
            with contextlib.suppress(OSError):  # the next agent there removes what is left
                gitdir.remove(folder)


def _remove_abandoned(temporary: Path) -> None:
    for folder in temporary.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or gone by now
            if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                gitdir.remove(folder)
