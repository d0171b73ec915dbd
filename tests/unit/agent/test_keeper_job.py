"""A keeper in a batch job: it ends with its agent, and as the batch system says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard_agent.held import Cause, KeeperRefused, LaunchJob
from taskyard_agent.keeper.processes import start_ticks

from tests.support.keepers import Keepers, ended, left_of, output
from tests.support.waiting import becomes_true

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

COUNTS = """
import signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
print("ready", flush=True)
while not asked:
    time.sleep(0.02)
time.sleep(0.5)
print("asked", len(asked), flush=True)
"""


@pytest.fixture
def keepers(tmp_path: Path) -> Iterator[Keepers]:
    keepers = Keepers(tmp_path)
    yield keepers
    keepers.close()


@pytest.fixture
def agent() -> Iterator[subprocess.Popen[bytes]]:
    """What stands for the agent's process."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def job_of(
    agent: subprocess.Popen[bytes], *, limit_in: float | None = None, grace_seconds: float = 10
) -> LaunchJob:
    return LaunchJob(
        agent_pid=agent.pid,
        agent_start_ticks=start_ticks(agent.pid) or 0,
        grace_seconds=grace_seconds,
        limit_at=None if limit_in is None else time.time() + limit_in,
    )


def test_a_run_ends_with_its_agent(keepers: Keepers, agent: subprocess.Popen[bytes]) -> None:
    held = keepers.start("sh", "-c", "trap '' TERM; setsid sleep 600 & echo ready; wait", job=job_of(agent))
    assert becomes_true(lambda: b"ready" in output(held))

    agent.kill()

    assert ended(held).cause is Cause.PREEMPTED
    assert not left_of(held)


def test_no_command_is_started_for_an_agent_that_has_ended(
    keepers: Keepers, agent: subprocess.Popen[bytes]
) -> None:
    job = job_of(agent)
    agent.kill()
    agent.wait()

    with pytest.raises(KeeperRefused, match="the agent has ended"):
        keepers.start("echo", "started", job=job)


@pytest.mark.parametrize(
    ("limit_in", "cause"), [(None, Cause.PREEMPTED), (600, Cause.PREEMPTED), (0, Cause.TIME_LIMIT)]
)
def test_a_signal_of_the_batch_system_is_the_jobs_end(
    keepers: Keepers, agent: subprocess.Popen[bytes], limit_in: float | None, cause: Cause
) -> None:
    held = keepers.python(COUNTS, job=job_of(agent, limit_in=limit_in))
    assert becomes_true(lambda: b"ready" in output(held))

    os.kill(held.child_pid, signal.SIGTERM)  # as Slurm does: every process of the job has one
    os.kill(held.keeper.pid, signal.SIGTERM)
    held.stop(cause, 5.0)

    record = ended(held)
    assert (record.cause, record.exit_code) == (cause, 0)
    assert b"asked 1" in output(held)


def test_the_batch_systems_patience_shortens_the_grace(keepers: Keepers, agent: subprocess.Popen[bytes]) -> None:
    held = keepers.start(
        "sh", "-c", "trap '' TERM; echo ready; while true; do sleep 1; done",
        grace_seconds=600.0, job=job_of(agent, grace_seconds=0.5),
    )  # fmt: skip
    assert becomes_true(lambda: b"ready" in output(held))

    os.kill(held.keeper.pid, signal.SIGTERM)

    assert ended(held).cause is Cause.PREEMPTED
