"""Of which time measurements are shown."""

from __future__ import annotations

import pytest
from taskyard.wire import Sample
from taskyard_server.metrics import Metrics, TimeRange

from tests.support.services import Services

DAY_SECONDS = 86_400.0


@pytest.fixture
def metrics(services: Services) -> Metrics:
    return Metrics(services.stores.samples, services.clock)


async def test_a_run_that_ended_long_ago_is_shown_whole(services: Services, metrics: Metrics) -> None:
    await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    for _ in range(3):
        services.clock.move(3600.0)
        measured = Sample(subject=f"run:{run.id}", name="memory_bytes", at=services.clock(), value=7.0)
        await agent.beat(samples=(measured,))
    services.clock.move(1.0)
    ended = await agent.finish(run)
    services.clock.move(DAY_SECONDS)

    (series,) = await metrics.of_run(ended, TimeRange(points=1000))
    later = await metrics.of_run(ended, TimeRange(start=services.clock() - 60.0))

    assert len(series.points) == 3
    assert later == []
