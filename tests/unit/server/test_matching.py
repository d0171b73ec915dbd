"""What fits where, what a task takes up, and what a worker may be given before a large task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from taskyard.wire import Capacity, GpuRange, Policy, QueueKind, Resources
from taskyard_server import matching
from taskyard_server.matching import Holding, Offer
from taskyard_server.store.base import Candidate, Front, longest_seconds

from tests.support.records import draft, queue

GIB = 1 << 30
FOUR = Capacity(slots=4, gpus=4)


def misfit(
    resources: Resources, free: Capacity, total: Capacity, given: GpuRange | None = None, **offer: Any
) -> str | None:
    offered = Offer(
        worker="w", free=free, total=total, given_gpus={} if given is None else {"queue": given}, **offer
    )
    reason = matching.misfit(Candidate(resources=resources), offered, "queue")
    assert matching.fits(Candidate(resources=resources), offered, "queue") == (reason is None)
    return reason


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
    assert misfit(Resources(gpus=gpus), Capacity(gpus=free), Capacity(gpus=2)) == reason


def test_a_task_with_a_container_needs_a_worker_that_runs_containers() -> None:
    candidate = Candidate(resources=Resources(gpus=0), container=True)
    plain = Offer(worker="w", free=Capacity(), total=Capacity())
    able = replace(plain, labels={"container": "podman"})

    assert matching.fits(candidate, able, "queue")
    assert "agent daemon --docker" in (matching.misfit(candidate, plain, "queue") or "")


@pytest.mark.parametrize(
    ("gpus", "slots", "reason"),
    [
        (0, 1, None),
        (0, 0, "needs 1 slot, 0 of 4 are free"),
        (4, 1, None),
        (None, 4, None),
        (None, 3, "needs 4 slots, 3 of 4 are free"),
    ],
)
def test_a_task_takes_one_slot_and_one_that_says_no_number_all_of_a_worker_with_gpus(
    gpus: int | None, slots: int, reason: str | None
) -> None:
    assert misfit(Resources(gpus=gpus), replace(FOUR, slots=slots), FOUR) == reason


def test_a_task_that_says_no_number_takes_one_slot_of_a_worker_without_gpus() -> None:
    assert misfit(Resources(gpus=None), Capacity(slots=1), Capacity(slots=4)) is None


def test_a_worker_that_gives_nothing_takes_nothing() -> None:
    assert misfit(Resources(), Capacity(slots=0), Capacity(slots=0)) == "the worker takes no tasks just now"


@pytest.mark.parametrize(
    ("wanted", "free", "total", "reason"),
    [
        (10, (5, 10), (40, 40), None),
        (10, (5, 9), (40, 40), "needs 10 GiB of one GPU, at most 9 GiB of one is free"),
        (41, (40, 40), (40, 40), "needs 41 GiB of one GPU, the worker's largest has 40 GiB"),
        (1, (), (), "asks for a part of a GPU, and the worker shares none among tasks"),
    ],
)
def test_a_part_of_a_gpu_must_be_free_on_one_that_may_be_shared(
    wanted: int, free: tuple[int, ...], total: tuple[int, ...], reason: str | None
) -> None:
    has, offered = (
        Capacity(slots=8, gpus=2, gpu_memory_bytes=tuple(g * GIB for g in each)) for each in (total, free)
    )

    assert misfit(Resources(gpu_memory_bytes=wanted * GIB), offered, has) == reason


@pytest.mark.parametrize(
    ("wanted", "free", "reason"),
    [
        ({"memory_bytes": 6 * GIB}, 6, None),
        ({"memory_bytes": 6 * GIB}, 5, "needs 6 GiB of memory, 5 GiB of 8 GiB is free"),
        ({"memory_bytes": 9 * GIB}, 8, "needs 9 GiB of memory, the worker has 8 GiB"),
        ({"memory_bytes": 0}, 0, None),
        ({"memory_fraction": 0.5}, 4, None),
        ({"memory_fraction": 0.5}, 3, "needs 4 GiB of memory, 3 GiB of 8 GiB is free"),
        ({}, 2, None),
        ({}, 1, "needs 2 GiB of memory, 1 GiB of 8 GiB is free"),
    ],
)
def test_memory_goes_by_bytes_by_a_part_or_by_an_equal_share(
    wanted: dict[str, Any], free: int, reason: str | None
) -> None:
    total = Capacity(slots=4, memory_bytes=8 * GIB)

    assert misfit(Resources(gpus=0, **wanted), replace(total, memory_bytes=free * GIB), total) == reason


def test_memory_is_no_matter_where_it_is_not_limited() -> None:
    assert misfit(Resources(memory_bytes=1 << 50), Capacity(), Capacity()) is None


@pytest.mark.parametrize(
    ("free", "total", "reason"),
    [
        ({"licence": 2.0}, {"licence": 3.0}, None),
        ({"licence": 1.0}, {"licence": 3.0}, "needs 2 of licence, 1 of 3 is free"),
        ({"licence": 1.0}, {"licence": 1.0}, "needs 2 of licence, the worker has 1"),
        ({}, {}, "needs 2 of licence, the worker has 0"),
    ],
)
def test_what_operators_declare_is_counted_by_name(
    free: dict[str, float], total: dict[str, float], reason: str | None
) -> None:
    assert misfit(Resources(custom={"licence": 2.0}), Capacity(custom=free), Capacity(custom=total)) == reason


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"arch": "a100", "room": "3"}, None),
        ({"arch": "a1000"}, "needs the label arch=a100, the worker has arch=a1000"),
        ({"Arch": "a100"}, "needs the label arch=a100, the worker has none of that name"),
    ],
)
def test_labels_must_be_equal(labels: dict[str, str], reason: str | None) -> None:
    wanted = Resources(requires={"arch": "a100"})

    assert misfit(wanted, Capacity(), Capacity(), labels=labels) == reason


def test_a_task_for_one_worker_goes_to_no_other() -> None:
    assert misfit(Resources(worker="w"), Capacity(), Capacity()) is None
    assert misfit(Resources(worker="v"), Capacity(), Capacity()) == "the task is for worker 'v' alone"


@pytest.mark.parametrize(
    ("gpus", "free", "reason"),
    [
        (None, 4, None),
        (None, 2, None),
        (None, 1, "needs 2 GPUs, 1 of 4 are free"),
        (3, 3, None),
        (3, 2, "needs 3 GPUs, 2 of 4 are free"),
        (1, 4, "asks for 1 GPU, the worker gives 2 to 3 to a task of its queue"),
        (4, 4, "asks for 4 GPUs, the worker gives 2 to 3 to a task of its queue"),
    ],
)
def test_where_the_queue_gives_the_gpus_the_least_must_be_free(
    gpus: int | None, free: int, reason: str | None
) -> None:
    assert misfit(Resources(gpus=gpus), replace(FOUR, gpus=free), FOUR, GpuRange(least=2, most=3)) == reason


def test_services_are_given_no_gpu_and_take_a_slot() -> None:
    services, one = replace(queue("services"), kind=QueueKind.SERVICES), queue("one")

    given = matching.given_gpus([services, one], {one.id: GpuRange(least=1, most=1)})

    assert matching.occupied(Resources(gpus=None), FOUR, given[services.id]).gpus == 0
    assert misfit(Resources(gpus=1), FOUR, FOUR, given[services.id]) == (
        "asks for 1 GPU, and its queue is for services, which get none"
    )


def test_a_worker_that_failed_the_task_by_its_own_fault_is_avoided() -> None:
    offer = Offer(worker="w")

    assert not matching.fits(Candidate(resources=Resources(gpus=0), avoid=("v", "w")), offer, "queue")
    assert matching.fits(Candidate(resources=Resources(gpus=0), avoid=("v",)), offer, "queue")


def test_equal_requirements_have_one_shape_and_others_another() -> None:
    shapes = {
        matching.shaped(replace(draft(resources=Resources(gpus=gpus)), avoid=avoid, reserved_for=worker)).shape
        for gpus in (None, 0, 1)
        for avoid in [(), ("a", "b"), ("b", "a")]
        for worker in (None, "w")
    }

    assert len(shapes) == 12


def test_a_sweep_over_time_limits_makes_few_shapes_and_none_is_taken_for_shorter_than_it_is() -> None:
    limits = [seconds * 7.0 for seconds in range(1, 1000)]
    rounded = [longest_seconds(Policy(timeout_seconds=limit, grace_seconds=10)) or 0 for limit in limits]

    assert len(set(rounded)) < 40
    assert all(limit + 10 <= longest < 1.2 * (limit + 10) for limit, longest in zip(limits, rounded, strict=True))


def test_names_keep_the_order_of_their_first_mention() -> None:
    assert matching.in_order(["b", "a", "b"]) == ("b", "a")


# --- Turns


def front(gpus: int, rank: int, *, where: str = "queue", **rest: Any) -> Front:
    candidate = Candidate(resources=Resources(gpus=gpus), **rest)
    return Front(queue=where, shape=f"{gpus} {rest}", rank=bytes([rank]), candidate=candidate)


BUSY = Offer(worker="w", free=Capacity(slots=3, gpus=3), total=FOUR, runs=("run",))
SMALL, LARGE = front(1, 2), front(4, 1)
KEPT = front(4, 1, reserved_for="w")


def test_a_partly_busy_worker_is_given_nothing_behind_a_large_task_before_that_had_its_say() -> None:
    turn = matching.turn([LARGE, SMALL], BUSY)

    assert (turn.chosen, list(turn.large)) == ((), [LARGE])
    assert matching.turn([LARGE, SMALL], BUSY, passing=True).chosen == [SMALL]


def test_what_stands_before_the_large_task_is_given_first() -> None:
    before = front(1, 0)

    assert matching.turn([before, LARGE], BUSY).chosen == [before]


@pytest.mark.parametrize(
    "other", [front(5, 1), front(4, 1, avoid=("v",)), front(4, 1, reserved_for="v"), front(4, 1, avoid=("w",))]
)
def test_what_can_never_have_this_worker_or_has_another_is_passed(other: Front) -> None:
    assert matching.turn([other, SMALL], BUSY).chosen == [SMALL]


def test_a_worker_that_is_kept_takes_that_task_and_before_it_only_what_ends_in_time() -> None:
    brief, long = front(1, 2, lasts_seconds=50.0), front(1, 3, lasts_seconds=70.0)
    fronts = [front(1, 0, where="first"), KEPT, brief, long, SMALL]

    assert matching.turn(fronts, BUSY.whole).chosen == (KEPT,)
    assert matching.turn(fronts, BUSY).chosen == ()
    assert matching.turn(fronts, BUSY, release_in=60.0).chosen == [brief]


def test_a_large_task_that_another_worker_is_kept_for_is_taken_at_once_where_it_fits() -> None:
    elsewhere = front(4, 1, reserved_for="v")

    assert matching.turn([elsewhere, SMALL], BUSY.whole).chosen == [elsewhere, SMALL]


@pytest.mark.parametrize(
    ("ends_in", "release"),
    [((30.0, 10.0, 20.0), 20.0), ((30.0, 10.0, None), 30.0), ((30.0, None, None), None), ((), 0.0)],
)
def test_the_release_is_when_enough_runs_have_ended_by_their_own_limits(
    ends_in: tuple[float | None, ...], release: float | None
) -> None:
    holdings = [Holding(amounts=Capacity(gpus=1), ends_in_seconds=seconds) for seconds in ends_in]
    offer = replace(BUSY, free=Capacity(slots=1, gpus=1))

    large = Candidate(resources=Resources(gpus=3))

    assert matching.release_seconds(large, offer, "queue", holdings) == release


@pytest.mark.parametrize(
    ("timeout", "left", "endless", "reason"),
    [
        (3600, None, True, None),
        (None, None, False, None),
        (3600, 7200, True, None),
        (3600, 3600, True, "may run for 68 min"),
        (None, 60, True, None),
        (None, 60, False, "has no time limit (--timeout), and the worker's batch job has 60 s left"),
        (30, -5, True, "the worker's batch job has 0 s left"),
    ],
)
def test_a_worker_in_a_batch_job_takes_nothing_that_cannot_end_with_it(
    timeout: float | None, left: float | None, endless: bool, reason: str | None
) -> None:
    policy = Policy(timeout_seconds=timeout, grace_seconds=0)
    candidate = Candidate(resources=Resources(), lasts_seconds=longest_seconds(policy))
    offer = Offer(worker="w", left_seconds=left, takes_endless=endless)

    said = matching.misfit(candidate, offer, "queue")

    assert (said is None) if reason is None else (reason in (said or ""))
