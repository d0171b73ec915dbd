"""Workers that are paused, resumed and told to end from afar, with real agents."""

from __future__ import annotations

from taskyard.wire import Policy, TaskState, WorkerState

from tests.support.agents import wait_until
from tests.support.yard import Yard

FOREVER = ("sh", "-c", "echo ready; exec sleep 600")
SHORT_GRACE = Policy(grace_seconds=0.3)
WELL_BEFORE_A_BEAT_SECONDS = 8.0


def test_a_drained_agent_ends_at_once_when_idle_and_comes_back_undrained(yard: Yard) -> None:
    with yard.agent() as agent:
        wait_until(lambda: WorkerState.IDLE in [one.state for one in yard.client.workers()], what="an idle worker")

        yard.client.drain_worker("tester")

        wait_until(
            lambda: yard.client.worker("tester").state is WorkerState.STOPPED,
            seconds=WELL_BEFORE_A_BEAT_SECONDS,
            what="the agent's end",
        )
        assert agent.wait() == 0
    with yard.agent(name="tester"):
        yard.wait_for_end(yard.submit("true"))
        assert not yard.client.worker("tester").drain_requested


def test_a_drained_agent_ends_after_its_run(yard: Yard) -> None:
    with yard.agent() as agent:
        task = yard.submit(*FOREVER, policy=SHORT_GRACE)
        yard.wait_for_output(task, "ready")
        shown = yard.client.drain_worker("tester").state
        still = yard.task(task).state

        yard.client.stop_task(task.id)

        assert agent.wait() == 0
    assert (shown, still) == (WorkerState.DRAINING, TaskState.RUNNING)


def test_a_paused_worker_goes_on_with_its_run_and_takes_no_other_until_it_is_resumed(yard: Yard) -> None:
    with yard.agent("--slots", "2"):
        task = yard.submit(*FOREVER, policy=SHORT_GRACE)
        yard.wait_for_output(task, "ready")
        yard.client.pause_worker("tester", "new disk")
        waiting = yard.submit("true")
        explained = yard.client.explain(waiting.id).summary

        still = yard.task(task).state
        yard.client.resume_worker("tester")

        yard.wait_for_end(waiting)
        yard.client.stop_task(task.id)
        yard.wait_for_end(task)
    assert "new disk" in explained
    assert still is TaskState.RUNNING
