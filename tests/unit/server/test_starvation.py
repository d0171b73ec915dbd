"""A day in the life of four GPUs: tasks of all sizes arrive at random, and the large ones come to their turn."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from taskyard.wire import Capacity, Policy, Resources

from tests.support.services import FakeAgent, Services, open_services

GPUS = 4
BOUND = 60.0
NEVER = 1e8
GRACE = 1.0
SECONDS = 500
LONGEST = 45
"""Seconds that a small task takes at most."""
ARRIVALS = 0.14
"""Small tasks a second: nearly as many as four GPUs can do, so that one of them is always busy."""


@dataclass(kw_only=True)
class Job:
    """A task of the simulation."""

    gpus: int
    arrived_at: float
    lasts_seconds: float
    started_at: float | None = None
    ahead: list[Job] = field(default_factory=list)
    """What stood before it in the queue."""

    def wait_seconds(self, now: float) -> float:
        """How long it had to wait once its bound had passed and all before it had started."""
        turn = max([self.arrived_at + BOUND, *(job.started_at or now for job in self.ahead)])
        return (now if self.started_at is None else self.started_at) - turn


@dataclass(kw_only=True)
class Machine:
    """One worker with four GPUs, and what became of the tasks that came."""

    services: Services
    agent: FakeAgent
    limited: bool = True
    """Whether tasks have time limits."""
    jobs: dict[str, Job] = field(default_factory=dict)
    running: dict[str, Job] = field(default_factory=dict)
    used_gpu_seconds: float = 0.0
    started_while_kept: int = 0

    @property
    def free(self) -> Capacity:
        used = sum(job.gpus for job in self.running.values())
        assert used <= GPUS, "more was given out than there is"
        return Capacity(slots=GPUS - len(self.running), gpus=GPUS - used)

    async def arrive(self, gpus: int, lasts_seconds: float) -> None:
        limit = lasts_seconds if self.limited else None
        policy = Policy(timeout_seconds=limit, grace_seconds=GRACE)
        task = await self.services.enqueue(resources=Resources(gpus=gpus), policy=policy)
        ahead = [job for job in self.jobs.values() if job.started_at is None]
        now = self.services.clock()
        self.jobs[task.id] = Job(gpus=gpus, arrived_at=now, lasts_seconds=lasts_seconds, ahead=ahead)

    async def second(self) -> None:
        """Ends what is over, and takes what it is given."""
        self.services.clock.move(1.0)
        self.used_gpu_seconds += sum(job.gpus for job in self.running.values())
        now = self.services.clock()
        for run, job in list(self.running.items()):
            if job.started_at is not None and now - job.started_at >= job.lasts_seconds:
                ended = (await self.services.task(run.partition(".")[0])).run
                assert ended is not None
                await self.agent.finish_and_forget(ended)
                del self.running[run]
        while await self._take():
            pass

    async def _take(self) -> bool:
        total = Capacity(slots=GPUS, gpus=GPUS)
        claim = await self.agent.claim(free=self.free, total=total)
        if claim.run is None or claim.task is None:
            return False
        await self.agent.start(claim.run)
        job = self.jobs[claim.task.id]
        job.started_at = self.services.clock()
        self.running[claim.run.id] = job
        self.started_while_kept += await self._is_kept()
        return True

    async def _is_kept(self) -> bool:
        queue = await self.services.queues.find("default")
        fronts = await self.services.stores.store.fronts([queue.id])
        return any(front.candidate.reserved_for for front in fronts)


async def simulate(
    folder: Path, seed: int, *, bound: float, large: float = 0.006, limited: bool = True
) -> Machine:
    """Runs small tasks and, `large` a second, such that want two GPUs or all."""
    rng = random.Random(seed)
    forever = {"lease_seconds": NEVER, "confirm_seconds": NEVER, "lost_after_seconds": NEVER}
    async with open_services(folder, reserve_after_seconds=bound, **forever) as services:
        machine = Machine(services=services, agent=services.agent(gpus=GPUS), limited=limited)
        for _ in range(GPUS):
            await machine.arrive(1, rng.randint(10, LONGEST))
        await machine.second()
        await machine.arrive(GPUS, 20)
        for _ in range(SECONDS):
            if rng.random() < ARRIVALS:
                await machine.arrive(1, rng.randint(10, LONGEST))
            if rng.random() < large:
                await machine.arrive(rng.choice([2, GPUS]), rng.randint(10, LONGEST))
            await machine.second()
        return machine


def first_large(machine: Machine) -> Job:
    return next(job for job in machine.jobs.values() if job.gpus == GPUS)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in (1, 2)), 3])
async def test_every_large_task_has_its_turn_when_those_before_it_and_what_ran_have_ended(
    tmp_path: Path, seed: int
) -> None:
    machine = await simulate(tmp_path, seed, bound=BOUND)

    now = machine.services.clock()
    assert first_large(machine).started_at is not None
    assert max(job.wait_seconds(now) for job in machine.jobs.values() if job.gpus > 1) <= LONGEST + GRACE + 1


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.thorough), 3])
async def test_without_a_bound_the_same_small_tasks_starve_the_large_one(tmp_path: Path, seed: int) -> None:
    kept = await simulate(tmp_path / "kept", seed, bound=BOUND, large=0.0)
    starved = await simulate(tmp_path / "starved", seed, bound=NEVER, large=0.0)

    assert first_large(kept).wait_seconds(kept.services.clock()) <= LONGEST + GRACE + 1
    assert first_large(starved).started_at is None
    assert first_large(starved).wait_seconds(starved.services.clock()) > SECONDS / 2


async def test_what_ends_in_time_runs_before_the_large_tasks_so_that_the_gpus_stay_in_use(tmp_path: Path) -> None:
    kept = await simulate(tmp_path / "kept", 3, bound=BOUND)
    never = await simulate(tmp_path / "never", 3, bound=NEVER)

    assert kept.started_while_kept > 0
    assert kept.used_gpu_seconds > 0.85 * never.used_gpu_seconds


async def test_nothing_runs_before_a_large_task_where_nobody_knows_how_long_it_would(tmp_path: Path) -> None:
    machine = await simulate(tmp_path, 3, bound=BOUND, limited=False)

    assert first_large(machine).started_at is not None
    assert machine.started_while_kept == 0
