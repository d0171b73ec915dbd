"""What this machine gives an agent, as its operator wants it: devices, slots, memory, amounts, name and labels."""

from __future__ import annotations

import logging
import os
import platform
import re
from collections.abc import Sequence

import psutil
from taskyard.wire import CONTAINER_LABEL, Gpu

from . import gpus, group_memory
from .allotment import Means
from .batch import BatchJob
from .config import AgentSettings
from .containers.engine import engine_name
from .errors import RunFailed, SettingsError
from .gpus import GpuLock
from .queues import ServedQueue

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
SHARERS_PER_GPU = 8
"""Slots for each GPU that may be shared: what limits them is its memory, this only keeps the machine alive."""


def choose_gpus(settings: AgentSettings) -> tuple[Gpu, ...]:
    """The GPUs that the agent is to use. Raises SettingsError for one that is not there."""
    if settings.cpu_only or settings.services_mode:
        return ()
    there = _shown(gpus.devices(), *_visible(settings))
    chosen = tuple(there) if settings.gpus is None else gpus.parse_selection(settings.gpus, there)
    if settings.dynamic_gpus and not chosen:
        raise SettingsError("--dynamic-gpus: this machine has no NVIDIA GPU: `nvidia-smi` says more")
    return chosen


def _visible(settings: AgentSettings) -> tuple[str, str | None]:
    """Who left the agent which GPUs: the one who started it, or its batch job; None for all."""
    job = settings.job
    if job is None or job.gpus is None or (settings.gpus is not None and not job.gpus):
        return VISIBLE, settings.environ.get(VISIBLE)  # what the batch system does not manage is named with --gpus
    return f"batch job {job.id}: {VISIBLE}", job.gpus


def _shown(there: Sequence[Gpu], source: str, value: str | None) -> tuple[Gpu, ...]:
    """Those that are left of the machine's GPUs."""
    shown = gpus.visible(value, there)
    if len(shown) < len(there):
        logger.info(
            "%s=%s leaves this agent %s of the machine's %d GPUs",
            source,
            value,
            ", ".join(str(gpu.index) for gpu in shown) or "none",
            len(there),
            extra={"action": "gpus_limited"},
        )
    return shown


def hold_gpus(devices: tuple[Gpu, ...], name: str) -> GpuLock:
    """One agent at a time may have a GPU; each run's own lock is a second one, which its keeper holds."""
    try:
        return gpus.lock(devices, name, folder=gpus.LOCK_FOLDER / "agents")
    except RunFailed as error:
        raise SettingsError(
            f"another agent on this machine has it: {error}; choose other GPUs with --gpus, or --cpu-only"
        ) from error


def of(settings: AgentSettings, devices: tuple[Gpu, ...], queues: Sequence[ServedQueue]) -> Means:
    """All that its worker has. Raises SettingsError where the machine has less than was promised."""
    given = settings.job.memory_bytes if settings.job else None
    machine = int(min(filter(None, (machine_memory(), given))) * settings.machine_part)
    memory = _memory(settings.memory, machine)
    if memory is not None and memory > machine:
        part = (
            "" if settings.machine_part == 1 else f" for this agent (--machine-part {settings.machine_part:.2g})"
        )
        raise SettingsError(f"--memory {memory}: this machine, or its container, has {machine} bytes{part}")
    for queue in queues:
        if queue.gpus is not None and queue.gpus.least > len(devices):
            raise SettingsError(
                f"--queue {queue.name}={queue.gpus.least}: each task would need {queue.gpus.least} GPUs, "
                f"this agent has {len(devices)}"
            )
    return Means(
        devices=devices,
        slots=_slots(settings, devices),
        shares_gpus=settings.share_gpus,
        memory_bytes=memory,
        machine_memory_bytes=machine,
        limits_memory=settings.memory is not None,
        custom={**_cpus(settings), **settings.resources},
        queue_gpus={queue.id: queue.gpus for queue in queues if queue.gpus is not None},
    )


def _cpus(settings: AgentSettings) -> dict[str, float]:
    """Those that a batch job was given, for tasks that ask for `--resource cpus=N`."""
    cpus = settings.job.cpus if settings.job else None
    return {"cpus": float(cpus)} if cpus else {}


def _slots(settings: AgentSettings, devices: Sequence[Gpu]) -> int:
    chosen = settings.services_mode or settings.slots
    each = SHARERS_PER_GPU if settings.share_gpus else 1
    return chosen or max(1, len(devices) * each)


def _memory(wanted: float | int | None, machine: int) -> int | None:
    """`wanted` is a part of the machine's (float), or bytes, 0 for no limit; None: nobody said."""
    if wanted is None or isinstance(wanted, float):
        return int(machine * (1.0 if wanted is None else wanted))
    return wanted or None


def machine_memory() -> int:
    """Bytes of the machine, or of the container or unit that this process is in."""
    return min([int(psutil.virtual_memory().total), *group_memory.limits()])


def default_name(settings: AgentSettings, devices: Sequence[Gpu]) -> str:
    """By the machine and what of it the worker has, or by its batch job."""
    if settings.job:
        return name_in_job(settings, settings.job)
    if settings.services_mode:
        return f"{settings.host}:services"
    if devices:
        return f"{settings.host}:gpu{','.join(str(gpu.index) for gpu in devices)}"
    return f"{settings.host}:cpu:0"


def name_in_job(settings: AgentSettings, job: BatchJob) -> str:
    """One of its own for each agent of a job, and for each time that the job is started: none is taken over."""
    return f"{job.node or settings.host}:{job.name}:{os.getpid()}"


def labels(settings: AgentSettings, devices: Sequence[Gpu]) -> dict[str, str]:
    """What tasks may require: host, architecture, engine, GPU model by themselves; the operator's words win."""
    models = {_slug(gpu.name) for gpu in devices}
    own = {"host": settings.host, "arch": platform.machine()}
    if settings.docker is not None:
        own[CONTAINER_LABEL] = engine_name(settings.environ)
    if len(models) == 1:
        own["gpu"] = models.pop()
    return {**own, **settings.labels}


def _slug(name: str) -> str:
    """`NVIDIA A100-SXM4-80GB` → `nvidia-a100-sxm4-80gb`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
