"""A control group of its own for each keeper and its run, where the agent may make one (`Delegate=yes`).

Version 2 alone. The keeper enters it before it knows its run, because the move takes the kernel 15 ms, in which
nothing on the machine can fork. The daemon removes it, and first ends what a killed keeper left in it.
Standard library alone: the keeper uses it too.
"""

from __future__ import annotations

import os
import signal

from taskyard_agent.keeper.processes import signal_all

PREFIX = "taskyard-"
PROCESSES = 16_384
"""Processes and threads of one run: far more than training takes, far less than a machine has."""
AGENT = "agent"
"""The unit's `DelegateSubgroup`: with the daemon out of the way, groups beside it can have limits of their own."""


def enter(name: str) -> str:
    """Moves this process into a new group below its own; returns its folder, empty where that is not possible."""
    parent = _home()
    if not parent or not os.access(parent, os.W_OK):
        return ""
    _remove_empty(parent)
    folder = os.path.join(parent, PREFIX + name)
    try:
        os.mkdir(folder)
    except OSError:
        return ""
    if not _write(folder, "cgroup.procs", str(os.getpid())):
        remove(folder)
        return ""
    return folder


def _remove_empty(parent: str) -> None:
    """Removes what runs left that nobody waited for; the kernel refuses to remove a group with members."""
    for name in os.listdir(parent):
        if name.startswith(PREFIX):
            remove(os.path.join(parent, name))


def leave(folder: str) -> None:
    """Moves this process back and removes the group."""
    if folder:
        _write(os.path.dirname(folder), "cgroup.procs", str(os.getpid()))
        remove(folder)


def limit_memory(folder: str, limit: int) -> int | None:
    """Has the kernel hold the group to so many bytes; returns what `memory_kills` reads, None where it cannot.

    The whole group is not killed at once (`memory.oom.group`): the keeper is in it, and tells what happened.
    """
    if not (folder and _write(os.path.dirname(folder), "cgroup.subtree_control", "+memory")):
        return None
    if not _write(folder, "memory.max", str(limit)):
        return None
    _write(folder, "memory.swap.max", "0")  # not there without swap
    return os.open(os.path.join(folder, "memory.events"), os.O_RDONLY)


def limit_processes(folder: str) -> bool:
    """Has the kernel refuse the group more than PROCESSES, so that a fork bomb ends with it; whether it could."""
    return (
        bool(folder)
        and _write(os.path.dirname(folder), "cgroup.subtree_control", "+pids")
        and _write(folder, "pids.max", str(PROCESSES))
    )


def memory_kills(events: int) -> int:
    """How many processes of the group the kernel has ended for want of memory."""
    lines = os.pread(events, 4096, 0).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(b"oom_kill "))


def _home() -> str:
    """Where groups are made: beside the daemon's in a unit that puts it into one of its own, else below it."""
    own = own_folder()
    parent, name = os.path.split(own)
    return parent if name == AGENT and not members(parent) else own


def own_folder(controller: str = "") -> str:
    """This process's group, or the one of version 1 that has the controller; empty where there is none."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = [
                path for line in file for _, names, path in [line.split(":", 2)] if controller in names.split(",")
            ]
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            mounts = [line.split() for line in file if _is_mount_of(controller, line)]
    except OSError:
        return ""
    if not (own and mounts):
        return ""
    root, mount_point = mounts[0][3], mounts[0][4]
    below = own[0].strip() if root == "/" else own[0].strip().removeprefix(root)
    return os.path.normpath(mount_point + "/" + below)


def _is_mount_of(controller: str, line: str) -> bool:
    kind, _, options = line.partition(" - ")[2].split(" ", 2)
    return kind == "cgroup" and controller in options.strip().split(",") if controller else kind == "cgroup2"


def members(folder: str) -> set[int]:
    """The processes of the group."""
    if not folder:
        return set()
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
