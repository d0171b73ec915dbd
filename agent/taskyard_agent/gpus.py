"""The GPUs of this machine, by NVML: which there are, which an agent takes, and the lock on each."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import logging
import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskyard.wire import Gpu, Phase, Reason

from taskyard_agent.errors import RunFailed, SettingsError

logger = logging.getLogger(__name__)

DRIVER = "libnvidia-ml.so.1"
LOCK_FOLDER = Path("/tmp/taskyard-gpus")  # noqa: S108 - one for all users of the machine, whatever their TMPDIR

# --- Which there are -------------------------------------------------------------------------------------


def devices() -> list[Gpu]:
    """The machine's GPUs in PCI order, the order of CUDA_DEVICE_ORDER=PCI_BUS_ID; none without a driver."""
    if not _library_ready():
        return []
    import pynvml

    found = [_describe(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return [gpu for gpu in found if gpu is not None]


@functools.cache
def _library_ready() -> bool:
    """Whether NVML answers. It stays open: opening it takes longer than all its answers together.

    Without a driver its module is not even imported, which takes 14 MB.
    """
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        logger.debug("no GPUs: %s", error, extra={"action": "no_gpus"})
        return False
    return True


def _describe(index: int) -> Gpu | None:
    """What NVML says of one GPU; None, and a line in the log, for one that has failed."""
    import pynvml

    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    except pynvml.NVMLError as error:
        logger.error("GPU %d is left out: %s", index, error, extra={"action": "gpu_failed", "gpu": index})
        return None
    if _is_split(handle):
        _say_split(index)
        return None
    return Gpu(index=index, uuid=uuid, name=name, memory_bytes=_memory(handle))


def _is_split(handle: Any) -> bool:
    """Whether the GPU is in MIG mode: a process sees one instance of it, and none of it as a whole."""
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):  # most GPUs have no such mode
        return bool(pynvml.nvmlDeviceGetMigMode(handle)[0])
    return False


@functools.cache
def _say_split(index: int) -> None:
    """Once for each process: it is asked for its GPUs again and again."""
    logger.error(
        "GPU %d is left out: it is split (MIG mode), tasks get whole ones; `nvidia-smi -i %d -mig 0` ends that",
        index,
        index,
        extra={"action": "gpu_split", "gpu": index},
    )


def _memory(handle: Any) -> int:
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):  # a GPU that shares the machine's memory has none of its own
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    return 0


