"""What an agent's worker has, and what each of its runs occupies: accounts in which nothing is given out twice.

The server goes by the same rules when it looks for a task that fits (`matching.occupied`); which devices a run
gets is decided here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from taskyard.wire import Capacity, Gpu, GpuRange, Resources

from taskyard_agent.errors import AgentError

UNLIMITED_SLOTS = 10_000
"""So many tasks at once as good as any number: memory is what ends first."""


class DoesNotFit(AgentError):
    """The worker has not free what a task occupies."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a worker has in all."""

    devices: tuple[Gpu, ...] = ()
    slots: int = 1
    shares_gpus: bool = False
    """Whether tasks that ask for a part of a GPU are given one."""
    memory_bytes: int | None = None
    """None: not limited."""
    machine_memory_bytes: int = 0
    limits_memory: bool = False
    """Whether a task that says nothing of memory is held to its share; else it is only reckoned with it."""
    custom: Mapping[str, float] = field(default_factory=dict)
    queue_gpus: Mapping[str, GpuRange] = field(default_factory=dict)
    """Queue (id) → how many GPUs a task of it gets that names no number itself."""

    @property
    def capacity(self) -> Capacity:
        """The same in the words that travel."""
        return Capacity(
            slots=self.slots,
            gpus=len(self.devices),
            gpu_memory_bytes=tuple(gpu.memory_bytes for gpu in self.devices) if self.shares_gpus else (),
            memory_bytes=self.memory_bytes,
            custom=dict(self.custom),
        )


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one run occupies."""

    slots: int = 1
    gpus: tuple[str, ...] = ()
    """UUIDs."""
    gpu_memory_bytes: int | None = None
    """Of its one GPU, on which there may be others; None: its GPUs are its own."""
    memory_bytes: int = 0
    memory_limit_bytes: int | None = None
    """The most it may hold; None: not limited."""
    custom: dict[str, float] = field(default_factory=dict)


class Allotment:
    """Which run occupies what. May be used from any thread."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._shares: dict[str, Share] = {}
        self._lock = threading.Lock()

    @property
    def free(self) -> Capacity:
        """What no run occupies."""
        with self._lock:
            return self._free()

    def take(self, run_id: str, resources: Resources, queue: str | None = None) -> Share:
        """Gives a run what its task asks for, or what its queue gives. Raises DoesNotFit."""
        with self._lock:
            share = self._share(resources, self._means.queue_gpus.get(queue or ""))
            self._shares[run_id] = share
        return share

    def carry(self, run_id: str, share: Share) -> None:
        """Goes on with what an earlier daemon gave a run, also where that is more than there is now."""
        with self._lock:
            self._shares[run_id] = share

    def give_back(self, run_id: str) -> None:
        """Frees what a run occupied, if it still occupies anything."""
        with self._lock:
            self._shares.pop(run_id, None)

    # --- What is free

    def _free(self) -> Capacity:
        total, shares = self._means.capacity, self._shares.values()
        memory = total.memory_bytes
        shared = self._means.devices if self._means.shares_gpus else ()
        return Capacity(
            slots=max(0, total.slots - sum(share.slots for share in shares)),
            gpus=len(self._unused_devices()),
            gpu_memory_bytes=tuple(self._unshared_bytes(gpu) for gpu in shared),
            memory_bytes=None if memory is None else max(0, memory - sum(share.memory_bytes for share in shares)),
            custom={name: self._unused_amount(name) for name in total.custom},
        )

    def _unused_devices(self) -> list[Gpu]:
        used = {uuid for share in self._shares.values() for uuid in share.gpus}
        return [gpu for gpu in self._means.devices if gpu.uuid not in used]

    def _unshared_bytes(self, gpu: Gpu) -> int:
        parts = [share.gpu_memory_bytes for share in self._shares.values() if gpu.uuid in share.gpus]
        return max(0, gpu.memory_bytes - sum(gpu.memory_bytes if part is None else part for part in parts))

    def _unused_amount(self, name: str) -> float:
        used = sum(share.custom.get(name, 0.0) for share in self._shares.values())
        return max(0.0, round(self._means.custom[name] - used, 9))  # tenths add up to what they should

    # --- What a run gets

    def _share(self, resources: Resources, given: GpuRange | None) -> Share:
        free, means = self._free(), self._means
        number_asked = resources.gpus is not None or resources.gpu_memory_bytes is not None
        whole = bool(means.devices) and given is None and not number_asked
        slots = means.slots if whole else 1
        devices = self._devices(resources, given, whole=whole)
        memory, limit = self._memory(resources, slots, free.memory_bytes)
        _require(slots <= free.slots, "slots", slots, free.slots)
        _require(free.memory_bytes is None or memory <= free.memory_bytes, "memory", memory, free.memory_bytes)
        for name, amount in resources.custom.items():
            _require(amount <= free.custom.get(name, 0.0), name, amount, free.custom.get(name, 0.0))
        return Share(
            slots=slots,
            gpus=tuple(gpu.uuid for gpu in devices),
            gpu_memory_bytes=resources.gpu_memory_bytes if resources.gpus is None else None,
            memory_bytes=memory,
            memory_limit_bytes=limit,
            custom=dict(resources.custom),
        )

    def _devices(self, resources: Resources, given: GpuRange | None, *, whole: bool) -> list[Gpu]:
        if resources.gpus is None and resources.gpu_memory_bytes is not None:
            return [self._fullest_with(resources.gpu_memory_bytes)]
        unused = self._unused_devices()
        count = resources.gpus or 0
        if whole:
            count = len(self._means.devices)
        elif resources.gpus is None and given is not None:
            count = max(given.least, min(given.most, len(unused)))
        _require(count <= len(unused), "GPUs", count, len(unused))
        return unused[:count]

    def _fullest_with(self, memory_bytes: int) -> Gpu:
        """The GPU with the least left that is enough: the others stay whole for as long as that goes."""
        left = {gpu: self._unshared_bytes(gpu) for gpu in self._means.devices if self._means.shares_gpus}
        enough = [gpu for gpu, unshared in left.items() if unshared >= max(1, memory_bytes)]
        _require(bool(enough), "bytes of one GPU", memory_bytes, max(left.values(), default=0))
        return min(enough, key=left.__getitem__)

    def _memory(self, resources: Resources, slots: int, free: int | None) -> tuple[int, int | None]:
        """What is reckoned with, and the most that the run may hold."""
        means = self._means
        asked = resources.memory_bytes
        if asked is None and resources.memory_fraction is not None:
            asked = int(resources.memory_fraction * (means.memory_bytes or means.machine_memory_bytes))
        if asked is not None:
            return asked, asked or None
        if means.memory_bytes is None:
            return 0, None
        share = means.memory_bytes * slots // means.slots
        most = free if means.slots == UNLIMITED_SLOTS else share
        return share, most if means.limits_memory else None


def _require(fits: bool, what: str, wanted: object, free: object) -> None:
    if not fits:
        raise DoesNotFit(f"{wanted} {what} are wanted, {free} are free")
