"""Why a task waits: pure, worker by worker and in one line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from taskyard.wire import Capacity, Explanation, GpuRange, Resources, Worker, WorkerState
from taskyard_server import explanations
from taskyard_server.store.base import QueueRecord

from tests.support.records import queue, queued

QUEUE = queue("q")
LABELLED = {"labels": {"arch": "t4"}}


def place(name: str = "w", *, gpus: int = 2, **fields: Any) -> Worker:
    total = fields.pop("total", Capacity(slots=max(1, gpus), gpus=gpus))
    known = {"queues": (QUEUE.id,), "total": total, "free": total, **fields}
    return Worker(name=name, agent="agent", host="host", state=WorkerState.IDLE, **known)


def explained(resources: Resources, *workers: Worker, where: QueueRecord = QUEUE) -> Explanation:
    record = replace(queued(where.id), spec=replace(queued(where.id).spec, resources=resources))
    return explanations.of_queued(record, where, 0, workers, now=0.0, names={where.id: where.name})


@pytest.mark.parametrize(
    ("wanted", "workers", "summary"),
    [
        ({"gpus": 4}, [place(gpus=1), place("v", gpus=2)], "has 4 GPUs; the largest has 2"),
        ({"requires": {"arch": "a100"}}, [place(**LABELLED)], "has the label arch=a100; there is arch=t4"),
        ({"requires": {"arch": "a100"}}, [place()], "has the label arch=a100; none has arch"),
        ({"custom": {"licence": 2.0}}, [place()], "has 2 of licence; the largest has 0"),
        (
            {"worker": "gone"},
            [place()],
            "is named 'gone', which it is for: start that one, or let any take it",
        ),
    ],
)
def test_what_no_worker_has_is_said_with_what_would_fit(
    wanted: dict[str, Any], workers: list[Worker], summary: str
) -> None:
    assert explained(Resources(**wanted), *workers).summary == f"no worker that watches queue 'q' {summary}"


def test_where_workers_lack_different_things_each_is_named_with_what_it_lacks() -> None:
    workers = [place("small", **LABELLED), place("large", gpus=4)]

    summary = explained(Resources(gpus=4, requires={"arch": "t4"}), *workers).summary

    assert summary == (
        "none of the 2 workers of queue 'q' can take it (small: needs 4 GPUs, the worker has 2; "
        "large: needs the label arch=t4, the worker has none of that name)"
    )


def test_a_busy_worker_says_with_what_and_what_is_not_free() -> None:
    busy = place(runs=("a.1",), free=Capacity(slots=1, gpus=1))

    verdict = explained(Resources(gpus=2), busy).workers[0]

    assert (verdict.fits, verdict.reason) == (True, "busy with a; needs 2 GPUs, 1 of 2 are free")


def test_of_many_runs_some_are_named() -> None:
    busy = place(runs=tuple(f"{number:032x}.1" for number in range(6)), free=Capacity(slots=0))

    verdict = explained(Resources(gpus=2), busy).workers[0]

    assert (
        verdict.reason
        == "busy with 00000000, 00000000, 00000000, 00000000 and 2 more; needs 2 GPUs, 0 of 2 are free"
    )


def test_one_worker_is_not_counted() -> None:
    too_small = explained(Resources(gpus=1, memory_bytes=2), place(total=Capacity(gpus=1, memory_bytes=1)))

    assert too_small.summary.startswith("the only worker of queue 'q' cannot take it (w: needs 2 bytes of memory")


def test_a_worker_that_gives_gpus_by_queue_says_what_it_gives() -> None:
    giving = place(queue_gpus={QUEUE.id: GpuRange(least=1, most=2)})

    verdict = explained(Resources(gpus=3), giving).workers[0]

    assert verdict.reason == "asks for 3 GPUs, the worker gives 1 to 2 to a task of its queue"


def test_the_places_of_running_services_are_no_workers_that_could_take_it() -> None:
    part = place("w:task", parent="w")

    assert [verdict.worker for verdict in explained(Resources(gpus=0), place(), part).workers] == ["w"]
