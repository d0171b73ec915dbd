"""What a task may ask of its worker, and what a queue of services refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from taskyard.wire import NewTask, QueueKind, Resources
from taskyard_server import specs
from taskyard_server.errors import Invalid
from taskyard_server.queues import Queues

from tests.support.services import ADA, Services, spec

TOO_LARGE = 1 << 60


@pytest.mark.parametrize(
    "resources",
    [
        {"gpus": 0},
        {"gpu_memory_bytes": 10 << 30, "memory_bytes": 0},
        {"memory_fraction": 1.0, "custom": {"licence": 0.5}},
        {"requires": {"arch": "a100", "cuda.major": "12"}, "worker": "host:gpu0,1"},
    ],
)
def test_what_a_worker_can_have_can_be_asked_for(resources: dict[str, Any]) -> None:
    wanted = spec(resources=Resources(**resources))

    assert specs.checked(wanted).resources == wanted.resources


@pytest.mark.parametrize(
    ("resources", "advice"),
    [
        ({"gpus": -1}, "must be 0 to 1024, or left out"),
        ({"gpus": 1025}, "must be 0 to 1024, or left out"),
        ({"gpus": 1, "gpu_memory_bytes": 1}, "whole GPUs or gpu_memory_bytes for a part of one, not both"),
        ({"gpu_memory_bytes": 0}, "or left out"),
        ({"gpu_memory_bytes": TOO_LARGE}, "or left out"),
        ({"memory_bytes": 1, "memory_fraction": 0.5}, "memory_bytes or memory_fraction, not both"),
        ({"memory_bytes": -1}, "0 .no limit."),
        ({"memory_bytes": TOO_LARGE}, "left out for a share"),
        ({"memory_fraction": 0.0}, "above 0 and at most 1"),
        ({"memory_fraction": 1.5}, "above 0 and at most 1"),
        ({"memory_fraction": math.nan}, "above 0 and at most 1"),
        ({"custom": {"licence": -1.0}}, "licence must be 0 to"),
        ({"custom": {"licence": math.nan}}, "licence must be 0 to"),
        ({"custom": {"licence": math.inf}}, "licence must be 0 to"),
        ({"custom": {"two words": 1.0}}, "'two words' must be 1 to 63 letters"),
        ({"custom": {f"n{number}": 1.0 for number in range(51)}}, "51 names are too many, 50 are allowed"),
        ({"requires": {"": "x"}}, "'' must be 1 to 63 letters"),
        ({"requires": {"arch": ""}}, "the label arch needs the value"),
        ({"requires": {"arch": "a\n100"}}, "control characters"),
        ({"requires": {"arch": "x" * 201}}, "201 characters are too many"),
        ({"worker": ""}, "left out to let any take the task"),
        ({"worker": "x" * 201}, "201 characters are too many"),
    ],
)
def test_what_no_worker_could_give_is_refused_with_what_to_do(resources: dict[str, Any], advice: str) -> None:
    with pytest.raises(Invalid, match=advice):
        specs.checked(spec(resources=Resources(**resources)))


@pytest.mark.parametrize("resources", [Resources(gpus=1), Resources(gpu_memory_bytes=1)])
async def test_a_task_that_asks_for_a_gpu_is_refused_in_a_queue_of_services(
    services: Services, resources: Resources
) -> None:
    draft = await services.tasks.create(NewTask(spec=spec(resources=resources)), ADA)

    for attempt in (
        services.enqueue("services", resources=resources),
        services.tasks.enqueue(draft.id, "services", ADA),
    ):
        with pytest.raises(Invalid, match=r"'services' is for services, which get no GPU.*another queue"):
            await attempt


async def test_a_service_that_says_no_number_gets_no_gpu(services: Services) -> None:
    await services.enqueue("services", resources=Resources(gpus=None))

    claim = await services.agent(gpus=2, queues=("services",)).claim()

    assert claim.task is not None
    assert claim.task.spec.resources.gpus == 0


async def test_a_services_queue_of_an_older_store_gets_its_kind_at_the_next_start(services: Services) -> None:
    store = services.stores.store
    queue = await services.queues.find("services")
    await store.update_queue(queue.id, lambda record: replace(record, kind=QueueKind.TASKS))

    await Queues(store, services.claims, services.clock).ensure_defaults()

    assert (await services.queues.find("services")).kind is QueueKind.SERVICES
