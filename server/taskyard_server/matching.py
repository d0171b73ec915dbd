"""What fits where: pure rules over what a task requires and what a worker offers.

A new requirement is one more rule in `_RULES`, with its field on `Resources` and on `Offer`; the shape follows by
itself, and no store needs to know. What a task takes up of a worker is `occupied`; the agent subtracts the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from taskyard import wire
from taskyard.wire import CONTAINER_LABEL, Capacity, GpuRange, QueueKind, Resources

from taskyard_server.store.base import Candidate, Front, QueueRecord, TaskRecord

NO_GPUS = GpuRange(least=0, most=0)
"""What a task of a services queue is given."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a worker has to give just now."""

    worker: str
    free: Capacity = field(default_factory=Capacity)
    total: Capacity = field(default_factory=Capacity)
    labels: Mapping[str, str] = field(default_factory=dict)
    given_gpus: Mapping[str, GpuRange] = field(default_factory=dict)
    """Queue (id) → how many GPUs its tasks are given, where the queue decides that."""
    runs: tuple[str, ...] = ()
    """What it runs, and will have free again."""
    resting: frozenset[str] = frozenset()
    """Hosts whose tasks wait just now, whichever worker would take them."""
    left_seconds: float | None = None
    """How long its batch job still lasts; None: for ever."""
    takes_endless: bool = True
    """Whether it takes tasks without a time limit."""

    @property
    def whole(self) -> Offer:
        """The same worker with nothing to do."""
        return replace(self, free=self.total, runs=())

    @property
    def partly_busy(self) -> bool:
        """Whether it will have more to give than it has just now."""
        return bool(self.runs) and self.free != self.total


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What one run of a worker takes up, and for how long still; None: nobody knows."""

    amounts: Capacity
    ends_in_seconds: float | None


def shaped(record: TaskRecord) -> TaskRecord:
    """The record with the shape that it has now: tasks of one shape fit the same workers."""
    text = json.dumps(wire.to_json(record.candidate), sort_keys=True)
    return replace(record, shape=hashlib.sha256(text.encode()).hexdigest()[:16])


def given_gpus(queues: Iterable[QueueRecord], said: Mapping[str, GpuRange]) -> dict[str, GpuRange]:
    """Queue (id) → how many GPUs its tasks are given: what the agent said, and none for those of services."""
    return {**said, **{queue.id: NO_GPUS for queue in queues if queue.kind is QueueKind.SERVICES}}


def occupied(resources: Resources, total: Capacity, given: GpuRange | None = None) -> Capacity:
    """What a task takes up of a worker that has `total`, at the least.

    `gpus=N` takes N whole GPUs and a slot. No number takes what its queue gives (`given`), else the whole worker
    with all its slots; where there is no GPU, a slot. Part of one GPU is one entry of `gpu_memory_bytes`. A task
    that says nothing of memory takes its slots' share; one that wants no limit (0) is not counted.
    """
    whole = resources.gpus is None and resources.gpu_memory_bytes is None and given is None and total.gpus > 0
    slots = max(1, total.slots) if whole else 1
    return Capacity(
        slots=slots,
        gpus=total.gpus if whole else _gpus(resources, given),
        gpu_memory_bytes=() if resources.gpu_memory_bytes is None else (resources.gpu_memory_bytes,),
        memory_bytes=_memory(resources, total, slots),
        custom=dict(resources.custom),
    )


def _gpus(resources: Resources, given: GpuRange | None) -> int:
    if resources.gpu_memory_bytes is not None:
        return 0
    if resources.gpus is not None:
        return resources.gpus
    return given.least if given is not None else 0


def _memory(resources: Resources, total: Capacity, slots: int) -> int:
    if resources.memory_bytes is not None:
        return resources.memory_bytes
    if total.memory_bytes is None:
        return 0
    if resources.memory_fraction is not None:
        return int(total.memory_bytes * resources.memory_fraction)
    return total.memory_bytes * slots // max(1, total.slots)


def fits(candidate: Candidate, offer: Offer, queue: str | None) -> bool:
    """Whether the worker can take the task, an entry of that queue (id), now."""
    return misfit(candidate, offer, queue) is None


def fits_whole(candidate: Candidate, offer: Offer, queue: str | None) -> bool:
    """Whether it could if it had nothing else to do."""
    return fits(candidate, offer.whole, queue)


def misfit(candidate: Candidate, offer: Offer, queue: str | None) -> str | None:
    """Why the worker cannot take the task now, in words for its owner; None when it can.

    What it will never have comes before what it has not free.
    """
    given = offer.given_gpus.get(queue or "")
    needed = occupied(candidate.resources, offer.total, given)
    return (
        next((reason for rule in _RULES if (reason := rule(candidate, offer, given))), None)
        or _beyond(needed, offer)
        or _not_free(needed, offer)
    )


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names without repeats, in the order of their first mention."""
    return tuple(dict.fromkeys(names))


