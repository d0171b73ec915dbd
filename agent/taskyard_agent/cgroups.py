"""A control group of its own for each run, where the agent may make one (version 2, `Delegate=yes`).

Standard library alone: the keeper makes it, the daemon ends what a killed keeper left in it.
"""

from __future__ import annotations

import os
import signal

from taskyard_agent.processes import LINUX, signal_all


def make(run_id: str) -> str:
    """Makes the run's group below this process's own; returns its folder, empty where that is not possible."""
    parent = _own_folder()
    if not parent or not os.access(parent, os.W_OK):
        return ""
    folder = os.path.join(parent, f"taskyard-{run_id.replace('/', '_')}")
    try:
        os.mkdir(folder)
    except OSError:
        return ""
    return folder


def _own_folder() -> str:
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = [line[3:].strip() for line in file if line.startswith("0::")]
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            mounts = [line.split() for line in file if " - cgroup2 " in line]
    except OSError:
        return ""
    if not (LINUX and own and mounts):
        return ""
    root, mount_point = mounts[0][3], mounts[0][4]
    below = own[0] if root == "/" else own[0].removeprefix(root)
    return os.path.normpath(mount_point + "/" + below)


def join(folder: str, pid: int) -> bool:
    """Moves a process, and with it all its future children, into the group."""
    return bool(folder) and _write(folder, "cgroup.procs", str(pid))


def members(folder: str) -> set[int]:
    """The processes of the group."""
    try:
        with open(os.path.join(folder, "cgroup.procs"), encoding="ascii") as file:
            return {int(line) for line in file}
    except OSError:
        return set()


def kill(folder: str) -> None:
    """Kills every process of the group at once."""
    if folder and not _write(folder, "cgroup.kill", "1"):  # before Linux 5.14
        signal_all(members(folder), signal.SIGKILL)


def remove(folder: str) -> None:
    """Removes the group; one that still has members stays."""
    if folder:
        try:
            os.rmdir(folder)
        except OSError:
            pass


def _write(folder: str, name: str, value: str) -> bool:
    try:
        with open(os.path.join(folder, name), "w", encoding="ascii") as file:
            file.write(value)
    except OSError:
        return False
    return True