def described(uuids: Sequence[str], known: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """These GPUs: as known, else as the driver describes them; one that is gone has the index -1."""
    there = {gpu.uuid: gpu for gpu in known}
    if not set(uuids) <= set(there):
        there |= {gpu.uuid: gpu for gpu in devices()}
    return tuple(there.get(uuid) or Gpu(index=-1, uuid=uuid) for uuid in uuids)


def visible(value: str | None, there: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Return the GPUs that `CUDA_VISIBLE_DEVICES` shows to this process; all where it is not set.

    As CUDA reads it: what follows the first word that names no GPU is not shown. Indices are in PCI order. Raises
    SettingsError for an instance of a split GPU.
    """
    if value is None:
        return tuple(there)
    _refuse_instances(value)
    shown: list[Gpu] = []
    for word in value.split(","):
        found = _named(word.strip(), there)
        if len(found) != 1 or found[0] in shown:
            break
        shown += found
    return tuple(shown)


def _refuse_instances(words: str) -> None:
    """Raises SettingsError where one of them is an instance of a split GPU."""
    if "MIG-" in words.upper():
        raise SettingsError(
            f"{words} names an instance of a split GPU (MIG), and tasks are given whole ones alone: use such, "
            "or --cpu-only"
        )


def parse_selection(selection: str, available: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Picks GPUs by `0,1` or `0-3`, by `GPU-uuid,…` or `all`. Raises SettingsError for one that is not there."""
    _refuse_instances(selection)
    if not available:
        raise SettingsError("this machine has no NVIDIA GPU, or no driver for it: `nvidia-smi` says more")
    if selection.strip() == "all":
        return tuple(available)
    words = [word for word in re.split(r"[,\s]+", selection) if word]
    chosen = tuple(_pick(one, available) for word in words for one in _spelled_out(word))
    if not chosen or len(set(chosen)) < len(chosen):
        raise SettingsError(f"--gpus {selection!r} must name each GPU once, such as `0,1` or `0-3`, or `all`")
    return chosen


def _spelled_out(word: str) -> Sequence[str]:
    """The indices of a range such as `0-3`; any other word as it is."""
    match = re.fullmatch(r"(\d{1,4})-(\d{1,4})", word)
    if match is None:
        return [word]
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise SettingsError(f"--gpus: {word} begins after its end; write {last}-{first}")
    return [str(index) for index in range(first, last + 1)]


def _pick(word: str, available: Sequence[Gpu]) -> Gpu:
    """By index or by UUID, which may be shortened as far as it stays the only one."""
    found = _named(word, available)
    if len(found) != 1:
        there = ", ".join(f"{gpu.index} ({gpu.name}, {gpu.uuid})" for gpu in available)
        problem = "names more than one GPU" if found else "is not a GPU of this machine"
        raise SettingsError(f"{word} {problem}: there are {there}")
    return found[0]


def _named(word: str, available: Sequence[Gpu]) -> list[Gpu]:
    if word.isdigit():
        return [gpu for gpu in available if gpu.index == int(word)]
    return [gpu for gpu in available if word and gpu.uuid.lower().startswith(word.lower())]


def variables(gpus: Sequence[Gpu], *, by_index: bool = False, alone: bool = False) -> dict[str, str]:
    """The variables that show a command these GPUs and no other; for none, they show no GPU at all.

    `by_index`: some frameworks parse integers. `alone`: the command is in a container that has no others, which
    are counted from 0 there.
    """
    uuids = ",".join(gpu.uuid for gpu in gpus)
    indices = range(len(gpus)) if alone else [gpu.index for gpu in gpus]
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, indices)) if by_index else uuids,
        "NVIDIA_VISIBLE_DEVICES": uuids or "void",
    }


# --- Who has them ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class GpuLock:
    """GPUs locked for one run; its keeper gets copies of `fds`."""

    gpus: tuple[Gpu, ...]
    fds: tuple[int, ...]
    left_by: tuple[str, ...]
    """Runs that held one of them before: sweep them before the GPU is used."""

    def close(self) -> None:
        """Closes this process's copies: the GPUs are free when the keeper is gone too."""
        for fd in self.fds:
            os.close(fd)


def lock(gpus: Sequence[Gpu], run_id: str, *, shared: bool = False, folder: Path = LOCK_FOLDER) -> GpuLock:
    """Locks GPUs for a run; `shared` ones may be locked by other sharing runs of the same user too.

    Raises RunFailed (infrastructure, reason `gpu`) when one is held.
    """
    with _LOCKING, contextlib.ExitStack() as undo:
        fds, left_by = [], set()
        for gpu in gpus:
            fds.append(_open_lock(folder, gpu.uuid))
            undo.callback(os.close, fds[-1])
            _take(fds[-1], gpu, shared=shared)
        for fd in fds:
            left_by.update(_sign(fd, run_id, shared=shared))
        undo.pop_all()
    return GpuLock(gpus=tuple(gpus), fds=tuple(fds), left_by=tuple(sorted(left_by - {run_id})))


def problem(gpus: Sequence[Gpu], *, shared: bool = False, folder: Path = LOCK_FOLDER) -> str | None:
    """Says which of these GPUs, which no run of this agent holds, cannot be had; None when all can."""
    try:
        with _LOCKING:
            for gpu in gpus:
                fd = _open_lock(folder, gpu.uuid)
                try:
                    _take(fd, gpu, shared=shared)
                finally:
                    os.close(fd)
    except RunFailed as failure:
        return str(failure)
    present = {gpu.uuid for gpu in devices()} if gpus else set()
    gone = [str(gpu.index) for gpu in gpus if gpu.uuid not in present]
    return f"GPU {', '.join(gone)} of this machine does not answer" if gone else None


_LOCKING = threading.Lock()
"""A lock that becomes shared is free for a moment; another agent is kept out by its own lock."""