# --- Rules


def _avoided(candidate: Candidate, offer: Offer, given: GpuRange | None) -> str | None:
    if offer.worker not in candidate.avoid:
        return None
    return "it failed this task by its own fault: others are tried first"


def _pinned_elsewhere(candidate: Candidate, offer: Offer, given: GpuRange | None) -> str | None:
    wanted = candidate.resources.worker
    return None if wanted in (None, offer.worker) else f"the task is for worker {wanted!r} alone"


def _lacks_labels(candidate: Candidate, offer: Offer, given: GpuRange | None) -> str | None:
    lacking = {
        name: value for name, value in candidate.resources.requires.items() if offer.labels.get(name) != value
    }
    if not lacking:
        return None
    wanted = ", ".join(f"{name}={value}" for name, value in sorted(lacking.items()))
    has = ", ".join(f"{name}={offer.labels[name]}" for name in sorted(lacking) if name in offer.labels)
    return f"needs the label {wanted}, the worker has {has or 'none of that name'}"


def _runs_no_containers(candidate: Candidate, offer: Offer, given: GpuRange | None) -> str | None:
    if not candidate.container or CONTAINER_LABEL in offer.labels:
        return None
    return "the task asks for a container, the worker runs none; `agent daemon --docker` does"


def _outside_the_queues_range(candidate: Candidate, offer: Offer, given: GpuRange | None) -> str | None:
    wanted = candidate.resources.gpus
    if given is None or wanted is None or given.least <= wanted <= given.most:
        return None
    if given == NO_GPUS:
        return f"asks for {_count(wanted, 'GPU')}, and its queue is for services, which get none"
    return f"asks for {_count(wanted, 'GPU')}, the worker gives {_range(given)} to a task of its queue"


def _may_not_share(candidate: Candidate, offer: Offer, given: GpuRange | None) -> str | None:
    if candidate.resources.gpu_memory_bytes is None or offer.total.gpu_memory_bytes:
        return None
    return "asks for a part of a GPU, and the worker shares none among tasks"


def _waits_for_host(candidate: Candidate, offer: Offer, given: GpuRange | None) -> str | None:
    resting = offer.resting.intersection(candidate.targets) if offer.resting else ()
    return f"{' and '.join(sorted(resting))} cannot be reached: the task waits for it" if resting else None


def _would_outlast(candidate: Candidate, offer: Offer, given: GpuRange | None) -> str | None:
    lasts, left = candidate.lasts_seconds, offer.left_seconds
    if left is None or (lasts is not None and lasts <= left) or (lasts is None and offer.takes_endless):
        return None
    ends = f"the worker's batch job has {_span(left)} left"
    if lasts is None:
        return f"has no time limit (--timeout), and {ends}"
    return f"may run for {_span(lasts)} (--timeout and grace, rounded up), and {ends}"


_RULES: tuple[Callable[[Candidate, Offer, GpuRange | None], str | None], ...] = (
    _waits_for_host,
    _avoided,
    _pinned_elsewhere,
    _lacks_labels,
    _runs_no_containers,
    _outside_the_queues_range,
    _may_not_share,
    _would_outlast,
)
"""What no end of a run changes."""


def _beyond(needed: Capacity, offer: Offer) -> str | None:
    """What the worker does not have at all."""
    total = offer.total
    if needed.slots > total.slots:
        return "the worker takes no tasks just now"
    if needed.gpus > total.gpus:
        return f"needs {_count(needed.gpus, 'GPU')}, the worker has {total.gpus}"
    if _part_of_gpu(needed) > max(total.gpu_memory_bytes, default=0):
        largest = _bytes(max(total.gpu_memory_bytes, default=0))
        return f"needs {_bytes(_part_of_gpu(needed))} of one GPU, the worker's largest has {largest}"
    if total.memory_bytes is not None and (needed.memory_bytes or 0) > total.memory_bytes:
        return f"needs {_bytes(needed.memory_bytes)} of memory, the worker has {_bytes(total.memory_bytes)}"
    for name, amount in needed.custom.items():
        if amount > total.custom.get(name, 0):
            return f"needs {amount:g} of {name}, the worker has {total.custom.get(name, 0):g}"
    return None


def _not_free(needed: Capacity, offer: Offer) -> str | None:
    """What others take up just now."""
    free, total = offer.free, offer.total
    if needed.gpus > free.gpus:
        return f"needs {_count(needed.gpus, 'GPU')}, {free.gpus} of {total.gpus} are free"
    if needed.slots > free.slots:
        return f"needs {_count(needed.slots, 'slot')}, {max(0, free.slots)} of {total.slots} are free"
    if _part_of_gpu(needed) > max(free.gpu_memory_bytes, default=0):
        most = _bytes(max(free.gpu_memory_bytes, default=0))
        return f"needs {_bytes(_part_of_gpu(needed))} of one GPU, at most {most} of one is free"
    if free.memory_bytes is not None and (needed.memory_bytes or 0) > free.memory_bytes:
        has = f"{_bytes(free.memory_bytes)} of {_bytes(total.memory_bytes)}"
        return f"needs {_bytes(needed.memory_bytes)} of memory, {has} is free"
    for name, amount in needed.custom.items():
        if amount > free.custom.get(name, 0):
            return f"needs {amount:g} of {name}, {free.custom.get(name, 0):g} of {total.custom[name]:g} is free"
    return None


