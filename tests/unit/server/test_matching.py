"""What fits where."""

from __future__ import annotations

from dataclasses import replace

import pytest
from taskyard.wire import Capacity, Resources
from taskyard_server import matching
from taskyard_server.matching import Offer
from taskyard_server.store.base import Candidate

from tests.support.records import draft


def candidate(gpus: int | None = 0, avoid: tuple[str, ...] = ()) -> Candidate:
    return Candidate(resources=Resources(gpus=gpus), avoid=avoid)


@pytest.mark.parametrize(
    ("gpus", "free", "reason"),
    [
        (0, 0, None),
        (0, 2, None),
        (None, 2, None),
        (None, 1, "needs 2 GPUs, 1 of 2 are free"),
        (2, 2, None),
        (2, 1, "needs 2 GPUs, 1 of 2 are free"),
        (3, 2, "needs 3 GPUs, the worker has 2"),
    ],
)
def test_a_worker_needs_as_many_free_gpus_as_the_task_wants(
    gpus: int | None, free: int, reason: str | None
) -> None:
    offer = Offer(worker="w", free=Capacity(gpus=free), total=Capacity(gpus=2))

    assert matching.misfit(candidate(gpus), offer, "queue") == reason
    assert matching.fits(candidate(gpus), offer, "queue") == (reason is None)


def test_a_worker_that_failed_the_task_by_its_own_fault_is_avoided() -> None:
    offer = Offer(worker="w")

    assert not matching.fits(candidate(avoid=("v", "w")), offer, "queue")
    assert matching.fits(candidate(avoid=("v",)), offer, "queue")


def test_equal_requirements_have_one_shape_and_others_another() -> None:
    shapes = {
        matching.shaped(replace(draft(resources=Resources(gpus=gpus)), avoid=avoid, reserved_for=worker)).shape
        for gpus in (None, 0, 1)
        for avoid in [(), ("a", "b"), ("b", "a")]
        for worker in (None, "w")
    }

    assert len(shapes) == 12


def test_names_keep_the_order_of_their_first_mention() -> None:
    assert matching.in_order(["b", "a", "b"]) == ("b", "a")