def _take(fd: int, gpu: Gpu, *, shared: bool) -> None:
    if _flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
        return
    holders = " and ".join(_holders(fd)) or "another process"
    raise RunFailed(
        Phase.ENVIRONMENT,
        Reason.GPU,
        f"GPU {gpu.index} ({gpu.uuid}) is held by {holders} on this machine",
        infrastructure=True,
    )


def _sign(fd: int, run_id: str, *, shared: bool) -> list[str]:
    """Notes who has it now; returns the runs that left it. Those that still share it have not."""
    before = _holders(fd)
    alone = not shared or _flock(fd, fcntl.LOCK_EX)
    _write_holders(fd, [run_id] if alone else [*before, run_id])
    if shared:
        _flock(fd, fcntl.LOCK_SH)  # again, whether it was to be had alone or not
    return before if alone else []


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def held(gpus: Sequence[Gpu], *, folder: Path = LOCK_FOLDER) -> dict[str, str]:
    """UUID → the runs of those that are held just now."""
    holders = {}
    for gpu in gpus:
        fd = _open_lock(folder, gpu.uuid)
        try:
            if not _flock(fd, fcntl.LOCK_EX):
                holders[gpu.uuid] = " ".join(_holders(fd))
        finally:
            os.close(fd)
    return holders


def guard(folder: Path = LOCK_FOLDER) -> None:
    """Takes the locks from everybody but root, for as long as the machine runs.

    Another user could hold one, or sign it with the run of somebody else, which would then be swept.
    """
    for place in (folder, folder / "agents"):
        _make_shared(place)
        inside = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchown(inside, 0, 0)
            os.fchmod(inside, 0o755)
            for name in os.listdir(inside):
                _give_to_root(name, inside)
        finally:
            os.close(inside)


def _give_to_root(name: str, folder: int) -> None:
    with contextlib.suppress(OSError):  # not a file: none of ours
        file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        try:
            os.fchown(file, 0, 0)
            os.fchmod(file, 0o600)
        finally:
            os.close(file)


def _open_lock(folder: Path, uuid: str) -> int:
    """Opens a lock file that agents of other users open too, and that nobody can make a link to another file."""
    _make_shared(folder)
    try:
        inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise _locks_unusable(folder, "they are no folder") from error
    try:
        return _open_in(inside, f"{uuid}.lock")
    except PermissionError as error:
        why = "they are root's, because an agent here runs tasks as another user (--run-as)"
        raise _locks_unusable(folder, why) from error
    finally:
        os.close(inside)


def _open_in(folder: int, name: str) -> int:
    shared = os.fstat(folder).st_mode & stat.S_IWOTH
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=folder)
        with contextlib.suppress(FileExistsError):
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
            os.fchmod(fd, 0o666 if shared else 0o600)
            return fd


def _locks_unusable(folder: Path, why: str) -> RunFailed:
    message = f"the locks of this machine's GPUs in {folder} cannot be used: {why}; start the agent as root"
    return RunFailed(Phase.ENVIRONMENT, Reason.GPU, message, infrastructure=True)


def _make_shared(folder: Path) -> None:
    """Like /tmp: whoever makes it first, everybody may add to it and nobody may remove another's file."""
    if not folder.parent.exists():
        _make_shared(folder.parent)
    with contextlib.suppress(FileExistsError, PermissionError):
        folder.mkdir()
        folder.chmod(0o1777)


def _holders(fd: int) -> list[str]:
    return os.pread(fd, 65536, 0).decode(errors="replace").split()


def _write_holders(fd: int, run_ids: Sequence[str]) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, "\n".join(dict.fromkeys(run_ids)).encode(), 0)


# --- What they do ----------------------------------------------------------------------------------------


def measure(gpu: Gpu) -> dict[str, float]:
    """`gpu_percent`, `gpu_memory_bytes` and `gpu_celsius`, those that the device reports."""
    return dict(_measured(gpu)) if _library_ready() else {}


def _measured(gpu: Gpu) -> Iterator[tuple[str, float]]:
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        handle: Any = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
        with contextlib.suppress(pynvml.NVMLError):
            yield "gpu_percent", float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        with contextlib.suppress(pynvml.NVMLError):
            yield "gpu_memory_bytes", float(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        with contextlib.suppress(pynvml.NVMLError):
            yield "gpu_celsius", float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
