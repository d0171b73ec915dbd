"""Where a database file may live: a writable local folder, held by one server process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from taskyard_server.errors import StartRefused

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "lustre", "gpfs", "ceph", "beegfs", "glusterfs"}
    | {
        "ocfs2",
        "gfs2",
        "afs",
        "coda",
        "pvfs2",
        "orangefs",
        "fuse.sshfs",
        "fuse.s3fs",
        "fuse.glusterfs",
        "fuse.ceph",
    }
    | {"fuse.rclone", "fuse.gcsfuse", "fuse.juicefs"}
)
MOUNTS = Path("/proc/self/mountinfo")


class Place:
    """The folder of a database file, prepared and locked while it is open."""

    def __init__(self, file: Path, *, mounts: Path = MOUNTS) -> None:
        self.file = file
        self._mounts = mounts
        self._lock: int | None = None

    def __enter__(self) -> Place:
        """Raises StartRefused with the cure when the file cannot live here."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._refuse_network_file_system()
            self._take_lock()
            # Secret values are in it: made private before SQLite could make it readable.
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            self._release_lock()
            raise StartRefused(
                f"{self.file} cannot be written ({error.strerror}): give the server's user the right to its"
                " folder, or name another folder with --data"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release_lock()

    def _refuse_network_file_system(self) -> None:
        file_system = file_system_of(self.file.parent, self._mounts)
        if file_system in NETWORK_FILE_SYSTEMS:
            raise StartRefused(
                f"{self.file.parent} is on a network file system ({file_system}), where SQLite loses data: name a"
                " folder on a local disk with --data, or use MongoDB with --store mongodb://…"
            )

    def _take_lock(self) -> None:
        path = self.file.with_name(self.file.name + ".lock")
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._lock, 20, 0).decode(errors="replace").strip() or "unknown"
            self._release_lock()
            raise StartRefused(
                f"another server process (pid {holder}) uses {self.file}: stop it, or give this one its own folder"
                " with --data; several servers can share a MongoDB"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def file_system_of(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Returns the type of the folder's file system as the kernel names it; None where that cannot be told."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    # proc(5): id, parent, major:minor, root, mount point, options, optional fields, "-", type, source, options
    found = [fields[fields.index("-") + 1] for line in lines if (fields := line.split(" "))[2] == wanted]
    return found[-1] if found else None