def _part_of_gpu(needed: Capacity) -> int:
    return max(needed.gpu_memory_bytes, default=0)


def _range(given: GpuRange) -> str:
    return str(given.least) if given.least == given.most else f"{given.least} to {given.most}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _span(seconds: float) -> str:
    return f"{max(0.0, seconds):.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _bytes(amount: int | None) -> str:
    """Return it in powers of 1024, as people ask for it: `1.5 GiB`; whole numbers without a fraction."""
    value, unit = float(amount or 0), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.4g} {unit}"


# --- Turns


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a claim may take, and why nothing where it is held back."""

    chosen: Sequence[Front] = ()
    kept_for: Front | None = None
    """The worker is kept for this entry, which does not fit yet."""
    large: Sequence[Front] = ()
    """Entries that wait for more than is free, before all that fit: perhaps for too long already."""


def turn(fronts: Sequence[Front], offer: Offer, *, release_in: float | None = None, passing: bool = False) -> Turn:
    """What the worker may be given of these entries.

    A worker that is kept for a large task takes that one, and until then what ends before the release that is
    expected. A partly busy one takes nothing behind a large task, unless it is `passing` those.
    """
    kept_for = _kept_for(fronts, offer)
    if kept_for is not None and fits(kept_for.candidate, offer, kept_for.queue):
        return Turn(chosen=(kept_for,))
    if kept_for is not None and offer.runs:
        brief = [front for front in fronts if _ends_within(front.candidate, release_in)]
        return Turn(chosen=_first_fitting(brief, offer), kept_for=kept_for)
    large = () if passing else _large(fronts, offer)
    return Turn(large=large) if large else Turn(chosen=_first_fitting(fronts, offer))


def _kept_for(fronts: Iterable[Front], offer: Offer) -> Front | None:
    """The first one: two servers that serve one worker at the same time may have kept it for one each."""
    kept = (front for front in fronts if front.candidate.reserved_for == offer.worker)
    return next((front for front in kept if fits_whole(front.candidate, offer, front.queue)), None)


def _ends_within(candidate: Candidate, seconds: float | None) -> bool:
    return candidate.lasts_seconds is not None and seconds is not None and candidate.lasts_seconds <= seconds


def _first_fitting(fronts: Iterable[Front], offer: Offer) -> Sequence[Front]:
    """All that fit in the first queue that has one."""
    for _, entries in itertools.groupby(fronts, key=lambda front: front.queue):
        fitting = [front for front in entries if fits(front.candidate, offer, front.queue)]
        if fitting:
            return fitting
    return ()


def _large(fronts: Iterable[Front], offer: Offer) -> Sequence[Front]:
    """What would fit if the runs of a partly busy worker ended, before all that fits now.

    Not those for which a worker is kept already, nor those that avoid one for the moment.
    """
    large: list[Front] = []
    for front in fronts if offer.partly_busy else ():
        if fits(front.candidate, offer, front.queue):
            break
        free_to_wait = front.candidate.reserved_for is None and not front.candidate.avoid
        if free_to_wait and fits_whole(front.candidate, offer, front.queue):
            large.append(front)
    return large


def release_seconds(candidate: Candidate, offer: Offer, queue: str, holdings: Iterable[Holding]) -> float | None:
    """When enough of the worker's runs have ended for the task to fit; None when a run without a time limit is
    among those that must end before."""
    free = offer.free
    ends_in: float | None = 0.0
    for holding in sorted(holdings, key=_end):
        if fits(candidate, replace(offer, free=free), queue):
            return ends_in
        ends_in, free = holding.ends_in_seconds, _plus(free, holding.amounts)
        if ends_in is None:
            return None
    return ends_in


def _end(holding: Holding) -> float:
    return float("inf") if holding.ends_in_seconds is None else holding.ends_in_seconds


def _plus(free: Capacity, amounts: Capacity) -> Capacity:
    """Parts of GPUs are left out: on which one they lie only the agent knows. They are free when all has ended."""
    memory = None if free.memory_bytes is None else free.memory_bytes + (amounts.memory_bytes or 0)
    names = in_order([*free.custom, *amounts.custom])
    return replace(
        free,
        slots=free.slots + amounts.slots,
        gpus=free.gpus + amounts.gpus,
        memory_bytes=memory,
        custom={name: free.custom.get(name, 0.0) + amounts.custom.get(name, 0.0) for name in names},
    )
