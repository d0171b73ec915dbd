"""What fits where: pure rules over what a task requires and what a worker offers.

A new requirement is one more rule in `_RULES`, with its field on `Resources` and on `Offer`; the shape follows by
itself, and no store needs to know.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from taskyard import wire

from taskyard_server.store.base import Candidate, TaskRecord


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a worker has to give just now."""

    worker: str
    free: wire.Capacity = field(default_factory=wire.Capacity)
    total: wire.Capacity = field(default_factory=wire.Capacity)


def shape(resources: wire.Resources, avoid: Sequence[str]) -> str:
    """Hash of what a task requires: tasks of one shape fit the same workers."""
    text = json.dumps([wire.to_json(resources), sorted(avoid)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def candidate(record: TaskRecord) -> Candidate:
    """What a claim may see of the task."""
    return Candidate(resources=record.spec.resources, avoid=record.avoid)


def fits(candidate: Candidate, offer: Offer) -> bool:
    """Whether the worker can take the task now."""
    return misfit(candidate, offer) is None


def misfit(candidate: Candidate, offer: Offer) -> str | None:
    """Why the worker cannot take the task now, in words for its owner; None when it can."""
    return next((reason for rule in _RULES if (reason := rule(candidate, offer))), None)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names without repeats, in the order of their first mention."""
    return tuple(dict.fromkeys(names))


def _avoided(candidate: Candidate, offer: Offer) -> str | None:
    if offer.worker not in candidate.avoid:
        return None
    return "it failed this task by its own fault: others are tried first"


def _too_few_gpus(candidate: Candidate, offer: Offer) -> str | None:
    wanted = candidate.resources.gpus
    if wanted is None or wanted <= offer.free.gpus:
        return None
    if wanted > offer.total.gpus:
        return f"needs {wanted} GPUs, the worker has {offer.total.gpus}"
    return f"needs {wanted} GPUs, {offer.free.gpus} of {offer.total.gpus} are free"


_RULES: tuple[Callable[[Candidate, Offer], str | None], ...] = (_avoided, _too_few_gpus)
